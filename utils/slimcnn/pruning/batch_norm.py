"""Batch norm and pruning: statistics after it, and a penalty before it.

Chapter 2 (Pruning: magnitude, and structured).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimcnn.data import Batch, normalize
from slimcnn.training import Objective, cross_entropy


@torch.no_grad()
def recalibrate(model: nn.Module, images: Tensor, batch_size: int = 250) -> nn.Module:
    """A copy of `model` with the running statistics of its batch norms measured anew.

    Pruned filters give activations of another mean and variance than those that the running
    statistics remember. The images pass once in train mode, and each statistic becomes the
    plain average over the batches; no weight changes. Dropout stays off.

    Args:
        model: it is not changed; without batch norm the copy is just a copy.
        images: uint8 training images, shape (N, C, H, W), N at least 2.
        batch_size: images a batch, at least 2; a last batch of a single image is left out.

    Raises:
        ValueError: fewer than 2 images, in all or a batch.

    Chapter 2, Pruning: magnitude.
    """
    if len(images) < 2:
        raise ValueError(f"there are {len(images)} images; statistics need at least 2")
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; it must be 2 or more")
    model = copy.deepcopy(model).eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch then averages over all batches alike
        norm.train()
    device = next(model.parameters()).device
    for part in images.split(batch_size):
        if len(part) > 1:
            model(normalize(part.to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def slimming_objective(strength: float, base: Objective | None = None) -> Objective:
    """The loss plus λ · Σ|γ| over the scales of all batch norms (network slimming).

    The penalty pushes the scales of channels that matter little to zero, so that |γ| ranks
    channels (`batch_norm_scale`). Liu et al., 2017, arXiv:1708.06519, use λ from 1e-5 to 1e-4.

    Args:
        strength: λ, 0 or more.
        base: the objective to add it to; cross-entropy if None.

    Raises:
        ValueError: λ is negative or NaN.

    Chapter 2, Pruning: structured.
    """
    if not strength >= 0:  # nor NaN
        raise ValueError(f"strength is {strength}; it must be 0 or more")
    base = base or cross_entropy()

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, logits = base(model, batch)
        scales = [m.weight for m in model.modules() if isinstance(m, _BatchNorm)]
        penalty = sum(scale.abs().sum() for scale in scales if scale is not None)
        return loss + strength * penalty, logits

    return objective
