"""Zeros that nobody put there: activations after a ReLU. Chapter 3 (Sparsity: patterns)."""

import torch
from torch import Tensor, nn

from slimcnn.data import normalize
from slimcnn.tracing import undisturbed


def activation_sparsity(
    model: nn.Module,
    images: Tensor,
    kinds: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6),
    batch_size: int = 500,
) -> dict[str, float]:
    """The fraction of zeros in the output of each activation module, over all images.

    Args:
        model: run in eval mode; it is not changed.
        images: uint8, shape (N, C, H, W).
        kinds: the modules to look at.
        batch_size: images at a time.

    Returns:
        By the module's name, in the order of the calls; a module that is called more than once
        counts all its outputs.

    Raises:
        ValueError: there are no images, or no such module.
    """
    watched = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not watched or len(images) == 0:
        raise ValueError(
            f"there are {len(images)} images and {len(watched)} modules of the kinds"
            f" {', '.join(kind.__name__ for kind in kinds)}; both are needed"
        )
    counts: dict[str, list[int]] = {}

    def watch(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            seen = counts.setdefault(name, [0, 0])
            seen[0] += output.numel() - int(torch.count_nonzero(output))
            seen[1] += output.numel()

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
    try:
        with undisturbed(model):
            parameter = next(model.parameters(), images)
            for part in images.split(batch_size):
                model(normalize(part.to(parameter.device)))
    finally:
        for handle in handles:
            handle.remove()
    return {name: zeros / total for name, (zeros, total) in counts.items()}
