"""AdaRound: whether a weight is rounded up or down is learned, for what the layer computes.

The nearest integer is best for the weight alone; for the sum in which it stands it may be better
to round the other way, and so balance what others lose. Chapter 6 (Quantization: post-training).
"""

import copy
from math import cos, pi

import torch
from torch import Tensor, nn

from slimcnn.data import normalize
from slimcnn.quantization.correction import outputs, quantized_layers
from slimcnn.quantization.fake import WeightQuantizer
from slimcnn.quantization.network import QuantizedLayer

# From the paper: the sigmoid is stretched, so that it reaches 0 and 1; β falls from 20 to 2.
_STRETCH = (-0.1, 1.1)
_FIRST_BETA, _LAST_BETA, _WARMUP = 20.0, 2.0, 0.2
_REGULARIZATION, _RATE, _BATCH = 0.01, 0.01, 32


class RoundedWeight(nn.Module):
    """A weight whose integers are settled: what is trained or changed afterwards has no effect.

    Args:
        integers: int32, in the weight's shape.
        scale: a scalar, or one for each output channel.
        bits: of the integers.
    """

    def __init__(self, integers: Tensor, scale: Tensor, bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("settled", integers)
        self.register_buffer("scale", scale)

    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The int32 numbers that are stored, and their scale."""
        return self.settled, self.scale

    def forward(self, weight: Tensor) -> Tensor:
        return (self.settled * _along(self.scale, weight)).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def ada_round(
    network: nn.Module,
    model: nn.Module,
    images: Tensor,
    *,
    iterations: int = 1000,
    seed: int = 0,
) -> nn.Module:
    """A copy of a quantized network whose weights are rounded up or down by what it computes.

    Layer after layer, with x the layer's inputs in the original and x̂ those in the quantized
    network so far, h(V) from 0 to 1 is learned for each weight, to make

        ‖W x − Ŵ x̂‖² + λ Σ (1 − |2 h(V) − 1|^β),   Ŵ = s · clamp(⌊W / s⌋ + h(V))

    small; a falling β drives each h to 0 or 1 in the end. Nagel et al., 2020, arXiv:2004.10568;
    unlike there, activation functions are not part of what is reconstructed. Of a layer that is
    used several times, the first use counts.

    Args:
        network: from `quantize(model, ...)`, with steps that are not learned; it is not changed.
        model: the original.
        images: uint8 *training* images, (N, C, H, W); some hundred.
        iterations: gradient steps for each layer.
        seed: decides which images a step takes.

    Returns:
        The copy, in eval mode; its `weight_quantizer`s are `RoundedWeight`s.

    Raises:
        ValueError: there are no images; no layer has a `WeightQuantizer`; the network's layers
            are not those of the model.

    Chapter 6, Quantization: post-training.
    """
    if len(images) == 0:
        raise ValueError("there are no images; layers are compared on some")
    network = copy.deepcopy(network).eval()
    layers = {
        name: module
        for name, module in quantized_layers(network, model).items()
        if isinstance(module.weight_quantizer, WeightQuantizer)
    }
    if not layers:
        raise ValueError("no layer has a WeightQuantizer; weights of learned steps stay as trained")
    x = normalize(images.to(next(model.parameters()).device))
    generator = torch.Generator().manual_seed(seed)
    wanted = outputs(model, list(layers), x, lambda x, output: output.clone())
    for name in list(wanted):
        module = layers[name]
        seen = outputs(network, [name], x, lambda x, output: x.clone())[name]
        seen = module.input_quantizer(seen).detach()
        module.weight_quantizer = _learn(module, seen, wanted.pop(name), iterations, generator)
    return network


@torch.enable_grad()
def _learn(
    module: QuantizedLayer, x: Tensor, wanted: Tensor, iterations: int, generator: torch.Generator
) -> RoundedWeight:
    weight = module.layer.weight.detach()
    quantizer = module.weight_quantizer.quantizer(weight)
    scale = _along(quantizer.scale, weight)
    below = torch.floor(weight / scale)
    low, high = _STRETCH
    rest = (weight / scale - below).clamp(0.01, 0.99)
    v = torch.logit((rest - low) / (high - low)).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=_RATE)
    channels = -1 if isinstance(module.layer, nn.Linear) else 1
    stand_in = copy.deepcopy(module)
    stand_in.input_quantizer = nn.Identity()  # x is rounded already
    for step in range(iterations):
        chosen = torch.randint(len(x), (min(_BATCH, len(x)),), generator=generator)
        up = (torch.sigmoid(v) * (high - low) + low).clamp(0, 1)
        rounded = (below + up).clamp(quantizer.low, quantizer.high) * scale
        stand_in.weight_quantizer = _Given(rounded)
        difference = stand_in(x[chosen]) - wanted[chosen]
        loss = difference.square().sum(channels).mean()
        progress = (step / iterations - _WARMUP) / (1 - _WARMUP)
        if progress >= 0:
            beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 + cos(pi * progress)) / 2
            loss = loss + _REGULARIZATION * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    up = torch.sigmoid(v.detach()) * (high - low) + low >= 0.5
    integers = (below + up).clamp(quantizer.low, quantizer.high).to(torch.int32)
    return RoundedWeight(integers, quantizer.scale, module.weight_quantizer.bits)


class _Given(nn.Module):
    """A weight quantizer that gives this."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, weight: Tensor) -> Tensor:
        return self.weight


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1)) if scale.ndim else scale
