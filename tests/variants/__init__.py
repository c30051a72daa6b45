"""For each assignment: wrong solutions that its checks must refuse, and right ones that differ."""
