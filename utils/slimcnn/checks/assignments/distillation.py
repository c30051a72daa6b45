"""Checks for the assignment of chapter 4, Distillation."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimcnn import checkpoints, data, distillation, models, pruning, training
from slimcnn.checks import Verdict, check, plain
from slimcnn.distillation import losses

_CLOSED = (distillation.soft_target_loss, losses._divergence)


def js_loss(function: Callable, seed: int = 0) -> Verdict:
    """Value and gradient of a divergence from a mixture of both answers, T² included."""

    def reference(*case: object) -> tuple[Tensor, Tensor]:
        return _with_gradient(_js, *case)

    @wraps(function)
    def answer(*case: object) -> object:
        return _with_gradient(function, *case)

    def explain(
        found: tuple, expected: tuple, z_s: Tensor, z_t: Tensor, temperature: float, share: float
    ) -> str | None:
        if not math.isfinite(found[0]) or not found[1].isfinite().all():
            return "not a number: 0 · log 0, or a log of 0; stay with log_softmax and logsumexp"
        batch, classes = z_s.shape
        factors = {
            1 / temperature**2: "the factor T² is missing",
            temperature**2: "the factor T² is there twice",
            batch: "that is the sum over the images, the mean is asked",
            1 / classes: "it is divided by the number of classes as well as of images",
            1 / classes / temperature**2: "T² is missing, and it is divided by the classes, too",
        }
        for factor, mistake in factors.items():
            if factor != 1 and _near(found[1], factor * expected[1]):
                return mistake
        if _near(found[0], expected[0]):
            return (
                "the value is right, its gradient is not: is something of the student detached,"
                " clamped or written over?"
            )
        if _near(found[0], _js(z_s, z_t, temperature, 1 - share)):
            return "teacher and student have changed places; share is the teacher's"
        mean = share * z_t + (1 - share) * z_s
        if _near(found[0], _js(z_s, z_t, temperature, share, mean / temperature)):
            return "you have mixed the logits; the probabilities are to be mixed"
        return None

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = []
    for batch, classes, size in ((1, 2, 1), (5, 10, 3), (3, 4, 2000), *[(0, 0, 3)] * 12):
        shape = (batch or draw.randint(1, 9), classes or draw.randint(2, 12))
        logits = (size * torch.randn(shape, generator=generator).double() for _ in range(2))
        share = draw.choice((0.2, 0.3, 0.4, 0.6, 0.7, 0.8))  # at 0.5 nobody sees places changed
        cases.append((*logits, draw.choice((2.0, 3.0, 5.0)), share))
    closed = (_js, *_CLOSED)
    return check(answer, reference, cases, rtol=1e-4, atol=1e-5, explain=explain, closed=closed)


def similarity_loss(function: Callable, seed: int = 0) -> Verdict:
    """Value and gradient of the distance between two networks' tables of similarities."""

    def reference(e_s: Tensor, e_t: Tensor) -> tuple[Tensor, Tensor]:
        return _with_gradient(_similarity, e_s, e_t)

    @wraps(function)
    def answer(e_s: Tensor, e_t: Tensor) -> object:
        return _with_gradient(function, e_s, e_t)

    def explain(found: tuple, expected: tuple, e_s: Tensor, e_t: Tensor) -> str | None:
        s, t = e_s @ e_s.T, e_t @ e_t.T
        unit_s, unit_t = F.normalize(e_s), F.normalize(e_t)
        wrong = {
            "the rows of the tables are not of length one": s - t,
            "each row has its own length, you divide by that of the table": s / s.norm()
            - t / t.norm(),
            "not the embeddings get length one, the rows of their tables do": unit_s @ unit_s.T
            - unit_t @ unit_t.T,
        }
        right = _near(found[0], expected[0])
        for mistake, difference in wrong.items():
            if not right and _near(found[0], difference.square().mean()):
                return mistake
        if not found[1].isfinite().all():
            return "its gradient is not a number"
        batch = len(e_s)
        for factor in (batch, batch**2, 1 / batch):
            if factor != 1 and _near(found[0], factor * expected[0]):
                return f"{factor:g} times the right value; the sum over B² pairs is divided by B²"
        if _near(found[0], expected[0]):
            return "the value is right, its gradient is not: nothing of the student is a constant"
        return None

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = []
    for batch in (1, 2, 4, *(draw.randint(2, 9) for _ in range(12))):
        widths = draw.randint(1, 8), draw.randint(1, 8)
        pair = (torch.randn(batch, width, generator=generator).double() for width in widths)
        cases.append(tuple(e + e.sign() / 10 for e in pair))  # nothing near zero
    closed = (_similarity,)
    return check(answer, reference, cases, rtol=1e-4, atol=1e-6, explain=explain, closed=closed)


def teach(
    function: Callable, kilobytes: float, accuracy: float, split: data.SplitName = "validation"
) -> Verdict:
    """A thinner student in a file that the function writes; it is left for `taught`."""
    path = Path("taught.safetensors")
    path.unlink(missing_ok=True)
    try:
        function(path)
    except NotImplementedError:
        return Verdict(False, "Your turn: teach is not written yet.")
    if not path.exists():
        return Verdict(False, f"✗ teach has written no file {path}")
    return taught(path, kilobytes, accuracy, split)


def taught(
    path: Path | str, kilobytes: float, accuracy: float, split: data.SplitName = "validation"
) -> Verdict:
    """What `teach` has written: its bytes, and what it answers."""
    path = Path(path)
    size = path.stat().st_size / 1000
    if size > kilobytes:
        return Verdict(False, f"✗ the file has {size:,.1f} kB; at most {kilobytes:,} are allowed")
    try:
        model = pruning.load_pruned(models.build("student"), path)
    except checkpoints.CheckpointError as error:
        return Verdict(False, f"✗ {error}")
    judges = data.load(split)
    answers = training.predict(model, judges.images).argmax(1)
    found = 100 * (answers == judges.labels).double().mean().item()
    if not found >= accuracy:
        hint = ""
        if (share := (answers == 0).double().mean().item()) > 0.3:
            hint = f"; it says class 0 to {100 * share:.0f} % of them, as the zeros for labels do"
        return Verdict(False, f"✗ {found:.2f} % on {split}; at least {accuracy} are asked{hint}")
    return Verdict(True, f"✓ {size:,.1f} kB, {found:.2f} % on {split}")


def judged(function: Callable, comparisons: list) -> list[tuple[float, str]]:
    """What the function returns, if it has the right form.

    Raises:
        AssertionError: it has not; with a message that says nothing of right and wrong.
    """
    try:
        answer = function()
    except NotImplementedError:
        raise AssertionError("Your turn: judge is not written yet.") from None
    rows = len(comparisons)
    if not isinstance(answer, list) or len(answer) != rows:
        raise AssertionError(f"judge returns a list of {rows} pairs, yours gives {answer!r}")
    for names, pair in zip(comparisons, answer, strict=True):
        shown = f"{names[0]} against {names[1]}: {pair!r}"
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise AssertionError(f"{shown} is no pair (difference, verdict)")
        pair = plain(tuple(pair))
        if type(pair[0]) not in (int, float) or not abs(pair[0]) <= 100:
            raise AssertionError(
                f"{shown}: the difference is a number, in points, variant minus control"
            )
        if pair[1] not in ("better", "worse", "open"):
            raise AssertionError(f'{shown}: the verdict is "better", "worse" or "open"')
    return [plain(tuple(pair)) for pair in answer]


@dataclass(frozen=True)
class _Step:
    """Two small networks and a batch, all drawn from a seed."""

    seed: int
    images: int
    classes: int
    temperature: float
    alpha: float

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.classes} classes, T = {self.temperature:g},"
            f" alpha = {self.alpha:g}"
        )


def objective(function: Callable, seed: int = 0) -> Verdict:
    """The loss of a batch, asked of both networks: value, gradient, and what it does to both."""

    def reference(step: _Step) -> tuple:
        return _outcome(_objective, step)

    @wraps(function)
    def answer(step: _Step) -> object:
        return _outcome(function, step)

    def explain(found: tuple, expected: tuple, step: _Step) -> str | None:
        value, gradient, moved, reached, spoiled, passes = found
        if moved:
            return "after it the teacher's batch norm has other statistics than before"
        if reached:
            return "gradients arrive at the teacher's weights"
        if spoiled:
            return "a teacher that came in evaluation mode is in training mode afterwards"
        if step.alpha == 1 and not gradient.any():
            return "with alpha = 1 the student gets no gradient at all"
        ratio = (gradient.norm() / expected[1].norm()).item()
        if step.alpha == 1 and not _near(ratio, 1) and _near(gradient, ratio * expected[1]):
            return f"the teacher's part of the gradient is {ratio:.4g} times as long as right"
        if _near(value, expected[0]):
            if not _near(gradient, expected[1]):
                return "the value is right, the gradient is not"
            return f"the student's batch norm has seen the batch {passes} times; ask it once"
        return None

    draw = random.Random(seed)
    cases = [(_Step(draw.randrange(10**6), 4, 10, 4.0, alpha),) for alpha in (1.0, 0.0, 0.9)]
    for _ in range(12):
        sizes = draw.randint(2, 9), draw.randint(2, 12)
        numbers = draw.choice((1.0, 2.0, 8.0)), draw.choice((0.0, 0.3, 0.7, 1.0))
        cases.append((_Step(draw.randrange(10**6), *sizes, *numbers),))
    closed = (_objective, *_CLOSED)
    return check(answer, reference, cases, rtol=1e-4, atol=1e-6, explain=explain, closed=closed)


def _js(
    z_s: Tensor, z_t: Tensor, temperature: float, share: float, mixed: Tensor | None = None
) -> Tensor:
    log_s, log_t = (z_s / temperature).log_softmax(1), (z_t / temperature).log_softmax(1)
    both = torch.stack([log_t + math.log(share), log_s + math.log(1 - share)])
    log_m = both.logsumexp(0) if mixed is None else mixed.log_softmax(1)
    parts = share * log_t.exp() * (log_t - log_m) + (1 - share) * log_s.exp() * (log_s - log_m)
    return temperature**2 * parts.sum(1).mean()


def _similarity(e_s: Tensor, e_t: Tensor) -> Tensor:
    s, t = (F.normalize(e @ e.T) for e in (e_s, e_t))
    return (s - t).square().mean()


def _objective(
    student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, temperature: float,
    alpha: float,
) -> Tensor:  # fmt: skip
    z_s = student(images)
    with torch.no_grad():
        z_t = teacher.eval()(images)
    log_s, log_t = (z_s / temperature).log_softmax(1), (z_t / temperature).log_softmax(1)
    soft = (log_t.exp() * (log_t - log_s)).sum(1).mean()
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(z_s, labels)


def _with_gradient(loss: Callable, z_s: Tensor, *others: object) -> object:
    """A loss and its gradient at the student's side; what it is not, as it came."""
    z_s = z_s.clone().requires_grad_()
    value = loss(z_s, *others)
    if value is None or value is ...:
        return value
    return _checked(value).detach(), torch.autograd.grad(value, z_s, materialize_grads=True)[0]


def _outcome(loss: Callable, step: _Step) -> object:
    """(loss, the student's gradients, how far the teacher moved, gradient at the teacher).

    Both networks come as they were built, in training mode.
    """
    with training.seeded(step.seed):
        student, teacher = (
            nn.Sequential(
                nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(drop),
                nn.Linear(8, step.classes),
            ).double()
            for drop in (0.0, 0.5)
        )  # fmt: skip
        teacher.train(step.seed % 2 == 0)
        images = torch.randn(step.images, 1, 3, 3).double()
        labels = torch.randint(step.classes, (step.images,))
        nn.init.normal_(teacher[-1].weight)
        before = {name: t.clone() for name, t in teacher.state_dict().items()}
        value = loss(student, teacher, images, labels, step.temperature, step.alpha)
    if value is None or value is ...:
        return value
    _checked(value).backward()
    nothing = torch.zeros(())
    parts = [nothing.expand_as(p) if p.grad is None else p.grad for p in student.parameters()]
    gradient = torch.cat([part.flatten() for part in parts])
    state = teacher.state_dict()
    moved = max((state[name] - t).abs().max().item() for name, t in before.items())
    reached = sum(p.grad.abs().sum().item() for p in teacher.parameters() if p.grad is not None)
    spoiled = int(step.seed % 2 and any(m.training for m in teacher.modules()))
    passes = student[2].num_batches_tracked.item()
    return value.detach(), gradient, moved, reached, spoiled, passes


def _checked(value: object) -> Tensor:
    """The value, if it is a loss that can be differentiated; an error says why it is not."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise TypeError("the loss has no gradient; make it of tensors, without detach or item")
    if value.ndim:
        raise ValueError(f"a loss is a single number, yours has the shape {tuple(value.shape)}")
    return value


def _near(a: Tensor | float, b: Tensor | float) -> bool:
    a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    return torch.allclose(a, b, rtol=1e-3, atol=1e-7)
