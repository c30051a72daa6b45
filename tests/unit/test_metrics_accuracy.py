"""slimcnn.metrics, accuracy and calibration: hand examples, laws, refusals."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimcnn import metrics

# Five images, three classes. Predictions 0, 1, 2, 0, 1; labels 0, 1, 1, 2, 1.
LOGITS = torch.tensor(
    [[5.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 3.0], [9.0, -1.0, 8.0], [1.0, 1.5, 1.0]]
)
LABELS = torch.tensor([0, 1, 1, 2, 1])


def with_confidences(confidences: list[float], right: list[bool]) -> tuple[Tensor, Tensor]:
    """Two-class logits with these largest probabilities (each above ½) and right answers."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1).log(), 1 - torch.tensor(right).long()


# ---------------------------------------------------------------- accuracy


def test_accuracy_by_hand():
    assert metrics.accuracy(LOGITS, LABELS) == 60.0
    assert metrics.accuracy(LOGITS[:2], LABELS[:2]) == 100.0
    assert metrics.accuracy(LOGITS[2:4], LABELS[2:4]) == 0.0


def test_of_tied_logits_the_first_counts():
    assert metrics.accuracy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 50.0


def test_per_class_accuracy_by_hand():
    result = metrics.per_class_accuracy(LOGITS, LABELS, num_classes=4)
    expected = torch.tensor([100.0, 200 / 3, 0.0, math.nan])
    torch.testing.assert_close(result, expected, equal_nan=True)


def test_per_class_accuracy_defaults_to_ten_classes():
    labels = torch.arange(10).repeat(3)
    logits = torch.eye(10).repeat(3, 1)
    logits[20:] = logits[20:].roll(1, dims=1)
    torch.testing.assert_close(
        metrics.per_class_accuracy(logits, labels), torch.full((10,), 200 / 3)
    )


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31))
def test_accuracy_is_the_mean_of_the_classes_weighted_by_their_images(images, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 4, generator=generator)
    labels = torch.randint(4, (images,), generator=generator)
    per_class = metrics.per_class_accuracy(logits, labels, 4).nan_to_num(0.0).double()
    weights = torch.bincount(labels, minlength=4) / images
    assert float(per_class @ weights.double()) == pytest.approx(metrics.accuracy(logits, labels))


def test_agreement_by_hand():
    other = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]])
    assert metrics.agreement(LOGITS, other) == metrics.agreement(other, LOGITS) == 60.0
    assert metrics.agreement(LOGITS, 3 * LOGITS + 1) == 100.0


def test_logits_that_need_gradients_or_have_another_type_are_fine():
    for logits in (LOGITS.clone().requires_grad_(), LOGITS.bfloat16(), LOGITS.double()):
        assert metrics.accuracy(logits, LABELS) == 60.0
        assert metrics.agreement(logits, logits) == 100.0
        assert metrics.expected_calibration_error(logits, LABELS) > 0
    assert metrics.accuracy(LOGITS, LABELS.to(torch.uint8)) == 60.0


# ---------------------------------------------------------------- Wilson's interval


def test_wilson_interval_by_hand():
    # 8 of 10 with z = 1.959964: centre (0.8 + 0.192073) / 1.384146 = 0.716740, half width
    # 1.959964 · √(0.016 + 0.009604) / 1.384146 = 0.226574.
    low, high = metrics.wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(49.0162, abs=1e-3), pytest.approx(94.3318, abs=1e-3))
    # At a test set of 10,000 and 94 %: ± 0.47 points, the number that the book keeps quoting.
    low, high = metrics.wilson_interval(9400, 10_000)
    assert (high - low) / 2 == pytest.approx(0.4657, abs=1e-4)


def test_wilson_interval_at_the_edges():
    z2 = NormalDist().inv_cdf(0.975) ** 2
    assert metrics.wilson_interval(0, 20) == (0.0, pytest.approx(100 * z2 / (20 + z2)))
    assert metrics.wilson_interval(20, 20) == (pytest.approx(100 * 20 / (20 + z2)), 100.0)


@settings(deadline=None)
@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_interval_laws(total, fraction, confidence):
    correct = round(fraction * total)
    low, high = metrics.wilson_interval(correct, total, confidence)
    assert 0 <= low <= 100 * correct / total <= high <= 100
    # The ends are the accuracies from which the observed one is exactly z deviations away.
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    for end in (low / 100, high / 100):
        distance = (correct / total - end) ** 2
        assert distance == pytest.approx(z2 * end * (1 - end) / total, rel=1e-6, abs=1e-14)
    # Counting the wrong answers instead mirrors the interval.
    assert metrics.wilson_interval(total - correct, total, confidence) == (
        pytest.approx(100 - high, abs=1e-9),
        pytest.approx(100 - low, abs=1e-9),
    )


def test_wilson_interval_covers_as_often_as_it_says():
    # Exactly, over the binomial distribution of 60 images at a true accuracy of 80 %.
    n, p = 60, 0.8
    covered = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if metrics.wilson_interval(k, n)[0] <= 100 * p <= metrics.wilson_interval(k, n)[1]
    )
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(
    "arguments",
    [(0, 0), (-1, 5), (6, 5), (3, 5, 0.0), (3, 5, 1.0), (3, 5, 95)],
)
def test_wilson_interval_refuses_impossible_counts(arguments):
    with pytest.raises(ValueError, match=r"allowed are 0 to total|between 0 and 1"):
        metrics.wilson_interval(*arguments)


def test_wilson_interval_refuses_percentages():
    with pytest.raises(TypeError, match="counts of images"):
        metrics.wilson_interval(94.0, 100)


# ---------------------------------------------------------------- calibration


def test_reliability_and_ece_by_hand():
    # Five bins of 0.2. Bin 4 (0.6–0.8]: 0.65 right, 0.75 wrong. Bin 5: 0.9, 0.95 right, 0.85 wrong.
    confidences, right = [0.65, 0.75, 0.9, 0.95, 0.85], [True, False, True, True, False]
    logits, labels = with_confidences(confidences, right)
    confidence, accuracy, count = metrics.reliability(logits, labels, bins=5)
    nan = math.nan
    torch.testing.assert_close(
        confidence, torch.tensor([nan, nan, nan, 70.0, 90.0]), equal_nan=True
    )
    torch.testing.assert_close(
        accuracy, torch.tensor([nan, nan, nan, 50.0, 200 / 3]), equal_nan=True
    )
    assert count.tolist() == [0, 0, 0, 2, 3]
    # 2/5 · |50 - 70| + 3/5 · |66.67 - 90| = 8 + 14
    assert metrics.expected_calibration_error(logits, labels, bins=5) == pytest.approx(22.0)
    # One bin: |60 - 82|.
    assert metrics.expected_calibration_error(logits, labels, bins=1) == pytest.approx(22.0)
    # Ten bins part 0.65 from 0.75 and 0.85, 0.9 from 0.95: 0.35, 0.75, 0.375 of 2, 0.05.
    expected = 100 * (0.35 + 0.75 + 2 * 0.375 + 0.05) / 5
    assert metrics.expected_calibration_error(logits, labels, bins=10) == pytest.approx(expected)


def test_bins_are_closed_on_the_right():
    # Equal logits of 2, 4 and 5 classes have confidences of exactly ½, ¼ and ⅕.
    for classes in (2, 4, 5):
        count = metrics.reliability(
            torch.zeros(3, classes), torch.zeros(3, dtype=torch.long), bins=2 * classes
        ).count
        assert count.nonzero().tolist() == [[1]]  # the second bin ends at 2 / (2 · classes)
        assert int(count.sum()) == 3


def test_ece_of_extremes():
    labels = torch.arange(10)
    certain = 1000 * torch.eye(10)
    assert metrics.expected_calibration_error(certain, labels) == 0.0
    assert metrics.expected_calibration_error(certain, labels.roll(1)) == 100.0
    assert metrics.expected_calibration_error(torch.zeros(10, 10), labels) == pytest.approx(0.0)


def direct_ece(logits: Tensor, labels: Tensor, bins: int) -> float:
    """The definition, image by image."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        powers = [math.exp(x - max(row)) for x in row]
        confidence = max(powers) / sum(powers)
        place = next(i for i in range(1, bins + 1) if confidence <= i / bins or i == bins)
        members.setdefault(place, []).append((confidence, row.index(max(row)) == label))
    gaps = (abs(sum(right for _, right in m) - sum(c for c, _ in m)) for m in members.values())
    return 100 * sum(gaps) / len(labels)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 6), st.integers(1, 20))
def test_ece_equals_the_definition(seed, images, classes, bins):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    ece = metrics.expected_calibration_error(logits, labels, bins)
    assert ece == pytest.approx(direct_ece(logits, labels, bins), abs=1e-9)
    assert 0 <= ece <= 100
    confidence, accuracy, count = metrics.reliability(logits, labels, bins)
    gaps = (accuracy.double() - confidence.double()).abs().nan_to_num(0.0)
    assert float((count * gaps).sum() / images) == pytest.approx(ece, abs=1e-4)
    assert float((count * accuracy.double()).nan_to_num(0.0).sum() / images) == pytest.approx(
        metrics.accuracy(logits, labels), abs=1e-4
    )


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_temperature_changes_calibration_but_no_answer(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (40,), generator=generator)
    accuracy = metrics.accuracy(logits, labels)
    cooled = logits / temperature
    assert metrics.accuracy(cooled, labels) == accuracy
    assert metrics.agreement(cooled, logits) == 100.0
    # Adding a number to an image's logits changes nothing at all.
    shifted = cooled + torch.randn(40, 1, generator=generator, dtype=torch.float64)
    assert metrics.expected_calibration_error(shifted, labels) == pytest.approx(
        metrics.expected_calibration_error(cooled, labels), abs=1e-6
    )
    # Infinitely cold: certain of everything. Infinitely hot: 1 / classes for everything.
    assert metrics.expected_calibration_error(logits * 1e9, labels) == pytest.approx(100 - accuracy)
    assert metrics.expected_calibration_error(logits / 1e9, labels) == pytest.approx(
        abs(accuracy - 20), abs=1e-6
    )


def test_answers_drawn_from_the_softmax_are_calibrated():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert metrics.expected_calibration_error(logits, labels) < 1.5
    assert metrics.expected_calibration_error(4 * logits, labels) > 10


# ---------------------------------------------------------------- refusals

LABELLED = [
    metrics.accuracy,
    metrics.per_class_accuracy,
    metrics.reliability,
    metrics.expected_calibration_error,
]


@pytest.mark.parametrize("function", LABELLED)
def test_bad_logits_and_labels_are_refused(function):
    with pytest.raises(ValueError, match=r"\(images, classes\)"):
        function(LOGITS[0], LABELS[:1])
    with pytest.raises(ValueError, match=r"\(images, classes\)"):
        function(LOGITS[:0], LABELS[:0])
    with pytest.raises(ValueError, match="one label for each"):
        function(LOGITS, LABELS[:4])
    with pytest.raises(ValueError, match="0 to 2"):
        function(LOGITS, LABELS + 1)
    with pytest.raises(ValueError, match="0 to 2"):
        function(LOGITS, LABELS - 1)
    with pytest.raises(ValueError, match="NaN for 1 of 5"):
        function(LOGITS.index_fill(0, torch.tensor([2]), math.nan), LABELS)
    with pytest.raises(TypeError, match="whole numbers"):
        function(LOGITS, LABELS.float())
    with pytest.raises(TypeError, match="real numbers"):
        function(LOGITS.tolist(), LABELS)


def test_further_refusals():
    with pytest.raises(ValueError, match="num_classes is 2"):
        metrics.per_class_accuracy(LOGITS, LABELS, 2)
    with pytest.raises(ValueError, match="bins is 0"):
        metrics.reliability(LOGITS, LABELS, 0)
    with pytest.raises(ValueError, match=r"\+inf"):
        metrics.expected_calibration_error(LOGITS.index_fill(1, LABELS[:1], math.inf), LABELS)
    with pytest.raises(ValueError, match="same images"):
        metrics.agreement(LOGITS, LOGITS[:4])
    with pytest.raises(ValueError, match="NaN"):
        metrics.agreement(LOGITS, LOGITS * math.nan)
