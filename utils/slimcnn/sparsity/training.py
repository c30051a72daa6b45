"""Sparse from the start: drop what is small, grow where the gradient is large.

RigL (Evci et al., 2020, arXiv:1911.11134) trains a network that never has more than its
share of weights. Chapter 3 (Sparsity: patterns).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimcnn.data import Batch
from slimcnn.masking import finalize, masks_of, set_masks_
from slimcnn.training import Objective, cross_entropy


def erk_sparsities(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """Sparsity of each layer by the Erdős–Rényi-kernel rule, the whole being as asked for.

    A layer's density is proportional to (sum of its dimensions) / (product of them), so small
    layers stay denser; a layer whose density would exceed 1 is dense, and the others pay for it
    (Mocanu et al., 2018, arXiv:1707.04780; Evci et al., 2020).

    Args:
        shapes: of the weights, by name.
        sparsity: fraction of zeros over all of them, 0 to 1.

    Raises:
        ValueError: the sparsity is out of range.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}; it must be a fraction of zeros, 0 to 1")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    nonzeros = (1 - sparsity) * sum(sizes.values())
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        if not rest:
            return dict.fromkeys(shapes, 0.0)
        left = nonzeros - sum(sizes[name] for name in dense)
        factor = left / sum(raw[name] * sizes[name] for name in rest)
        too_dense = {name for name in rest if factor * raw[name] > 1}
        if not too_dense:
            return {n: 0.0 if n in dense else 1 - factor * raw[n] for n in shapes}
        dense |= too_dense


@dataclass
class DropAndGrow:
    """For `fit(before_step=...)`: RigL on a network that is masked already.

    Before every `every`-th step until `until`, in each masked layer, a share of the non-zero
    weights is dropped, those of the smallest magnitude, and as many zeros begin to grow, those
    of the largest gradient. The share falls along a cosine from `fraction` to 0. New weights
    begin at zero. The number of non-zeros of each layer never changes.

    Attributes:
        until: step after which masks stay; RigL takes three quarters of the training.
        every: steps between two changes.
        fraction: share of the non-zeros that moves at first.
        objective: what gradients are taken of; cross-entropy if None.

    Chapter 3, Sparsity: patterns.
    """

    until: int
    every: int = 100
    fraction: float = 0.3
    objective: Objective | None = None

    def __post_init__(self) -> None:
        for name in ("until", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must be from 0 to 1")

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> None:
        if step == 0 or step % self.every or step >= self.until:
            return
        share = self.fraction / 2 * (1 + math.cos(math.pi * step / self.until))
        gradients = dense_gradients(model, batch, self.objective)
        masks = {}
        for name, mask in masks_of(model).items():
            module_name, _, attribute = name.rpartition(".")
            module = model.get_submodule(module_name)
            original = module.parametrizations[attribute].original
            new = drop_and_grow(mask, original.detach(), gradients[name], share)
            with torch.no_grad():
                original[new & ~mask] = 0.0
            masks[name] = new
        set_masks_(model, masks)


def drop_and_grow(mask: Tensor, weight: Tensor, gradient: Tensor, share: float) -> Tensor:
    """The next mask: the smallest weights go, zeros with the largest gradients come.

    Args:
        mask: bool, where weights are now.
        weight, gradient: of the mask's shape.
        share: of the non-zeros, `round(share · count)` of them move, or as many as there are
            zeros to move to. A dropped weight may come back at once.

    Returns:
        bool, with as many True as `mask`.

    Raises:
        ValueError: shapes differ, or the share is not from 0 to 1.
    """
    if not mask.shape == weight.shape == gradient.shape:
        shapes = [tuple(t.shape) for t in (mask, weight, gradient)]
        raise ValueError(f"mask, weight and gradient have shapes {shapes}; they must be equal")
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must be from 0 to 1")
    kept = mask.flatten().clone()
    active = kept.nonzero().squeeze(1)
    count = round(share * len(active))
    smallest = weight.flatten()[active].abs().argsort(stable=True)[:count]
    kept[active[smallest]] = False
    growth = gradient.flatten().abs().masked_fill(kept, float("-inf"))
    kept[growth.argsort(descending=True, stable=True)[:count]] = True
    return kept.view(mask.shape)


def dense_gradients(
    model: nn.Module, batch: Batch, objective: Objective | None = None
) -> dict[str, Tensor]:
    """∂L/∂w of every parameter, those that a mask hides included; the model is unchanged."""
    plain = finalize(model).requires_grad_(True)  # a copy
    plain.zero_grad(set_to_none=True)
    loss, _ = (objective or cross_entropy())(plain, batch)
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in plain.named_parameters()
    }
