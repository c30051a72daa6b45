"""Train a student with a teacher: an objective for `slimcnn.training.fit`, no loop of its own.

Chapter 4 (Distillation).
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn.data import Batch, Split, normalize
from slimcnn.distillation.cache import TeacherCache
from slimcnn.distillation.features import FeatureLoss, tapped
from slimcnn.distillation.losses import LogitLoss, SoftTargets
from slimcnn.tracing import undisturbed
from slimcnn.training import History, Recipe, StepHook, best_device, fit, seeded


def distill(
    student: nn.Module,
    teacher: nn.Module,
    train: Split,
    recipe: Recipe,
    *,
    seed: int,
    loss: LogitLoss | None = None,
    features: FeatureLoss | None = None,
    cache: TeacherCache | None = None,
    validation: Split | None = None,
    before_step: StepHook | None = None,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    progress: bool = True,
) -> tuple[nn.Module, History]:
    """Train a copy of `student` on the answers of `teacher`, and return it in eval mode.

    Both see the same augmented pictures. The teacher answers in eval mode and without gradients;
    neither given network is changed. Chapter 4, Distillation.

    Args:
        student: the network to start from; new, trained, or pruned and masked.
        teacher: in eval mode, with the same classes; of any architecture.
        train, recipe, seed, validation, before_step, device, checkpoint, progress: as for `fit`.
            The recipe's label smoothing is not used: the loss has its own.
        loss: (student logits, teacher logits, labels) → scalar; `SoftTargets()` if None.
        features: what else is compared, in the middle of the networks; its `weight` counts.
        cache: the teacher is asked once for each picture, also over several runs. It holds
            logits, so that it does not go with `features`.

    Raises:
        ValueError: the teacher trains (some module is in training mode), shares parameters with
            the student, or has other classes; features cannot be compared, or meet a cache.
        KeyError: a pair of `features` names a module that is not there.
    """
    if features is not None and cache is not None:
        raise ValueError("a cache holds logits, and features need the teacher; use one of the two")
    loss = loss or SoftTargets()
    device = torch.device(device) if device is not None else best_device()
    _check_teacher(student, teacher)
    teacher = copy.deepcopy(teacher).to(device, memory_format=torch.channels_last)
    teacher.requires_grad_(False)
    pair = _Apprentice(copy.deepcopy(student), features, seed)
    pair.prepare(teacher, normalize(train.images[:2]), device)

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        with tapped(model.student, model.own) as mine:
            logits = model(batch.images)
        with torch.no_grad(), tapped(teacher, model.others) as its:
            answers = cache.logits(teacher, batch.images) if cache else teacher(batch.images)
        total = loss(logits, answers, batch.labels)
        if model.features is not None:
            compared = model.features(
                [mine[name] for name in model.own], [its[name] for name in model.others]
            )
            total = total + model.features.weight * compared
        return total, logits

    hook = None
    if before_step is not None:

        def hook(model: nn.Module, batch: Batch, step: int) -> None:
            before_step(model.student, batch, step)

    trained, history = fit(
        pair,
        train,
        recipe,
        seed=seed,
        validation=validation,
        objective=objective,
        before_step=hook,
        device=device,
        checkpoint=checkpoint,
        progress=progress,
    )
    return trained.student, history


class _Apprentice(nn.Module):
    """A student with whatever is trained beside it; forward is the student's."""

    def __init__(self, student: nn.Module, features: FeatureLoss | None, seed: int):
        super().__init__()
        self.student, self.features, self.seed = student, copy.deepcopy(features), seed
        self.own, self.others = (features.own, features.others) if features else ((), ())

    def prepare(self, teacher: nn.Module, images: Tensor, device: torch.device) -> None:
        """Let both networks answer once: do the classes fit, do the features?"""
        self.student.to(device)
        with undisturbed(self.student), tapped(self.student, self.own) as mine:
            logits = self.student(images.to(device))
        with undisturbed(teacher), tapped(teacher, self.others) as its:
            answers = teacher(images.to(device))
        if logits.shape != answers.shape:
            raise ValueError(
                f"the student answers with shape {tuple(logits.shape)} and the teacher with"
                f" {tuple(answers.shape)}; both need the same classes, in the same order"
            )
        if self.features is not None:
            with seeded(self.seed):
                self.features.build(
                    [mine[name] for name in self.own], [its[name] for name in self.others]
                )

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)


def _check_teacher(student: nn.Module, teacher: nn.Module) -> None:
    trains = [name or "the network" for name, m in teacher.named_modules() if m.training]
    if trains:
        raise ValueError(
            f"the teacher trains ({trains[0]} is in training mode): batch norm and dropout would"
            " make its answers depend on the batch; call teacher.eval() first"
        )
    if {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
        raise ValueError(
            "student and teacher share parameters, so the teacher would be trained; give a copy"
            " (copy.deepcopy) as the teacher"
        )
