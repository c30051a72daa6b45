"""slimcnn.quantization.ranges: by hand, against NumPy, and against a finer search."""

import numpy as np
import pytest
import torch

from slimcnn import quantization as q


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(x, low, high, bits, symmetric):
    if symmetric:
        quantizer = q.symmetric_quantizer(torch.maximum(-low, high), bits)
    else:
        quantizer = q.affine_quantizer(low, high, bits)
    return (quantizer(x) - x).square().mean().item()


def test_min_max():
    x = torch.tensor([[1.0, -2.0], [3.0, 5.0]])
    assert [b.item() for b in q.min_max_range(x)] == [-2.0, 5.0]
    assert [b.tolist() for b in q.min_max_range(x, 0)] == [[-2.0, 3.0], [1.0, 5.0]]
    assert [b.tolist() for b in q.min_max_range(x, 1)] == [[1.0, -2.0], [3.0, 5.0]]


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
def test_percentiles_equal_numpys(percentile):
    x = normal(3, 700)
    outside = (100 - percentile) / 2
    low, high = q.percentile_range(x, percentile)
    expected = np.percentile(x.numpy(), [outside, 100 - outside])
    np.testing.assert_allclose([low, high], expected, rtol=1e-5, atol=1e-6)
    low, high = q.percentile_range(x, percentile, axis=0)
    expected = np.percentile(x.numpy(), [outside, 100 - outside], axis=1)
    np.testing.assert_allclose(np.stack([low, high]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_is_as_good_as_a_finer_search(bits, symmetric):
    x = normal(4000) ** 3  # heavy tails
    low, high = q.mse_range(x, bits, symmetric=symmetric)
    found = error(x, low, high, bits, symmetric)
    whole_low, whole_high = q.min_max_range(x)
    assert found <= error(x, whole_low, whole_high, bits, symmetric)
    if symmetric:
        whole_high = torch.maximum(-whole_low, whole_high)
        whole_low = -whole_high
        assert low == -high
    finer = min(
        error(x, f * whole_low, f * whole_high, bits, symmetric)
        for f in torch.linspace(0.01, 1, 1000)
    )
    assert found <= 1.05 * finer


def test_mse_clips_more_at_fewer_bits_and_channel_by_channel():
    x = normal(10_000)
    bounds = [q.mse_range(x, bits)[1].item() for bits in (2, 3, 4, 6, 8)]
    assert bounds == sorted(bounds) and bounds[0] < 0.5 * x.abs().max() < bounds[-1]
    rows = torch.stack([x, 10 * x])
    low, high = q.mse_range(rows, 4, axis=0)
    torch.testing.assert_close(high[1], 10 * high[0])
    torch.testing.assert_close(high[0], q.mse_range(x, 4)[1])
    torch.testing.assert_close(low, -high)


def test_mse_after_a_relu_begins_at_zero():
    low, high = q.mse_range(normal(1000).relu(), 4, symmetric=False)
    assert low == 0 and high > 0


def kl_by_loops(x, bits, bins):
    """The procedure with plain loops."""
    levels = 2 ** (bits - 1)
    histogram, _ = np.histogram(np.abs(x), bins, (0, np.abs(x).max()))
    best, chosen = np.inf, bins
    for kept in range(levels, bins + 1):
        p = histogram[:kept].astype(float)
        owner = [i * levels // kept for i in range(kept)]
        spread = np.zeros(kept)
        for level in range(levels):
            members = [i for i in range(kept) if owner[i] == level]
            filled = [i for i in members if histogram[i] > 0]
            for i in filled:
                spread[i] = sum(histogram[m] for m in members) / len(filled)
        p[-1] += histogram[kept:].sum()
        if spread.sum() == 0:
            continue
        p, spread = p / p.sum(), spread / spread.sum()
        spread = 0.9999 * spread + 0.0001 / (p > 0).sum()
        divergence = sum(a * np.log(a / b) for a, b in zip(p, spread, strict=True) if a > 0)
        if divergence < best:
            best, chosen = divergence, kept
    return np.abs(x).max() * chosen / bins


@pytest.mark.parametrize("seed", range(4))
def test_kl_equals_plain_loops(seed):
    x = normal(3000, seed=seed) ** 3
    low, high = q.kl_range(x, 4, bins=64)
    assert high.item() == pytest.approx(kl_by_loops(x.numpy(), 4, 64), rel=1e-5)
    assert low == -high


def test_kl_does_not_see_zeros():
    x = normal(3000).relu()
    many = torch.cat([x, torch.zeros(100_000)])
    assert q.kl_range(many, 4) == q.kl_range(x, 4) == q.kl_range(x[x > 0], 4)


def test_kl_cuts_off_an_outlier():
    x = torch.cat([normal(20_000).relu(), torch.tensor([200.0])])
    low, high = q.kl_range(x, 8)
    assert low == 0
    assert high < 50
    flat = torch.linspace(0, 1, 20_000)
    assert q.kl_range(flat, 8)[1] > 0.9  # nothing to cut


def test_ranges_of_zeros():
    zeros = torch.zeros(5)
    for low, high in (
        q.min_max_range(zeros),
        q.percentile_range(zeros),
        q.mse_range(zeros, 8),
        q.kl_range(zeros),
    ):
        assert low == 0 and high == 0


def test_a_moving_average_follows():
    follower = q.MovingAverageRange(momentum=0.75)
    assert [b.item() for b in follower.update(torch.tensor([-1.0, 2.0]))] == [-1.0, 2.0]
    found = follower.update(torch.tensor([-5.0, 10.0]))
    assert [b.item() for b in found] == [-2.0, 4.0]
    channels = q.MovingAverageRange(momentum=0.5, axis=0)
    channels.update(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    low, high = channels.update(torch.tensor([[0.0, 3.0], [4.0, 9.0]]))
    assert low.tolist() == [0.0, 3.0] and high.tolist() == [2.0, 6.0]


def test_what_ranges_refuse():
    for function in (
        q.min_max_range,
        q.percentile_range,
        lambda x: q.mse_range(x, 8),
        q.kl_range,
    ):
        with pytest.raises(ValueError, match="has no range"):
            function(torch.zeros(0))
        with pytest.raises(ValueError, match="NaN or infinity"):
            function(torch.tensor([1.0, float("inf")]))
    with pytest.raises(ValueError, match="axis is 2"):
        q.min_max_range(torch.zeros(2, 2), 2)
    for percentile in (0, 101, float("nan")):
        with pytest.raises(ValueError, match="percentile is"):
            q.percentile_range(torch.ones(3), percentile)
    with pytest.raises(ValueError, match="bits is 1"):
        q.mse_range(torch.ones(3), 1)
    with pytest.raises(ValueError, match="bits is 1"):
        q.kl_range(torch.ones(3), 1)
    with pytest.raises(ValueError, match="bins is 100; 8 bits have 128 levels"):
        q.kl_range(torch.ones(3), 8, bins=100)
    for momentum in (-0.1, 1.0):
        with pytest.raises(ValueError, match="momentum is"):
            q.MovingAverageRange(momentum)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1.0, 1e19, 1e30])
def test_ranges_do_not_depend_on_the_unit(size):
    x = normal(10_000).float()
    for method in (lambda x: q.mse_range(x, 2), q.kl_range, q.percentile_range):
        low, high = (bound.double() / size for bound in method((x.double() * size).float()))
        expected = method(x)
        torch.testing.assert_close(low.float(), expected[0], rtol=0.03, atol=0.0)
        torch.testing.assert_close(high.float(), expected[1], rtol=0.03, atol=0.0)


def test_ranges_of_half_precision_are_those_of_the_same_numbers():
    x = (normal(10_000) * 20).half()
    for method in (lambda x: q.mse_range(x, 2), q.kl_range, q.percentile_range):
        for found, expected in zip(method(x), method(x.float()), strict=True):
            torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=0.0)
    low, high = q.percentile_range(torch.tensor([-40000.0, 40000.0]).half())
    assert -40000 <= low < -39000 and 39000 < high <= 40000


def test_a_vector_has_channels_of_one_number():
    low, high = q.min_max_range(torch.tensor([1.0, 2.0, 3.0]), 0)
    assert low.tolist() == high.tolist() == [1.0, 2.0, 3.0]
