"""slimcnn.checks: right answers pass, the classic mistakes do not, liars do not."""

import numpy as np
import pytest
import torch

from slimcnn.checks import check, measuring


def double(x):
    return 2 * x


CASES = [(1.5,), (torch.arange(3.0),)]


def test_the_reference_itself_passes_and_says_how_many_cases():
    verdict = check(double, double, CASES)
    assert verdict.passed
    assert repr(verdict) == "✓ double is right in all 2 cases"


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

    assert check(pair, pair, CASES).passed
    assert not check(lambda x: (x, 0.0), pair, CASES).passed
    assert not check(lambda x: (x,), pair, CASES).passed


def test_no_cases_is_an_error():
    with pytest.raises(ValueError, match="at least one case"):
        check(double, double, [])


RIGHT = {
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


@pytest.mark.parametrize("task", WRONG, ids=lambda t: t.__name__)
def test_classic_mistakes_are_refused(task):
    for solution in WRONG[task]:
        assert not task(solution).passed
