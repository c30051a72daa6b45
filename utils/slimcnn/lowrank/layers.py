"""Layers in place of a layer: two or three small ones that together compute nearly the same.

What comes out are ordinary convolutions and linear layers in a `Factorized`, on the device, of
the type and in the mode of the layer, with its stride, padding and dilation; the bias is in the
last one. At full rank they compute what the layer did, up to rounding. The given layer is not
changed. Chapter 5 (Low-rank: matrices, tensors).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.lowrank.matrices import output_svd, truncated_svd, unfold
from slimcnn.lowrank.methods import Part, Rank, kernel_size, parts
from slimcnn.lowrank.tensors import cp, tucker2


class Factorized(nn.Sequential):
    """A layer as a chain of smaller ones.

    Attributes:
        method: how it was factorized, one of `METHODS`.
        rank: a number, or (r_out, r_in) for "tucker2".
    """

    def __init__(self, *layers: nn.Module, method: str, rank: Rank):
        super().__init__(*layers)
        self.method, self.rank = method, rank

    def extra_repr(self) -> str:
        return f"method={self.method!r}, rank={self.rank}"

    def composed(self) -> Tensor:
        """The weight of the one layer that computes the same, in the shape of the original."""
        first, *others = self
        weight = first.weight
        for layer in others:
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                weight = layer.weight * weight  # each filter has one channel of its own
            else:  # no two parts reach along the same axis, so kernels meet sides of 1
                weight = torch.einsum("or...,ri...->oi...", layer.weight, weight)
        return weight


def factorize_layer(layer: nn.Module, method: str, rank: Rank, **options: Any) -> Factorized:
    """A layer, factorized by any method; see the function of each for what it makes.

    Args:
        layer: an `nn.Linear` for "svd", an `nn.Conv2d` without groups for all others.
        method: "svd", "channel", "input", "spatial", "tucker2" or "cp".
        rank: a number, or (r_out, r_in) for "tucker2".
        options: of `svd_linear` and `channel_conv` (moment), `tucker2_conv` or `cp_conv`.

    Raises:
        ValueError: the layer cannot be factorized by this method, or not at this rank.

    Chapter 5, Low-rank: matrices, tensors.
    """
    parts(layer, method, rank)  # the checks
    return _FUNCTIONS[method](layer, rank, **options)


def svd_linear(layer: nn.Linear, rank: int, *, moment: Tensor | None = None) -> Factorized:
    """A linear layer as two: W ≈ left · right, with r (I + O) weights instead of I · O.

    Args:
        layer: a linear layer with weight W, shape (O, I).
        rank: r, from 1 to min(O, I).
        moment: the second moment of its outputs without bias, shape (O, O), for the best outputs
            (see `output_svd`) instead of the best weights.

    Chapter 5, Low-rank: matrices.
    """
    made = skeleton(layer, "svd", rank)
    left, right = _svd(layer.weight, rank, moment)
    return _filled(made, layer, right, left)


def channel_conv(layer: nn.Conv2d, rank: int, *, moment: Tensor | None = None) -> Factorized:
    """A convolution to r channels, then 1×1: the kernel as a matrix O × (I·kh·kw).

    It has r (I·kh·kw + O) weights. Zhang et al., 2016, arXiv:1505.06798.

    Args:
        layer: a convolution without groups.
        rank: r, from 1 to min(O, I·kh·kw).
        moment: as for `svd_linear`, over all positions of the map.

    Chapter 5, Low-rank: matrices.
    """
    made = skeleton(layer, "channel", rank)
    left, right = _svd(unfold(layer.weight, "channel"), rank, moment)
    return _filled(made, layer, right, left)


def input_conv(layer: nn.Conv2d, rank: int) -> Factorized:
    """1×1 to r channels, then a convolution: the kernel as a matrix (O·kh·kw) × I.

    It has r (I + O·kh·kw) weights; the first layer works on the map before any stride.

    Args:
        layer: a convolution without groups.
        rank: r, from 1 to min(O·kh·kw, I).

    Chapter 5, Low-rank: matrices.
    """
    made = skeleton(layer, "input", rank)
    left, right = truncated_svd(unfold(layer.weight, "input"), rank)
    kernel = left.unflatten(0, (layer.out_channels, *layer.kernel_size)).permute(0, 3, 1, 2)
    return _filled(made, layer, right, kernel)


def spatial_conv(layer: nn.Conv2d, rank: int) -> Factorized:
    """A kh×1 convolution to r channels, then 1×kw: the kernel as a matrix (I·kh) × (O·kw).

    It has r (I·kh + O·kw) weights. Stride, padding and dilation are split between the two.
    Jaderberg et al., 2014, arXiv:1405.3866, scheme 2.

    Args:
        layer: a convolution without groups.
        rank: r, from 1 to min(I·kh, O·kw).

    Chapter 5, Low-rank: matrices.
    """
    made = skeleton(layer, "spatial", rank)
    height, width = layer.kernel_size
    left, right = truncated_svd(unfold(layer.weight, "spatial"), rank)
    vertical = left.T.unflatten(1, (layer.in_channels, height))
    horizontal = right.unflatten(1, (layer.out_channels, width)).transpose(0, 1)
    return _filled(made, layer, vertical, horizontal)


def tucker2_conv(layer: nn.Conv2d, rank: tuple[int, int], **options: Any) -> Factorized:
    """1×1 to r_in channels, a convolution to r_out, then 1×1: `tucker2` of the kernel.

    It has I·r_in + r_in·r_out·kh·kw + r_out·O weights. Kim et al., 2016, arXiv:1511.06530.

    Args:
        layer: a convolution without groups.
        rank: (r_out, r_in), up to (O, I).
        options: iterations and tolerance of `tucker2`.

    Chapter 5, Low-rank: tensors.
    """
    made = skeleton(layer, "tucker2", rank)
    found = tucker2(layer.weight, rank, **options)
    return _filled(made, layer, found.in_factor.T, found.core, found.out_factor)


def cp_conv(layer: nn.Conv2d, rank: int, **options: Any) -> Factorized:
    """1×1 to r channels, a depthwise convolution, then 1×1: `cp` of the kernel.

    It has r (I + kh·kw + O) weights. The kernel is taken as a tensor O × I × (kh·kw). Lebedev et
    al., 2015, arXiv:1412.6553, split it along the two sides of the kernel, too, and have four
    factors; a kernel that has rank r so, has it here as well, and one layer fewer is slower.

    Args:
        layer: a convolution without groups.
        rank: r, from 1 to the product of the two smaller of O, I and kh·kw.
        options: starts, iterations, tolerance and generator of `cp`.

    Chapter 5, Low-rank: tensors.
    """
    made = skeleton(layer, "cp", rank)
    found = cp(layer.weight.flatten(2), rank, **options)
    share = found.weights ** (1 / 3)  # the same norm for all three
    outputs, inputs, places = (factor * share for factor in found.factors)
    return _filled(made, layer, inputs.T, places.T, outputs)


def skeleton(layer: nn.Module, method: str, rank: Rank) -> Factorized:
    """The layers that a method makes, with any numbers in them.

    Raises:
        ValueError: the layer cannot be factorized by this method, or not at this rank.
    """
    found = parts(layer, method, rank)
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    layers = []
    for index, part in enumerate(found):
        bias = layer.bias is not None and index == len(found) - 1
        if isinstance(layer, nn.Linear):
            kind, settings = nn.Linear, {}
        else:
            kind, settings = nn.Conv2d, _settings(layer, part)
        made = nn.utils.skip_init(kind, part.inputs, part.outputs, bias=bias, **settings, **like)
        made.weight.requires_grad_(layer.weight.requires_grad)
        if bias:
            made.bias.requires_grad_(layer.bias.requires_grad)
        layers.append(made)
    return Factorized(*layers, method=method, rank=rank).train(layer.training)


def _settings(layer: nn.Conv2d, part: Part) -> dict[str, Any]:
    """What a part has of the layer's kernel, stride, padding and dilation: its own axes."""
    if not part.axes:
        return {"kernel_size": 1}

    def own(values: tuple[int, int], other: int) -> tuple[int, ...]:
        return tuple(v if a in part.axes else other for a, v in zip("hw", values, strict=True))

    padding = layer.padding  # "same" and "valid" mean the same along each axis
    return {
        "kernel_size": own(kernel_size(layer), 1),
        "stride": own(layer.stride, 1),
        "padding": padding if isinstance(padding, str) else own(padding, 0),
        "dilation": own(layer.dilation, 1),
        "padding_mode": layer.padding_mode,
        "groups": part.groups,
    }


def _svd(matrix: Tensor, rank: int, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    return truncated_svd(matrix, rank) if moment is None else output_svd(matrix, rank, moment)


@torch.no_grad()
def _filled(made: Factorized, layer: nn.Module, *weights: Tensor) -> Factorized:
    for part, weight in zip(made, weights, strict=True):
        part.weight.copy_(weight.reshape(part.weight.shape))
    if layer.bias is not None:
        made[-1].bias.copy_(layer.bias)
    return made


_FUNCTIONS: dict[str, Callable[..., Factorized]] = {
    "svd": svd_linear,
    "channel": channel_conv,
    "input": input_conv,
    "spatial": spatial_conv,
    "tucker2": tucker2_conv,
    "cp": cp_conv,
}
