"""From scores to masks: which weights stay, and exactly how many.

A mask is a bool tensor of its weight's shape, True where the weight stays. Sparsity is the
fraction of zeros: of a layer (`layerwise_masks`) or of all scored layers together
(`global_masks`). Chapter 2 (Pruning: magnitude).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Masks = dict[str, Tensor]


def mask_of(scores: Tensor, sparsity: float) -> Tensor:
    """The mask that drops the `round(sparsity · n)` lowest of n scores, no more and no fewer.

    Args:
        scores: any shape; higher stays. Of equal scores the first in memory order go first,
            so ties never change the count.
        sparsity: fraction of zeros, 0 to 1.

    Returns:
        bool, the shape of `scores`.

    Raises:
        ValueError: the sparsity is out of range, or a score is NaN.

    Chapter 2, Pruning: magnitude.
    """
    check_sparsity(sparsity)
    flat = scores.detach().flatten()
    if torch.isnan(flat).any():
        raise ValueError("a score is NaN; nothing can be ranked by it")
    count = round(sparsity * flat.numel())
    mask = torch.ones(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[flat.argsort(stable=True)[:count]] = False
    return mask.view(scores.shape)


def layerwise_masks(scores: Mapping[str, Tensor], sparsity: float | Mapping[str, float]) -> Masks:
    """A mask for each layer, each with its own share of zeros.

    Args:
        scores: by name of the weight.
        sparsity: one for all, or by name; layers that are not named stay whole.

    Raises:
        KeyError, ValueError: a name is unknown, a sparsity is out of range.
    """
    if isinstance(sparsity, Mapping):
        for name in sparsity:
            if name not in scores:
                raise KeyError(f"{name!r} has no score; scored are {', '.join(scores)}")
        return {name: mask_of(s, sparsity.get(name, 0.0)) for name, s in scores.items()}
    return {name: mask_of(s, sparsity) for name, s in scores.items()}


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Masks of one threshold: the lowest scores of all layers together go.

    A layer can lose all its weights that way; then nothing passes through it any more ("layer
    collapse", Tanaka et al., 2020, arXiv:2006.05467). See `collapsed_layers`.

    Args, errors: as for `mask_of`, over all scores as one list, in the order given.
    """
    if not scores:
        raise ValueError("there are no scores to make masks of")
    flat = torch.cat([s.detach().flatten() for s in scores.values()])
    parts = mask_of(flat, sparsity).split([s.numel() for s in scores.values()])
    return {name: m.view(s.shape) for (name, s), m in zip(scores.items(), parts, strict=True)}


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """The fraction of zeros in all masks together.

    Raises:
        ValueError: there is nothing in them.
    """
    total = sum(mask.numel() for mask in masks.values())
    if not total:
        raise ValueError("there are no masks, so they have no sparsity")
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total


def collapsed_layers(masks: Mapping[str, Tensor]) -> list[str]:
    """The layers of which nothing is left."""
    return [name for name, mask in masks.items() if mask.numel() and not mask.any()]


def check_sparsity(sparsity: float) -> None:
    """Raise ValueError unless it is a fraction."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}; it must be a fraction of zeros, 0 to 1")
