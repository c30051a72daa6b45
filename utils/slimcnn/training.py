"""Training and evaluation: one loop for the whole book, reproducible and resumable.

An epoch is a function of (seed, epoch): shuffling, augmentation and dropout draw from
generators made from that pair. So a run that was killed and continued from its last
epoch ends with the same weights as one that was left alone.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from slimcnn.data import Augmentation, Batch, Split, batches, epoch_generator, normalize
from slimcnn.training_run import History, Objective, ResumeError, Run, StepHook

__all__ = [
    "History",
    "Objective",
    "Recipe",
    "ResumeError",
    "StepHook",
    "best_device",
    "cross_entropy",
    "evaluate",
    "fit",
    "one_cycle",
    "predict",
    "seeded",
]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, except the seed.

    SGD with Nesterov momentum and a one-cycle learning rate (Smith & Topin, 2018,
    arXiv:1708.07120): up to `lr`, then down to almost zero along a cosine.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step.
        lr: peak learning rate.
        warmup: fraction of the steps that climb to the peak.
        momentum: of SGD.
        weight_decay: L2 penalty on weights of two or more dimensions; biases and batch
            norm are left alone.
        label_smoothing: mass spread over all classes (Szegedy et al., 2016).
        average: decay of the exponential moving average of the weights, which is what
            `fit` returns; 0 returns the last weights themselves.
        augmentation: what is done to the training images; None for nothing.
    """

    epochs: int = 30
    batch_size: int = 256
    lr: float = 0.2
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    average: float = 0.995
    augmentation: Augmentation | None = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _require(self.lr > 0, "lr", self.lr, "positive")
        _require(0 < self.warmup < 1, "warmup", self.warmup, "between 0 and 1")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(
            0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)"
        )
        _require(0 <= self.average < 1, "average", self.average, "in [0, 1)")


def fit(
    model: nn.Module,
    train: Split,
    recipe: Recipe,
    *,
    seed: int,
    validation: Split | None = None,
    objective: Objective | None = None,
    before_step: StepHook | None = None,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    progress: bool = True,
) -> tuple[nn.Module, History]:
    """Train a copy of `model` and return it, in eval mode, with the history of the run.

    Args:
        model: the network to start from; it is not changed.
        train: the images to train on.
        recipe: how.
        seed: decides shuffling, augmentation and dropout. The initial weights are the
            model's own: build it under `torch.manual_seed`, or use `seeded`.
        validation: evaluated after each epoch for the history; nothing is chosen by it.
        objective: (model, batch) → (loss, logits); cross-entropy with the recipe's label
            smoothing unless another is given.
        before_step: (model, batch, step) → None, called before each step, counted from 0
            over the whole training; it may change the network in training (gradual pruning).
            The recipe's `average` must be 0 then: an average over a changing network is none.
        device: one device, as in `torch.device`; the best that is there if None.
        checkpoint: a file written after each epoch. If it exists and belongs to this run
            the training continues from it; it can be deleted once `fit` has returned.
        progress: show a progress bar.

    Raises:
        ResumeError: `checkpoint` belongs to another run or is damaged.
        ValueError: the training split is empty, or `before_step` meets weight averaging.
    """
    if len(train) == 0:
        raise ValueError("the training split is empty")
    if before_step is not None and recipe.average > 0:
        raise ValueError(
            f"before_step changes the network, and the recipe averages weights over"
            f" time (average={recipe.average}); use a recipe with average=0"
        )
    device = torch.device(device) if device is not None else best_device()
    objective = objective or cross_entropy(recipe.label_smoothing)
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    averaged = AveragedModel(model, multi_avg_fn=_averaging(recipe.average), use_buffers=True)
    optimizer = torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    steps = -(-len(train) // recipe.batch_size)
    schedule = one_cycle(steps * recipe.epochs, recipe.warmup)
    run = Run(model, averaged, optimizer, lambda step: recipe.lr * schedule(step))
    identity = json.dumps(
        {"recipe": asdict(recipe), "seed": seed, "images": len(train)}, sort_keys=True
    )
    path = Path(checkpoint) if checkpoint is not None else None
    start = run.resume(path, identity) if path is not None and path.exists() else 0

    bar = tqdm(
        total=steps * recipe.epochs, initial=steps * start, disable=not progress, leave=False
    )
    with bar, _deterministic():
        for epoch in range(start, recipe.epochs):
            began = time.perf_counter()
            bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
            with seeded(seed, epoch):
                stream = batches(
                    train,
                    recipe.batch_size,
                    seed=seed,
                    epoch=epoch,
                    augmentation=recipe.augmentation,
                    device=device,
                )
                run.epoch(stream, objective, bar, before_step)
            if validation is not None:
                run.history.validation_accuracy.append(evaluate(averaged.module, validation))
            run.history.seconds.append(time.perf_counter() - began)
            if path is not None:
                run.save(path, identity, epoch + 1)
    return averaged.module.eval(), run.history


def evaluate(model: nn.Module, split: Split, batch_size: int = 1000) -> float:
    """Accuracy of `model` on `split`, in percent; the model is left as it was."""
    predictions = predict(model, split.images, batch_size).argmax(1)
    return 100 * (predictions == split.labels).double().mean().item()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits of `model` in eval mode; runs where its parameters are.

    Args:
        model: its training or eval mode is restored afterwards, module by module.
        images: uint8, shape (N, C, H, W).

    Returns:
        float32 logits on the CPU, shape (N, classes).
    """
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        parts = [
            model(normalize(part.to(device)).contiguous(memory_format=torch.channels_last)).cpu()
            for part in images.split(batch_size)
        ]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(parts).float()


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The usual objective: cross-entropy between logits and hard labels."""

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(batch.images)
        return F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing), logits

    return objective


def one_cycle(total_steps: int, warmup: float) -> Callable[[int], float]:
    """Learning-rate factor by step: a straight line 0 → 1, then half a cosine 1 → 0.

    The first `warmup` of the steps climbs. No step has a factor of exactly zero.
    """
    peak = max(1, round(total_steps * warmup))

    def factor(step: int) -> float:
        if step < peak:
            return (step + 1) / peak
        progress = (step - peak + 1) / (total_steps - peak + 1)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor


@contextmanager
def seeded(seed: int, epoch: int = 0) -> Iterator[None]:
    """Run a block with PyTorch's global generators set from (seed, epoch), then restore them.

    `with seeded(0): model = ResNet14()` gives the same weights every time.
    """
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        torch.manual_seed(epoch_generator(seed, epoch).initial_seed())
        yield


def best_device() -> torch.device:
    """CUDA if there is a GPU, else MPS on a Mac, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _averaging(decay: float) -> Callable:
    """Moving averages of real numbers; whole ones (indices, counters) are the last step's."""
    moving = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        if averaged[0].is_floating_point():  # PyTorch groups tensors by their type
            moving(averaged, current, count)
        else:
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return update


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: weights that decay, and the vectors (biases, batch norm) that do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@contextmanager
def _deterministic() -> Iterator[None]:
    """Make cuDNN choose the same kernels every time; CPU kernels already repeat."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _require(condition: bool, name: str, value: float, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value}; it must be {allowed}")
