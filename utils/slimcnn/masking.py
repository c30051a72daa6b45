"""Masks on a network: zeros that no optimizer can bring back.

A masked weight is computed as mask · original whenever it is used (PyTorch's
parametrization). The optimizer moves the original; momentum and weight decay may push a
masked number wherever they like, the network never sees it. `finalize` writes the zeros into
plain weights, for export. Pruning and sparse training stand on this; chapter 2 (Pruning:
magnitude) builds it.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Final(nn.Module):
    """A parametrization whose weight `finalize` writes in; masks, and shared values (chapter 6)."""


class Mask(Final):
    """The parametrization: the weight where the mask is True, zero elsewhere."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.mask, weight, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned to a masked weight becomes its original."""
        return weight


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` whose named weights are masked, during training too.

    Args:
        model: it is not changed. Weights that are masked already get the new mask.
        masks: by the weight's name, as in `magnitude`; bool, of the weight's shape.

    Raises:
        KeyError, TypeError, ValueError: no such parameter, no bool tensor, another shape.

    Chapter 2, Pruning: magnitude.
    """
    model = independent_copy(model)
    set_masks_(model, masks)
    return model


def set_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Like `apply_masks`, on the network itself; on any error it is unchanged."""
    targets = []
    for name, mask in masks.items():
        module_name, _, attribute = name.rpartition(".")
        try:
            module = model.get_submodule(module_name)
        except AttributeError:
            module = nn.Module()  # has no parameter of any name
        masked = parametrize.is_parametrized(module, attribute)
        weight = getattr(module, attribute) if masked else module._parameters.get(attribute)
        if weight is None:
            raise KeyError(f"the network has no parameter {name!r}")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"the mask of {name!r} is {kind}; a bool tensor is needed")
        if mask.shape != weight.shape:
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, the weight"
                f" {tuple(weight.shape)}"
            )
        targets.append((module, attribute, mask.to(weight.device)))
    for module, attribute, mask in targets:
        existing = _mask_of(module, attribute)
        if existing is not None:
            existing.mask.copy_(mask)
        else:
            parametrize.register_parametrization(module, attribute, Mask(mask))


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a masked network by the weight's name; empty for another network."""
    return {
        f"{name}.{attribute}".lstrip("."): found.mask.clone()
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for attribute in module.parametrizations
        if (found := _mask_of(module, attribute)) is not None
    }


def finalize(model: nn.Module) -> nn.Module:
    """A copy of `model` with plain weights, zeros written in: the same network, for export.

    Its names are those of the network before masking. Weights that share values are written in,
    too. It is neither smaller nor faster: the
    zeros are stored and multiplied like any other number (chapter 3 says what can be done).
    """
    model = independent_copy(model)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for attribute, chain in list(module.parametrizations.items()):
                if any(isinstance(p, Final) for p in chain):
                    parametrize.remove_parametrizations(module, attribute)
    return model


def independent_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose parametrized modules have classes of their own.

    PyTorch gives a parametrized module a class of its own, where the weight is a property. A
    deep copy shares that class, and adding or removing a parametrization changes it, for the
    original as well.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            shared = type(module)
            own = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, own)
    return model


def _mask_of(module: nn.Module, attribute: str) -> Mask | None:
    if not parametrize.is_parametrized(module, attribute):
        return None
    return next((p for p in module.parametrizations[attribute] if isinstance(p, Mask)), None)
