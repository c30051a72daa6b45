"""Training and evaluation: one loop for the whole book, reproducible and resumable.

An epoch is a function of (seed, epoch): shuffling, augmentation and dropout draw from
generators made from that pair. So a run that was killed and continued from its last
epoch ends with the same weights as one that was left alone.
"""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from slimcnn.data import Augmentation, Batch, Split, batches, epoch_generator, normalize

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]


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


@dataclass
class History:
    """What happened in each epoch, in order; lists have one entry an epoch.

    Attributes:
        loss: mean training loss.
        train_accuracy: percent, on the augmented images as they were trained on.
        validation_accuracy: percent, of the averaged weights; empty without a validation split.
        seconds: wall time.
    """

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class ResumeError(RuntimeError):
    """A training checkpoint cannot continue this run."""


def fit(
    model: nn.Module,
    train: Split,
    recipe: Recipe,
    *,
    seed: int,
    validation: Split | None = None,
    objective: Objective | None = None,
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
        device: one device, as in `torch.device`; the best that is there if None.
        checkpoint: a file written after each epoch. If it exists and belongs to this run
            the training continues from it; it can be deleted once `fit` has returned.
        progress: show a progress bar.

    Raises:
        ResumeError: `checkpoint` belongs to another run or is damaged.
        ValueError: the training split is empty.
    """
    if len(train) == 0:
        raise ValueError("the training split is empty")
    device = torch.device(device) if device is not None else best_device()
    objective = objective or cross_entropy(recipe.label_smoothing)
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    averaged = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True
    )
    optimizer = torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    steps = -(-len(train) // recipe.batch_size)
    schedule = one_cycle(steps * recipe.epochs, recipe.warmup)
    run = _Run(model, averaged, optimizer, lambda step: recipe.lr * schedule(step))
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
                run.epoch(stream, objective, bar)
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


@dataclass
class _Run:
    """The moving parts of a training run, and how they go to a file and come back."""

    model: nn.Module
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    step: int = 0
    history: History = field(default_factory=History)

    def epoch(self, stream: Iterator[Batch], objective: Objective, bar: tqdm) -> None:
        self.model.train()
        # Sums stay on the device: reading them every step would make a GPU wait.
        loss_sum = correct = torch.zeros((), device=next(self.model.parameters()).device)
        count = 0
        for batch in stream:
            images = batch.images.contiguous(memory_format=torch.channels_last)
            loss, logits = objective(self.model, batch._replace(images=images))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1
            self.averaged.update_parameters(self.model)
            loss_sum = loss_sum + loss.detach() * len(batch.labels)
            correct = correct + (logits.detach().argmax(1) == batch.labels).sum()
            count += len(batch.labels)
            bar.update()
        self.history.loss.append(loss_sum.item() / count)
        self.history.train_accuracy.append(100 * correct.item() / count)

    def save(self, path: Path, identity: str, epochs_done: int) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if v is not None}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        progress = {
            "epochs_done": epochs_done,
            "step": self.step,
            "history": asdict(self.history),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={"run": identity, "progress": json.dumps(progress)})
        os.replace(partial, path)  # a kill leaves the old file or the new one, never half

    def resume(self, path: Path, identity: str) -> int:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except SafetensorError as error:
            raise ResumeError(f"{path} is damaged ({error}); delete it to start anew") from error
        if metadata.get("run") != identity:
            raise ResumeError(
                f"{path} belongs to another run: it holds {metadata.get('run')}, this run is"
                f" {identity}. Delete it or name another checkpoint."
            )
        progress = json.loads(metadata["progress"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = tensor
        try:
            self.model.load_state_dict(_without_prefix(tensors, "model."))
            self.averaged.load_state_dict(_without_prefix(tensors, "averaged."))
        except RuntimeError as error:
            raise ResumeError(f"{path} does not fit this network: {error}") from error
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.history = History(**progress["history"])
        self.step = progress["step"]
        return progress["epochs_done"]


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


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
