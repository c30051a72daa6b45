"""Checks for the assignment of chapter 1, Measuring."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from slimcnn import checkpoints, data, metrics, training
from slimcnn.checks import Verdict, check


def conv_cost(function: Callable, seed: int = 0) -> Verdict:
    """Parameters and MACs of a convolution, from its settings alone."""

    def reference(
        c_in: int, c_out: int, kernel: tuple, stride: int, padding: int, dilation: int,
        groups: int, bias: bool, size: tuple,
    ) -> tuple[int, int]:  # fmt: skip
        out = [
            (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
            for n, k in zip(size, kernel, strict=True)
        ]
        weights = c_out * (c_in // groups) * kernel[0] * kernel[1]
        return weights + c_out * bias, weights * out[0] * out[1]

    def explain(found: tuple, expected: tuple, c_in: int, c_out: int, *rest: object) -> str | None:
        groups, bias = rest[4], rest[5]
        if groups > 1 and found[0] - c_out * bias == groups * (expected[0] - c_out * bias):
            return f"a filter sees {c_in // groups} of the {c_in} channels, groups is {groups}"
        if found[0] == expected[0] - c_out * bias and bias:
            return f"{expected[0]} parameters with the bias, yours gives {found[0]}"
        if found[0] == expected[0]:
            return f"the parameters are right; {expected[1]} MACs, yours gives {found[1]}"
        if (found[0], found[1]) == (expected[1], expected[0]):
            return "the pair is (parameters, MACs); yours is the other way round"
        return f"{expected[0]} parameters, yours gives {found[0]}"

    draw = random.Random(seed)
    cases = [
        (1, 1, (1, 1), 1, 0, 1, 1, False, (1, 1)),
        (32, 64, (3, 3), 2, 1, 1, 1, True, (28, 28)),
    ]
    for _ in range(30):
        groups = draw.choice((1, 1, 2, 4))
        shape = groups * draw.randint(1, 9), groups * draw.randint(1, 9)
        kernel, size = (tuple(draw.randint(*r) for _ in "hw") for r in ((1, 5), (13, 40)))
        steps = draw.randint(1, 3), draw.randint(0, 2), draw.randint(1, 3)
        cases.append((*shape, kernel, *steps, groups, draw.random() < 0.5, size))
    closed = (metrics.layer_costs, metrics.count_macs, metrics.count_parameters)
    return check(function, reference, cases, explain=explain, closed=closed)


def images_needed(function: Callable, seed: int = 0) -> Verdict:
    """The least number of test images with which a difference is seen, image by image."""

    def reference(points: float, disagreement: float, z: float = 1.96) -> int:
        mean = points / 100
        return max(1, math.ceil(z**2 * (disagreement - mean**2) / mean**2))

    def explain(
        found: float, expected: int, points: float, disagreement: float, z: float = 1.96
    ) -> str | None:
        if found < 1:
            return f"at least 1 image is needed; yours gives {found:g}"
        if z != 1.96 and abs(found - reference(points, disagreement)) <= 1:
            return f"z is {z:g} here, and yours computes with 1.96"
        if 0 < expected - found <= 1 or found == expected + 1:
            return f"{expected} images, the least whole number; yours gives {found:g}"
        if abs(found - 1e-4 * expected) < 2 + 1e-6 * expected:
            return f"{points} points are a share of {points / 100:g}, not {points:g}"
        return None

    draw = random.Random(seed)
    cases = [(0.5, 0.06), (10.0, 0.1), (50.0, 0.5), (100.0, 1.0), (0.1, 0.02)]
    cases += [(0.5, 0.06, 2.576), (12.5, 0.25, 2.0)]  # another z; exactly 60, so not 61
    cases.append((0.293, 0.0843))  # float32 gives one image less
    for _ in range(30):
        points = round(draw.uniform(0.05, 3), 3)
        cases.append((points, round(points / 100 + draw.uniform(0.001, 0.2), 4)))
    return check(function, reference, cases, explain=explain, atol=1e-3)


def small_file(
    function: Callable, kilobytes: float, accuracy: float, split: data.SplitName = "validation"
) -> Verdict:
    """ResNet-14 in a safetensors file that the function writes, of at most so many kB."""
    path = Path("small.safetensors")
    path.unlink(missing_ok=True)
    try:
        function(path)
    except NotImplementedError:
        return Verdict(False, "Your turn: save_small is not written yet.")
    if not path.exists():
        return Verdict(False, f"✗ save_small has written no file {path}")
    size = path.stat().st_size / 1000
    if size > kilobytes:
        return Verdict(False, f"✗ the file has {size:,.1f} kB; at most {kilobytes:,} are allowed")
    model = checkpoints.load("resnet14")
    expected = model.state_dict()
    try:
        state = load_file(path)
    except SafetensorError as error:
        return Verdict(False, f"✗ the file is no safetensors file: {error}")
    if wrong := sorted(set(expected) ^ set(state)):
        return Verdict(False, f"✗ names missing or too many in the file: {', '.join(wrong[:4])} …")
    if wrong := [name for name in state if state[name].shape != expected[name].shape]:
        return Verdict(False, f"✗ {wrong[0]} has shape {tuple(state[wrong[0]].shape)}")
    model.load_state_dict({name: state[name].to(expected[name].dtype) for name in state})
    found = training.evaluate(model.eval(), data.load(split))
    if not found >= accuracy:
        return Verdict(False, f"✗ {found:.2f} % on {split}; at least {accuracy} are asked")
    return Verdict(True, f"✓ {size:,.1f} kB, {found:.2f} % on {split}")


class Laboratory:
    """A machine on which two networks run in simulated time, so that a stopwatch can be tried.

    First runs are slow (most of all those of network 0, which finds nothing loaded), the machine
    gets slower all the time, and now and then something else gets in the way: what happens on a
    real one, but the same at every try.

    Args:
        costs: milliseconds of a run of each network, on the undisturbed machine.
        seed: of what gets in the way.
        cold: how many times as long the first run of network 0 takes.
        drift: by which share of the cost every run is slower than the one before.
        noise: how often a run is disturbed.

    Attributes:
        runs: two functions without arguments; each lets one network answer once.
        clock: gives seconds, as `time.perf_counter` does.
    """

    def __init__(
        self, costs: tuple[float, float], seed: int, cold: float, drift: float, noise: float
    ) -> None:
        self.now = 0.0
        self._calls = [0, 0]
        self._costs, self._cold, self._drift, self._noise = costs, cold, drift, noise
        self._chance = random.Random(seed)
        # not the methods themselves, which would lead to the machine and its costs
        self.runs = (lambda: self.run(0)), (lambda: self.run(1))
        self.clock = lambda: self.now

    def run(self, network: int) -> None:
        """Let a network (0 or 1) answer once."""
        cold = 1 + (self._cold - 1) * (0.25 if network else 1) * 0.4 ** self._calls[network]
        slower = 1 + self._drift * sum(self._calls)
        disturbed = self._chance.uniform(3, 30) if self._chance.random() < self._noise else 1
        self.now += self._costs[network] / 1000 * cold * slower * disturbed
        self._calls[network] += 1


def compare(function: Callable, seed: int = 0) -> Verdict:
    """How many times as fast the second network is, on a machine that is not quiet."""
    draw = random.Random(seed)
    worlds = [
        ("a quiet machine", 1, 0, 0),
        ("a machine whose first runs are slow", 300, 0, 0),
        ("a machine that gets slower", 1, 0.003, 0),
        ("a machine on which other programs run", 1, 0, 0.1),
        ("a machine with all of these", 300, 0.003, 0.1),
    ]
    for name, *world in worlds:
        errors, upside_down = [], []
        for _ in range(9):
            costs = draw.uniform(1, 9), draw.uniform(1, 9)
            machine = Laboratory(costs, draw.randrange(10**6), *world)
            try:
                found = function(*machine.runs, machine.clock)
            except NotImplementedError:
                return Verdict(False, "Your turn: compare is not written yet.")
            except Exception as error:
                return Verdict(False, f"✗ compare raises {type(error).__name__}: {error}")
            if type(found) in (np.float32, np.float64):  # as np.median gives it
                found = float(found)
            if type(found) not in (int, float) or not math.isfinite(found) or found <= 0:
                return Verdict(False, f"✗ compare gives {found!r}; a positive number is expected")
            errors.append(found / (costs[0] / costs[1]))
            upside_down.append(found / (costs[1] / costs[0]))
        worst = max(errors, key=lambda e: abs(math.log(e)))
        if all(0.9 < e < 1 / 0.9 for e in upside_down):
            return Verdict(False, "✗ your ratio is new time / old time; old / new is asked")
        if not 0.9 < worst < 1 / 0.9 or not 0.95 < median(errors) < 1 / 0.95:
            return Verdict(False, f"✗ on {name} your ratio is {worst:.2f} times the true one")
    return Verdict(True, f"✓ compare is right on all {len(worlds)} machines")
