"""Checks for the assignment of chapter 7, Deployment."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn import checkpoints, data, deploy, metrics, training
from slimcnn.checks import Verdict, check, guard
from slimcnn.deploy.parity import relative_error

FILE = Path("network.onnx")


def fold_pixels(function: Callable, seed: int = 0) -> Verdict:
    """A first layer for raw pixels, and what its input is padded with."""

    def reference(
        weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        scaled = weight / (255 * std.view(-1, 1, 1))
        return scaled, bias - (255 * scaled * mean.view(-1, 1, 1)).sum((1, 2, 3)), 255 * mean

    def explain(found: tuple, expected: tuple, *case: Tensor) -> str | None:
        weight, bias, pad = (torch.as_tensor(part).double() for part in found)
        wrong = {
            "the weights are not divided by 255": _near(weight, 255 * expected[0]),
            "the weights are multiplied by std; pixels are divided by it": _near(
                weight, case[0] * case[3].view(-1, 1, 1) / 255
            ),
            "the bias moves the other way": _near(bias, 2 * case[1] - expected[1]),
            "the bias is as it was; what is subtracted from a pixel goes into it": _near(
                bias, case[1]
            )
            and not _near(expected[1], case[1]),
            "a frame of 0 is a black one; the network knew a frame of normalized zeros": bool(
                expected[2].any() and not pad.any()
            ),
            "the frame is that of pixels from 0 to 1; they go to 255": _near(pad, case[2]),
        }
        return next((words for words, is_so in wrong.items() if is_so), None)

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = []
    for inputs, outputs, kernel in ((1, 1, 1), (3, 4, 3), *[(0, 0, 0)] * 12):
        inputs, outputs = inputs or draw.randint(1, 4), outputs or draw.randint(1, 8)
        kernel = kernel or draw.choice((1, 3, 5))
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator).double()
        parts = (torch.rand(n, generator=generator).double() for n in (outputs, inputs, inputs))
        bias, mean, std = parts
        cases.append((weight, bias, mean + 0.05, std + 0.1))
    return check(function, reference, cases, explain=explain, rtol=1e-4, atol=1e-6)


def judge(function: Callable, seed: int = 0) -> Verdict:
    """A gate on logits: what tells inputs apart, the answers that were sure, and the verdict."""

    def reference(z: Tensor, found: Tensor, margin: float) -> tuple[float, float, bool]:
        if found.shape != z.shape or not found.isfinite().all():
            return float("inf"), 0.0, False
        spread = (z - z.mean(0)).norm()
        error = float((found - z).norm() / spread)
        best = z.topk(2).values
        sure = best[:, 0] - best[:, 1] > margin
        same = z.argmax(1)[sure] == found.argmax(1)[sure]
        agreement = 100 * same.double().mean().item() if sure.any() else 100.0
        return error, agreement, error <= 0.05 and agreement >= 99.5

    def explain(
        found: tuple, expected: tuple, z: Tensor, other: Tensor, margin: float
    ) -> str | None:
        error, agreement, verdict = found
        if expected[0] == float("inf"):
            return "another shape, or what is no finite number: (inf, 0.0, False)"
        if _near(error, relative_error(z, other)) and not _near(error, expected[0]):
            return "the error is relative to the logits; take their mean over the images away first"
        if not _near(error, expected[0]):
            return f"the error is {expected[0]:.4g}, yours is {error:.4g}"
        if _near(agreement, metrics.agreement(z, other)) and not _near(agreement, expected[1]):
            return "all images count in your agreement; only those with a margin are asked"
        if _near(agreement, expected[1] / 100):
            return "agreement is in percent"
        if not _near(agreement, expected[1]):
            return f"agreement is {expected[1]:.2f} %, yours is {agreement:.2f}"
        if bool(verdict) == expected[2]:
            return f"{expected[:2]} are right, yours are {(error, agreement)}"
        return f"the numbers are right, the verdict is {expected[2]}, not {verdict}"

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = []
    for noise in (0.0, 1e-4, 0.01, 0.04, 0.06, 0.5, 3.0, *(-1.0,) * 15):
        noise = draw.uniform(0, 0.1) if noise < 0 else noise
        shape = draw.randint(2, 60), draw.randint(2, 10)
        z = torch.randn(shape, generator=generator).double()
        common = draw.choice((0.0, 5.0, 50.0)) * torch.randn(1, shape[1], generator=generator)
        other = z + noise * torch.randn(shape, generator=generator)
        cases.append((z + common, other + common, draw.choice((0.0, 0.2, 1.0, 99.0))))
    z = torch.randn(5, 3, generator=generator).double()
    broken = z.clone()
    broken[2, 1] = float("nan")
    close = torch.tensor([[0.0, 2.0], [2.0, 0.0], [0.0, 0.9]])
    cases.append((close, torch.tensor([[0.0, 2.0], [2.0, 0.0], [1.2, 0.0]]), 1.0))
    cases += [(z, broken, 0.1), (z, z[:4], 0.1), (z, z.flip(1), 0.0)]
    cases.append((z, z[:, :1], 0.1))
    for value in (float("inf"), -float("inf")):
        cases.append((z, z.index_fill(0, torch.tensor([3]), value), 0.1))
    edge = torch.tensor([[0.0, 2.0], [2.0, 0.0], [1.0, 2.0]]).double()  # a margin of just 1
    cases.append((edge, edge + torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.01, 0.0]]), 1.0))
    for flips in (1, 3):  # of 400 answers: 99.75 % are enough, 99.25 % are not
        many = torch.tensor([[0.0, 100.0], [100.0, 0.0]]).double().repeat(200, 1)
        many[:flips] = torch.tensor([1.0, 0.5])
        other = many.clone()
        other[:flips] = torch.tensor([0.5, 1.0])
        cases.append((many, other, 0.25))
    closed = (deploy.parity, relative_error, metrics.agreement)
    return check(function, reference, cases, explain=explain, closed=closed)


def small_file(
    function: Callable, network: str, kilobytes: float, accuracy: float, error: float
) -> Verdict:
    """A file for ONNX Runtime, of raw pixels, that the function writes; on validation."""
    FILE.unlink(missing_ok=True)
    try:
        function(FILE)
    except NotImplementedError:
        return Verdict(False, "Your turn: export is not written yet.")
    except Exception as error:
        return Verdict(False, f"✗ export(path) raises {type(error).__name__}: {error}")
    return measured(network, kilobytes, accuracy, error)


def measured(
    network: str,
    kilobytes: float,
    accuracy: float,
    error: float,
    split: data.SplitName = "validation",
) -> Verdict:
    """What is in the file that `small_file` had written."""
    if not FILE.exists():
        return Verdict(False, f"✗ export has written no file {FILE}")
    size = FILE.stat().st_size / 1000
    if size > kilobytes:
        return Verdict(False, f"✗ the file has {size:,.1f} kB; at most {kilobytes:,} are allowed")
    if extra := sorted(p.name for p in FILE.parent.glob(f"{FILE.name}?*")):
        return Verdict(False, f"✗ weights lie beside the file, in {extra[0]}; one file is asked")
    try:
        runtime = deploy.RUNTIMES["ONNX Runtime"]
        program = runtime.load(FILE)
        judges = data.load(split)
        logits = program(judges.images.float())
    except Exception as error:
        return Verdict(False, f"✗ ONNX Runtime does not run it: {str(error).splitlines()[0][:200]}")
    if logits.shape != (len(judges), 10):
        return Verdict(False, f"✗ its answers have the shape {tuple(logits.shape)}, not (N, 10)")
    some = judges.images[:500]
    difference = relative_error(training.predict(checkpoints.load(network), some), logits[:500])
    if not difference <= error:
        shown = f"{100 * difference:.1f} %; at most {100 * error:.1f} % are allowed"
        if difference < 0.1:
            shown += " (is the frame of the first layer the right one?)"
        return Verdict(False, f"✗ its logits differ from the network's by {shown}")
    reached = metrics.accuracy(logits, judges.labels)
    if not reached >= accuracy:
        return Verdict(False, f"✗ {reached:.2f} % on {split}; at least {accuracy} are asked")
    return Verdict(True, f"✓ {size:,.1f} kB, {reached:.2f} % on {split}")


@dataclass(frozen=True)
class _Try:
    """A network, a program that claims to be it, and whether it is."""

    name: str
    program: Callable[[nn.Module], Callable[[Tensor], Tensor]]
    right: bool


def _swapped(network: nn.Module) -> Callable:
    return lambda x: network(x.flip(1))


def _unnormalized(network: nn.Module) -> Callable:
    return lambda x: network(0.25 * x + 0.3)


def _training(network: nn.Module) -> Callable:
    return network.train()


def _nan(network: nn.Module) -> Callable:
    return lambda x: network(x).index_fill(1, torch.tensor([0]), float("nan"))


def _one_by_one(network: nn.Module) -> Callable:
    def program(x: Tensor) -> Tensor:
        if len(x) != 1:
            raise ValueError(f"this file takes one image at a time, not {len(x)}")
        return network(x)

    return program


def _one_number(network: nn.Module) -> Callable:
    def program(x: Tensor) -> Tensor:
        z = network(x)
        return z + F.pad(8e-4 * z.norm(dim=1, keepdim=True), (0, z.shape[1] - 1))

    return program


_TRIES = (
    _Try("a right file", lambda n: n, True),
    _Try("a right file that rounds otherwise", lambda n: lambda x: n(x) * (1 + 1e-5), True),
    _Try("a right file, off by half of what is allowed", lambda n: lambda x: 1.0005 * n(x), True),
    _Try("a file that is off by twice what is allowed", lambda n: lambda x: 1.002 * n(x), False),
    _Try("a right file, off in one number an image", _one_number, True),
    _Try("a right file that takes one image at a time", _one_by_one, True),
    _Try("a file with its channels swapped", _swapped, False),
    _Try("a file that normalizes twice", _unnormalized, False),
    _Try("a file with batch norm in training mode", _training, False),
    _Try("a file that answers what is no number", _nan, False),
    _Try("a file that answers alike to everything", lambda n: lambda x: n(0 * x), False),
    _Try("a file with two classes swapped", lambda n: lambda x: n(x).flip(1), False),
    _Try("a file with doubled logits", lambda n: lambda x: 2 * n(x), False),
)


def accepts(function: Callable, seed: int = 0) -> Verdict:
    """Is a program the network? Asked of right files and of wrong ones."""
    draw = random.Random(seed)
    with guard.closed(deploy.parity, relative_error) as watched:
        for number, case in enumerate(_TRIES * 2):
            verdict = _accepts(function, case, draw.randrange(10**6), number % 2 == 0)
            if watched.broken:
                return Verdict(False, f"✗ accepts: {watched.broken}")
            if verdict:
                return Verdict(False, verdict)
    return Verdict(True, f"✓ accepts is right on all {len(_TRIES)} files")


def _accepts(function: Callable, case: _Try, seed: int, mode: bool) -> str:
    """What is wrong with one answer; empty if nothing is."""
    with training.seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
        )
        for _ in range(3):
            model(3 + 2 * torch.randn(16, 2, 6, 6))
        images = torch.randn(12, 2, 6, 6) + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    program = case.program(copy.deepcopy(model).eval().requires_grad_(False))
    model.train(mode)
    given = images.clone()
    before = copy.deepcopy(model.state_dict())
    try:
        found = function(model, program, images)
    except NotImplementedError:
        return "Your turn: accepts is not written yet."
    except Exception as error:
        return f"✗ accepts raises {type(error).__name__} on {case.name}: {error}"
    if type(found) not in (bool, np.bool_) and not (
        isinstance(found, Tensor) and found.dtype == torch.bool
    ):
        return f"✗ accepts gives {found!r}; True or False is expected"
    if any(not torch.equal(before[name], t) for name, t in model.state_dict().items()):
        return "✗ after accepts the network's batch norm has other statistics"
    if not torch.equal(images, given):
        return "✗ accepts changes its images; leave them as they are"
    if any(module.training != mode for module in model.modules()):
        return "✗ accepts leaves the network in another mode than it came in"
    if bool(found) != case.right:
        return f"✗ accepts {'refuses' if case.right else 'lets pass'} {case.name}"
    return ""


def _near(a: float | Tensor, b: float | Tensor) -> bool:
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-7)
