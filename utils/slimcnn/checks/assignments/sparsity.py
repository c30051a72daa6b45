"""Checks for the assignment of chapter 3, Sparsity."""

import random
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from slimcnn import data, models, sparsity, training
from slimcnn.checks import Verdict, check
from slimcnn.checks.assignments.sparse_sizes import times_smaller

__all__ = ["break_even", "encode", "kernels_of", "measured", "small_file", "times_smaller"]

FILE = Path("sparse.safetensors")
_EXAMPLE = [0.0] * 8 + [0.0, 5.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0] + [2.0, 0.0]


def _encoded(values: Tensor, block: int) -> bytes:
    """The bytes of a bitmask of two levels: which blocks, which of their numbers, the numbers."""
    padded = np.pad(values.numpy(), (0, -len(values) % block)).reshape(-1, block)
    filled = (padded != 0).any(1)
    bits = padded[filled] != 0
    maps = np.packbits(filled).tobytes() + np.packbits(bits).tobytes()
    return maps + padded[filled][bits].astype("<f4").tobytes()


def _decoded(data: bytes, count: int, block: int) -> Tensor:
    """The numbers of `_encoded`.

    Raises:
        ValueError: the bytes are fewer or more than their maps say.
    """
    blocks = -(-count // block)
    start = -(-blocks // 8)
    filled = np.unpackbits(np.frombuffer(data[:start], np.uint8), count=blocks).astype(bool)
    middle = start + int(filled.sum()) * block // 8
    bits = np.unpackbits(np.frombuffer(data[start:middle], np.uint8)).astype(bool)
    if len(data) != middle + 4 * int(bits.sum()):
        wanted = middle + 4 * int(bits.sum())
        raise ValueError(f"it has {len(data):,} bytes, and by its maps it needs {wanted:,}")
    padded = np.zeros((blocks, block), np.float32)
    inside = np.zeros((blocks, block), bool)
    inside[filled] = bits.reshape(-1, block)
    padded[inside] = np.frombuffer(data[middle:], "<f4")
    return torch.from_numpy(padded.ravel()[:count].copy())


def _tensors_to_encode(seed: int) -> list[tuple[Tensor, int]]:
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = [
        (torch.tensor(_EXAMPLE), 8),
        (torch.zeros(40), 16),
        (torch.ones(24), 8),
        (torch.tensor([3.0]), 8),
        (torch.tensor([0.0, -0.0, 4.0, -0.0] + [-0.0] * 30), 8),
        (torch.zeros(0), 8),
        (torch.tensor([1e-9, 0.0, -1e-40, 2.0]), 8),
    ]
    for _ in range(25):
        numbers = torch.randn(draw.randint(1, 400), generator=generator)
        share = draw.choice((0.5, 0.9, 0.97))
        numbers *= torch.rand(len(numbers), generator=generator) > share  # makes zeros of sign −
        cases.append((numbers, draw.choice((8, 16, 24, 32))))
    return cases


def encode(function: Callable, seed: int = 0) -> Verdict:
    """A tensor as bytes: a bitmask of two levels."""

    @wraps(function)
    def giving_bytes(values: Tensor, block: int) -> bytes | None:
        found = function(values, block)
        if found is not None and not isinstance(found, (bytes, bytearray)):
            raise TypeError(f"bytes are expected, yours is a {type(found).__name__}")
        return None if found is None else bytes(found)

    giving_bytes.__name__ = getattr(function, "__name__", "encode")

    def explain(found: bytes, expected: bytes, values: Tensor, block: int) -> str:
        count, nonzeros = len(values), int((values != 0).sum())
        blocks = -(-count // block)
        first = -(-blocks // 8)
        second = len(expected) - first - 4 * nonzeros
        negative = int(((values == 0) & values.signbit()).sum())
        more = len(found) - len(expected)
        if more == 4 * nonzeros and nonzeros:
            return "the numbers take 8 bytes each; they are float32, of 4 bytes"
        if negative and more > 0 and more % 4 == 0 and more <= 4 * negative + 64:
            return f"{negative} of the zeros are −0.0, and they are zeros: compare the value with 0"
        if more and len(found) == first + blocks * block // 8 + 4 * nonzeros:
            return "the second map has bits of empty blocks as well"
        if more < 0 and not more % 4 and values.abs().logical_and(values.abs() < 1e-6).any():
            return "a number is not zero however small it is: compare with 0 exactly"
        if more:
            return f"{len(found)} bytes; {len(expected)} are right: {first} + {second} + values"
        i = next(i for i in range(len(found)) if found[i] != expected[i])
        where = "map of blocks" if i < first else "map of numbers"
        if i >= first + second:
            return f"byte {i} is wrong, among the values"
        hint = ""
        if int(f"{found[i]:08b}"[::-1], 2) == expected[i]:
            hint = "; the first bit is the highest of its byte"
        return f"byte {i}, in the {where}, is {found[i]:08b}; {expected[i]:08b} is right{hint}"

    closed = (sparsity.encode, _encoded)
    cases = _tensors_to_encode(seed)
    return check(giving_bytes, lambda *case: _encoded(*case), cases, explain=explain, closed=closed)


def break_even(function: Callable, seed: int = 0) -> Verdict:
    """The share of zeros from which two levels need fewer bits than one."""

    def reference(block: int) -> float:
        return block ** (-1 / block)

    def explain(found: float, expected: float, block: int) -> str | None:
        found = float(found)
        if abs(found - 100 * expected) < 1e-3:
            return "a fraction is expected, from 0 to 1, not percent"
        if abs(found - (1 - expected)) < 1e-6:
            return "that is the share of numbers that are not zero"
        if abs(found - (1 - 1 / block) ** (1 / block)) < 1e-6:
            return "there, one block in so many is *filled*; the map saved is that of empty blocks"
        bits = 1 / block + 1 - found**block if 0 <= found <= 1 else float("nan")
        return f"at {found:.4f} zeros both maps together have {bits:.4f} bits a number, one has 1"

    draw = random.Random(seed)
    cases = [(8,), (16,), (2,), (64,), *((draw.randint(3, 300),) for _ in range(10))]
    return check(function, reference, cases, explain=explain, rtol=1e-5)


def kernels_of(function: Callable, seed: int = 0) -> Verdict:
    """N of M whole kernels, among channels in a given order."""

    def reference(scores: Tensor, n: int, m: int, order: Tensor) -> Tensor:
        sums = scores.sum((2, 3))[:, order].unflatten(1, (-1, m))
        best = sums.argsort(dim=2, descending=True, stable=True)[..., :n]
        kept = torch.zeros(sums.shape, dtype=torch.bool).scatter_(2, best, True).flatten(1)
        mask = torch.empty_like(kept)
        mask[:, order] = kept
        return mask[:, :, None, None].expand(scores.shape)

    def explain(
        found: Tensor, expected: Tensor, scores: Tensor, n: int, m: int, order: Tensor
    ) -> str | None:
        found = torch.as_tensor(found)
        if not ((found == 0) | (found == 1)).all():
            return "a mask holds True and False; yours holds other numbers"
        found = found.bool()
        cut = (found.any(3).any(2) & ~found.all(3).all(2)).nonzero().tolist()
        if cut:
            return f"of filter {cut[0][0]}, channel {cut[0][1]}, a part stays; kernels are whole"
        totals = scores.sum((2, 3))[:, order].unflatten(1, (-1, m))
        places = (mask[:, order, 0, 0].unflatten(1, (-1, m)) for mask in (found, expected))
        mine, right = ((totals.masked_fill(~p, -1)).sort(2).values for p in places)
        if torch.equal(mine, right):
            return "of equal sums in a group those stay that come first in the order"
        if torch.equal(found, expected[:, order]):
            return "your mask is in the order of the permutation; put its channels back"
        if torch.equal(found, reference(scores, n, m, torch.arange(len(order)))):
            return "you group channels as they stand, not in the given order"
        if torch.equal(found, reference(scores, n, m, order.argsort())):
            return "you group by the inverse of the order; place p holds channel order[p]"
        counts = found[:, order, 0, 0].unflatten(1, (-1, m)).sum(2)
        wrong = (counts != n).nonzero().tolist()
        if wrong:
            filter_, group = wrong[0]
            members = order[group * m : group * m + m].tolist()
            kept = int(counts[filter_, group])
            return f"filter {filter_} keeps {kept} of the channels {members}; {n} are asked"
        return "the kernels that stay are not those of the largest sums (equal: first in the order)"

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 4, 1, 1)
    cases = [
        (scores, 1, 2, torch.tensor([2, 0, 3, 1])),
        (torch.ones(2, 6, 2, 2), 2, 3, torch.tensor([5, 4, 3, 2, 1, 0])),
        (torch.ones(1, 1, 3, 3), 0, 1, torch.tensor([0])),
        (torch.ones(3, 1, 1, 1), 1, 1, torch.tensor([0])),
    ]
    for round_ in range(20):
        m = draw.choice((2, 3, 4, 8))
        channels = m * draw.randint(1, 4)
        shape = draw.randint(1, 5), channels, draw.randint(1, 3), draw.randint(1, 3)
        scores = torch.rand(shape, generator=generator)
        if round_ % 3 == 0:  # few different values, so that sums are equal; halves, so exactly
            scores = (2 * scores).round() / 2
        n = (0, m)[round_] if round_ < 2 else draw.randint(1, m)
        cases.append((scores, n, m, torch.randperm(channels, generator=generator)))
    closed = (sparsity.nm_mask, sparsity.kernel_mask, sparsity.block_mask)
    return check(function, reference, cases, explain=explain, closed=closed)


def small_file(function: Callable, block: int, kilobytes: float, accuracy: float) -> Verdict:
    """A sparse ResNet-14 in the file that the function writes; on validation."""
    FILE.unlink(missing_ok=True)
    try:
        function(FILE)
    except NotImplementedError as error:
        missing = "compress" if error.__traceback__.tb_next.tb_next is None else "encode"
        return Verdict(False, f"Your turn: {missing} is not written yet.")
    return measured(block, kilobytes, accuracy)


def measured(
    block: int, kilobytes: float, accuracy: float, split: data.SplitName = "validation"
) -> Verdict:
    """What is in the file that `small_file` had written."""
    if not FILE.exists():
        return Verdict(False, f"✗ compress has written no file {FILE}")
    size = FILE.stat().st_size / 1000
    try:
        stored = load_file(FILE)
    except SafetensorError as error:
        return Verdict(False, f"✗ the file is no safetensors file: {error}")
    model = models.ResNet14()
    state = model.state_dict()
    if wrong := sorted(set(state) ^ set(stored)):
        return Verdict(False, f"✗ names missing or too many in the file: {', '.join(wrong[:4])}")
    for name, tensor in state.items():
        found = stored[name]
        if tensor.ndim > 1:
            if found.dtype != torch.uint8 or found.ndim != 1:
                kind = f"{found.dtype}, shape {tuple(found.shape)}"
                return Verdict(False, f"✗ {name} is {kind}; encoded weights are uint8, shape (n,)")
            try:
                numbers = _decoded(found.numpy().tobytes(), tensor.numel(), block)
            except ValueError as error:
                return Verdict(False, f"✗ {name} cannot be decoded: {error}")
            found = numbers.view(tensor.shape)
        if found.shape != tensor.shape:
            return Verdict(False, f"✗ {name} has shape {tuple(found.shape)}")
        state[name] = found.to(tensor.dtype)
    if size > kilobytes:
        return Verdict(False, f"✗ the file has {size:,.1f} kB; at most {kilobytes:,} are allowed")
    model.load_state_dict(state)
    reached = training.evaluate(model.eval(), data.load(split))
    if not reached >= accuracy:
        return Verdict(False, f"✗ {reached:.2f} % on {split}; at least {accuracy} are asked")
    return Verdict(True, f"✓ {size:,.1f} kB, {reached:.2f} % on {split}")
