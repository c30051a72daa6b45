"""slimcnn.pruning.allocation: costs by law, budgets never passed and almost reached."""

import itertools
from functools import cache

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimcnn import metrics, pruning
from slimcnn.models import ResNet14, StudentNet

RESOURCES = ("macs", "parameters", "bytes")
BUILD = {
    "resnet14": (lambda: ResNet14(), (1, 1, 28, 28)),
    "student": (lambda: StudentNet(), (1, 1, 28, 28)),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(), (1, 3, 32, 32)),
}


@cache
def groups_of(name):
    build, shape = BUILD[name]
    return pruning.find_groups(build(), shape)


def chain():
    """4 → 6 → 8 → 2 with biases: parameters 5a + (a + 1)b + 2b + 2."""
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.Linear(8, 2))


def chain_groups():
    return pruning.find_groups(chain(), (1, 4))


def linear(fraction):
    return fraction


# ---------------------------------------------------------------- costs


def test_costs_of_a_chain_by_pencil():
    groups = chain_groups()
    for a, b in itertools.product((1, 3, 6), (1, 5, 8)):
        found = pruning.cost(groups, {"0": a, "2": b})
        assert found.macs == 4 * a + a * b + 2 * b
        assert found.parameters == 5 * a + (a + 1) * b + 2 * b + 2
        assert found.bytes == 4 * found.parameters
    assert pruning.cost(groups) == pruning.cost(groups, {"0": 6}) == pruning.cost(groups, {})


@pytest.mark.parametrize("name", BUILD)
def test_costs_of_whole_networks_are_those_measured(name):
    build, shape = BUILD[name]
    model, found = build(), pruning.cost(groups_of(name))
    assert found.macs == metrics.count_macs(model, shape)
    assert found.parameters == metrics.count_parameters(model)
    tensors = model.state_dict().values()
    assert found.bytes == sum(t.numel() * t.element_size() for t in tensors)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_each_channel_costs_something(data):
    groups = groups_of("resnet14")
    counts = {g.name: data.draw(st.integers(1, g.size)) for g in groups}
    name = data.draw(st.sampled_from([g.name for g in groups]))
    if counts[name] > 1:
        fewer = pruning.cost(groups, counts | {name: counts[name] - 1})
        more = pruning.cost(groups, counts)
        for resource in RESOURCES:
            assert getattr(fewer, resource) < getattr(more, resource)


@pytest.mark.parametrize("count", [0, -1, 7])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"group '0' cannot keep {count} of 6 channels"):
        pruning.cost(chain_groups(), {"0": count})
    with pytest.raises(KeyError, match="no group 'fc'"):
        pruning.cost(chain_groups(), {"fc": 1})


# ---------------------------------------------------------------- budgets


def share(groups, counts, resource):
    return getattr(pruning.cost(groups, counts), resource) / getattr(pruning.cost(groups), resource)


def assert_within(groups, counts, budget, resource, round_to=1):
    """Never above; below by less than any step that could be given back, and by 2 %."""
    found = share(groups, counts, resource)
    assert found <= budget
    steps = []
    for name, count in counts.items():
        size = groups[name].size
        assert 1 <= count <= size
        wider = next(
            (c for c in range(count + 1, size + 1) if allowed(groups, name, c, round_to)), 0
        )
        if wider:
            back = share(groups, counts | {name: wider}, resource)
            assert back > budget
            steps.append(back - found)
    assert budget - found <= max(0.02, min(steps, default=1.0))


def allowed(groups, name, count, round_to):
    group = groups[name]
    widths = {m.indices.shape[1] for m in group.of_role("producer")}
    return count == group.size or all(count * width % round_to == 0 for width in widths)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(BUILD)),
    st.sampled_from(RESOURCES),
    st.floats(0.15, 1.0),
    st.sampled_from([1, 1, 4, 8]),
    st.integers(0, 2**16),
)
def test_budgets_are_kept_and_used_up_for_any_damage(name, resource, budget, round_to, seed):
    groups = groups_of(name)
    generator = torch.Generator().manual_seed(seed)
    damage = {}
    for group in groups:
        weight, power = torch.rand(2, generator=generator).tolist()
        damage[group.name] = lambda f, w=weight, p=power: 20 * w * f ** (0.5 + 4 * p)
    counts = pruning.allocate(groups, damage, budget=budget, resource=resource, round_to=round_to)
    assert list(counts) == [group.name for group in groups]
    assert all(allowed(groups, n, c, round_to) for n, c in counts.items())
    assert_within(groups, counts, budget, resource, round_to)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("budget", [0.25, 0.5, 0.75])
def test_equal_damage_meets_the_budget_within_two_percent(name, resource, budget):
    groups = groups_of(name)
    counts = pruning.allocate(
        groups, {g.name: linear for g in groups}, budget=budget, resource=resource
    )
    assert budget - 0.02 <= share(groups, counts, resource) <= budget


def test_the_choice_is_the_best_of_all_where_all_can_be_tried():
    """No other choice within the budget has a smaller worst damage."""
    groups = chain_groups()
    damage = {"0": lambda f: 3 * f**2, "2": lambda f: 1 - (1 - f) ** 2}
    for budget in (0.3, 0.5, 0.7, 0.9):
        counts = pruning.allocate(groups, damage, budget=budget)

        def worst(a, b):
            return max(damage["0"](1 - a / 6), damage["2"](1 - b / 8))

        best = min(
            worst(a, b)
            for a, b in itertools.product(range(1, 7), range(1, 9))
            if share(groups, {"0": a, "2": b}, "macs") <= budget
        )
        assert worst(counts["0"], counts["2"]) == pytest.approx(best)


def test_what_hurts_more_is_spared():
    groups = groups_of("resnet14")
    damage = {g.name: (lambda f: 100 * f) if "stage3" in g.name else linear for g in groups}
    counts = pruning.allocate(groups, damage, budget=0.7)
    kept = {n: c / groups[n].size for n, c in counts.items()}
    assert min(k for n, k in kept.items() if "stage3" in n) > 0.9
    assert max(k for n, k in kept.items() if "stage3" not in n) < 0.9


def test_only_groups_with_damage_are_pruned():
    groups = chain_groups()
    assert list(pruning.allocate(groups, {"2": linear}, budget=0.9)) == ["2"]
    assert pruning.allocate(groups, {}, budget=1.0) == {}
    with pytest.raises(KeyError, match="no group '7'"):
        pruning.allocate(groups, {"7": linear}, budget=0.5)


def test_a_full_budget_keeps_everything_even_what_is_free():
    groups = chain_groups()
    free = {g.name: lambda f: 0.0 for g in groups}
    assert pruning.allocate(groups, free, budget=1.0) == {"0": 6, "2": 8}
    assert pruning.allocate(groups, free, budget=1, round_to=100) == {"0": 6, "2": 8}


def test_damage_that_falls_again_is_read_as_if_it_did_not():
    groups = chain_groups()
    hump = {"0": lambda f: 5.0 if 0 < f < 0.8 else 0.0, "2": linear}
    counts = pruning.allocate(groups, hump, budget=0.6)
    assert counts["0"] == 6
    gains = {"0": lambda f: -f, "2": lambda f: -f}
    assert_within(groups, pruning.allocate(groups, gains, budget=0.6), 0.6, "macs")


def test_counts_are_multiples_or_all():
    groups = groups_of("resnet14")
    damage = {g.name: linear for g in groups}
    counts = pruning.allocate(groups, damage, budget=0.5, round_to=16)
    assert all(c % 16 == 0 for c in counts.values())
    assert share(groups, counts, "macs") <= 0.5
    odd = pruning.allocate(chain_groups(), {"0": linear, "2": linear}, budget=0.9, round_to=4)
    assert odd["0"] in (4, 6)
    assert odd["2"] in (4, 8)


def test_multiples_are_of_every_layers_channels_in_a_group():
    """A channel of a group can be 2 of each layer's, or 1 of one layer's and 2 of another's."""
    grouped = nn.Sequential(
        nn.Conv2d(1, 24, 1), nn.Conv2d(24, 48, 1, groups=2), nn.Conv2d(48, 1, 1)
    )
    groups = pruning.find_groups(grouped, (1, 1, 1, 1))
    assert [(g.name, g.size) for g in groups] == [("0", 12), ("1", 24)]
    damage = {g.name: linear for g in groups}
    counts = pruning.allocate(groups, damage, budget=0.5, round_to=8)
    assert counts["0"] in (4, 8, 12)
    assert counts["1"] in (4, 8, 12, 16, 20, 24)
    multiplied = nn.Sequential(
        nn.Conv2d(1, 16, 1), nn.Conv2d(16, 32, 1, groups=16), nn.Conv2d(32, 1, 1)
    )
    groups = pruning.find_groups(multiplied, (1, 1, 1, 1))
    (count,) = pruning.allocate(groups, {"0": linear}, budget=0.9, round_to=8).values()
    assert count == 8


@pytest.mark.parametrize("budget", [0.01, 0.1])
def test_a_budget_out_of_reach_names_the_smallest_fraction(budget):
    groups = chain_groups()
    smallest = share(groups, {"0": 1, "2": 1}, "macs")  # (4 + 1 + 2) / (24 + 48 + 16)
    assert smallest == 7 / 88
    damage = {"0": linear, "2": linear}
    if budget < smallest:
        with pytest.raises(ValueError, match=r"leaves 0\.010 of the macs: .* 0\.080 are left"):
            pruning.allocate(groups, damage, budget=budget)
    else:
        assert share(groups, pruning.allocate(groups, damage, budget=budget), "macs") <= budget
    with pytest.raises(ValueError, match=r"parameters: .* 0\.\d\d\d are left"):
        pruning.allocate(groups, {"0": linear}, budget=budget, resource="parameters")
    assert pruning.allocate(groups, damage, budget=smallest) == {"0": 1, "2": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget is 0; it must be above 0"),
        ({"budget": -0.5}, "budget is -0.5"),
        ({"budget": 1.01}, "budget is 1.01"),
        ({"budget": 50}, "budget is 50"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": 0.5, "resource": "flops"}, "resource is 'flops'"),
        ({"budget": 0.5, "round_to": 0}, "round_to is 0"),
        ({"budget": 0.5, "round_to": 1.5}, "round_to is 1.5"),
        ({"budget": 0.5, "round_to": True}, "round_to is True"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pruning.allocate(chain_groups(), {"0": linear}, **arguments)


def test_damage_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="damage of group '0' is NaN at"):
        pruning.allocate(chain_groups(), {"0": lambda f: float("nan")}, budget=0.5)


# ---------------------------------------------------------------- the best channels


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), min_size=8, max_size=8), st.integers(1, 8))
def test_the_best_stay_and_of_equal_ones_the_first(values, count):
    (mask,) = pruning.keep_best(
        chain_groups_once(), {"2": torch.tensor(values)}, {"2": count}
    ).values()
    expected = sorted(range(8), key=lambda i: (-values[i], i))[:count]
    assert mask.nonzero().flatten().tolist() == sorted(expected)
    assert mask.dtype == torch.bool


@cache
def chain_groups_once():
    return chain_groups()


def test_groups_without_a_count_are_not_in_the_masks():
    scores = {"0": torch.arange(6.0), "2": torch.arange(8.0)}
    assert list(pruning.keep_best(chain_groups_once(), scores, {"0": 2})) == ["0"]


@pytest.mark.parametrize(
    ("scores", "counts", "error", "message"),
    [
        (
            {"0": torch.ones(5)},
            {"0": 2},
            ValueError,
            r"scores of '0' have shape \(5,\), not \(6,\)",
        ),
        ({"0": torch.ones(6, 1)}, {"0": 2}, ValueError, r"shape \(6, 1\)"),
        ({"0": torch.ones(6)}, {"0": 0}, ValueError, "cannot keep 0 of 6"),
        ({"0": torch.ones(6)}, {"0": 7}, ValueError, "cannot keep 7 of 6"),
        (
            {"0": torch.tensor([1.0, float("nan")] * 3)},
            {"0": 2},
            ValueError,
            "a score of '0' is NaN",
        ),
        ({"0": torch.ones(6)}, {"2": 2}, KeyError, "2"),
        ({"0": torch.ones(6)}, {"9": 2}, KeyError, "no group '9'"),
    ],
)
def test_scores_and_counts_that_do_not_fit_are_refused(scores, counts, error, message):
    with pytest.raises(error, match=message):
        pruning.keep_best(chain_groups_once(), scores, counts)
