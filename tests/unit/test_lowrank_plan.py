"""slimcnn.lowrank, costs and plans: formulas equal what is counted, budgets are kept and used."""

import copy
import itertools
import math
from functools import cache

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimcnn import lowrank, metrics
from slimcnn.lowrank import Choice
from slimcnn.lowrank.layers import skeleton
from slimcnn.lowrank.network import replaced
from slimcnn.lowrank.ranks import all_ranks
from slimcnn.models import ResNet14, StudentNet

RESOURCES = ("macs", "parameters", "bytes")
CONV_METHODS = lowrank.METHODS[1:]
WITH_SPECTRUM = ("svd", "channel", "input", "spatial", "tucker2")

NETWORKS = {
    "resnet14": (ResNet14, (1, 1, 28, 28)),
    "student": (StudentNet, (3, 1, 28, 28)),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), (1, 3, 40, 40)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(weights=None), (1, 3, 40, 40)),
    "googlenet": (
        lambda: torchvision.models.googlenet(weights=None, init_weights=False),
        (1, 3, 64, 64),
    ),
}


@cache
def network(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    return model, lowrank.Survey(model, shape), shape


@cache
def damages_of(name):
    return lowrank.energy_damages(network(name)[0], WITH_SPECTRUM)


def skeletons(model, plan):
    """The network of a plan, with any numbers in it: as large, and quick to make."""
    return replaced(model, plan, lambda _, layer, choice: skeleton(layer, *choice))


def counted(model, shape):
    tensors = model.state_dict().values()
    size = sum(t.numel() * t.element_size() for t in tensors)
    return metrics.count_macs(model, shape), metrics.count_parameters(model), size


def fitting(layer):
    return ("svd",) if isinstance(layer, nn.Linear) else CONV_METHODS


# ---------------------------------------------------------------- costs


def test_costs_of_layers_by_pencil():
    """5 → 7 channels, 3 × 2 kernel, 11 × 12 → 6 × 4 with stride (2, 3) and padding (1, 0)."""
    model = nn.Conv2d(5, 7, (3, 2), stride=(2, 3), padding=(1, 0))
    survey = lowrank.Survey(model, (2, 5, 11, 12))
    whole = 7 * 5 * 3 * 2
    assert survey.of_layer("") == survey.whole == (2 * 24 * whole, whole + 7, 4 * (whole + 7))
    expected = {
        ("channel", 3): 24 * 3 * 5 * 6 + 24 * 7 * 3,
        ("input", 3): 132 * 5 * 3 + 24 * 3 * 7 * 6,
        ("spatial", 3): (6 * 12) * 5 * 3 * 3 + 24 * 3 * 7 * 2,
        ("tucker2", (4, 2)): 132 * 5 * 2 + 24 * 2 * 4 * 6 + 24 * 4 * 7,
        ("cp", 3): 132 * 5 * 3 + 24 * 3 * 6 + 24 * 3 * 7,
    }
    for (method, rank), macs in expected.items():
        found = survey.of_layer("", Choice(method, rank))
        assert found.macs == 2 * macs
        assert found.parameters == lowrank.factorized_parameters(model, method, rank)
        assert found.bytes == 4 * found.parameters
    linear = lowrank.Survey(nn.Linear(6, 4).half(), torch.zeros(2, 3, 6).half())
    assert linear.whole == (6 * 24, 28, 56)
    assert linear.of_layer("", Choice("svd", 2)) == (6 * 2 * (6 + 4), 24, 48)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(NETWORKS)), st.integers(0, 2**16), st.data())
def test_costs_of_networks_are_those_that_are_counted(name, seed, data):
    model, survey, shape = network(name)
    assert survey.whole == counted(model, shape)
    layers = lowrank.candidates(model)
    chosen = data.draw(st.lists(st.sampled_from(list(layers)), min_size=1, max_size=8, unique=True))
    plan = {}
    for index, layer_name in enumerate(chosen):
        layer = layers[layer_name]
        method = fitting(layer)[(seed + index) % len(fitting(layer))]
        ranks = all_ranks(layer, method)
        plan[layer_name] = Choice(method, ranks[(seed * (index + 7)) % len(ranks)])
    assert survey.of_network(plan) == counted(skeletons(model, plan), shape)


class Odd(nn.Module):
    """A layer used at two sizes, one called by keyword, one never, one without a batch."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.alias = self.twice
        self.keyword = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.never = nn.Linear(9, 9)
        self.sequence = nn.Linear(6, 5)

    def forward(self, x):
        x = self.alias(nn.functional.avg_pool2d(self.twice(x), 2))
        x = torch.stack([self.keyword(input=image) for image in x])
        return self.sequence(x.flatten(2).movedim(1, 2))


def test_layers_that_are_used_in_odd_ways_are_counted_too():
    model, shape = Odd(), (2, 3, 14, 12)
    survey = lowrank.Survey(model, shape)
    assert not any(m._forward_hooks for m in model.modules())
    plan = {
        "twice": Choice("input", 2),
        "keyword": Choice("spatial", 2),
        "never": Choice("svd", 2),
        "sequence": Choice("svd", 3),
    }
    assert survey.of_layer("never").macs == survey.of_layer("never", plan["never"]).macs == 0
    for names in itertools.chain.from_iterable(itertools.combinations(plan, k) for k in (0, 1, 4)):
        some = {name: plan[name] for name in names}
        made = lowrank.factorize(model, some)
        parameters = {id(p): p for p in [*made.parameters(), *made.buffers()]}.values()
        size = sum(p.numel() * p.element_size() for p in parameters)
        expected = metrics.count_macs(made, shape), metrics.count_parameters(made), size
        assert survey.of_network(some) == expected


def test_a_survey_that_fails_leaves_no_hooks():
    model = Odd()
    with pytest.raises(RuntimeError):
        lowrank.Survey(model, (2, 4, 14, 12))
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(KeyError, match=r"'never.0' is no layer .*; see candidates"):
        lowrank.Survey(model, (2, 3, 14, 12)).of_layer("never.0")
    with pytest.raises(ValueError, match="from 1 to 3"):
        lowrank.Survey(model, (2, 3, 14, 12)).of_network({"twice": Choice("channel", 4)})


# ---------------------------------------------------------------- damages


def test_energy_damages_are_the_errors_of_each_method():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Linear(4, 5))
    found = lowrank.energy_damages(model, ("svd", "channel", "tucker2"))
    assert list(found) == ["0", "2"]
    assert found["2"] == {
        Choice("svd", r): e for r, e in lowrank.relative_errors(model[2], "svd").items()
    }
    assert found["0"] == {
        Choice(m, r): e
        for m in ("channel", "tucker2")
        for r, e in lowrank.relative_errors(model[0], m).items()
    }
    assert list(lowrank.energy_damages(model)) == ["0", "2"]
    assert list(lowrank.energy_damages(model, ("spatial",))) == ["0"]
    with pytest.raises(ValueError, match="'cp' has no spectrum"):
        lowrank.energy_damages(model, ("cp",))
    moment = torch.diag(torch.arange(1.0, 7.0))
    aware = lowrank.energy_damages(model, ("channel", "input"), {"0": moment})
    assert aware["0"][Choice("channel", 5)] == pytest.approx(1 / 21)
    assert aware["0"][Choice("input", 1)] == lowrank.relative_errors(model[0], "input")[1]


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 4))


def test_one_layer_is_factorized_at_a_time_and_measured():
    model = chain()
    state = copy.deepcopy(model.state_dict())
    seen = []

    def measure(m):
        seen.append(m)
        return 90.0 - len(lowrank.plan_of(m)) * sum(
            c.rank if isinstance(c.rank, int) else sum(c.rank) for c in lowrank.plan_of(m).values()
        )

    scan = lowrank.layer_sensitivity(model, [0.01, 0.5, 0.9], measure, methods=("svd", "channel"))
    expected = {
        "0": [("channel", lowrank.rank_at(model[0], "channel", f)) for f in (0.01, 0.5, 0.9)],
        "2": [("svd", lowrank.rank_at(model[2], "svd", f)) for f in (0.01, 0.5, 0.9)],
        "3": [("svd", lowrank.rank_at(model[3], "svd", f)) for f in (0.01, 0.5, 0.9)],
    }
    assert seen[0] is model
    assert list(scan) == list(expected)
    for name, choices in expected.items():
        unique = list(dict.fromkeys(choices))
        assert scan[name] == [(None, 90.0)] + [(c, 90.0 - c[1]) for c in unique]
        assert len(unique) > 1
    assert len(seen) == 1 + sum(len(found) - 1 for found in scan.values())
    assert all(
        lowrank.plan_of(m).keys() <= {name}
        for m, name in zip(
            seen[1:], [n for n, found in scan.items() for _ in found[1:]], strict=True
        )
    )
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    damages = lowrank.measured_damages(scan)
    assert damages == {
        name: {choice: choice[1] for choice in dict.fromkeys(choices)}
        for name, choices in expected.items()
    }


def test_a_scan_takes_moments_and_any_method():
    model = chain()
    moments = {"0": torch.diag(torch.arange(6.0, 0, -1)), "2": torch.diag(torch.arange(8.0))}
    scan = lowrank.layer_sensitivity(
        model,
        [0.4],
        lambda m: m[0].composed() if lowrank.plan_of(m).keys() == {"0"} else None,
        methods=("channel", "tucker2", "cp"),
        moments=moments,
    )
    assert list(scan) == ["0"]
    choices = dict(scan["0"])
    assert [c and c.method for c in choices] == [None, "channel", "tucker2", "cp"]
    (channel,) = (c for c in choices if c and c.method == "channel")
    aware = lowrank.channel_conv(model[0], channel.rank, moment=moments["0"])
    assert torch.equal(choices[channel], aware.composed())


# ---------------------------------------------------------------- budgets


def share(survey, plan, resource):
    return getattr(survey.of_network(plan), resource) / getattr(survey.whole, resource)


@pytest.mark.parametrize("name", ["resnet14", "student", "mobilenet_v2"])
@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("budget", [0.35, 0.6, 0.9])
def test_budgets_are_kept_and_used_up(name, resource, budget):
    """Never above; below by at most 2 %, or by less than the smallest step that could be taken."""
    model, survey, shape = network(name)
    damages = damages_of(name)
    if name == "student":
        budget = max(budget, 0.5)
    plan = lowrank.choose_ranks(model, damages, budget=budget, resource=resource, input_shape=shape)
    found = share(survey, plan, resource)
    assert found <= budget
    steps = []
    for layer, choice in plan.items():
        now = getattr(survey.of_layer(layer, choice), resource)
        better = [c for c, d in damages[layer].items() if d < damages[layer][choice]]
        costs = [getattr(survey.of_layer(layer, c), resource) for c in [None, *better]]
        steps.append((min(costs) - now) / getattr(survey.whole, resource))
    assert all(found + step > budget for step in steps)
    assert budget - found <= max(0.02, min(steps, default=1.0))


def test_the_plan_is_the_best_of_all_where_all_can_be_tried():
    model = nn.Sequential(nn.Linear(9, 6), nn.Linear(6, 8), nn.Linear(8, 3))
    survey = lowrank.Survey(model, (1, 9))
    generator = torch.Generator().manual_seed(0)
    damages = {
        name: {Choice("svd", r): float(torch.rand(1, generator=generator)) for r in (1, 2, 3)}
        for name in "012"
    }

    def harm(plan):
        return sum(damages[name][choice] for name, choice in plan.items())

    every = [
        {name: choice for name, choice in zip("012", choices, strict=True) if choice}
        for choices in itertools.product(*([None, *damages[name]] for name in "012"))
    ]
    for budget in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        plan = lowrank.choose_ranks(
            model, damages, budget=budget, resource="parameters", input_shape=(1, 9)
        )
        best = min(harm(p) for p in every if share(survey, p, "parameters") <= budget)
        assert harm(plan) == pytest.approx(best)
        assert share(survey, plan, "parameters") <= budget


def test_free_and_useful_choices_are_taken_even_with_room_and_others_are_not():
    model = chain()
    free = {"2": {Choice("svd", 2): 0.0, Choice("svd", 3): 0.0}, "3": {Choice("svd", 1): 1e-6}}
    plan = lowrank.choose_ranks(model, free, budget=1, input_shape=(1, 1, 4, 4))
    assert plan == {"2": Choice("svd", 2)}
    useful = {"3": {Choice("svd", 1): -1.0}, "2": {Choice("svd", 8): -5.0}}
    plan = lowrank.choose_ranks(model, useful, budget=1, input_shape=(1, 1, 4, 4))
    assert plan == {"3": Choice("svd", 1)}  # rank 8 of 24 → 8 costs more than the layer
    assert lowrank.choose_ranks(model, {}, budget=1.0, input_shape=(1, 1, 4, 4)) == {}


def test_the_spared_layers_are_those_that_hurt():
    model, _, shape = network("resnet14")
    damages = {
        name: {c: d * (100 if "stage3" in name else 1) for c, d in found.items()}
        for name, found in damages_of("resnet14").items()
    }
    plan = lowrank.choose_ranks(model, damages, budget=0.7, input_shape=shape)
    lost = [damages_of("resnet14")[name][c] for name, c in plan.items() if "stage3" in name]
    others = [damages_of("resnet14")[n][c] for n, c in plan.items() if "stage3" not in n]
    assert sum(lost) < 0.05 * sum(others)


def test_a_plan_from_measured_damages_can_be_made_and_run():
    model, _, shape = network("student")
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x)

        def measure(m):
            return -float((m(x) - expected).square().mean())

        scan = lowrank.layer_sensitivity(model, [0.2, 0.5, 0.8], measure)
        plan = lowrank.choose_ranks(
            model, lowrank.measured_damages(scan), budget=0.7, input_shape=shape
        )
        made = lowrank.factorize(model, plan)
        assert made(x).shape == expected.shape
    assert 0.6 < metrics.count_macs(made, shape) / metrics.count_macs(model, shape) <= 0.7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": 0}, ValueError, "budget is 0; it must be above 0 and at most 1"),
        ({"budget": 1.5}, ValueError, r"budget is 1\.5"),
        ({"budget": math.nan}, ValueError, "budget is nan"),
        ({"budget": 0.5, "resource": "flops"}, ValueError, "resource is 'flops'"),
        ({"budget": 0.5, "damages": {"9": {}}}, KeyError, "'9' is no layer that can be"),
        ({"budget": 0.5, "damages": {"2": {Choice("svd", 9): 1.0}}}, ValueError, "from 1 to 8"),
        ({"budget": 0.9, "damages": {"2": {Choice("svd", 1): math.nan}}}, ValueError, "damage nan"),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    arguments = {"damages": {"2": {Choice("svd", 1): 1.0}}} | arguments
    with pytest.raises(error, match=message):
        lowrank.choose_ranks(chain(), input_shape=(1, 1, 4, 4), **arguments)


def test_a_budget_out_of_reach_names_the_smallest_fraction():
    """216 + 192 + 32 MACs; the cheapest choices leave 216 + 32 + 12 of 440."""
    damages = {"2": {Choice("svd", 1): 1.0, Choice("svd", 2): 0.5}, "3": {Choice("svd", 1): 1.0}}
    small = {"budget": 0.59, "input_shape": (1, 1, 4, 4)}
    with pytest.raises(ValueError, match=r"leaves 0\.590 of the macs: .* 0\.591 are left"):
        lowrank.choose_ranks(chain(), damages, **small)
    plan = lowrank.choose_ranks(chain(), damages, **small | {"budget": 260 / 440})
    assert plan == {"2": Choice("svd", 1), "3": Choice("svd", 1)}
