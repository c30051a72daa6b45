"""From real numbers to a few integers and back: scale, zero-point, and what is lost.

Chapter 6 (Quantization: integers) derives all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_BITS, MAX_BITS = 2, 16


@dataclass(frozen=True)
class Quantizer:
    """An affine map between real numbers and integers: q = clamp(round(x / s) + z, low, high).

    Halves are rounded to the even neighbor, as ONNX's QuantizeLinear does. Real zero is always
    an integer's value exactly, so that padding and ReLU lose nothing. Jacob et al., 2018,
    arXiv:1712.05877; chapter 6, Quantization: integers.

    Attributes:
        scale: s, positive; a scalar, or one number for each index along `axis`.
        zero_point: z, the integer that stands for 0; int32, in the shape of the scale.
        low, high: smallest and largest integer.
        axis: of the channels, None for one scale for the whole tensor.

    Raises:
        TypeError, ValueError: an attribute is not as described.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.axis is not None and self.axis < 0:
            raise ValueError(f"axis is {self.axis}; it must be 0 or more, or None for one scale")
        shape, wanted = tuple(self.scale.shape), "(channels,)" if self.axis is not None else "()"
        if len(shape) != (self.axis is not None) or self.zero_point.shape != self.scale.shape:
            raise ValueError(
                f"scale and zero_point have shapes {shape} and {tuple(self.zero_point.shape)};"
                f" with axis {self.axis} both must have shape {wanted}"
            )
        if not (self.scale > 0).all() or not self.scale.isfinite().all():
            raise ValueError("a scale is not positive and finite; nothing could be divided by it")
        if self.zero_point.dtype != torch.int32:
            raise TypeError(f"zero_point is {self.zero_point.dtype}; torch.int32 is needed")
        if not self.low < self.high:
            raise ValueError(f"the integers run from {self.low} to {self.high}: there are none")
        if ((self.zero_point < self.low) | (self.zero_point > self.high)).any():
            raise ValueError(f"a zero_point is not from {self.low} to {self.high}")

    def quantize(self, x: Tensor) -> Tensor:
        """Integers for real numbers: int32, of the same shape.

        Raises:
            ValueError: the tensor has another number of channels, or holds NaN.
        """
        scale, zero_point = self.along(x)
        if x.isnan().any():
            raise ValueError("the tensor holds NaN, which no integer stands for")
        x = at_least_single(x)
        return (torch.round(x / scale) + zero_point).clamp(self.low, self.high).to(torch.int32)

    def dequantize(self, q: Tensor) -> Tensor:
        """The real numbers that integers stand for: s · (q − z), in the type of the scale."""
        scale, zero_point = self.along(q)
        return scale * (q - zero_point)

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest numbers that can be had: `dequantize(quantize(x))`, in the type of x.

        (Integers give float32: what stands for them need not be whole.)
        """
        found = self.dequantize(self.quantize(x))
        return found.to(x.dtype) if x.is_floating_point() else found

    def along(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero-point, ready to meet a tensor."""
        if self.axis is None:
            return self.scale, self.zero_point
        if x.ndim <= self.axis or x.shape[self.axis] != len(self.scale):
            raise ValueError(
                f"the tensor has shape {tuple(x.shape)}; along axis {self.axis} it needs"
                f" {len(self.scale)} channels"
            )
        shape = [-1 if dim == self.axis else 1 for dim in range(x.ndim)]
        return self.scale.view(shape), self.zero_point.view(shape)


def symmetric_quantizer(largest: Tensor, bits: int, axis: int | None = None) -> Quantizer:
    """Signed integers around a zero-point of 0: s = largest / (2^(bits − 1) − 1).

    The usual choice for weights. The integer −2^(bits − 1) is not used, so that −x has the
    negative integer of x.

    Args:
        largest: the largest absolute value; a scalar, or one for each channel along `axis`. Where
            it is 0 there is nothing but zeros, and the scale is 1.
        bits: 2 to 16.
        axis: of the channels; None for one scale.

    Raises:
        ValueError: the bits are out of range; a largest value is negative or not finite.

    Chapter 6, Quantization: integers.
    """
    check_bits(bits)
    largest = torch.as_tensor(largest, dtype=torch.float32)
    if not (largest >= 0).all() or not largest.isfinite().all():
        raise ValueError("a largest absolute value is negative or not finite")
    high = 2 ** (bits - 1) - 1
    scale = _positive(largest / high)
    return Quantizer(scale, torch.zeros_like(scale, dtype=torch.int32), -high, high, axis)


def affine_quantizer(
    low: Tensor, high: Tensor, bits: int, axis: int | None = None, *, signed: bool = False
) -> Quantizer:
    """All 2^bits integers for the range from `low` to `high`: s = (high − low) / (2^bits − 1).

    The usual choice for activations. The range is extended to hold 0, and moved by less than half
    a step so that 0 falls on an integer, the zero-point.

    Args:
        low, high: of the range; scalars, or one for each channel along `axis`.
        bits: 2 to 16.
        axis: of the channels; None for one scale.
        signed: integers from −2^(bits − 1) instead of from 0.

    Raises:
        ValueError: the bits are out of range; a bound is not finite, or a low one above its high.

    Chapter 6, Quantization: integers.
    """
    check_bits(bits)
    low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (low, high))
    if not (low.isfinite() & high.isfinite()).all():
        raise ValueError("a bound of the range is not finite")
    if (low > high).any():
        raise ValueError("a range begins above its end")
    low, high = low.clamp(max=0), high.clamp(min=0)
    first = -(2 ** (bits - 1)) if signed else 0
    last = first + 2**bits - 1
    steps = 2**bits - 1
    scale = _positive(high / steps - low / steps)  # the difference alone may overflow
    zero_point = (first - torch.round(low / scale)).clamp(first, last).to(torch.int32)
    return Quantizer(scale, zero_point, first, last, axis)


def binarize(weight: Tensor, axis: int | None = 0) -> Tensor:
    """One bit a weight: its sign times the mean absolute value, of the channel or of all.

    α · sign(w) with α = mean|w| is the nearest such tensor, since Σ (w − α b)² over signs b and
    α > 0 is smallest there. The sign of 0 counts as positive. Rastegari et al., 2016 (XNOR-Net),
    arXiv:1603.05279; chapter 6, Quantization: training.

    Args:
        weight: any shape.
        axis: of the channels; None for one mean.

    Raises:
        ValueError: there is no such axis, or some weights are not finite.
    """
    others = list(other_axes(weight, axis))
    if not weight.isfinite().all():
        raise ValueError("the weight holds NaN or infinity, which have no mean to share")
    mean = weight.abs().mean(others, keepdim=True) if others else weight.abs()
    return torch.where(weight >= 0, mean, -mean)


def sqnr(x: Tensor, quantized: Tensor) -> float:
    """Signal-to-quantization-noise ratio in decibels: 10 log₁₀ (Σ x² / Σ (x − x̂)²).

    Each bit more halves the step and adds 6.02 dB, as long as nothing is clipped. Infinite if
    nothing is lost, −∞ if there is no signal.

    Raises:
        ValueError: some numbers are not finite.

    Chapter 6, Quantization: integers.
    """
    if not (x.isfinite().all() and quantized.isfinite().all()):
        raise ValueError("a tensor holds NaN or infinity, whose noise is no number")
    x, quantized = x.double(), quantized.double()
    ratio = x.square().sum() / (x - quantized).square().sum()
    return float(10 * ratio.log10()) if not ratio.isnan() else float("inf")


def at_least_single(x: Tensor) -> Tensor:
    """The tensor in float32 or better: integers of many bits do not fit half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_bits(bits: int) -> None:
    """Refuse numbers of bits that integers here cannot have.

    Raises:
        ValueError: with what is allowed.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits!r}; it must be a whole number, {MIN_BITS} to {MAX_BITS}")


def other_axes(x: Tensor, axis: int | None) -> Sequence[int]:
    """All dimensions of `x` but `axis`.

    Raises:
        ValueError: the tensor has no such dimension.
    """
    if axis is not None and not 0 <= axis < x.ndim:
        raise ValueError(f"axis is {axis}; a tensor of shape {tuple(x.shape)} has no such one")
    return [dim for dim in range(x.ndim) if dim != axis]


def _positive(scale: Tensor) -> Tensor:
    """A scale of 1 where there is nothing to scale (or so little that dividing would overflow)."""
    return torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
