"""What each operation of a network does to integers.

A value is `Stored`, integers with a quantizer, or `Sums`, exact sums that are still to be rounded:
layers, additions and averages make sums, a ReLU bounds them, `store` rounds them; whatever only
moves or selects values does so with integers. Chapter 6 (Quantization: integers).
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from slimcnn.quantization.graphs import FUNCTIONS_OF_INTEGERS, METHODS_OF_INTEGERS
from slimcnn.quantization.integers import Arithmetic, int32, integer_layer, rescale
from slimcnn.quantization.network import QuantizedLayer
from slimcnn.quantization.placement import PLAIN
from slimcnn.quantization.quantizers import Quantizer


@dataclass(frozen=True)
class Stored:
    """A tensor as it is kept.

    Attributes:
        integers: int32.
        quantizer: what they stand for; one scale for all.
    """

    integers: Tensor
    quantizer: Quantizer


@dataclass(frozen=True)
class Sums:
    """Numbers before they are rounded: Σ integers · scale, bounded where a ReLU follows.

    Attributes:
        terms: int32 integers, each with the scale that meets it by broadcasting.
        low, high: real bounds.
    """

    terms: tuple[tuple[Tensor, Tensor], ...]
    low: float = -inf
    high: float = inf


def store(value: Any, quantizer: Quantizer, arithmetic: Arithmetic) -> Stored:
    """Round real numbers, or sums, to what is kept."""
    if isinstance(value, Tensor):
        return Stored(quantizer.quantize(value), quantizer)
    sums = _sums(value)
    made = rescale(sums.terms, quantizer.scale, arithmetic) + quantizer.zero_point
    low, high = (_as_integer(bound, quantizer) for bound in (sums.low, sums.high))
    return Stored(made.clamp(low, high).to(torch.int32), quantizer)


def real(value: Any) -> Any:
    """The real numbers, float32, that a value stands for; other things as they are."""
    if isinstance(value, Stored):
        return value.quantizer.dequantize(value.integers)
    if isinstance(value, Sums):
        total = sum(integers.double() * scale for integers, scale in value.terms)
        return total.clamp(value.low, value.high).float()
    return value


def rule_for(network: fx.GraphModule, node: fx.Node) -> Callable | None:
    """The function of this module's operations that stands for the call of a node, if any."""
    if node.op != "call_module":
        if node.meta.get(PLAIN):
            return (
                _method(node.target) if node.op == "call_method" else partial(_moves, node.target)
            )
        return _CALLS.get(node.target)
    module = network.get_submodule(node.target)
    rule = _MODULES.get(type(module))
    return partial(rule, module) if rule else None


def _as_integer(bound: float, quantizer: Quantizer) -> int:
    integer = torch.round(bound / quantizer.scale) + quantizer.zero_point
    return int(integer.clamp(quantizer.low, quantizer.high))


def _sums(value: Stored | Sums) -> Sums:
    if isinstance(value, Sums):
        return value
    if not isinstance(value, Stored):
        raise ValueError(
            f"integer arithmetic with a {type(value).__name__} is not known; where the network adds"
            " a parameter, make it the bias of a layer"
        )
    return Sums(((value.integers - value.quantizer.zero_point, value.quantizer.scale),))


def _layer(module: QuantizedLayer, input: Stored) -> Sums:
    ((integers, input_scale),) = _sums(input).terms
    layer = module.layer
    weight, scale = module.weight_quantizer.integers(layer.weight)
    scale = scale.double() * input_scale.double()
    bias = None
    if layer.bias is not None:
        bias = int32(torch.round(layer.bias.detach().double() / scale))
    sums = integer_layer(layer, integers, weight, bias)
    if scale.ndim and isinstance(layer, nn.Conv2d):  # of a linear layer channels come last
        scale = scale.view(-1, 1, 1)
    return Sums(((sums, scale),))


def _relu(input: Stored | Sums, inplace: bool = False, *, high: float = inf) -> Sums:
    sums = _sums(input)
    return replace(sums, low=max(sums.low, 0.0), high=min(sums.high, high))


def _add(input: Stored | float, other: Stored | float, *, alpha: float = 1.0) -> Sums:
    """Input + alpha · other; either may be a number."""
    return Sums((*_multiple(input, 1.0), *_multiple(other, alpha)))


def _subtract(input: Stored | float, other: Stored | float, *, alpha: float = 1.0) -> Sums:
    return _add(input, other, alpha=-alpha)


def _multiple(value: Stored | float, factor: float) -> tuple[tuple[Tensor, Tensor], ...]:
    """Factor · value as terms; the sign goes into the integers, since scales are positive."""
    if isinstance(value, int | float):
        integers, scale = torch.tensor(1, dtype=torch.int32), torch.tensor(float(value * factor))
        sign = -1 if scale < 0 else 1
    else:
        ((integers, scale),) = _sums(value).terms
        scale, sign = scale * factor, -1 if factor < 0 else 1
    return ((sign * integers, scale.abs()),) if (scale != 0).all() else ()


def _cat(tensors: Sequence[Stored], dim: int = 0, *, axis: int | None = None) -> Sums:
    """Side by side, each number with the scale of its part."""
    dim = dim if axis is None else axis
    integers, scales = zip(*[_sums(part).terms[0] for part in tensors], strict=True)
    along = [scale.expand(q.shape[dim]) for q, scale in zip(integers, scales, strict=True)]
    shape = [-1 if d == dim % integers[0].ndim else 1 for d in range(integers[0].ndim)]
    return Sums(((torch.cat(integers, dim), torch.cat(along).view(shape)),))


def _mean(
    input: Stored,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
) -> Sums:
    """Also with NumPy's names of the arguments, as PyTorch takes them."""
    ((x, scale),) = _sums(input).terms
    dim = dim if axis is None else axis
    dims = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = prod(x.shape[d] for d in dims)
    sums = int32(x.double().sum(dims, keepdim or keepdims))
    return Sums(((sums, scale.double() / count),))


def _average_pool(
    input: Stored,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Sums:
    """An average is a sum; its scale is divided by the number that the sum would be divided by."""

    def pool(x: Tensor, divisor: int | None) -> Tensor:
        options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor)
        return F.avg_pool2d(x.double(), *options)

    ((x, scale),) = _sums(input).terms
    ones = torch.ones(1, *x.shape[-2:], device=x.device)
    share = pool(ones, divisor_override) / pool(ones, 1)
    return Sums(((int32(pool(x, 1)), scale.double() * share),))


def _adaptive_average_pool(input: Stored, output_size: Any) -> Sums:
    """Windows of adaptive pools may differ in size, so each place has its own scale."""
    ((x, scale),) = _sums(input).terms
    means = F.adaptive_avg_pool2d(x.double(), output_size)
    height, width = (
        _windows(n, parts) for n, parts in zip(x.shape[-2:], means.shape[-2:], strict=True)
    )
    counts = (height[:, None] * width).to(x.device)
    return Sums(((int32(torch.round(means * counts)), scale.double() / counts),))


def _windows(size: int, parts: int) -> Tensor:
    """How many of `size` places each of the parts of an adaptive pool covers."""
    first = torch.arange(parts) * size
    return -((-first - size) // parts) - first // parts


def _moves(function: Callable, input: Any, *args: Any, **kwargs: Any) -> Any:
    """The same function of the integers; sums come here only on their way out of the network."""
    if not isinstance(input, Stored):
        return function(real(input), *args, **kwargs)

    def stored(part: Any) -> Any:
        return Stored(part, input.quantizer) if isinstance(part, Tensor) else part

    return fx.node.map_aggregate(function(input.integers, *args, **kwargs), stored)


def _largest(pool: Callable, input: Any, *args: Any, **kwargs: Any) -> Any:
    """The largest integer is that of the largest number; PyTorch pools real numbers only."""

    def function(x: Tensor) -> Tensor:
        return pool(x.double(), *args, **kwargs).to(x.dtype)

    return _moves(function, input)


def _same(input: Any, *args: Any, **kwargs: Any) -> Any:
    return input


def _method(name: str) -> Callable:
    return partial(_moves, lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs))


# Called with the module and its input; modules of exactly these types.
_MODULES: dict[type, Callable] = {
    QuantizedLayer: _layer,
    nn.ReLU: lambda module, x: _relu(x),
    nn.ReLU6: lambda module, x: _relu(x, high=6.0),
    nn.AvgPool2d: lambda m, x: _average_pool(
        x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda module, x: _adaptive_average_pool(x, module.output_size),
    nn.MaxPool2d: _largest,
    nn.Flatten: _moves,
    nn.ChannelShuffle: _moves,
    **{
        kind: lambda module, x: x
        for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    },
}
# Called as the function, or as the method of its first argument, was.
_CALLS: dict[Any, Callable] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), _subtract),
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), _relu),
    F.relu6: partial(_relu, high=6.0),
    torch.cat: _cat,
    **dict.fromkeys((torch.mean, "mean"), _mean),
    F.avg_pool2d: _average_pool,
    F.adaptive_avg_pool2d: _adaptive_average_pool,
    F.max_pool2d: partial(_largest, F.max_pool2d),
    F.dropout: _same,
    **{function: partial(_moves, function) for function in FUNCTIONS_OF_INTEGERS},
    **{name: _method(name) for name in METHODS_OF_INTEGERS},
}
