"""slimcnn.quantization.integers: against exact fractions, integer loops and float32."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from slimcnn import quantization as q

factors = st.floats(1e-12, 1e6, allow_nan=False)


@given(st.lists(factors, min_size=1, max_size=4))
def test_fixed_point_numbers_are_near_to_a_part_in_two_billion(values):
    multiplier, shift = q.fixed_point(torch.tensor(values, dtype=torch.float64))
    assert 1 <= int(shift) <= 62
    largest = max(values)
    for m, value in zip(multiplier.tolist(), values, strict=True):
        assert 0 <= m < 2**31
        error = abs(Fraction(m, 2 ** int(shift)) - Fraction(value))
        assert error <= max(Fraction(largest) / 2**31, Fraction(1, 2**63)) * Fraction(101, 100)


def test_fixed_point_by_hand():
    multiplier, shift = q.fixed_point(torch.tensor([[0.5, 0.125], [1.0, 3.0]]))
    assert shift.tolist() == [31, 29]
    assert multiplier.tolist() == [[2**30, 2**28], [2**29, 3 * 2**29]]


@pytest.mark.parametrize("bad", [0.0, -1.0, 2.0**30, float("nan"), float("inf")])
def test_fixed_point_refuses(bad):
    with pytest.raises(ValueError, match="a factor is not between 0 and"):
        q.fixed_point(torch.tensor([1.0, bad]))


@given(
    st.lists(st.tuples(st.integers(-(2**20), 2**20), st.integers(-255, 255)), min_size=1),
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_rescale_is_the_exact_quotient_with_halves_up(pairs, scales):
    a, b = (torch.tensor(part, dtype=torch.int32) for part in zip(*pairs, strict=True))
    # scales that are multiples of 2⁻¹⁰ have exact multipliers, so the rounding alone is seen
    s, t = (torch.tensor(scale / 1024) for scale in scales)
    made = q.rescale([(a, s), (b, t)], torch.tensor(2.0))
    for one, two, found in zip(a.tolist(), b.tolist(), made.tolist(), strict=True):
        exact = Fraction(one * scales[0] + two * scales[1], 2048)
        assert found == floor(exact + Fraction(1, 2))


def test_rescale_in_float_rounds_halves_to_even_and_channels_have_scales():
    sums = torch.tensor([[1, 3, 5], [1, 3, 5]], dtype=torch.int32)
    scales = torch.tensor([[0.5], [1.0]])
    assert q.rescale([(sums, scales)], torch.tensor(1.0), "float").tolist() == [
        [0, 2, 2],
        [1, 3, 5],
    ]
    assert q.rescale([(sums, scales)], torch.tensor(1.0), "fixed").tolist() == [
        [1, 2, 3],
        [1, 3, 5],
    ]


def convolution_by_loops(x, weight, bias, stride, padding, dilation, groups):
    count, _, height, width = x.shape
    out, per_group, kernel, _ = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    reach = dilation * (kernel - 1) + 1
    rows, columns = ((n + 2 * padding - reach) // stride + 1 for n in (height, width))
    y = np.zeros((count, out, rows, columns), dtype=np.int64)
    for o in range(out):
        first = o // (out // groups) * per_group
        for r in range(rows):
            for c in range(columns):
                part = x[
                    :,
                    first : first + per_group,
                    r * stride : r * stride + reach : dilation,
                    c * stride : c * stride + reach : dilation,
                ]
                y[:, o, r, c] = (part * weight[o]).sum((1, 2, 3)) + bias[o]
    return y


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"), [(1, 1, 1, 1), (2, 2, 0, 1), (4, 1, 2, 2)]
)
def test_convolutions_equal_loops_over_integers(groups, stride, padding, dilation):
    rng = np.random.default_rng(0)
    x = rng.integers(-255, 256, (2, 4, 7, 6))
    weight, bias = rng.integers(-127, 128, (8, 4 // groups, 3, 3)), rng.integers(-999, 999, 8)
    layer = nn.Conv2d(4, 8, 3, stride, padding, dilation, groups)
    made = q.integer_layer(layer, *(torch.from_numpy(a) for a in (x, weight, bias)))
    assert made.dtype == torch.int32
    expected = convolution_by_loops(x, weight, bias, stride, padding, dilation, groups)
    assert np.array_equal(made.numpy(), expected)


def test_linear_layers_without_bias_and_sums_that_are_too_large():
    x, weight = torch.full((1, 70_000), 255), torch.full((2, 70_000), 127)
    weight[1] = 1
    with pytest.raises(OverflowError, match="2266950000, more than int32 holds"):
        q.integer_layer(nn.Linear(70_000, 2, bias=False), x, weight)
    made = q.integer_layer(nn.Linear(70_000, 1, bias=False), x, weight[1:])
    assert made.tolist() == [[70_000 * 255]]
