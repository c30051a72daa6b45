"""slimcnn.pruning.schedules: the cubic curve, masks that only tighten, training with them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from slimcnn import data, pruning, training
from slimcnn.training import Recipe

FRACTIONS = st.floats(0, 1)
RECIPE = Recipe(epochs=3, batch_size=64, lr=0.1, average=0.0)  # 5 steps an epoch


@pytest.fixture(scope="module")
def split():
    return data.load("validation").subset(300)


def tiny():
    with training.seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 13 * 13, 10),
        )


def prepared(model):
    return pruning.apply_masks(model, pruning.layerwise_masks(pruning.magnitude(model), 0))


def fit(model, split, recipe=RECIPE, **options):
    options = {"seed": 0, "device": "cpu", "progress": False, **options}
    return training.fit(model, split, recipe, **options)[0]


# ---------------------------------------------------------------- curves


@given(FRACTIONS, FRACTIONS, FRACTIONS)
def test_cubic_is_its_formula_and_moves_from_initial_to_final(progress, final, initial):
    value = pruning.cubic(progress, final, initial)
    assert value == pytest.approx(final + (initial - final) * (1 - progress) ** 3)
    assert min(final, initial) - 1e-12 <= value <= max(final, initial) + 1e-12
    assert pruning.cubic(0.0, final, initial) == pytest.approx(initial)
    assert pruning.cubic(1.0, final, initial) == pruning.cubic(7.5, final, initial) == final


@given(st.lists(FRACTIONS, min_size=2), FRACTIONS)
def test_cubic_never_falls_and_is_fast_first(progress, final):
    values = [pruning.cubic(p, final) for p in sorted(progress)]
    assert values == sorted(values)
    assert pruning.cubic(0.5, final) == pytest.approx(7 / 8 * final)


def test_one_shot_is_the_final_sparsity_from_the_start():
    assert [pruning.one_shot(p, 0.9, 0.1) for p in (0.0, 0.5, 1.0, 2.0)] == [0.9] * 4


@pytest.mark.parametrize("schedule", [pruning.cubic, pruning.one_shot])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-0.1, 0.5), "progress"),
        ((0.5, 1.1), "final"),
        ((0.5, -1), "final"),
        ((0.5, 0.5, 2), "initial"),
        ((0.5, float("nan")), "final"),
        ((float("nan"), 0.5), "progress"),
    ],
)
def test_curves_refuse_what_is_out_of_range(schedule, arguments, name):
    with pytest.raises(ValueError, match=f"{name} is"):
        schedule(*arguments)


# ---------------------------------------------------------------- the hook


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"final": 1.5, "steps": 3}, "final is 1.5"),
        ({"final": 0.5, "steps": 3, "initial": -1}, "initial is -1"),
        ({"final": 0.5, "steps": 0}, "steps is 0; it must be 1 or more"),
        ({"final": 0.5, "steps": 3, "every": 0}, "every is 0; it must be 1 or more"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pruning.GradualPruning(**arguments)


def test_masks_follow_the_schedule_at_the_right_steps_and_only_there():
    model = prepared(nn.Linear(100, 10))
    plan = pruning.GradualPruning(0.9, steps=10, every=4, initial=0.2)
    expected, current = [], 0.0
    found = []
    for step in range(14):
        if step in (0, 4, 8, 10):
            current = round(1000 * (0.9 + (0.2 - 0.9) * (1 - step / 10) ** 3)) / 1000
        expected.append(current)
        plan(model, None, step)
        found.append(pruning.sparsity_of(pruning.masks_of(model)))
        with torch.no_grad():
            model.parametrizations.weight.original.normal_()  # any training in between
    assert found == pytest.approx(expected)


def test_masks_are_made_of_the_magnitudes_of_the_moment():
    model = prepared(nn.Linear(4, 1))
    plan = pruning.GradualPruning(0.75, steps=2, every=1, schedule=lambda p, final, _: p * final)
    original = model.parametrizations.weight.original
    original.data = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    plan(model, None, 0)
    assert model.weight.tolist() == [[1.0, -2.0, 3.0, -4.0]]
    plan(model, None, 1)  # round(0.375 · 4) = 2
    assert model.weight.tolist() == [[0.0, 0.0, 3.0, -4.0]]
    original.data = torch.tensor([[9.0, 9.0, 3.0, -2.0]])
    plan(model, None, 2)
    assert model.weight.tolist() == [[0.0, 0.0, 3.0, 0.0]]


def test_a_kept_weight_that_is_zero_by_chance_frees_no_masked_one():
    model = nn.Linear(4, 1)
    model.weight.data = torch.tensor([[0.0, 5.0, 7.0, 8.0]])
    masked = pruning.apply_masks(model, {"weight": torch.tensor([[True, False, True, True]])})
    pruning.GradualPruning(0.25, steps=1, schedule=pruning.one_shot)(masked, None, 1)
    assert masked.weight.tolist() == [[0.0, 0.0, 7.0, 8.0]]
    assert pruning.masks_of(masked)["weight"].tolist() == [[True, False, True, True]]


@pytest.mark.parametrize("allocate", [pruning.global_masks, pruning.layerwise_masks])
def test_a_schedule_that_begins_below_the_networks_sparsity_brings_nothing_back(allocate):
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    scores = pruning.magnitude(model)
    masked = pruning.apply_masks(model, pruning.global_masks(scores, 0.5))
    before = pruning.masks_of(masked)
    plan = pruning.GradualPruning(0.8, steps=4, every=1, allocate=allocate)
    for step in range(5):
        plan(masked, None, step)
        now = pruning.masks_of(masked)
        assert all(not (now[n] & ~before[n]).any() for n in now)
        before = now
    assert pruning.sparsity_of(now) == pytest.approx(0.8)


def test_allocate_decides_where_the_zeros_are():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    model[0].weight.data.mul_(1e-6)
    shares = {}
    for allocate in (pruning.global_masks, pruning.layerwise_masks):
        masked = prepared(model)
        pruning.GradualPruning(0.25, steps=1, allocate=allocate)(masked, None, 1)
        shares[allocate] = [float((~m).sum()) for m in pruning.masks_of(masked).values()]
    assert shares[pruning.global_masks] == [50, 0]
    assert shares[pruning.layerwise_masks] == [25, 25]


def test_only_what_was_masked_before_is_pruned():
    model = tiny()
    masked = pruning.apply_masks(model, {"0.weight": torch.ones(4, 1, 3, 3).bool()})
    pruning.GradualPruning(1.0, steps=1)(masked, None, 1)
    assert not masked[0].weight.any()
    assert masked[4].weight.all()
    with pytest.raises(ValueError, match="apply_masks"):
        pruning.GradualPruning(0.5, steps=1)(model, None, 0)


# ---------------------------------------------------------------- in training


def test_fit_ends_with_the_exact_final_sparsity_and_the_given_network_is_whole(split):
    model = prepared(tiny())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plan = pruning.GradualPruning(0.83, steps=10, every=3)
    trained = fit(model, split, before_step=plan)
    final = pruning.finalize(trained)
    weights = torch.cat([final[0].weight.flatten(), final[4].weight.flatten()])
    assert int((weights == 0).sum()) == round(0.83 * (36 + 6760))
    assert pruning.sparsity_of(pruning.masks_of(trained)) == pytest.approx(0.83, abs=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert trained(data.normalize(split.images[:1])).shape == (1, 10)


def test_the_last_mask_comes_at_step_steps_so_training_must_reach_it(split):
    seen = []

    class Watched(pruning.GradualPruning):
        def __call__(self, model, batch, step):
            super().__call__(model, batch, step)
            seen.append(pruning.sparsity_of(pruning.masks_of(model)))

    fit(prepared(tiny()), split, before_step=Watched(0.5, steps=14, every=50))
    assert len(seen) == 15
    assert seen[:14] == [0.0] * 14
    assert seen[14] == 0.5


class Interrupted(Exception):
    pass


def test_a_killed_run_continues_to_the_same_masks(split, tmp_path):
    plan = pruning.GradualPruning(0.7, steps=12, every=2)
    whole = fit(prepared(tiny()), split, before_step=plan)

    def killed(model, batch, step):
        if step == 8:
            raise Interrupted
        plan(model, batch, step)

    path = tmp_path / "run.safetensors"
    with pytest.raises(Interrupted):
        fit(prepared(tiny()), split, before_step=killed, checkpoint=path)
    resumed = fit(prepared(tiny()), split, before_step=plan, checkpoint=path)
    a, b = whole.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert pruning.sparsity_of(pruning.masks_of(resumed)) == pytest.approx(0.7, abs=1e-4)


def test_averaged_weights_are_refused(split):
    plan = pruning.GradualPruning(0.5, steps=2)
    with pytest.raises(ValueError, match=r"average=0\.9"):
        fit(prepared(tiny()), split, Recipe(epochs=1, average=0.9), before_step=plan)
