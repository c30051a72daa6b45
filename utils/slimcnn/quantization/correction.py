"""What rounding does to a layer's mean output, taken out again by its bias.

Chapter 6 (Quantization: post-training).
"""

import copy
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from slimcnn.data import normalize
from slimcnn.quantization.network import QuantizedLayer
from slimcnn.tracing import undisturbed


def correct_bias(network: nn.Module, model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a quantized network whose layers give, on average, what the original's give.

    Rounding a weight by ε moves a layer's output by ε ∗ x, and where inputs have a mean, as after
    ReLU, so has this. Layer after layer, what is too much on average in each output channel is
    subtracted from the bias. Of a layer that is used several times, the first use counts. Nagel et
    al., 2019, arXiv:1906.04721 (empirical correction).

    Args:
        network: from `quantize(model, ...)`; it is not changed.
        model: the original.
        images: uint8 *training* images, (N, C, H, W).

    Returns:
        The copy, in eval mode; each corrected layer has a bias.

    Raises:
        ValueError: there are no images; the network's layers are not those of the model.

    Chapter 6, Quantization: post-training.
    """
    if len(images) == 0:
        raise ValueError("there are no images; means are taken over some")
    network = copy.deepcopy(network).eval()
    layers = quantized_layers(network, model)
    x = normalize(images.to(next(model.parameters()).device))
    wanted = outputs(model, list(layers), x, lambda x, output: output.clone())
    for name in wanted:  # in the order of the pass
        module = layers[name]
        (found,) = outputs(network, [name], x, lambda x, output: output.clone()).values()
        excess = _mean(module.layer, found - wanted[name])
        bias = module.layer.bias if module.layer.bias is not None else torch.zeros_like(excess)
        module.layer.bias = nn.Parameter((bias - excess).detach())
    return network


def quantized_layers(network: nn.Module, model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a network, by names that the original has, too.

    Raises:
        ValueError: there are none, or the model has no layers of these names.
    """
    layers = {n: m for n, m in network.named_modules() if isinstance(m, QuantizedLayer)}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no quantized layer; quantize it first")
    missing = sorted(layers.keys() - dict(model.named_modules()).keys())
    if missing:
        raise ValueError(f"the model has no {missing[0]!r}; pass the one that was quantized")
    return layers


def outputs(
    model: nn.Module, names: list[str], x: Tensor, what: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Something of the input and output of each named layer, in the order of the pass.

    Of a layer that is used several times, the first use counts. The pass ends with the last one.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            found.setdefault(name, what(args[0] if args else kwargs["input"], output))
            if len(found) == len(names):
                raise _Done

        return hook

    handles = [
        model.get_submodule(n).register_forward_hook(watch(n), with_kwargs=True) for n in names
    ]
    try:
        with undisturbed(model), suppress(_Done):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Done(Exception):
    """All that was asked for is there."""


def _mean(layer: nn.Module, output: Tensor) -> Tensor:
    """Of each output channel, of which a linear layer has the last dimension."""
    if isinstance(layer, nn.Linear):
        return output.flatten(0, -2).mean(0)
    return output.mean((0, 2, 3))
