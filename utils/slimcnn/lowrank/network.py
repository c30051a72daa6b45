"""Factorize layers of a network, wherever it uses them.

Chapter 5 (Low-rank: matrices, tensors).
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from slimcnn.data import normalize
from slimcnn.lowrank.layers import Factorized, factorize_layer
from slimcnn.lowrank.methods import METHODS, Choice, channels, check_layer, why_not
from slimcnn.tracing import undisturbed

# By the layer's name in `named_modules`, what becomes of it; layers without an entry stay whole.
Plan = dict[str, Choice]


def candidates(model: nn.Module, methods: Sequence[str] = METHODS) -> dict[str, nn.Module]:
    """The layers that one of the methods can factorize, by name; shared ones by their first name.

    Left out are, beside what `factorize_layer` refuses, parts of a `Factorized` and layers whose
    weight another module has, too: the weight would stay.

    Raises:
        ValueError: there is no such method.

    Chapter 5, Low-rank: matrices.
    """
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    modules = list(model.named_modules())
    parts = {p for _, m in modules if isinstance(m, Factorized) for p in m.modules()}
    owners = Counter(id(p) for _, m in modules for p in m._parameters.values() if p is not None)
    kinds = tuple(
        kind
        for kind, fitting in ((nn.Linear, {"svd"}), (nn.Conv2d, set(METHODS) - {"svd"}))
        if fitting & set(methods)
    )
    return {
        name: module
        for name, module in modules
        if isinstance(module, kinds)
        and why_not(module) is None
        and module not in parts
        and owners[id(module.weight)] == 1
    }


def factorize(
    model: nn.Module, plan: Mapping[str, Choice], moments: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A copy of `model` with the named layers factorized, under each name that they have.

    Args:
        model: it is not changed.
        plan: by name, a `Choice` of method and rank.
        moments: from `output_moments`; layers factorized by "svd" or "channel" that are named
            there keep their outputs as well as their rank allows, all others their weights.

    Raises:
        KeyError, ValueError: the network has no such layer, or it cannot be factorized so.

    Chapter 5, Low-rank: matrices, tensors.
    """
    moments = moments or {}

    def make(name: str, layer: nn.Module, choice: Choice) -> Factorized:
        use = choice.method in ("svd", "channel") and name in moments
        options = {"moment": moments[name]} if use else {}
        return factorize_layer(layer, choice.method, choice.rank, **options)

    return replaced(model, plan, make)


def replaced(
    model: nn.Module,
    plan: Mapping[str, Choice],
    make: Callable[[str, nn.Module, Choice], Factorized],
) -> nn.Module:
    """A copy of `model` with what `make` makes of each layer in the plan in its place."""
    modules = dict(model.named_modules(remove_duplicate=False))
    inside = {p for m in modules.values() if isinstance(m, Factorized) for p in m.modules()}
    memo: dict[int, nn.Module] = {}  # deepcopy takes from here what it would copy
    for name, (method, rank) in plan.items():
        if name not in modules:
            near = get_close_matches(name, modules, n=5, cutoff=0.4) or list(candidates(model))[:5]
            raise KeyError(f"{type(model).__name__} has no layer {name!r}; near: {near}")
        layer = modules[name]
        if layer in inside:
            raise ValueError(f"layer {name!r} is factorized already; start from the network before")
        if id(layer) in memo:
            raise ValueError(f"layer {name!r} is in the plan under another name, too")
        try:
            check_layer(layer, method)
            memo[id(layer)] = make(name, layer, Choice(method, rank))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return copy.deepcopy(model, memo)


def plan_of(model: nn.Module) -> Plan:
    """What was factorized in a network: the method and the rank of each `Factorized` by name."""
    return {
        name: Choice(module.method, module.rank)
        for name, module in model.named_modules()
        if isinstance(module, Factorized)
    }


def output_moments(
    model: nn.Module, images: Tensor, names: Sequence[str] | None = None, batch_size: int = 250
) -> dict[str, Tensor]:
    """The second moment E[y yᵀ] of each layer's outputs y, without the bias.

    The mean is over images and positions of the map. With it, "svd" and "channel" keep what the
    data makes of a layer, not what could come (see `output_svd`).

    Args:
        model: run in eval mode, without gradients; it is not changed.
        images: uint8 training images, (N, C, H, W), which `normalize` turns into inputs, or
            floating-point inputs as the model takes them.
        names: of the layers; by default all `candidates`.
        batch_size: images at a time.

    Returns:
        By name, float64 (O, O) on the CPU; without the layers that do not run.

    Raises:
        KeyError, ValueError: the network has no such layer, or there are no images.

    Chapter 5, Low-rank: matrices.
    """
    if len(images) == 0:
        raise ValueError("there are no images; moments need at least one")
    layers = candidates(model)
    if names is not None:
        for name in names:
            if name not in layers:
                near = get_close_matches(name, layers, n=5, cutoff=0.4) or list(layers)[:5]
                raise KeyError(f"{name!r} is no layer that can be factorized; near: {near}")
        layers = {name: layers[name] for name in names}
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def watch(name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            rows = output if isinstance(layer, nn.Linear) else output.movedim(-3, -1)
            rows = rows.reshape(-1, channels(layer)[0])
            if layer.bias is not None:
                rows = rows - layer.bias
            rows = rows.float() if rows.element_size() < 4 else rows
            sums[name] = sums.get(name, 0) + (rows.T @ rows).to("cpu", torch.float64)
            counts[name] += len(rows)

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        with undisturbed(model):
            like = next(model.parameters())
            for part in images.split(batch_size):
                part = part.to(like.device)
                model(normalize(part).to(like.dtype) if part.dtype == torch.uint8 else part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}
