"""slimcnn.pruning.sensitivity: one layer at a time, the right one, and curves through points."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from slimcnn import pruning


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def zeros(model):
    return tuple(int((model[i].weight == 0).sum()) for i in (0, 2, 4))


def test_weights_of_one_layer_are_masked_at_a_time():
    model = chain()
    state = copy.deepcopy(model.state_dict())
    seen = []

    def measure(m):
        seen.append(m)
        return zeros(m)

    scan = pruning.weight_sensitivity(model, pruning.magnitude(model), [0.25, 0.5, 1.0], measure)
    assert scan == {
        "0.weight": [(0.0, (0, 0, 0)), (0.25, (2, 0, 0)), (0.5, (4, 0, 0)), (1.0, (8, 0, 0))],
        "2.weight": [(0.0, (0, 0, 0)), (0.25, (0, 8, 0)), (0.5, (0, 16, 0)), (1.0, (0, 32, 0))],
        "4.weight": [(0.0, (0, 0, 0)), (0.25, (0, 0, 4)), (0.5, (0, 0, 8)), (1.0, (0, 0, 16))],
    }
    assert seen[0] is model
    assert len(seen) == 10  # the whole network is measured once
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    smallest = seen[1][0].weight == 0
    assert model[0].weight[smallest].abs().max() < model[0].weight[~smallest].abs().min()


def test_only_scored_layers_are_scanned():
    scores = {"2.weight": torch.arange(32.0).view(8, 4)}
    scan = pruning.weight_sensitivity(chain(), scores, [], zeros)
    assert scan == {"2.weight": [(0.0, (0, 0, 0))]}


def test_channels_of_one_group_are_masked_at_a_time_the_lowest_first():
    model = chain()
    state = copy.deepcopy(model.state_dict())
    groups = pruning.find_groups(model, (1, 2))
    scores = {"0": torch.tensor([3.0, 1.0, 2.0, 4.0]), "2": torch.arange(8.0)}

    def measure(m):
        return tuple(
            [i for i, row in enumerate(m[layer].weight) if not row.any()] for layer in (0, 2)
        )

    scan = pruning.channel_sensitivity(model, groups, scores, [0.25, 0.5, 0.9, 1.0], measure)
    assert scan == {
        "0": [
            (0.0, ([], [])),
            (0.25, ([1], [])),
            (0.5, ([1, 2], [])),
            (0.75, ([0, 1, 2], [])),  # one always stays, and the fraction is the true one
            (0.75, ([0, 1, 2], [])),
        ],
        "2": [
            (0.0, ([], [])),
            (0.25, ([], [0, 1])),
            (0.5, ([], [0, 1, 2, 3])),
            (0.875, ([], [0, 1, 2, 3, 4, 5, 6])),
            (0.875, ([], [0, 1, 2, 3, 4, 5, 6])),
        ],
    }
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_group_of_one_channel_loses_nothing():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    groups = pruning.find_groups(model, (1, 2))
    scan = pruning.channel_sensitivity(model, groups, {"0": torch.ones(1)}, [0.5], lambda m: 7.0)
    assert scan == {"0": [(0.0, 7.0), (0.0, 7.0)]}
    assert pruning.damage_curves(scan)["0"](0.0) == 0.0


@pytest.mark.parametrize("fraction", [-0.5, 1.5, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    model = chain()
    groups = pruning.find_groups(model, (1, 2))
    scores = pruning.group_scores(groups, pruning.filter_l1(model))
    with pytest.raises(ValueError, match="sparsity is"):
        pruning.channel_sensitivity(model, groups, scores, [fraction], zeros)
    with pytest.raises(ValueError, match="sparsity is"):
        pruning.weight_sensitivity(model, pruning.magnitude(model), [fraction], zeros)


def test_curves_pass_through_the_points_and_end_at_losing_everything():
    curve = pruning.damage_curves({"a": [(0.0, 90.0), (0.25, 89.0), (0.5, 80.0)]})["a"]
    assert [curve(f) for f in (0, 0.25, 0.5, 1.0)] == [0.0, 1.0, 10.0, 90.0]
    assert curve(0.125) == pytest.approx(0.5)
    assert curve(0.375) == pytest.approx(5.5)
    assert curve(0.75) == pytest.approx(50.0)


def test_a_scan_to_the_end_is_not_continued_and_gains_are_negative_damage():
    curves = pruning.damage_curves(
        {"a": [(0.0, 90.0), (1.0, 10.0)], "b": [(0.0, 90.0), (0.5, 91.0)]}
    )
    assert curves["a"](1.0) == 80.0
    assert curves["b"](0.5) == -1.0
    assert curves["b"](1.0) == 90.0
    worse_than_nothing = pruning.damage_curves({"c": [(0.0, 1.0), (0.5, -4.0)]})["c"]
    assert worse_than_nothing(1.0) == 5.0  # it does not get better again


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_each_name_has_a_curve_of_its_own(values):
    fractions = [i / len(values) for i in range(len(values))]
    scan = {
        "rising": list(zip(fractions, values, strict=True)),
        "flat": [(f, values[0]) for f in fractions],
    }
    curves = pruning.damage_curves(scan)
    for fraction, value in scan["rising"]:
        assert curves["rising"](fraction) == pytest.approx(values[0] - value)
        assert curves["flat"](fraction) == 0.0
