"""A network whose layers compute with quantized weights and inputs, to evaluate and to train.

Every convolution and linear layer becomes a `QuantizedLayer`: the same layer with a quantizer for
its weight and one for its input. Sums stay real numbers here; integer arithmetic is in
`slimcnn.quantization.integers`. Chapter 6 (Quantization: calibration, training).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slimcnn.data import normalize
from slimcnn.quantization.fake import (
    WEIGHT_RANGES,
    ActivationQuantizer,
    BinaryWeight,
    LearnedStep,
    WeightQuantizer,
)
from slimcnn.quantization.ranges import Range, kl_range, min_max_range, mse_range, percentile_range
from slimcnn.tracing import has_hooks, undisturbed

RangeName = Literal["min-max", "percentile", "mse", "kl"]
RANGES: dict[str, Callable[[Tensor, int], Range]] = {
    "min-max": lambda x, bits: min_max_range(x),
    "percentile": lambda x, bits: percentile_range(x),
    "mse": lambda x, bits: mse_range(x, bits, symmetric=False),
    "kl": lambda x, bits: kl_range(x, bits, bins=max(2048, 2 ** (bits - 1))),
}


@dataclass(frozen=True)
class Scheme:
    """How many bits, and how ranges are found.

    Attributes:
        weight_bits: 1 (binary) to 16; or by the name of the layer, for all of them.
        activation_bits: 2 to 16; None leaves activations as they are.
        per_channel: a scale for each output channel of a weight, else one.
        range: of activations, found on calibration images: "min-max", "percentile" (99.9), "mse"
            or "kl".
        weight_range: of weights: "min-max", "percentile" (99.9) or "mse".
        learned: steps of weights and activations are parameters (LSQ), one for each tensor.
        ends: bits of the first and the last layer that are used, which suffer most; None for those
            of all.
            Weights whose bits are given by name have those.

    Raises:
        ValueError: an attribute is not as described.
    """

    weight_bits: int | Mapping[str, int] = 8
    activation_bits: int | None = 8
    per_channel: bool = True
    range: RangeName = "min-max"
    weight_range: RangeName = "min-max"
    learned: bool = False
    ends: int | None = 8

    def __post_init__(self) -> None:
        given = self.weight_bits
        weights = given if isinstance(given, Mapping) else {"weight_bits": given}
        for name, bits, least in (
            *((name, bits, 1) for name, bits in weights.items()),
            ("activation_bits", self.activation_bits, 2),
            ("ends", self.ends, 2),
        ):
            fits = isinstance(bits, int) and not isinstance(bits, bool) and least <= bits <= 16
            if not fits and not (bits is None and name in ("activation_bits", "ends")):
                raise ValueError(f"{name} is {bits!r}; it must be a whole number, {least} to 16")
        for name, allowed in (("range", RANGES), ("weight_range", WEIGHT_RANGES)):
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise ValueError(
                    f"{name} is {given!r}; allowed are {', '.join(map(repr, allowed))}"
                )
        if self.learned and 1 in weights.values():
            raise ValueError("a binary weight has no step to learn; use learned=False")


class QuantizedLayer(nn.Module):
    """A convolution or linear layer with quantized weight and input.

    Attributes:
        layer: the layer itself, with the weight as it is trained.
        weight_quantizer, input_quantizer: modules; an `nn.Identity` does nothing.
        bias_quantizer: None, or a `BiasQuantizer` (after `place_quantizers`).
    """

    layer: nn.Conv2d | nn.Linear
    bias_quantizer: nn.Module | None

    def __init__(self, layer: nn.Module, weight_quantizer: nn.Module, input_quantizer: nn.Module):
        super().__init__()
        self.layer = layer
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer
        self.bias_quantizer = None

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight_quantizer(self.layer.weight), self.layer.bias
        if self.bias_quantizer is not None and bias is not None:
            bias = self.bias_quantizer(bias, self.weight_quantizer, self.layer.weight)
        return apply_layer(self.layer, self.input_quantizer(input), weight, bias)


def apply_layer(
    layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """What the layer would give with this weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return layer._conv_forward(x, weight, bias)


def quantize(model: nn.Module, scheme: Scheme, images: Tensor) -> nn.Module:
    """A copy of `model` whose convolutions and linear layers are `QuantizedLayer`s.

    Batch norms stay; fold them first (`fold_batch_norm`) for what a phone would compute. The copy
    can be evaluated (post-training quantization) and trained (quantization-aware training). Layers
    that read the same tensor share its quantizer, for it is stored once. A layer that is not called
    stays as it is: the network may read its weight by itself.

    Args:
        model: with one input; it is not changed.
        scheme: how.
        images: uint8 *training* images, (N, C, H, W), on which activations' ranges are found. All
            their activations are in memory at once: some hundred images are enough.

    Returns:
        The copy, in eval mode.

    Raises:
        ValueError: there are no images, or no layers; a layer has hooks, or its weight is
            parametrized; bits are given by other names than those of the layers.

    Chapter 6, Quantization: calibration, training.
    """
    if len(images) == 0:
        raise ValueError("there are no images; activations' ranges are found on some")
    model = copy.deepcopy(model).eval()
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and parametrize.is_parametrized(module):
            raise ValueError(
                f"the weight of {name!r} is computed from other tensors; write masks into it first"
                " (slimcnn.masking.finalize)"
            )
        if type(module) in (nn.Conv2d, nn.Linear):
            if has_hooks(module):
                raise ValueError(f"{name!r} has hooks, which would be lost; remove them first")
            names.append(name)
    if "" in names:
        raise ValueError("the network is a layer itself; put it into an nn.Sequential")
    if not names:
        raise ValueError(f"{type(model).__name__} has no convolution and no linear layer")
    inputs, order = _inputs(model, names, images)
    at_end = {order[0], order[-1]} if scheme.ends is not None and order else set()
    given = scheme.weight_bits
    if isinstance(given, Mapping) and given.keys() != set(names):
        wrong = sorted(given.keys() ^ set(names))
        raise ValueError(f"weight_bits must name all layers and no others; look at {wrong}")
    names = [name for name in names if name in order]  # of others the network may read the weight
    made_of: dict[int, nn.Module] = {}
    for name in names:
        layer = model.get_submodule(name)
        if isinstance(given, Mapping):
            bits = given[name]
        else:
            bits = scheme.ends if name in at_end else given
        made = QuantizedLayer(layer, _for_weight(layer, bits, scheme), nn.Identity())
        made_of[id(layer)] = made.eval()
    for readers, seen in inputs.values() if scheme.activation_bits is not None else ():
        bits = scheme.ends if at_end & set(readers) else scheme.activation_bits
        shared = _for_input(seen, bits, scheme).eval()
        for name in readers:
            made_of[id(model.get_submodule(name))].input_quantizer = shared
    for parent in [m for m in model.modules() if not isinstance(m, QuantizedLayer)]:
        for child, module in parent._modules.items():  # a layer may have several names
            parent._modules[child] = made_of.get(id(module), module)
    return model


def _for_weight(layer: nn.Module, bits: int, scheme: Scheme) -> nn.Module:
    if bits == 1:
        return BinaryWeight()
    if scheme.learned:
        return LearnedStep(bits, layer.weight, layer.weight.numel())
    return WeightQuantizer(bits, 0 if scheme.per_channel else None, scheme.weight_range)


def _for_input(seen: list[Tensor], bits: int, scheme: Scheme) -> nn.Module:
    x = torch.cat([part.flatten() for part in seen])
    if scheme.learned:
        return LearnedStep(bits, x, seen[0][0].numel(), signed=bool((x < 0).any()))
    # of several tensors a moving average would follow now this one, now that one
    made = ActivationQuantizer(bits, momentum=0.9 if len(seen) == 1 else 1.0)
    made.set_range(*RANGES[scheme.range](x, bits))
    return made.to(x.device)


# Names of the layers that read the same tensors, and the tensors: one a call.
Readers = tuple[list[str], list[Tensor]]


def _inputs(
    model: nn.Module, names: Sequence[str], images: Tensor
) -> tuple[dict[tuple, Readers], list[str]]:
    """What comes into the layers for these images, and the layers in the order of their use.

    Layers with the same inputs are together.
    """
    found: dict[str, list[Tensor]] = {}
    read: dict[str, tuple] = {}
    kept: list[Tensor] = []  # so that no two tensors of the pass share an id

    def watch(name: str) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else kwargs["input"]
            found.setdefault(name, []).append(x.detach().clone())
            # later layers may work in place, which makes another tensor of it
            read[name] = (*read.get(name, ()), (id(x), x._version))
            kept.append(x)

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True)
        for name in names
    ]
    device = next(model.parameters()).device
    try:
        with undisturbed(model), torch.no_grad():
            model(normalize(images.to(device)))
    finally:
        for handle in handles:
            handle.remove()
    together: dict[tuple, Readers] = {}
    for name, tensors in read.items():
        together.setdefault(tensors, ([], found[name]))[0].append(name)
    return together, list(read)
