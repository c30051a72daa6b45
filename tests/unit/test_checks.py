"""slimcnn.checks: right answers pass, the classic mistakes do not, liars do not."""

import math

import numpy as np
import pytest
import torch

from slimcnn import pruning
from slimcnn.checks import (
    check,
    codes,
    deploying,
    distilling,
    few_bits,
    integer_arithmetic,
    low_rank,
    measuring,
    phones,
    plain,
    pruning_channels,
    pruning_weights,
    sparse_formats,
    sparse_patterns,
)


def double(x):
    return 2 * x


CASES = [(1.5,), (torch.arange(3.0),)]


def test_a_right_function_passes_and_the_check_says_how_many_cases():
    def twice(x):
        return x + x

    verdict = check(twice, double, CASES)
    assert verdict.passed
    assert repr(verdict) == "✓ twice is right in all 2 cases"
    assert verdict.require() is verdict
    with pytest.raises(AssertionError, match=r"3 is expected, yours gives 4\.5"):
        check(lambda x: 3 * x, double, CASES).require()


def test_numbers_of_numpy_are_numbers():
    assert check(lambda x: np.asarray(x) + np.asarray(x), double, CASES).passed
    assert not check(lambda x: np.asarray(x) + 1, double, CASES).passed

    class Array(np.ndarray):
        def tolist(self):
            return [0.0, 2.0, 4.0]

    assert not check(lambda x: np.zeros(3).view(Array), double, CASES[1:]).passed


def test_an_explanation_is_for_answers_of_the_right_kind():
    def explain(found, expected, x):
        return f"{found / x:g} times, not {expected / x:g}" if x == 1.5 else None

    assert "(1.5): 4 times, not 2" in repr(check(lambda x: 4 * x, double, CASES, explain=explain))
    assert "4 is expected, yours gives 8" in repr(
        check(lambda x: 4 * x, double, [(2.0,)], explain=explain)
    )
    assert "is expected, yours is a str" in repr(check(str, double, CASES, explain=explain))


def test_what_is_not_written_yet_is_no_error():
    def todo(x):
        raise NotImplementedError("your turn")

    assert repr(check(todo, double, CASES)) == "Your turn: todo is not written yet."


def test_a_wrong_value_is_shown_with_its_input():
    verdict = check(lambda x: 3 * x, double, CASES)
    assert not verdict.passed
    assert "(1.5): 3 is expected, yours gives 4.5" in repr(verdict)


def test_wrong_shape_exception_and_unanswered():
    assert "shape (3,) is expected" in repr(check(lambda x: 2 * x.sum(), double, CASES[1:]))
    assert "raises KeyError" in repr(check(lambda x: {}[x], double, CASES))

    def todo(x):
        return ...

    assert not check(todo, double, CASES).passed
    assert "todo returns Ellipsis so far" in repr(check(todo, double, CASES))


def test_an_object_that_equals_everything_does_not_pass():
    class Liar(float):
        def __eq__(self, other):
            return True

        __hash__ = float.__hash__

    class LyingTensor(torch.Tensor):
        def double(self):
            return torch.full(self.shape, 3.0, dtype=torch.float64)

    assert not check(lambda x: Liar(9), double, [(1.5,)]).passed
    assert not check(lambda x: torch.zeros(()).as_subclass(LyingTensor), double, [(1.5,)]).passed


def test_changing_the_arguments_is_noticed():
    def in_place(x):
        y = 2 * x
        x.zero_()
        return y

    assert "changes its arguments" in repr(check(in_place, double, CASES[1:]))
    x = torch.arange(3.0)
    check(in_place, double, [(x,)])
    assert torch.equal(x, torch.arange(3.0))  # the caller's tensor is safe


def test_tuples_compare_item_by_item_and_nan_equals_nan():
    def pair(x):
        return x, float("nan")

    def same(x):
        return (x, math.nan)

    assert check(same, pair, CASES).passed
    assert not check(lambda x: (x, 0.0), pair, CASES).passed
    assert not check(lambda x: (x,), pair, CASES).passed


def test_no_cases_is_an_error():
    with pytest.raises(ValueError, match="at least one case"):
        check(double, double, [])


def chain(macs, kept, inputs_of=lambda kept, i: kept[i - 1] if i else 1.0):
    return sum(m * kept[i] * inputs_of(kept, i) for i, m in enumerate(macs))


def unpack(pairs, length, fill=lambda gap: gap):
    numbers = [0.0] * length
    place = 0
    for gap, value in pairs:
        place += fill(gap)
        numbers[place] = value
        place += 1
    return numbers


def kernels(scores, sparsity, reduce=lambda s: s.sum((2, 3))):
    if sparsity == 1:
        return torch.zeros(scores.shape, dtype=torch.bool)
    order = reduce(scores).flatten().argsort()
    mask = torch.ones(len(order), dtype=torch.bool)
    mask[order[: round(sparsity * len(order))]] = False
    return mask.view(*scores.shape[:2], 1, 1).repeat(1, 1, *scores.shape[2:])


def soft(z_s, z_t, temperature, factor=lambda t, b, k: t / b, sign=1):
    difference = torch.softmax(z_s / temperature, 1) - torch.softmax(z_t / temperature, 1)
    return sign * factor(temperature, *z_s.shape) * difference


def soft_by_autograd(z_s, z_t, temperature):
    z_s = z_s.clone().requires_grad_()
    log_s, log_t = (z_s / temperature).log_softmax(1), (z_t / temperature).log_softmax(1)
    loss = temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
    return torch.autograd.grad(loss, z_s)[0]


def allowed(offers, runtime, oldest=lambda oldest, runtime: oldest <= runtime):
    return [v for v, needed, gone in offers if oldest(needed, runtime) and not gone]


RIGHT = {
    phones.next_version: [
        lambda offers, runtime: max([0, *allowed(offers, runtime)]),
        lambda offers, runtime: (sorted(allowed(offers, runtime)) or [0])[-1],
    ],
    pruning_weights.cubic: [
        lambda t, T, a, b: pruning.cubic(min(t / T, 1.0), final=b, initial=a),
        lambda t, T, a, b: b if t >= T else b - (b - a) * ((T - t) / T) ** 3,
    ],
    pruning_channels.chain_macs: [
        chain,
        lambda macs, kept: float(np.dot(macs, np.multiply(kept, [1.0, *kept[:-1]]))),
    ],
    sparse_formats.from_pairs: [
        unpack,
        lambda pairs, n: ([x for gap, value in pairs for x in [0.0] * gap + [value]] + [0.0] * n)[
            :n
        ],
    ],
    sparse_patterns.kernel_mask: [kernels],
    low_rank.channel_break_even: [
        lambda i, o, k: max(r for r in range(o) if r * (i * k * k + o) < i * o * k * k),
    ],
    low_rank.tensor_weights: [
        lambda i, o, k, a, b, r: [b * (i + a * k * k) + a * o, r * i + r * o + r * k * k],
    ],
    codes.entropy: [
        lambda n: float(np.log2(sum(n)) - sum(c * np.log2(c) for c in n if c) / sum(n)),
    ],
    deploying.folded_normalization: [
        lambda w, b, m, s: (
            w / (255 * s[None, :, None, None]),
            b - torch.einsum("oikl,i->o", w, m / s),
        ),
    ],
    deploying.answers_until_even: [
        lambda a, p, b, q: next(
            (n for n in range(1, 10**4) if b + (n - 1) * q <= a + (n - 1) * p), 0
        ),
    ],
    few_bits.step_gradient: [
        lambda x, s, a, b: min(max(round(x / s), a), b) - (x / s if a < x / s < b else 0.0),
    ],
    few_bits.corrected_bias: [
        lambda w, b, r, x: b + (x @ w.T).mean(0) - (x @ r.T).mean(0),
    ],
    integer_arithmetic.requantize: [
        lambda t, m, n, z: int(np.clip((t * m + 2 ** (n - 1)) // 2**n + z, 0, 255)),
    ],
    distilling.soft_gradient: [soft, soft_by_autograd],
    distilling.attention_map: [
        lambda x: torch.nn.functional.normalize(x.pow(2).sum(1).reshape(len(x), -1)),
    ],
    measuring.separable_macs: [
        lambda c, d, k, h, w: h * w * c * (k * k + d),
        lambda c, d, k, h, w: float(c * k**2 * h * w + c * d * h * w),
    ],
    measuring.median_and_iqr: [
        lambda t: (float(np.median(t)), float(np.subtract(*np.percentile(t, [75, 25])))),
        lambda t: (
            torch.tensor(np.median(t)),
            torch.tensor(np.subtract(*np.percentile(t, [75, 25]))),
        ),
    ],
    measuring.fixed_and_broken: [
        lambda a, b, y: (((a != y) & (b == y)).sum(), ((a == y) & (b != y)).sum()),
        lambda a, b, y: (
            sum(
                int(j == k != i) for i, j, k in zip(a.tolist(), b.tolist(), y.tolist(), strict=True)
            ),
            sum(
                int(i == k != j) for i, j, k in zip(a.tolist(), b.tolist(), y.tolist(), strict=True)
            ),
        ),
    ],
}

WRONG = {
    phones.next_version: [
        lambda offers, runtime: max((v for v, _, _ in offers), default=0),
        lambda offers, runtime: max((v for v, old, _ in offers if old <= runtime), default=0),
        lambda offers, runtime: max((v for v, _, gone in offers if not gone), default=0),
        lambda offers, runtime: max(allowed(offers, runtime)),  # the app has a network, too
        lambda offers, runtime: [0, *allowed(offers, runtime)][-1],  # the last one listed
        lambda offers, runtime: max([0, *allowed(offers, runtime, lambda a, b: a < b)]),
        lambda offers, runtime: max([0, *allowed(offers, runtime, lambda a, b: a >= b)]),
        lambda offers, runtime: max([0, *allowed(offers, runtime, lambda a, b: str(a) <= str(b))]),
    ],
    codes.entropy: [
        lambda n: sum(-c / sum(n) * np.log(c / sum(n)) for c in n if c),  # nats
        lambda n: sum(-c * np.log2(c / sum(n)) for c in n if c),  # of all symbols together
        lambda n: float(np.log2(len(n))),
        lambda n: sum(c / sum(n) * np.log2(c / sum(n)) for c in n if c) + 0.0,  # the sign
        lambda n: sum(-c / sum(n) * np.log2(c / sum(n)) for c in n),  # zeros
    ],
    deploying.folded_normalization: [
        lambda w, b, m, s: (
            w / s.view(-1, 1, 1),  # pixels from 0 to 1
            b - (w * (m / s).view(-1, 1, 1)).sum((1, 2, 3)),
        ),
        lambda w, b, m, s: (
            w / (255 * s.view(-1, 1, 1)),
            b + (w * (m / s).view(-1, 1, 1)).sum((1, 2, 3)),  # the sign
        ),
        lambda w, b, m, s: (
            w / (255 * s.view(-1, 1, 1)),
            b - (w * m.view(-1, 1, 1)).sum((1, 2, 3)),  # deviation forgotten
        ),
        lambda w, b, m, s: (
            w / (255 * s.view(-1, 1, 1)),
            b - (w / 255 * (m / s).view(-1, 1, 1)).sum((1, 2, 3)),
        ),
        lambda w, b, m, s: (w / (255 * s.view(-1, 1, 1)), b),
    ],
    deploying.answers_until_even: [
        lambda a, p, b, q: 0 if q >= p else 1 + max(0, -((a - b) // (p - q))),  # b first
        lambda a, p, b, q: 1 if b <= a else 0 if q >= p else -((a - b) // (p - q)),
        lambda a, p, b, q: 1 if b <= a else 0 if q >= p else 1 + (b - a) // (p - q),
        lambda a, p, b, q: 1 if b <= a else 0 if q >= p else -(-b // (p - q)),
        lambda a, p, b, q: 1 if b <= a else 1 + abs((b - a) // (p - q)) if p != q else 0,
    ],
    few_bits.step_gradient: [
        lambda x, s, a, b: round(x / s) - x / s,  # nothing is clipped
        lambda x, s, a, b: float(min(max(round(x / s), a), b)),  # the inner derivative forgotten
        lambda x, s, a, b: x / s - round(x / s) if a < x / s < b else float(min(max(x / s, a), b)),
        lambda x, s, a, b: round(x / s) - x / s if a < x / s < b else 0.0,
    ],
    few_bits.corrected_bias: [
        lambda w, b, r, x: b + x.mean(0) @ (r - w).T,  # the sign
        lambda w, b, r, x: b - (r - w).sum(1),  # as if inputs were 1
        lambda w, b, r, x: b - x.sum(0) @ (r - w).T,
        lambda w, b, r, x: -(x.mean(0) @ (r - w).T),  # the bias forgotten
        lambda w, b, r, x: b - (x @ (r - w).T).mean(),  # one number for all
    ],
    integer_arithmetic.requantize: [
        lambda t, m, n, z: int(np.clip((t * m >> n) + z, 0, 255)),  # rounds down
        lambda t, m, n, z: int(np.clip(int(t * m / 2**n) + z, 0, 255)),  # towards zero
        lambda t, m, n, z: int(np.clip(round(t * m / 2**n) + z, 0, 255)),  # halves to even
        lambda t, m, n, z: (t * m + 2 ** (n - 1) >> n) + z & 255,  # wraps around
        lambda t, m, n, z: int(np.clip(t * m + 2 ** (n - 1) >> n, 0, 255)) + z,
        lambda t, m, n, z: int(np.clip(((t - z) * m + 2 ** (n - 1)) >> n, 0, 255)),
    ],
    low_rank.tensor_weights: [
        lambda i, o, k, a, b, r: (i * a + a * b * k * k + b * o, r * (i + o + k * k)),  # swapped
        lambda i, o, k, a, b, r: (i * b + a * b + a * o, r * (i + o + k * k)),
        lambda i, o, k, a, b, r: (
            i * b + a * b * k * k + a * o,
            r * (i + o + 2 * k),
        ),  # four layers
        lambda i, o, k, a, b, r: (i * b + a * b * k * k + a * o, r * i + r * r * k * k + r * o),
    ],
    low_rank.channel_break_even: [
        lambda i, o, k: i * o * k * k // (i * k * k + o),  # not fewer, but as many, at 64×64
        lambda i, o, k: (i * o * k * k - 1) // (i + o * k * k),  # the input scheme
        lambda i, o, k: (i * o - 1) // (i + o),  # the kernel forgotten
        lambda i, o, k: i * o * k * k / (i * k * k + o),  # no whole number
    ],
    pruning_weights.cubic: [
        lambda t, T, a, b: b + (a - b) * (1 - t / T) ** 3,  # goes on after the last step
        lambda t, T, a, b: b + (a - b) * (1 - min(t / T, 1)) ** 2,
        lambda t, T, a, b: a + (b - a) * min(t / T, 1) ** 3,  # slow first, fast at the end
        lambda t, T, a, b: b * (1 - (1 - min(t / T, 1)) ** 3),  # always from zero
        lambda t, T, a, b: a + (b - a) * min(t / T, 1),  # a straight line
    ],
    pruning_channels.chain_macs: [
        lambda macs, kept: sum(m * k for m, k in zip(macs, kept, strict=True)),  # outputs alone
        lambda macs, kept: sum(m * k * k for m, k in zip(macs, kept, strict=True)),
        lambda macs, kept: chain(macs, kept, lambda kept, i: kept[i - 1]),  # the image is pruned
        lambda macs, kept: sum(macs) * float(np.mean(kept)) ** 2,
    ],
    sparse_formats.from_pairs: [
        lambda pairs, n: unpack(pairs, n + 9)[
            : sum(g + 1 for g, _ in pairs)
        ],  # no zeros at the end
        lambda pairs, n: unpack([p for p in pairs if p[1]], n),  # fillers dropped with their gaps
        lambda pairs, n: ([v for _, v in pairs] + [0.0] * n)[:n],
        lambda pairs, n: unpack(pairs, 4 * n + 40, lambda gap: gap + 1)[:n],  # one zero too many
    ],
    sparse_patterns.kernel_mask: [
        lambda s, sparsity: pruning.mask_of(s, sparsity),  # single weights
        lambda s, sparsity: ~kernels(s, sparsity),  # the best go
        lambda s, sparsity: kernels(s, sparsity, lambda s: s.amax((2, 3))),
        lambda s, sparsity: kernels(s, sparsity)[:, :, 0, 0],  # the shape of the kernels
        lambda s, sparsity: kernels(s, round(sparsity, 1)),
    ],
    distilling.attention_map: [
        lambda x: torch.nn.functional.normalize(x.abs().mean(1).flatten(1)),
        lambda x: torch.nn.functional.normalize(x.mean(1).square().flatten(1)),
        lambda x: x.square().mean(1).flatten(1).softmax(1),
        lambda x: x.square().mean(1).flatten(1) / x.square().mean(1).sum((1, 2))[:, None],
        lambda x: torch.nn.functional.normalize(x.square().mean((2, 3))),  # over positions
    ],
    distilling.soft_gradient: [
        lambda s, t, T: soft(s, t, T, sign=-1),
        lambda s, t, T: soft(s, t, T, lambda T, b, k: 1 / (T * b)),  # T² forgotten
        lambda s, t, T: soft(s, t, T, lambda T, b, k: T**2 / b),  # and 1/T forgotten
        lambda s, t, T: soft(s, t, T, lambda T, b, k: T / (b * k)),  # reduction="mean"
        lambda s, t, T: soft(s, t, T, lambda T, b, k: T),  # a sum over the batch
        lambda s, t, T: soft(s, t, 1.0),
    ],
    measuring.separable_macs: [
        lambda c, d, k, h, w: h * w * c * d * k * k,  # a dense convolution
        lambda c, d, k, h, w: c * (k * k + d),  # parameters, not MACs
        lambda c, d, k, h, w: 2 * h * w * c * (k * k + d),  # FLOPs
        lambda c, d, k, h, w: h * w * d * (k * k + c),  # depthwise on the output channels
    ],
    measuring.median_and_iqr: [
        lambda t: (float(np.mean(t)), float(np.subtract(*np.percentile(t, [75, 25])))),
        lambda t: (float(np.median(t)), float(np.max(t) - np.min(t))),
        lambda t: (sorted(t)[len(t) // 2], float(np.subtract(*np.percentile(t, [75, 25])))),
        lambda t: (float(np.median(t)), float(np.std(t))),
    ],
    measuring.fixed_and_broken: [
        lambda a, b, y: (((a == y) & (b != y)).sum(), ((a != y) & (b == y)).sum()),  # swapped
        lambda a, b, y: ((a != b).sum(), (a != b).sum()),  # disagreements
        lambda a, b, y: ((b == y).sum() - (a == y).sum(), 0),  # the net difference
        lambda a, b, y: ((b == y).sum(), (a == y).sum()),
    ],
}


@pytest.mark.parametrize("task", RIGHT, ids=lambda t: t.__name__)
def test_other_right_solutions_are_accepted(task):
    for solution in RIGHT[task]:
        assert task(solution).passed, repr(task(solution))


class Liar(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Small(float):
    def __sub__(self, other):
        return 0.0


class Told(dict):
    def __getitem__(self, key):
        return "right"


@pytest.mark.parametrize(
    "answer", [Liar("A"), Small(3), Told(a=1), ["A", Liar("B")], {"x": (1, Small(2))}, None, ...]
)
def test_plain_refuses_what_may_lie(answer):
    with pytest.raises(AssertionError, match="a plain number or text is asked"):
        plain(answer)


def test_plain_gives_pythons_own():
    found = plain({"a": [np.float64(0.5), np.str_("b")], "c": (1, True, "d")})
    assert found == {"a": [0.5, "b"], "c": (1, True, "d")}
    assert [type(part) for part in found["a"]] == [float, str]


@pytest.mark.parametrize("task", WRONG, ids=lambda t: t.__name__)
def test_classic_mistakes_are_refused(task):
    for solution in WRONG[task]:
        assert not task(solution).passed
