"""Codebooks: a few shared values for many weights, by k-means on the line.

Chapter 6 (Quantization: weight sharing).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Start = Literal["linear", "density", "random"]


class Codebook(NamedTuple):
    """Shared values, and which one each weight has.

    Attributes:
        values: ascending, shape (k,).
        indices: int64, in the shape of the weight.
        errors: the sum of squared distances before each iteration, and at the end.
    """

    values: Tensor
    indices: Tensor
    errors: tuple[float, ...]

    def decode(self) -> Tensor:
        """The weight with shared values."""
        return self.values[self.indices]


def kmeans(
    weight: Tensor,
    k: int,
    *,
    start: Start = "linear",
    iterations: int = 100,
    generator: torch.Generator | None = None,
) -> Codebook:
    """So many shared values with a small sum of squared distances, by Lloyd's iterations.

    Each weight takes the nearest value, each value becomes the mean of its weights, until nothing
    changes. On a line the weights of a value are neighbors, so that sorting once is enough. A
    value without weights stays where it is.

    How to start (Han et al., 2016, arXiv:1510.00149, find "linear" best, since large weights are
    few and matter most): "linear" spaces values evenly from the smallest to the largest weight,
    "density" takes quantiles, "random" takes k different weights.

    Args:
        weight: any shape, at least one number.
        k: how many values, from 1; if there are fewer different weights, so many are found.
        start: one of these.
        iterations: at most.
        generator: for "random"; one with seed 0 if None.

    Raises:
        ValueError: an argument is out of range, or a weight is not finite.

    Lloyd, 1982, doi:10.1109/TIT.1982.1056489. Chapter 6, Quantization: weight sharing.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}; it must be a whole number, 1 or more")
    if weight.numel() == 0 or not weight.isfinite().all():
        raise ValueError("the weight has no numbers, or some that are not finite")
    if start not in ("linear", "density", "random"):
        raise ValueError(f"start is {start!r}; allowed are linear, density and random")
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; it must be 0 or more")
    ordered, order = weight.detach().double().flatten().sort()
    values = _first_values(ordered, k, start, generator)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    errors, edges = [], None
    for _ in range(iterations + 1):
        # a weight in the middle between two values takes the lower one
        new = torch.searchsorted(ordered, (values[1:] + values[:-1]) / 2, right=True)
        new = torch.cat([new.new_zeros(1), new, new.new_full((1,), len(ordered))])
        indices = torch.repeat_interleave(torch.arange(len(values)), new.diff())
        errors.append(float((ordered - values[indices]).square().sum()))
        if edges is not None and torch.equal(new, edges):
            break
        edges, counts = new, new.diff()
        if len(errors) <= iterations:
            means = (sums[edges[1:]] - sums[edges[:-1]]) / counts.clamp(min=1)
            values = torch.where(counts > 0, means, values)
    unordered = torch.empty_like(indices)
    unordered[order] = indices
    return Codebook(values.to(weight.dtype), unordered.view(weight.shape), tuple(errors))


def _first_values(ordered: Tensor, k: int, start: str, generator: torch.Generator | None) -> Tensor:
    different = ordered.unique()
    if len(different) <= k:
        return different
    if start == "linear":
        return torch.linspace(float(ordered[0]), float(ordered[-1]), k, dtype=torch.float64)
    if start == "density":
        # the middles of k parts with equally many weights
        places = (torch.arange(k, dtype=torch.float64) + 0.5) / k * len(ordered)
        values = ordered[places.long()].unique()
        if len(values) < k:  # one weight so frequent that parts share it: then others, evenly
            rest = different[~torch.isin(different, values)]
            steps = torch.linspace(0, len(rest) - 1, k - len(values), dtype=torch.float64)
            values = torch.cat([values, rest[steps.round().long()]]).sort().values
        return values
    generator = generator or torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(different), generator=generator)[:k]
    return different[chosen].sort().values
