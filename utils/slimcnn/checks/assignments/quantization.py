"""Checks for the assignment of chapter 6, Quantization."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimcnn import coding, data, models, training
from slimcnn import quantization as quant
from slimcnn.checkpoints import CheckpointError
from slimcnn.checks import Verdict, check

FILE = Path("packed.safetensors")


def power_of_two(function: Callable, seed: int = 0) -> Verdict:
    """Exponents of a scale a channel that is a power of two, and the integers of the weights."""

    def reference(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return _powers(weight, bits, math.ceil)

    def explain(found: tuple, expected: tuple, weight: Tensor, bits: int) -> str | None:
        exponents, integers = (torch.as_tensor(part).double() for part in found)
        if not exponents.isfinite().all():
            return "a channel of zeros has an exponent of 0; yours is not finite"
        if not torch.equal(exponents, expected[0]):
            return _exponent_mistake(exponents, expected[0], weight, bits)
        if not torch.equal(integers, integers.round()):
            return "the exponents are right; the integers are not whole numbers"
        steps = weight.double() / torch.exp2(expected[0]).view(-1, *[1] * (weight.ndim - 1))
        for name, rounding in (("cut off", torch.trunc), ("rounded down", torch.floor)):
            if torch.equal(integers, rounding(steps)):
                return f"the exponents are right; the integers are {name}, not to the nearest"
        if not torch.equal(integers.sign() * expected[1].sign(), expected[1].abs().sign()):
            return "the exponents are right; some integers have lost their sign"
        return "the exponents are right, the integers are not: round(w / 2^e)"

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    zeros = torch.zeros(2, 1, 3, 3)
    cases = [
        (torch.tensor([[1.5, -0.2], [0.1, 0.07], [0.15, -0.1], [-0.05, 0.13], [0, 0]]), 3),
        (torch.tensor([[7.0, -3.0], [0.875, 0.4]]), 4),  # exactly a power of two
        (torch.tensor([[-0.3]]), 2),
        (torch.tensor([[-5.0, -1.2, -0.9]]), 8),
        (zeros, 4),
    ]
    for _ in range(25):
        shape = [draw.randint(1, 9) for _ in range(draw.choice((2, 4)))]
        weight = torch.randn(shape, generator=generator)
        sizes = torch.exp2(6 * torch.randn(shape[0], generator=generator))
        cases.append((weight * sizes.view(-1, *[1] * (weight.ndim - 1)), draw.randint(2, 8)))
    return check(function, reference, cases, explain=explain, closed=(_powers,))


def _powers(weight: Tensor, bits: int, whole: Callable) -> tuple[Tensor, Tensor]:
    """The answer, where exponents are made whole in one way or another."""
    high = 2 ** (bits - 1) - 1
    largest = weight.double().flatten(1).abs().amax(1)
    exponents = [whole(math.log2(m / high)) if m > 0 else 0 for m in largest.tolist()]
    found = torch.tensor(exponents, dtype=torch.float64)
    steps = weight.double() / torch.exp2(found).view(-1, *[1] * (weight.ndim - 1))
    return found, torch.round(steps).clamp(-high, high)


def _exponent_mistake(found: Tensor, expected: Tensor, weight: Tensor, bits: int) -> str | None:
    size = weight.double().flatten(1)
    high = 2 ** (bits - 1) - 1
    if len(set(found.tolist())) == 1 < len(set(expected.tolist())):
        return "all channels have the same exponent; each has its own"
    for name, rounding in (("down", math.floor), ("to the nearest", round)):
        if torch.equal(found, _powers(weight, bits, rounding)[0]):
            return f"the exponents are rounded {name}, which cuts off the largest weights; round up"
    for name, largest in (("signs: take |w|", size.amax(1)), ("negatives", -size.amin(1))):
        wanted = [math.ceil(math.log2(m / high)) if m > 0 else 0 for m in largest.tolist()]
        if found.tolist() == wanted:
            return f"the largest weight of a channel is looked for without regard to {name}"
    powers = size.abs().amax(1)
    for steps in (2**bits - 1, 2 ** (bits - 1)):
        wanted = [math.ceil(math.log2(m / steps)) if m > 0 else 0 for m in powers.tolist()]
        if found.tolist() == wanted:
            return f"the largest integer of {bits} bits is {high} here, not {steps}"
    return f"exponents are {expected.tolist()[:4]} …, yours {found.tolist()[:4]} …"


def average(function: Callable, seed: int = 0) -> Verdict:
    """Global average pooling of integers with a zero point, by a multiplier of 15 bits."""

    def reference(
        q: Tensor, scale: float, zero_point: int, new_scale: float, new_zero_point: int
    ) -> Tensor:
        return _averages(q, scale, zero_point, new_scale, new_zero_point)["right"]

    def explain(found: Tensor, expected: Tensor, *case: object) -> str | None:
        found = torch.as_tensor(found).double()
        telling = len(set(found.flatten().tolist()) - {0, 255}) > 0
        for name, other in _averages(*case).items():
            if torch.equal(found, other.double()) and name != "right" and telling:
                return name
        if found.min() < 0 or found.max() > 255:
            return f"what is stored lies from 0 to 255, yours from {found.min()} to {found.max()}"
        worst, wrong = (found - expected).abs().max(), (found != expected).sum()
        if not telling and worst > 1:
            return (
                f"{expected.flatten().tolist()[:6]} are right, yours {found.flatten().tolist()[:6]}"
            )
        if worst <= 1:
            return (
                f"{wrong} of {found.numel()} integers are off by one: is m the whole number below"
                " 2^15, and is the rounding that of the shift?"
            )
        return None

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = [
        (torch.tensor([[[[52, 60], [49, 51]]]], dtype=torch.uint8), 0.02, 50, 0.01, 30),
        (torch.full((1, 1, 1, 1), 9, dtype=torch.uint8), 0.1, 0, 0.1, 0),
        (torch.zeros(1, 2, 3, 1, dtype=torch.uint8), 0.1, 200, 0.15, 255),
        (torch.full((2, 1, 4, 4), 255, dtype=torch.uint8), 0.5, 3, 0.01, 0),
        (torch.tensor([47, 49, 51, 53]).to(torch.uint8).view(1, 4, 1, 1), 0.5, 50, 1.0, 9),
        (torch.full((1, 1, 1, 1), 128, dtype=torch.uint8), 0.9999999 / 256, 0, 1.0, 0),
    ]
    few = 0  # cases in which 15 bits are seen
    while few < 6:
        shape = [draw.randint(1, 8), draw.randint(1, 90), draw.randint(1, 6), draw.randint(1, 6)]
        scale = math.exp(draw.uniform(-5, 1))
        q = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
        new_scale = scale * math.exp(draw.uniform(-2, 1))
        case = (q, scale, draw.randrange(256), new_scale, draw.randrange(256))
        real = scale / new_scale * (q.double() - case[2]).mean((2, 3))
        seen = (torch.round(real) + case[4]).clamp(0, 255).ne(reference(*case)).any()
        if seen or len(cases) < 12:
            few += int(seen)
            cases.append(case)
    closed = (quant.rescale, quant.fixed_point, _averages)
    return check(function, reference, cases, explain=explain, closed=closed)


def _averages(
    q: Tensor, scale: float, zero_point: int, new_scale: float, new_zero_point: int
) -> dict[str, Tensor]:
    """The answer, and those of mistakes by what is wrong with them."""
    count = q[0, 0].numel()
    factor = scale / (count * new_scale)
    shift = 15 - math.frexp(factor)[1]
    if round(factor * 2**shift) == 2**15:
        shift -= 1
    m, half = round(factor * 2**shift), 1 << (shift - 1)
    all_of_them = q.long().sum((2, 3))
    sums = all_of_them - count * zero_point
    wrapped = (q - zero_point).long().sum((2, 3)) if q.dtype == torch.uint8 else sums

    def stored(u: Tensor) -> Tensor:
        return (u + new_zero_point).clamp(0, 255)

    right = ((sums * m + half) >> shift) + new_zero_point
    return {
        "right": right.clamp(0, 255),
        "the zero point is taken off the sum once; each of the H · W integers has it": stored(
            (((all_of_them - zero_point) * m) + half) >> shift
        ),
        "the zero point of the input is still in the sum": stored(
            (all_of_them * m + half) >> shift
        ),
        "a difference of uint8 numbers wraps around below 0: make them wider first": stored(
            (wrapped * m + half) >> shift
        ),
        "the shift alone rounds down: add 2^(n − 1) before it": stored((sums * m) >> shift),
        "halves are rounded up, as the shift does": stored(torch.round(sums * (m / 2**shift))),
        "m has 15 bits: where it is rounded up to 2^15, n is one less": stored(
            (sums * min(m, 2**15 - 1) + half) >> shift
        ),
        "κ has to be divided by the H · W addends": stored(torch.round(sums * factor * count)),
        "the new zero point is added before the shift, in other units": (
            ((sums + new_zero_point) * m + half) >> shift
        ).clamp(0, 255),
        "the new zero point is missing": ((sums * m + half) >> shift).clamp(0, 255),
        "it does not end at 0 and 255: clamp": right,
        "it wraps around at 0 and 255: clamp before the type is uint8": right % 256,
    }


def pack_student(function: Callable, kilobytes: float, accuracy: float) -> Verdict:
    """The student in a file of `save_quantized` that the function writes; on validation."""
    FILE.unlink(missing_ok=True)
    name = getattr(function, "__name__", "your answer")
    try:
        function(FILE)
    except NotImplementedError:
        return Verdict(False, f"Your turn: {name} is not written yet.")
    except Exception as error:
        return Verdict(False, f"✗ {name}(path) raises {type(error).__name__}: {error}")
    return packed(kilobytes, accuracy)


def packed(kilobytes: float, accuracy: float, split: data.SplitName = "validation") -> Verdict:
    """What is in the file that `pack_student` had written."""
    if not FILE.is_file():
        return Verdict(False, f"✗ pack_student has written no file {FILE}")
    untrained = quant.fold_batch_norm(models.build("student").eval())
    try:
        network = quant.load_quantized(untrained, FILE)
    except CheckpointError as error:
        return Verdict(False, f"✗ no quantized student with folded batch norms: {error}")
    size = FILE.stat().st_size / 1000
    if size > kilobytes:
        return Verdict(False, f"✗ the file has {size:,.2f} kB; {kilobytes:g} are allowed")
    found = training.evaluate(network, data.load(split))
    if not found >= accuracy:
        return Verdict(
            False, f"✗ {size:.2f} kB, but {found:.2f} % on {split}; {accuracy:g} are asked"
        )
    return Verdict(True, f"✓ {size:.2f} kB, {found:.2f} % on {split}")


def shared_bytes(function: Callable, seed: int = 0) -> Verdict:
    """What a weight takes with a codebook for each filter, or without where that is less."""

    def reference(shape: tuple[int, ...], values: int) -> int:
        return _shared(shape, values)["right"]

    def explain(found: float, expected: int, shape: tuple[int, ...], values: int) -> str | None:
        for name, other in _shared(shape, values).items():
            if abs(float(found) - other) < 1e-6 and name != "right":
                return f"{expected:,} bytes, yours gives {float(found):,.10g}: {name}"
        return f"{expected:,} bytes, yours gives {float(found):,.10g}"

    draw = random.Random(seed)
    cases = [((64, 64, 1, 1), 16), ((32, 1, 3, 3), 16), ((10, 128), 12), ((1, 1), 1), ((3, 40), 1)]
    for _ in range(30):
        rest = draw.choice(((), (1, 1), (3, 3)))
        cases.append(((draw.randint(1, 64), draw.randint(1, 200), *rest), draw.randint(1, 64)))
    return check(
        function, reference, cases, explain=explain, closed=(coding.share_weights, _shared)
    )


def _shared(shape: tuple[int, ...], values: int) -> dict[str, float]:
    """The answer, and those of mistakes by what is wrong with them."""
    filters, weights = shape[0], math.prod(shape)
    word, plain = math.ceil(math.log2(values)), 4 * weights
    indices = math.ceil(weights * word / 8)
    book = 4 * filters * values
    fractions = math.ceil(weights * math.log2(values) / 8)
    floor = math.ceil(weights * math.floor(math.log2(values)) / 8)
    length = math.ceil(weights * values.bit_length() / 8)
    return {
        "right": min(plain, indices + book),
        f"an index of {values} values has {word} bits, not fewer": min(plain, floor + book),
        f"an index of {values} values has {word} bits, not more": min(plain, length + book),
        "the codebooks are missing": min(plain, indices),
        "the codebooks are missing, and an index has whole bits": weights * math.log2(values) / 8,
        "every filter has a codebook of its own": min(plain, indices + 4 * values),
        "an index has whole bits": min(plain, fractions + book),
        "an index has whole bits, and the row of indices whole bytes": min(
            plain, weights * math.log2(values) / 8 + book
        ),
        "where codebooks take more than the weights do, the weights are kept": indices + book,
        "the row of indices is filled up to whole bytes": min(plain, weights * word // 8 + book),
        "the row of indices is filled up to whole bytes, not less": min(
            plain, weights * word / 8 + book
        ),
        "every index as a whole byte is more than is needed": min(plain, weights + book),
        "a shared value takes four bytes, not one": min(plain, indices + filters * values),
    }
