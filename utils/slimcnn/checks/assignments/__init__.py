"""Checks of the assignments, one module for each: `checks.assignments.pruning`.

Each function is named by its task, takes what the reader wrote and a seed that the cases are drawn
from, and gives a `Verdict`. The public check of a notebook uses seed 0, the hidden one another.
"""
