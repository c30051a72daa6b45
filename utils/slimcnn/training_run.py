"""The state of a training run: one epoch's loop, and its way to a file and back.

`training.fit` drives it. The file holds weights, averaged weights and optimizer state as
safetensors, and the progress and the identity of the run as metadata; nothing is pickled.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from slimcnn.data import Batch

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
StepHook = Callable[[nn.Module, Batch, int], None]


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


@dataclass
class Run:
    """The moving parts of a training run, and how they go to a file and come back."""

    model: nn.Module
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    step: int = 0
    history: History = field(default_factory=History)

    def epoch(
        self,
        stream: Iterator[Batch],
        objective: Objective,
        bar: tqdm,
        before_step: StepHook | None = None,
    ) -> None:
        self.model.train()
        # Sums stay on the device: reading them every step would make a GPU wait.
        loss_sum = correct = torch.zeros((), device=next(self.model.parameters()).device)
        count = 0
        for batch in stream:
            images = batch.images.contiguous(memory_format=torch.channels_last)
            batch = batch._replace(images=images)
            if before_step is not None:
                before_step(self.model, batch, self.step)
            loss, logits = objective(self.model, batch)
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
        # safetensors writes no tensor twice; modules that several layers share have two names
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
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
