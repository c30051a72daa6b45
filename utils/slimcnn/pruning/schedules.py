"""When to prune: at once, or a little after every few steps of training.

Chapter 2 (Pruning: magnitude).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from slimcnn.data import Batch
from slimcnn.masking import masks_of, set_masks_
from slimcnn.pruning.masks import Masks, global_masks
from slimcnn.pruning.scores import Scores, magnitude


def one_shot(progress: float, final: float, initial: float = 0.0) -> float:
    """The final sparsity from the start on; arguments as for `cubic`."""
    _check(progress, final, initial)
    return final


def cubic(progress: float, final: float, initial: float = 0.0) -> float:
    """s(p) = s_f + (s_0 − s_f)(1 − p)³: fast while many weights are idle, slow at the end.

    Zhu & Gupta, 2017, arXiv:1710.01878. Chapter 2, Pruning: magnitude.

    Args:
        progress: p, from 0 to 1; the sparsity stays at `final` beyond 1.
        final, initial: fractions of zeros.

    Raises:
        ValueError: a number is out of range.
    """
    _check(progress, final, initial)
    return final + (initial - final) * (1 - min(progress, 1.0)) ** 3


@dataclass
class GradualPruning:
    """For `fit(before_step=...)`: tightens the masks of the network as training goes on.

    Before every `every`-th of the first `steps` steps, and once at their end, the masks are
    made anew from the magnitudes of the moment, at the sparsity of the schedule. What is masked
    stays masked, also where the schedule begins below the sparsity that is there. Pruned is
    what `apply_masks` masked before the training; masks that are all True will do:
    `layerwise_masks(magnitude(model), 0)`. Use a recipe with `average=0`: an average of weights
    with different masks is not sparse.

    Attributes:
        final: fraction of zeros at the end, in the pruned layers.
        steps: training steps until then; leave some training after it.
        every: steps between two masks.
        initial: fraction of zeros at the start.
        schedule: `cubic`, `one_shot`, or a function like them.
        allocate: (scores, sparsity) → masks: `global_masks` or `layerwise_masks`.

    Chapter 2, Pruning: magnitude.
    """

    final: float
    steps: int
    every: int = 50
    initial: float = 0.0
    schedule: Callable[[float, float, float], float] = cubic
    allocate: Callable[[Scores, float], Masks] = global_masks

    def __post_init__(self) -> None:
        _check(0.0, self.final, self.initial)
        for name in ("steps", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> None:
        if step > self.steps or (step % self.every and step != self.steps):
            return
        before = masks_of(model)
        if not before:
            raise ValueError("no layer is masked; prepare the network with apply_masks first")
        # Below every magnitude: a kept weight may be zero by chance, and a tie free a masked one.
        scores = magnitude(model)
        scores = {name: scores[name].masked_fill(~mask, -1.0) for name, mask in before.items()}
        sparsity = self.schedule(step / self.steps, self.final, self.initial)
        masks = self.allocate(scores, sparsity)
        set_masks_(model, {name: mask & before[name] for name, mask in masks.items()})


def _check(progress: float, final: float, initial: float) -> None:
    if not progress >= 0:  # nor NaN
        raise ValueError(f"progress is {progress}; it must be 0 or more")
    for name, value in (("final", final), ("initial", initial)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must be a fraction of zeros, 0 to 1")
