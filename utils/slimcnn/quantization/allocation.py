"""How many bits for which layer: mixed precision under a budget of bytes.

Chapter 6 (Quantization: post-training).
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import nn

from slimcnn import training
from slimcnn.budget import Option, choose
from slimcnn.data import Split
from slimcnn.quantization.network import QuantizedLayer, Scheme, quantize

SCALE_BYTES = 4  # float32
_UNTOUCHED = 16  # bits, which lose next to nothing


def weight_bytes(layer: nn.Module, bits: int, per_channel: bool = True) -> int:
    """What a layer's weight takes: bits, in whole bytes, and a float32 scale for each channel.

    Args:
        layer: has a `weight`, output channels first.
        bits: of a weight.
        per_channel: a scale for each output channel, else one.
    """
    scales = len(layer.weight) if per_channel else 1
    return -(-layer.weight.numel() * bits // 8) + SCALE_BYTES * scales


def damages(model: nn.Module, split: Split, bits: Sequence[int]) -> dict[str, dict[int, float]]:
    """By how much the loss grows when a single layer's weight has few bits.

    Args:
        model: batch norms folded; it is not changed.
        split: where the cross-entropy is measured; not the test set.
        bits: candidates, 1 to 16.

    Returns:
        For each layer, by bits: cross-entropy with that layer quantized, less that without.

    Chapter 6, Quantization: post-training.
    """
    images = split.images[:1]  # activations are not quantized, so any will do
    names = [
        name
        for name, module in quantize(model, Scheme(8, None), images).named_modules()
        if isinstance(module, QuantizedLayer)
    ]

    def loss(of: nn.Module) -> float:
        return float(F.cross_entropy(training.predict(of, split.images), split.labels))

    before = loss(model)
    found: dict[str, dict[int, float]] = {}
    for name in names:
        found[name] = {}
        for number in bits:
            scheme = Scheme({**dict.fromkeys(names, _UNTOUCHED), name: number}, None)
            found[name][number] = loss(quantize(model, scheme, images)) - before
    return found


def allocate_bits(
    model: nn.Module, found: Mapping[str, Mapping[int, float]], budget: float
) -> dict[str, int]:
    """Bits for each layer, so that weights keep the budget and the damages' sum is least.

    Args:
        model: whose layers they are.
        found: from `damages`.
        budget: bytes, `weight_bytes` of all layers together.

    Returns:
        For `Scheme.weight_bits`.

    Raises:
        ValueError: the fewest bits are too many bytes; the message says how many.

    Chapter 6, Quantization: post-training.
    """
    options = {
        name: [
            Option(weight_bytes(model.get_submodule(name), bits), damage)
            for bits, damage in by_bits.items()
        ]
        for name, by_bits in found.items()
    }
    chosen = choose(options, budget)
    return {name: list(found[name])[place] for name, place in chosen.items()}
