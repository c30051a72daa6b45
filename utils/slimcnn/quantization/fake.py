"""Quantizers to train with: rounded forwards, as if nothing were rounded backwards.

Rounding has a derivative of zero almost everywhere, so that nothing could be learned through it.
The *straight-through estimator* takes 1 instead (Bengio et al., 2013, arXiv:1308.3432); 0 where
values are clipped came later (Hubara et al., 2016, arXiv:1602.02830). Chapter 6 (Quantization:
training).
"""

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor, nn

from slimcnn.quantization.quantizers import (
    Quantizer,
    affine_quantizer,
    at_least_single,
    binarize,
    check_bits,
    symmetric_quantizer,
)
from slimcnn.quantization.ranges import Range, min_max_range, mse_range, percentile_range


def round_through(x: Tensor) -> Tensor:
    """The nearest whole number, with the gradient of x itself."""
    return x.round().detach() + (x - x.detach())  # the bracket is 0, exactly


def fake_quantize(x: Tensor, quantizer: Quantizer) -> Tensor:
    """`quantizer(x)`, with gradient 1 inside the range and 0 where x is clipped.

    Chapter 6, Quantization: training.
    """
    scale, zero_point = quantizer.along(x)
    unclipped = torch.round(at_least_single(x) / scale) + zero_point
    inside = (unclipped >= quantizer.low) & (unclipped <= quantizer.high)
    passed = torch.where(inside, x, 0)
    return quantizer(x).detach() + (passed - passed.detach())


WEIGHT_RANGES: dict[str, Callable[[Tensor, int, int | None], Range]] = {
    "min-max": lambda weight, bits, axis: min_max_range(weight, axis),
    "percentile": lambda weight, bits, axis: percentile_range(weight, axis=axis),
    "mse": mse_range,
}


# A channel's range is at least this share of the largest one's: the unit of its sums is the unit of
# its integer bias, which must neither be huge (for dead channels) nor coarse.
_SMALLEST_SHARE = 1e-4
_TINY = 1e-12


def _not_tiny(ranges: Tensor) -> Tensor:
    return ranges.clamp(min=_SMALLEST_SHARE * float(ranges.max())) if ranges.ndim else ranges


class WeightQuantizer(nn.Module):
    """Symmetric quantization of a weight by its range, which is found anew in each pass.

    Args:
        bits: 2 to 16.
        axis: of the channels that have a scale each; None for one scale.
        range: "min-max", "percentile" (99.9) or "mse".

    Raises:
        ValueError: the bits are out of range, or there is no such way to a range.
    """

    def __init__(self, bits: int, axis: int | None = 0, range: str = "min-max"):
        super().__init__()
        check_bits(bits)
        if range not in WEIGHT_RANGES:
            allowed = ", ".join(map(repr, WEIGHT_RANGES))
            raise ValueError(f"range is {range!r}; allowed are {allowed}")
        self.bits, self.axis, self.range = bits, axis, range

    def quantizer(self, weight: Tensor) -> Quantizer:
        """The one that this weight gets."""
        low, high = WEIGHT_RANGES[self.range](weight.detach(), self.bits, self.axis)
        return symmetric_quantizer(_not_tiny(torch.maximum(-low, high)), self.bits, self.axis)

    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The int32 numbers that are stored for this weight, and their scale."""
        quantizer = self.quantizer(weight)
        return quantizer.quantize(weight.detach()), quantizer.scale

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.quantizer(weight))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, axis={self.axis}, range={self.range!r}"


class BinaryWeight(nn.Module):
    """One bit a weight: `binarize` forwards, the gradient of the weight itself backwards.

    Weights beyond ±1 have no gradient, so that they do not drift away (Courbariaux et al., 2015,
    arXiv:1511.00363). Chapter 6, Quantization: training.
    """

    bits = 1

    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """1 and −1, int32, and the scale of each output channel.

        Raises:
            ValueError: as `binarize`.
        """
        weight = weight.detach()
        binarize(weight)
        signs = torch.where(weight >= 0, 1, -1).to(torch.int32)
        return signs, _not_tiny(weight.abs().flatten(1).mean(1)).clamp(min=_TINY)

    def forward(self, weight: Tensor) -> Tensor:
        passed = weight.clamp(-1, 1)
        signs, scale = self.integers(weight)  # what is stored is what is computed
        rounded = signs * scale.view(-1, *[1] * (weight.ndim - 1)).to(weight.dtype)
        return rounded + (passed - passed.detach())


class ActivationQuantizer(nn.Module):
    """Affine quantization of activations, its range a moving average over training batches.

    In eval mode the range stays as it is. Chapter 6, Quantization: training.

    Args:
        bits: 2 to 16.
        momentum: of the moving average; 1 keeps the range in training, too.
    """

    def __init__(self, bits: int, momentum: float = 0.9):
        super().__init__()
        check_bits(bits)
        self.bits, self.momentum = bits, momentum
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))
        self.register_buffer("seen", torch.tensor(False))

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Take a range that was found by other means, such as `mse_range`."""
        self.low.copy_(low)
        self.high.copy_(high)
        self.seen.fill_(True)

    def quantizer(self) -> Quantizer:
        """The present one.

        Raises:
            RuntimeError: no range was set, and no training batch was seen.
        """
        if not self.seen:
            raise RuntimeError(
                "the range of these activations is unknown; calibrate the network first, or pass a"
                " batch in training mode"
            )
        return affine_quantizer(self.low, self.high, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            low, high = min_max_range(x)
            if self.seen:
                low = self.momentum * self.low + (1 - self.momentum) * low
                high = self.momentum * self.high + (1 - self.momentum) * high
            self.set_range(low, high)
        return fake_quantize(x, self.quantizer())

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class BiasQuantizer(nn.Module):
    """A bias in whole units of its layer's sums: scale of the weights · scale of the inputs.

    Args:
        input_quantizer: of what the layer reads.
    """

    def __init__(self, input_quantizer: nn.Module):
        super().__init__()
        self.input_quantizer = input_quantizer

    def forward(self, bias: Tensor, weight_quantizer: nn.Module, weight: Tensor) -> Tensor:
        _, scale = weight_quantizer.integers(weight)
        scale = scale.detach() * self.input_quantizer.quantizer().scale
        return (round_through(at_least_single(bias) / scale) * scale).to(bias.dtype)


class SettledQuantizer(nn.Module):
    """Quantization of activations as a file has it: nothing about it changes any more."""

    def __init__(self, quantizer: Quantizer):
        super().__init__()
        self.register_buffer("scale", quantizer.scale, persistent=False)
        self.register_buffer("zero_point", quantizer.zero_point, persistent=False)
        self.low, self.high = quantizer.low, quantizer.high
        self.bits = (quantizer.high - quantizer.low).bit_length()

    def quantizer(self) -> Quantizer:
        """The one that it has."""
        return Quantizer(self.scale, self.zero_point, self.low, self.high)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.quantizer())

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class LearnedStep(nn.Module):
    """LSQ: the step size s is a parameter, trained with the weights.

    x̂ = s · round(clamp(x / s, low, high)), rounding straight through. Then by the chain rule

        ∂x̂/∂s = round(x/s) − x/s   inside the range, and low or high where x is clipped.

    The gradient of s is multiplied by 1/√(N · high), N numbers a step, so that steps learn as fast
    as weights. A step that training has pushed below zero counts by its size. Esser et al., 2020,
    arXiv:1902.08153; chapter 6, Quantization: training.

    Args:
        bits: 2 to 16.
        first: a tensor like those to come; s begins as 2 · mean|x| / √high.
        numbers: N; of a weight all, of activations those of one image.
        signed: integers from −2^(bits − 1), else from 0, for activations after ReLU.

    Raises:
        ValueError: the bits are out of range; `first` is empty, or some of it is not finite.
    """

    def __init__(self, bits: int, first: Tensor, numbers: int, signed: bool = True):
        super().__init__()
        check_bits(bits)
        self.bits, self.numbers, self.signed = bits, numbers, signed
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = self.low + 2**bits - 1
        min_max_range(first)
        step = 2 * first.detach().abs().mean() / sqrt(self.high)
        self.step = nn.Parameter(step if step > 0 else torch.ones_like(step))

    def _size(self) -> Tensor:
        return self.step.abs().clamp(min=_TINY)

    def quantizer(self) -> Quantizer:
        """The present one."""
        step = self._size().detach().float()
        return Quantizer(step, torch.zeros_like(step, dtype=torch.int32), self.low, self.high)

    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The int32 numbers that are stored for this weight, and their scale."""
        quantizer = self.quantizer()
        return quantizer.quantize(weight.detach()), quantizer.scale

    def forward(self, x: Tensor) -> Tensor:
        share = 1 / sqrt(self.numbers * self.high)
        size = self._size()
        step = size * share + (size - size * share).detach()
        return round_through((x / step).clamp(self.low, self.high)) * step

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}"
