"""Two functions timed side by side."""

import statistics
import time
from collections.abc import Callable


def compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 30
) -> None:
    """Time both, one after the other in every round; print medians and their ratio."""
    times: dict[str, list[float]] = {"slimcnn": [], "rival": []}
    for round_ in range(rounds + 3):
        for label, function in (("slimcnn", ours), ("rival", theirs)):
            began = time.perf_counter()
            function()
            if round_ >= 3:
                times[label].append(time.perf_counter() - began)
    a, b = (statistics.median(times[label]) * 1000 for label in ("slimcnn", "rival"))
    print(f"{name:28} slimcnn {a:9.3f} ms, rival {b:9.3f} ms; ratio {a / b:.2f}")
