"""slimcnn.metrics, paired comparison: exact tests by hand, the bootstrap by enumeration."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimcnn import metrics
from slimcnn.metrics.comparison import _resampled_sums


def discordant(only_a: int, only_b: int, both: int = 0, neither: int = 0) -> tuple[Tensor, Tensor]:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return torch.tensor(a, dtype=torch.bool), torch.tensor(b, dtype=torch.bool)


# ---------------------------------------------------------------- McNemar


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (0, 1, 1.0),
        (0, 2, 2 / 4),
        (0, 5, 2 / 32),
        (1, 5, 2 * (1 + 6) / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
        (3, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, p_value):
    a, b = discordant(only_a, only_b, both=7, neither=3)
    assert metrics.mcnemar(a, b) == metrics.McNemar(only_a, only_b, pytest.approx(p_value))
    assert metrics.mcnemar(b, a) == metrics.McNemar(only_b, only_a, pytest.approx(p_value))


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_the_sum_over_all_outcomes_as_uneven(only_a, only_b):
    n = only_a + only_b
    as_uneven = sum(math.comb(n, i) for i in range(n + 1) if abs(2 * i - n) >= abs(only_a - only_b))
    expected = float(Fraction(as_uneven, 2**n))
    a, b = discordant(only_a, only_b, both=1)
    assert metrics.mcnemar(a, b).p_value == pytest.approx(expected, rel=1e-12)


def test_mcnemar_of_many_images_neither_overflows_nor_rounds_up():
    assert metrics.mcnemar(*discordant(10_000, 10_000)).p_value == 1.0
    assert metrics.mcnemar(*discordant(10_000, 0)).p_value == 0.0  # 2 / 2**10000 underflows
    # With n = 10,000 the normal distribution is close: 100 apart is one deviation.
    expected = math.erfc((100 - 1) / math.sqrt(2 * 10_000))
    p_value = metrics.mcnemar(*discordant(4_950, 5_050)).p_value
    assert p_value == pytest.approx(expected, rel=1e-3)


def test_mcnemar_is_for_one_pair_of_networks():
    a, b = torch.ones(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(images,\) is needed"):
        metrics.mcnemar(a, b)


# ---------------------------------------------------------------- the bootstrap, exactly


def as_correct(difference: np.ndarray) -> tuple[Tensor, Tensor]:
    """Answers of two networks whose difference is the given matrix of -1, 0, 1."""
    return torch.from_numpy(difference < 0), torch.from_numpy(difference > 0)


def all_resamples(difference: np.ndarray) -> np.ndarray:
    """The sum of every possible crossed resample, each as likely as any other."""
    seeds, images = difference.shape
    return np.array(
        [
            difference[np.ix_(rows, columns)].sum()
            for rows in itertools.product(range(seeds), repeat=seeds)
            for columns in itertools.product(range(images), repeat=images)
        ]
    )


@pytest.mark.parametrize(
    "difference",
    [
        [[1, 0, -1, 1, 0]],
        [[1, 0, 0, 1], [0, 1, 0, 1]],
        [[1, 0, -1], [1, 1, -1], [0, 0, 0]],
        [[1, 1, 1, 1], [-1, -1, -1, -1]],
    ],
)
def test_resamples_are_distributed_as_by_drawing_rows_and_columns(difference):
    difference = np.array(difference, np.int8)
    exact = all_resamples(difference)
    drawn = _resampled_sums(difference, 200_000, np.random.default_rng(1))
    assert set(drawn) <= set(exact)
    for value in np.unique(exact):
        share = np.mean(exact == value)
        error = 5 * math.sqrt(share * (1 - share) / len(drawn)) + 1e-12
        assert abs(np.mean(drawn == value) - share) < error
    result = metrics.paired_bootstrap(*as_correct(difference), resamples=50_000, confidence=0.8)
    assert result.difference == pytest.approx(100 * difference.mean())
    for end, level in ((result.low, 0.1), (result.high, 0.9)):
        value = round(end / 100 * difference.size)
        assert np.mean(exact < value) < level + 0.01
        assert np.mean(exact <= value) > level - 0.01


def test_the_interval_agrees_with_a_plain_loop():
    generator = np.random.default_rng(5)
    a = generator.random((3, 300)) < 0.8
    b = np.where(generator.random((3, 300)) < 0.3, generator.random((3, 300)) < 0.9, a)
    loop = []
    for _ in range(4000):
        rows, columns = generator.integers(3, size=3), generator.integers(300, size=300)
        drawn = np.ix_(rows, columns)
        loop.append(100 * (b[drawn].mean() - a[drawn].mean()))
    result = metrics.paired_bootstrap(torch.from_numpy(a), torch.from_numpy(b))
    assert result.difference == pytest.approx(100 * (b.mean() - a.mean()))
    assert result.low == pytest.approx(np.quantile(loop, 0.025), abs=0.2)
    assert result.high == pytest.approx(np.quantile(loop, 0.975), abs=0.2)


def test_with_one_seed_the_width_is_that_of_the_paired_variance():
    # 300 and 500 discordant images of 10,000: the deviation of the mean difference is
    # sqrt((0.08 - 0.02²) / 10,000), the interval ± 1.96 of these.
    a, b = discordant(300, 500, both=9200)
    result = metrics.paired_bootstrap(a, b)
    deviation = 100 * math.sqrt((0.08 - 0.02**2) / 10_000)
    assert result.difference == 2.0
    assert result.low == pytest.approx(2 - 1.96 * deviation, abs=0.03)
    assert result.high == pytest.approx(2 + 1.96 * deviation, abs=0.03)
    assert metrics.paired_bootstrap(a[None], b[None]) == result


def test_seeds_are_resampled_too():
    # Two seeds, +100 and −100 on every image: images do not matter, seeds decide all.
    result = metrics.paired_bootstrap(*as_correct(np.array([[1] * 50, [-1] * 50])))
    assert result == metrics.PairedDifference(0.0, -100.0, 100.0)


def test_seeds_share_their_images():
    # The same answers in three seeds know no more than in one: the interval is as wide.
    a, b = discordant(30, 50, both=920)
    one = metrics.paired_bootstrap(a, b)
    three = metrics.paired_bootstrap(a.expand(3, -1), b.expand(3, -1))
    assert three.difference == pytest.approx(one.difference)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


# ---------------------------------------------------------------- the bootstrap, laws


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**31))
def test_equal_networks_differ_by_exactly_nothing(seeds, images, seed):
    correct = torch.rand(seeds, images, generator=torch.Generator().manual_seed(seed)) < 0.9
    result = metrics.paired_bootstrap(correct, correct.clone(), resamples=50)
    assert result == metrics.PairedDifference(0.0, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(70,), (3, 70)])
def test_a_constant_difference_is_certain(shape):
    wrong, right = torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    assert metrics.paired_bootstrap(wrong, right) == metrics.PairedDifference(100.0, 100.0, 100.0)
    assert metrics.paired_bootstrap(right, wrong).low == -100.0


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 30), st.integers(0, 2**31))
def test_swapping_the_networks_turns_the_sign(seeds, images, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(seeds, images, generator=generator) < 0.7
    b = torch.rand(seeds, images, generator=generator) < 0.8
    one = metrics.paired_bootstrap(a, b, resamples=200)
    other = metrics.paired_bootstrap(b, a, resamples=200)
    assert one.difference == -other.difference
    expected = 100 * float(b.double().mean() - a.double().mean())
    assert one.difference == pytest.approx(expected, abs=1e-9)
    assert -100 <= one.low <= one.high <= 100


def test_the_seed_decides_and_confidence_widens():
    a, b = discordant(30, 45, both=400)
    assert metrics.paired_bootstrap(a, b, seed=3) == metrics.paired_bootstrap(a, b, seed=3)
    few = [metrics.paired_bootstrap(a, b, seed=s, resamples=100) for s in range(4)]
    assert len({(result.low, result.high) for result in few}) > 1
    narrow = metrics.paired_bootstrap(a, b, confidence=0.5)
    wide = metrics.paired_bootstrap(a, b, confidence=0.99)
    assert wide.low < narrow.low < wide.difference < narrow.high < wide.high


def test_many_resamples_are_drawn_in_parts():
    difference = np.random.default_rng(0).integers(-1, 2, (8, 2000)).astype(np.int8)
    sums = _resampled_sums(difference, 5000, np.random.default_rng(0))  # 3 parts of ≤ 2^22
    assert sums.shape == (5000,)
    expected = difference.sum()
    assert abs(sums.mean() - expected) < 5 * sums.std() / math.sqrt(5000)
    assert sums[-100:].std() > 0


def test_one_resample_is_allowed():
    result = metrics.paired_bootstrap(*discordant(5, 9), resamples=1)
    assert result.low == result.high


def test_the_interval_covers_as_often_as_it_says():
    # True difference: 8 − 4 = 4 points. 400 test sets of 300 images.
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(400):
        draw = torch.rand(300, generator=generator)
        result = metrics.paired_bootstrap(draw < 0.04, draw > 0.92, seed=trial, resamples=1000)
        covered += result.low <= 4 <= result.high
    assert 0.91 < covered / 400 < 0.98


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("compare", [metrics.mcnemar, metrics.paired_bootstrap])
def test_bad_answers_are_refused(compare):
    right = torch.ones(4, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"correct_b is torch\.float32"):
        compare(right, right.float())
    with pytest.raises(TypeError, match="correct_a is list"):
        compare([True], right)
    with pytest.raises(ValueError, match="same images"):
        compare(right, right[:3])
    with pytest.raises(ValueError, match="not empty"):
        compare(right[:0], right[:0])
    with pytest.raises(ValueError, match="is needed"):
        compare(right[None, None], right[None, None])


def test_bad_settings_are_refused():
    right = torch.ones(4, dtype=torch.bool)
    for confidence in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="between 0 and 1"):
            metrics.paired_bootstrap(right, right, confidence=confidence)
    with pytest.raises(ValueError, match="resamples is 0"):
        metrics.paired_bootstrap(right, right, resamples=0)


def test_a_paired_difference_prints_its_signs_and_its_interval():
    assert str(metrics.PairedDifference(-0.456, -0.68, 0.0)) == "-0.46 points (-0.68 to +0.00)"
