"""Checks for the assignment of chapter 5, Low-rank factorization."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn import checkpoints, data, lowrank, metrics, training
from slimcnn.checks import Verdict, check


def thin(function: Callable, seed: int = 0) -> Verdict:
    """Two factors of a linear layer by a share of energy, and the bias that keeps the mean."""

    def reference(*case: object) -> tuple:
        return _factored(_thin, *case)

    @wraps(function)
    def answer(*case: object) -> object:
        return _factored(function, *case)

    def explain(
        found: tuple, expected: tuple, weight: Tensor, bias: Tensor, mean: Tensor, share: float
    ) -> str | None:
        product, shift, rank, uneven = found
        values = torch.linalg.svdvals(weight)
        if rank != expected[2]:
            kept = 100 * values[:rank].square().sum() / values.square().sum()
            said = f"rank {expected[2]} is the smallest that keeps {100 * share:g} % of the energy"
            said += f"; yours has {rank}, which keeps {kept:.1f} %"
            before = values[: rank - 1].square().sum() / values.square().sum()
            if rank == expected[2] + 1 and math.isclose(before, share):
                said += "; exactly that share is enough"
            elif rank == int((values.cumsum(0) / values.sum() < share).sum()) + 1:
                said += " (energy is the squares of the singular values)"
            elif rank == _rank(values, 1 - share):
                said += " (the share is what is kept, not what is lost)"
            return said
        if not _near(product, expected[0]):
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
            if _near(product, u[:, :rank] * s[:rank] ** 2 @ vh[:rank]):
                return "the singular values are multiplied twice"
            if _near(product, u[:, :rank] @ vh[:rank]):
                return "the singular values are missing"
            return "left @ right is not the best matrix of its rank"
        if uneven > 1e-3:
            return "the product is right; of the singular values each factor gets the root"
        if _near(shift, bias):
            return "the bias is the old one; the mean of the outputs has moved"
        if _near(shift, 2 * bias - expected[1]):
            return "the bias is corrected into the wrong direction"
        return "the factors are right, the new bias is not"

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = []
    for rows, columns, full in ((1, 4, 1), (4, 1, 1), (8, 6, 2), *[(0, 0, 0)] * 15):
        rows, columns = rows or draw.randint(2, 12), columns or draw.randint(2, 12)
        inner = full or min(rows, columns)
        scale = torch.tensor([2.0 ** -draw.uniform(0, i + 1) for i in range(inner)])
        left, right = (
            torch.randn(shape, generator=generator).double()
            for shape in ((rows, inner), (inner, columns))
        )
        bias, mean = (torch.randn(n, generator=generator).double() for n in (rows, columns))
        share = round(draw.uniform(0.3, 0.98), 3)
        cases.append((left * scale @ right, bias, mean + 1, share))
    diagonal = torch.tensor([5.0, 4.0, 3.0]).double().diag()  # 25 of 50: exactly a half
    cases.append((diagonal, torch.zeros(3).double(), torch.ones(3).double(), 0.5))
    closed = (
        _thin,
        lowrank.energy_rank,
        lowrank.truncated_svd,
        lowrank.rank_by,
        lowrank.whitened_svd,
        lowrank.output_svd,
    )
    return check(answer, reference, cases, rtol=1e-4, atol=1e-5, explain=explain, closed=closed)


def break_even(function: Callable, seed: int = 0) -> Verdict:
    """The largest rank at which the spatial scheme has fewer MACs than the convolution."""

    def largest(per_rank: int, whole: int) -> int:
        return (whole - 1) // per_rank

    def reference(
        c_in: int, c_out: int, kernel: tuple, stride: int, padding: tuple, size: tuple
    ) -> int:
        (k_h, k_w), (_, width) = kernel, size
        h, w = _outputs(kernel, stride, padding, size)
        per_rank = c_in * k_h * h * width + c_out * k_w * h * w
        return largest(per_rank, c_in * c_out * k_h * k_w * h * w)

    def explain(
        found: float,
        expected: int,
        c_in: int,
        c_out: int,
        kernel: tuple,
        stride: int,
        padding: tuple,
        size: tuple,
    ) -> str | None:
        (k_h, k_w), (height, width) = kernel, size
        h, w = _outputs(kernel, stride, padding, size)
        whole = c_in * c_out * k_h * k_w * h * w
        if found % 1 != 0:  # true for nan, too
            return f"a rank is a whole number, yours is {found:g}"
        weights = largest(c_in * k_h + c_out * k_w, c_in * c_out * k_h * k_w)
        mistakes = {
            weights: (
                "that is where the weights are even; for the MACs, the first layer does not stride"
                f" or pad sideways: its output has {width} columns"
            ),
            largest(c_in * k_h * height * width + c_out * k_w * h * w, whole): (
                f"the first layer strides downwards: its output has {h} rows, not {height}"
            ),
            expected + 1: "there the MACs are equal; fewer are asked",
        }
        return mistakes.get(int(found))

    draw = random.Random(seed)
    cases = [
        (1, 1, (1, 1), 1, (0, 0), (1, 1)),
        (32, 64, (3, 3), 2, (1, 1), (14, 14)),
        (2, 2, (2, 2), 1, (0, 0), (6, 7)),
    ]
    for _ in range(40):
        kernel = draw.choice((1, 3, 5, 7)), draw.choice((1, 3, 5, 7))
        padding = tuple(draw.choice((0, k // 2)) for k in kernel)
        size = draw.randint(8, 40), draw.randint(8, 40)
        channels = draw.randint(1, 128), draw.randint(1, 128)
        cases.append((*channels, kernel, draw.randint(1, 3), padding, size))
    closed = (lowrank.break_even_rank, lowrank.factorized_parameters, metrics.count_macs)
    return check(function, reference, cases, explain=explain, closed=closed)


def slim(function: Callable, kilobytes: float, macs: float, accuracy: float) -> Verdict:
    """ResNet-14, factorized, in a file that the function writes; it is left for `saved`."""
    path = Path("slim.safetensors")
    path.unlink(missing_ok=True)
    try:
        function(path)
    except NotImplementedError:
        return Verdict(False, "Your turn: slim is not written yet.")
    if not path.exists():
        return Verdict(False, f"✗ slim has written no file {path}")
    return saved(path, kilobytes, macs, accuracy)


def saved(
    path: Path | str,
    kilobytes: float,
    macs: float,
    accuracy: float,
    split: data.SplitName = "validation",
) -> Verdict:
    """What `slim` has written: its bytes, its MACs in percent of ResNet-14's, its answers."""
    path, dense = Path(path), checkpoints.load("resnet14")
    size = path.stat().st_size / 1000
    if size > kilobytes:
        return Verdict(False, f"✗ the file has {size:,.1f} kB; at most {kilobytes:,} are allowed")
    try:
        model = lowrank.load_factorized(dense, path)
    except checkpoints.CheckpointError as error:
        return Verdict(False, f"✗ {error}")
    share = 100 * metrics.count_macs(model) / metrics.count_macs(dense)
    if share > macs:
        return Verdict(False, f"✗ {share:.1f} % of the MACs; at most {macs:g} % are allowed")
    found = training.evaluate(model, data.load(split))
    if not found >= accuracy:
        return Verdict(False, f"✗ {found:.2f} % on {split}; at least {accuracy} are asked")
    return Verdict(True, f"✓ {size:,.1f} kB, {share:.1f} % of the MACs, {found:.2f} % on {split}")


@dataclass(frozen=True)
class _Network:
    """A small convolutional network, drawn from a seed, and the rank to compress it to."""

    seed: int
    rank: int

    def __str__(self) -> str:
        return f"a small network, rank {self.rank}"


def compress(function: Callable, seed: int = 0) -> Verdict:
    """A network whose convolutions became two where that saves weights."""

    def reference(network: _Network) -> tuple:
        return _compressed(_compress, network)

    @wraps(function)
    def answer(network: _Network) -> object:
        return _compressed(function, network)

    def explain(found: tuple, expected: tuple, network: _Network) -> str | None:
        output, parameters, changed, macs = found
        whole = metrics.count_parameters(_built(network))
        if changed:
            return (
                "the network that was given is another one afterwards, or shares weights; copy it"
            )
        if parameters == whole:
            return f"what comes back has {parameters} parameters, as before"
        if parameters > whole:
            return f"what comes back has {parameters} parameters; before there were {whole}"
        if parameters != expected[1]:
            return f"{expected[1]} parameters are expected, what comes back has {parameters}"
        if macs != expected[3]:
            return f"{expected[3]:,} MACs are expected, yours has {macs:,}; where is the stride?"
        share = ((output - expected[0]).norm() / expected[0].norm()).item()
        return f"the parameters are right, the outputs are off by {100 * share:.0f} %"

    draw = random.Random(seed)
    ranks = (2, 4, 1, 5, 6, *(draw.randint(1, 12) for _ in range(12)))
    cases = [(_Network(draw.randrange(10**6), rank),) for rank in ranks]
    closed = (
        _compress,
        lowrank.factorize,
        lowrank.factorize_layer,
        lowrank.channel_conv,
        lowrank.truncated_svd,
        lowrank.whitened_svd,
    )
    return check(answer, reference, cases, rtol=1e-3, atol=1e-4, explain=explain, closed=closed)


def _thin(
    weight: Tensor, bias: Tensor, mean: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    rank = _rank(s, share)
    root = s[:rank].sqrt()
    left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
    return left, right, bias + (weight - left @ right) @ mean


def _rank(values: Tensor, share: float) -> int:
    energy = values.square().cumsum(0)
    return int((energy < share * energy[-1]).sum()) + 1


def _factored(function: Callable, weight: Tensor, bias: Tensor, mean: Tensor, share: float):
    """What can be compared of factors: product, bias, rank, and whether they share alike."""
    answer = function(weight, bias, mean, share)
    if answer is None or answer is ...:
        return answer
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise ValueError("a tuple (left, right, bias) is expected")
    left, right, shift = (torch.as_tensor(part).double() for part in answer)
    rows, columns = weight.shape
    if left.ndim != 2 or right.ndim != 2 or len(left) != rows or right.shape[1] != columns:
        raise ValueError(
            f"left ({rows}, r) and right (r, {columns}) are expected, yours have the shapes"
            f" {tuple(left.shape)} and {tuple(right.shape)}"
        )
    if left.shape[1] != len(right):
        raise ValueError(f"left has {left.shape[1]} columns and right {len(right)} rows")
    if shift.shape != bias.shape:
        raise ValueError(f"the bias has shape {tuple(shift.shape)}; ({rows},) is expected")
    uneven = (left.norm(dim=0) - right.norm(dim=1)).abs().max().item()
    return left @ right, shift, left.shape[1], uneven


def _outputs(kernel: tuple, stride: int, padding: tuple, size: tuple) -> list[int]:
    sides = zip(size, padding, kernel, strict=True)
    return [(n + 2 * p - k) // stride + 1 for n, p, k in sides]


def _built(network: _Network) -> nn.Module:
    """Convolutions of many kinds, some of them nested, in evaluation mode."""
    draw = random.Random(network.seed)
    with training.seeded(network.seed):
        plain = nn.Conv2d(3, 8, 3, draw.choice((1, 2)), 1, bias=draw.random() < 0.5)
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        wide = nn.Conv2d(8, 12, (3, 5), padding=(1, 2), dilation=draw.choice((1, 2)))
        inner = nn.Sequential(depthwise, nn.ReLU(), wide)
        last = nn.Conv2d(12, 6, 1, bias=draw.random() < 0.5)  # at rank 4 both weigh the same
        model = nn.Sequential(plain, nn.BatchNorm2d(8), nn.ReLU(), inner, nn.ReLU(), last)
    return model.eval()


def _compressed(function: Callable, network: _Network) -> object:
    """(outputs, parameters, how many tensors of the given network have changed)."""
    model = _built(network)
    answer = function(model, network.rank)
    if answer is None or answer is ...:
        return answer
    if not isinstance(answer, nn.Module):
        raise TypeError(f"a network is expected, yours gives a {type(answer).__name__}")
    before, after = _built(network).state_dict(), model.state_dict()
    same = [name in after and torch.equal(after[name], t) for name, t in before.items()]
    changed = same.count(False) + len(after.keys() - before.keys())
    with training.seeded(network.seed), torch.no_grad():
        image = torch.randn(2, 3, 13, 12)
        output = answer.eval()(image)
    own = {p.data_ptr() for p in model.parameters()}
    changed += sum(p.data_ptr() in own for p in answer.parameters())
    macs = metrics.count_macs(answer, tuple(image.shape))
    return output, metrics.count_parameters(answer), changed, macs


def _compress(model: nn.Module, rank: int) -> nn.Module:
    plan = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            matrix = layer.weight.flatten(1)
            fitting = min(rank, *matrix.shape)
            if fitting * sum(matrix.shape) < matrix.numel():
                plan[name] = lowrank.Choice("channel", fitting)
    return lowrank.factorize(model, plan)


def _near(a: Tensor, b: Tensor) -> bool:
    size = math.sqrt(max(b.square().mean().item(), 1e-20))
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4 * size)
