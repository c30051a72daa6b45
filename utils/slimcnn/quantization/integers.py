"""Arithmetic on integers alone: exact sums of products, and a scale changed without division.

A layer's sums have the scale s_x · s_w, what is stored has another, s_y. The factor between them,
M = s_x · s_w / s_y, is no integer; but M ≈ m / 2ⁿ with a whole m below 2³¹, so that a product, an
addition and a shift do. Jacob et al., 2018, arXiv:1712.05877; chapter 6 (Quantization: integers).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from slimcnn.quantization.network import apply_layer

Arithmetic = Literal["fixed", "float"]
MULTIPLIER_BITS = 31
_MAX_SHIFT = 62  # of int64
_MAX_SUM = 2**31 - 1  # of int32


def fixed_point(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers m and n with factors ≈ m / 2ⁿ.

    The largest factor along the last dimension gets an m of 31 bits; all of that dimension share
    the n, so that their products can be added. The relative error of that largest one is at most
    2⁻³¹.

    Args:
        factors: positive, (..., terms), below 2³⁰.

    Returns:
        m, int64, like `factors`; n, int64, without the last dimension; 1 to 62.

    Raises:
        ValueError: a factor is not positive, or is too large.

    Chapter 6, Quantization: integers.
    """
    factors = factors.double()
    if not ((factors > 0) & (factors < 2.0 ** (MULTIPLIER_BITS - 1))).all():
        raise ValueError(
            f"a factor is not between 0 and 2^{MULTIPLIER_BITS - 1}; it is the scale of what comes"
            " in divided by the scale of what goes out"
        )
    exponent = torch.frexp(factors.amax(-1)).exponent.long()  # largest < 2^exponent
    shift = (MULTIPLIER_BITS - exponent).clamp(1, _MAX_SHIFT)
    multiplier = torch.round(torch.ldexp(factors, shift.unsqueeze(-1).double())).long()
    return multiplier.clamp(max=2**MULTIPLIER_BITS - 1), shift


def rescale(
    terms: Sequence[tuple[Tensor, Tensor]], scale: Tensor, arithmetic: Arithmetic = "fixed"
) -> Tensor:
    """Integers of one scale for a sum of integers of others: round(Σ q_k · s_k / s).

    "fixed" takes (Σ q_k · m_k + 2ⁿ⁻¹) >> n with `fixed_point` numbers, halves up, integers only;
    "float" multiplies in float32, halves to even, as ONNX Runtime does on a CPU.

    Args:
        terms: up to two pairs of int32 integers, all of one shape, and their scales, which meet
            them by broadcasting.
        scale: of the result, a scalar.
        arithmetic: how.

    Returns:
        int64, of the same shape.

    Chapter 6, Quantization: integers.
    """
    relative = [s.to(scale.device).double() / scale.double() for _, s in terms]
    factors = torch.stack(torch.broadcast_tensors(*relative))
    if arithmetic == "float":
        products = [q.float() * m.float() for (q, _), m in zip(terms, factors, strict=True)]
        return torch.round(sum(products)).long()
    multipliers, shift = fixed_point(factors.movedim(0, -1))
    pairs = zip(terms, multipliers.unbind(-1), strict=True)
    total = sum(q.long() * m for (q, _), m in pairs)
    return (total + (1 << (shift - 1))) >> shift


def integer_layer(
    layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The sums of a convolution or linear layer whose numbers are integers.

    Computed in float64, which holds every whole number below 2⁵³ exactly: PyTorch has no integer
    convolution, and the sums are those that one would give.

    Args:
        layer: gives stride, padding, dilation and groups; its own weight is not used.
        x: inputs without their zero-point, from −255 to 255 for 8 bits.
        weight, bias: integers in the layer's shapes.

    Returns:
        int32.

    Raises:
        OverflowError: a sum does not fit int32.

    Chapter 6, Quantization: integers.
    """
    x, weight = x.double(), weight.double()
    bias = bias.double() if bias is not None else None
    return int32(apply_layer(layer, x, weight, bias))


def int32(sums: Tensor) -> Tensor:
    """Whole numbers, kept in float64 while they were added up, as int32.

    Raises:
        OverflowError: one does not fit.
    """
    if sums.numel() and sums.abs().max() > _MAX_SUM:
        raise OverflowError(
            f"a sum of products, or a bias, is {sums.abs().max():.0f}, more than int32 holds; use"
            " fewer bits, or a wider range of inputs"
        )
    return sums.to(torch.int32)
