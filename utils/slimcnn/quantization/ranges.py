"""Which range the integers should cover: everything, or most of it more finely.

All functions give (low, high), scalars or one each for every channel; `affine_quantizer` takes
them as they are, `symmetric_quantizer` the larger absolute value. Chapter 6 (Quantization:
integers).
"""

import torch
from torch import Tensor

from slimcnn.quantization.quantizers import (
    Quantizer,
    affine_quantizer,
    at_least_single,
    check_bits,
    other_axes,
    symmetric_quantizer,
)

Range = tuple[Tensor, Tensor]
_EVEN = 1e-4  # the share of even mass in `kl_range`
_FRACTIONS = torch.linspace(0.02, 1.0, 99)  # of the largest range, tried by `mse_range`


def min_max_range(x: Tensor, axis: int | None = None) -> Range:
    """The smallest and the largest value: nothing is clipped, and one outlier decides all.

    Args:
        x: any shape, at least one number.
        axis: of the channels; None for one range.

    Raises:
        ValueError: there is no number, some are not finite, or there is no such axis.

    Chapter 6, Quantization: integers.
    """
    rows = _rows(x, axis)
    return _shaped(rows.amin(1), axis), _shaped(rows.amax(1), axis)


def percentile_range(x: Tensor, percentile: float = 99.9, axis: int | None = None) -> Range:
    """The range without the outermost values: (100 − percentile) percent are clipped.

    Half of them on each side, by `torch.quantile`'s linear interpolation.

    Args:
        x, axis: as for `min_max_range`.
        percentile: above 0 and up to 100, which is `min_max_range`.

    Raises:
        ValueError: as `min_max_range`, or the percentile is out of range.

    Chapter 6, Quantization: integers.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must be above 0 and at most 100")
    rows = _rows(x, axis).sort(1).values
    outside = (1 - percentile / 100) / 2
    low, high = (_sorted_quantile(rows, share) for share in (outside, 1 - outside))
    return _shaped(low, axis), _shaped(high, axis)


def mse_range(
    x: Tensor, bits: int, axis: int | None = None, *, symmetric: bool = True, signed: bool = False
) -> Range:
    """The range with the least mean squared error, among fractions of the largest one.

    A smaller range clips more and rounds less. Tried are 99 fractions, from 2 to 100 percent, of
    the bounds of `min_max_range` (around 0 if symmetric).

    Args:
        x, axis: as for `min_max_range`.
        bits: of the quantizer that will use it, 2 to 16.
        symmetric: for `symmetric_quantizer`, else for `affine_quantizer`.
        signed: as for `affine_quantizer`.

    Raises:
        ValueError: as `min_max_range`, or the bits are out of range.

    Chapter 6, Quantization: integers.
    """
    check_bits(bits)
    rows = _rows(x, axis)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    unit = torch.maximum(-low, high).clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
    best = torch.full_like(high, float("inf"))
    chosen = torch.ones_like(high)
    for fraction in _FRACTIONS.flip(0):  # of equal errors the largest range stays
        quantizer = _quantizer(fraction * low, fraction * high, bits, symmetric, signed)
        error = (
            ((quantizer(rows) - rows) / unit).square().mean(1)
        )  # squares neither vanish nor overflow
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, fraction, chosen)
    return _shaped(chosen * low, axis), _shaped(chosen * high, axis)


def kl_range(x: Tensor, bits: int = 8, bins: int = 2048) -> Range:
    """The range whose quantized histogram is nearest to the original one, by KL divergence.

    For each number of bins i kept of a histogram of |x|: P is the histogram up to i, with all
    that lies outside added to its last bin; Q is P without that, spread evenly over the non-empty
    bins of each of the 2^(bits − 1) levels. The i with the least KL(P ‖ Q) decides. Q is mixed
    with a ten-thousandth of even mass, since it may have nothing where P has the outliers. Zeros
    are left out: they have an integer of their own with every range, and after a ReLU their mass
    would outweigh all else. For activations after ReLU, low is 0. Migacz, 2017, "8-bit Inference
    with TensorRT" (GTC).

    Args:
        x: any shape, at least one number.
        bits: of the quantizer that will use it, 2 to 16; half of the integers are for |x|.
        bins: of the histogram, at least as many as there are levels.

    Raises:
        ValueError: as `min_max_range`, or bits or bins are out of range.

    Chapter 6, Quantization: integers.
    """
    check_bits(bits)
    levels = 2 ** (bits - 1)
    if bins < levels:
        raise ValueError(f"bins is {bins}; {bits} bits have {levels} levels, so at least as many")
    rows = _rows(x, None)[0]
    largest = rows.abs().max()
    if largest == 0:
        return largest.clone(), largest.clone()
    values = (rows[rows != 0].abs() / largest).float()  # of any size
    histogram = torch.histc(values, bins, 0.0, 1.0).double()
    best, chosen = float("inf"), bins
    for kept in range(levels, bins + 1):
        reference = histogram[:kept].clone()
        spread = _spread(reference, levels)
        reference[-1] += histogram[kept:].sum()
        divergence = _divergence(reference, spread)
        if divergence < best:
            best, chosen = divergence, kept
    bound = largest * (chosen / bins)
    low = -bound if (rows < 0).any() else torch.zeros_like(bound)
    return low, bound


class MovingAverageRange:
    """A range that follows batch after batch: r ← m · r + (1 − m) · range of the batch.

    A single batch with an outlier moves it a little only. Jacob et al., 2018, arXiv:1712.05877.
    Chapter 6, Quantization: integers.

    Args:
        momentum: m, from 0 (the last batch alone) to below 1.
        axis: of the channels; None for one range.

    Raises:
        ValueError: the momentum is out of range.
    """

    def __init__(self, momentum: float = 0.9, axis: int | None = None):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be from 0 to below 1")
        self.momentum, self.axis = momentum, axis
        self._range: Range | None = None

    def update(self, x: Tensor) -> Range:
        """Take in one batch, and give the range after it; the first one counts alone."""
        new = min_max_range(x, self.axis)
        if self._range is not None:
            pairs = zip(self._range, new, strict=True)
            new = tuple(self.momentum * a + (1 - self.momentum) * b for a, b in pairs)
        self._range = new
        return new


def _quantizer(low: Tensor, high: Tensor, bits: int, symmetric: bool, signed: bool) -> Quantizer:
    """For rows, one range each."""
    if symmetric:
        return symmetric_quantizer(high, bits, 0)
    return affine_quantizer(low, high, bits, 0, signed=signed)


def _rows(x: Tensor, axis: int | None) -> Tensor:
    """One row for each channel: (channels, numbers)."""
    other_axes(x, axis)
    if x.numel() == 0:
        raise ValueError(f"a tensor of shape {tuple(x.shape)} has no range")
    if not x.isfinite().all():
        raise ValueError("the tensor holds NaN or infinity, which no range covers")
    x = at_least_single(x.detach())
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)


def _shaped(values: Tensor, axis: int | None) -> Tensor:
    return values[0] if axis is None else values


def _sorted_quantile(rows: Tensor, share: float) -> Tensor:
    """Linear interpolation between neighbors; `torch.quantile` refuses large tensors."""
    place = share * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    a, b = rows[:, below].double(), rows[:, above].double()  # their difference may overflow float32
    return (a + (place - below) * (b - a)).to(rows.dtype)


def _spread(histogram: Tensor, levels: int) -> Tensor:
    """The histogram as so many levels can tell it: even within each, over non-empty bins."""
    places = torch.arange(len(histogram), device=histogram.device)
    level = (places * levels).div(len(histogram), rounding_mode="floor")
    filled = histogram > 0
    mass = histogram.new_zeros(levels).index_add_(0, level, histogram)
    count = histogram.new_zeros(levels).index_add_(0, level, filled.double())
    return torch.where(filled, (mass / count.clamp(min=1))[level], 0.0)


def _divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) of two histograms, q with a little everywhere where p has something."""
    if q.sum() == 0:
        return float("inf")
    support = p > 0
    p, q = p[support] / p.sum(), q[support] / q.sum()
    q = (1 - _EVEN) * q + _EVEN / len(q)
    return float((p * (p / q).log()).sum())
