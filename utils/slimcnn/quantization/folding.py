"""Batch norm folded into the layer before it: one layer less, and the same outputs.

Chapter 6 (Quantization: integers).
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from slimcnn.tracing import ModelInput, example_inputs, has_hooks, tensors, undisturbed

_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
# Exactly these: a subclass may do more, such as an activation.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fold_batch_norm(model: nn.Module, input_shape: ModelInput = (1, 1, 28, 28)) -> nn.Module:
    """A copy of `model` in eval mode whose batch norms are part of the layers before them.

    In eval mode a batch norm is y ↦ γ (y − μ) / √(ν + ε) + β, a number times y plus a number for
    each channel. After a convolution or a linear layer that is the same layer with

        W′ = W · γ / √(ν + ε)   and   b′ = (b − μ) · γ / √(ν + ε) + β.

    Which batch norms follow which layers is seen in one forward pass, so any network will do. A
    batch norm becomes an `nn.Identity` if it alone reads what the layer gives, and if both, and
    the layer's parameters, are used once; others stay as they are. Jacob et al., 2018,
    arXiv:1712.05877; chapter 6, Quantization: integers.

    Args:
        model: it is run once and not changed.
        input_shape: as for `metrics.count_macs`.

    Returns:
        The copy; its outputs are the same up to rounding. Layers without bias have one now.

    Raises:
        ValueError: they are not, since the network reads something of a layer or a batch norm in
            a way that the pass does not show.
    """
    given, model = model, copy.deepcopy(model).eval()
    names = {module: name for name, module in model.named_modules()}
    for layer, norm in _pairs(model, input_shape):
        _absorb_(layer, norm)
        parent, _, child = names[norm].rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    _require_equal(given, model, input_shape)
    return model


def _require_equal(given: nn.Module, folded: nn.Module, input_shape: ModelInput) -> None:
    inputs = example_inputs(given, input_shape)
    with undisturbed(given), undisturbed(folded):
        pairs = list(zip(tensors(given(*inputs)), tensors(folded(*inputs)), strict=True))
    for before, after in pairs:
        if before.is_floating_point():
            size = float(before.abs().nan_to_num(0, 0, 0).max()) if before.numel() else 0.0
            # rounding is another one, and coarse in half precision
            eps = torch.finfo(before.dtype).eps
            tolerance = max(0.01, 30 * eps) * size + eps
            if not torch.allclose(after, before, rtol=0, atol=tolerance, equal_nan=True):
                raise ValueError(
                    "without its batch norms the network computes something else: it reads a layer"
                    " or a batch norm in a way that one pass does not show; fold it by hand"
                )


def _pairs(model: nn.Module, input_shape: ModelInput) -> list[tuple[nn.Module, nn.Module]]:
    """Layers and the batch norms that can be folded into them."""
    made: dict[nn.Module, Tensor] = {}
    read: dict[nn.Module, Tensor] = {}
    calls: Counter[nn.Module] = Counter()

    def after(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        made[layer] = output
        calls[layer] += 1

    def before(norm: nn.Module, inputs: tuple, keywords: dict) -> None:
        (read[norm],) = (*inputs, *keywords.values())
        calls[norm] += 1

    handles = []
    for module in model.modules():
        if has_hooks(module):
            continue  # they may do anything to what goes in or comes out
        # not one whose weight is computed anew in each pass (old weight norm, spectral norm)
        if type(module) in _LAYERS and module._parameters.get("weight") is not None:
            handles.append(module.register_forward_hook(after))
        elif type(module) in _NORMS and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    readers = _Readers()
    try:
        with undisturbed(model):
            inputs = example_inputs(model, input_shape)
            with readers:
                outputs = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    given = {id(tensor) for tensor in tensors(outputs)}
    makers = {id(output): layer for layer, output in made.items() if calls[layer] == 1}
    parents = Counter(m for module in model.modules() for m in module._modules.values())
    found = []
    for norm, tensor in read.items():
        layer = makers.get(id(tensor))
        alone = readers.counts[id(tensor)] == 1 and id(tensor) not in given
        # a batch norm's channels are the second dimension: of a batch, for a linear layer of rows
        fits = layer is not None and tensor.ndim == layer.weight.ndim
        own = [*layer.parameters(), *norm.parameters(), *norm.buffers()] if fits else []
        fits = fits and all(readers.counts[id(p)] <= 1 for p in own)
        if fits and alone and calls[norm] == 1 and parents[norm] == 1:
            found.append((layer, norm))
    return found


class _Readers(TorchFunctionMode):
    """How many functions have read each tensor, to make another one of it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.kept: list[Any] = []  # so that no two tensors of the pass share an id

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if tensors(result):  # a shape or a number is none
            self.counts.update({id(tensor) for tensor in tensors((args, kwargs))})
            self.kept.append((args, kwargs, result))
        return result


@torch.no_grad()
def _absorb_(layer: nn.Module, norm: nn.Module) -> None:
    """Give the layer the weights that do the batch norm's work, too."""
    weight = layer.weight
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gamma = norm.weight.double() if norm.weight is not None else torch.ones_like(mean)
    beta = norm.bias.double() if norm.bias is not None else torch.zeros_like(mean)
    factor = gamma / (variance + norm.eps).sqrt()
    bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(mean)
    shape = (-1, *[1] * (weight.ndim - 1))
    along = factor.view(shape)
    if isinstance(layer, _ConvTransposeNd):
        # (in, out / groups, ...): the inputs of a group meet the outputs of that group
        per_group = factor.view(layer.groups, 1, -1)
        along = per_group.expand(-1, len(weight) // layer.groups, -1).flatten(0, 1)
        along = along.view(*weight.shape[:2], *[1] * (weight.ndim - 2))
    layer.weight = nn.Parameter((weight.double() * along).to(weight.dtype), weight.requires_grad)
    layer.bias = nn.Parameter(
        ((bias - mean) * factor + beta).to(weight.dtype), weight.requires_grad
    )
