"""What each method makes of a layer: the parts, their sizes, and the ranks that they may have.

Chapter 5 (Low-rank: matrices, tensors).
"""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from slimcnn.tracing import has_hooks

# A number, or (r_out, r_in) for "tucker2".
Rank = int | tuple[int, int]

METHODS = ("svd", "channel", "input", "spatial", "tucker2", "cp")


class Choice(NamedTuple):
    """What becomes of a layer: one of `METHODS`, at a rank."""

    method: str
    rank: Rank


class Part(NamedTuple):
    """One of the layers that replace a layer.

    Attributes:
        inputs, outputs: channels, or features.
        axes: along which axes of the kernel it reaches: "hw", "h", "w", or "" for 1×1.
        groups: of the convolution.
    """

    inputs: int
    outputs: int
    axes: str = ""
    groups: int = 1

    def weights(self, layer: nn.Module) -> int:
        """How many weights the part has, which are also the MACs for one position of its output."""
        height, width = kernel_size(layer)
        reach = (height if "h" in self.axes else 1) * (width if "w" in self.axes else 1)
        return self.outputs * (self.inputs // self.groups) * reach


def parts(layer: nn.Module, method: str, rank: Rank) -> list[Part]:
    """The parts of a factorized layer, from input to output.

    Raises:
        ValueError: the layer cannot be factorized by this method, or not at this rank.
    """
    check_layer(layer, method)
    check_rank(layer, method, rank)
    outputs, inputs = channels(layer)
    match method, rank:
        case "svd", _:
            return [Part(inputs, rank), Part(rank, outputs)]
        case "channel", _:
            return [Part(inputs, rank, "hw"), Part(rank, outputs)]
        case "input", _:
            return [Part(inputs, rank), Part(rank, outputs, "hw")]
        case "spatial", _:
            return [Part(inputs, rank, "h"), Part(rank, outputs, "w")]
        case "tucker2", (r_out, r_in):
            return [Part(inputs, r_in), Part(r_in, r_out, "hw"), Part(r_out, outputs)]
    return [Part(inputs, rank), Part(rank, rank, "hw", rank), Part(rank, outputs)]


def largest_rank(layer: nn.Module, method: str) -> Rank:
    """The rank at which the method gives back the layer as it was.

    With a kernel O × I × kh × kw: the smaller side of the matrix, min(O, I) for "svd",
    min(O, I·kh·kw) for "channel", min(O·kh·kw, I) for "input", min(I·kh, O·kw) for "spatial";
    (O, I) for "tucker2"; for "cp" the product of the two smaller of O, I and kh·kw, which is
    always enough, though ALS need not find it.

    Raises:
        ValueError: the layer cannot be factorized by this method.
    """
    check_layer(layer, method)
    outputs, inputs = channels(layer)
    height, width = kernel_size(layer)
    area = height * width
    return {
        "svd": min(outputs, inputs),
        "channel": min(outputs, inputs * area),
        "input": min(outputs * area, inputs),
        "spatial": min(inputs * height, outputs * width),
        "tucker2": (outputs, inputs),
        "cp": outputs * inputs * area // max(outputs, inputs, area),
    }[method]


def channels(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer or a convolution."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels


def kernel_size(layer: nn.Module) -> tuple[int, int]:
    """(height, width) of the kernel; a linear layer's is 1×1."""
    return (1, 1) if isinstance(layer, nn.Linear) else layer.kernel_size


def check_rank(layer: nn.Module, method: str, rank: Rank) -> None:
    """Refuse a rank that is no rank of the layer.

    Raises:
        ValueError: with the largest rank that is allowed.
    """
    largest = largest_rank(layer, method)
    limits = largest if method == "tucker2" else (largest,)
    given = rank if method == "tucker2" else (rank,)
    if (
        not isinstance(given, tuple)
        or len(given) != len(limits)
        or any(isinstance(r, bool) or not isinstance(r, int) for r in given)
        or not all(1 <= r <= limit for r, limit in zip(given, limits, strict=True))
    ):
        wanted = (
            f"a pair (r_out, r_in) of whole numbers from (1, 1) to {largest}"
            if method == "tucker2"
            else f"a whole number from 1 to {largest}"
        )
        raise ValueError(f"rank is {rank!r}; {method!r} of this layer takes {wanted}")


def check_layer(layer: nn.Module, method: str) -> None:
    """Refuse a layer that a method cannot factorize.

    Raises:
        ValueError: there is no such method, or the layer is not fit for it; the message says why.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    reason = why_not(layer)
    if reason is None and isinstance(layer, nn.Linear) != (method == "svd"):
        kind = "a linear layer" if isinstance(layer, nn.Linear) else "a convolution"
        use = "'svd'" if isinstance(layer, nn.Linear) else ", ".join(map(repr, METHODS[1:]))
        reason = f"{kind} is factorized by {use}"
    if reason is not None:
        raise ValueError(
            f"this {type(layer).__name__} cannot be factorized by {method!r}: {reason}"
        )


def why_not(layer: nn.Module) -> str | None:
    """Why no method can factorize a layer; None if one can."""
    if parametrize.is_parametrized(layer):
        return (
            "its weight is computed from other tensors; write masks into it with"
            " slimcnn.masking.finalize, other parametrizations with remove_parametrizations"
        )
    if isinstance(layer, LazyModuleMixin):
        return "it has no shape yet; run the network once"
    if type(layer) not in (nn.Linear, nn.Conv2d):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            return (
                "it is a subclass, which may compute something else or hand out its weight, as"
                " attention does; only nn.Linear and nn.Conv2d themselves are replaced"
            )
        return "only nn.Linear and nn.Conv2d can be"
    weight = layer._parameters.get("weight")
    if weight is None:
        return (
            "its weight is no parameter of its own; take out what computes it"
            " (torch.nn.utils.prune.remove, remove_weight_norm, remove_spectral_norm)"
        )
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, and real floating-point numbers are needed"
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"it has {layer.groups} groups; each filter sees few channels already"
    if has_hooks(layer):
        return "it has hooks, which would be lost; remove them first"
    return None
