"""slimcnn.sparsity, training: counts that never change, gradients of what is hidden, ERK."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimcnn import training
from slimcnn.data import Batch, Split
from slimcnn.masking import apply_masks, finalize, masks_of
from slimcnn.sparsity import DropAndGrow, dense_gradients, drop_and_grow, erk_sparsities
from slimcnn.training import Recipe

NAN, INF = float("nan"), float("inf")


def network():
    with training.seeded(3):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, bias=False),
            nn.Flatten(),
            nn.Linear(6 * 3 * 3, 10),
        )


def masked_network(density=0.5, names=("3.weight", "5.weight")):
    model, generator = network(), torch.Generator().manual_seed(1)
    weights = dict(model.named_parameters())
    masks = {n: torch.rand(weights[n].shape, generator=generator) < density for n in names}
    return apply_masks(model, masks)


def split(count=96):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return Split("noise", images, torch.arange(count) % 10)


def batch(count=12):
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(count, 1, 16, 16, generator=generator)
    return Batch(images, torch.arange(count) % 10, torch.arange(count))


def original(model, name):
    module, _, attribute = name.rpartition(".")
    return model.get_submodule(module).parametrizations[attribute].original


# ---------------------------------------------------------------- drop and grow


def test_drop_and_grow_by_pencil():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    weight = torch.tensor([[0.5, -0.1, 0.2, -3.0], [9, 9, 9, 9]])
    gradient = torch.tensor([[0.0, 0.0, 0.0, 8.0], [1.0, -5.0, 2.0, 0.5]])
    # Half of four: −0.1 and 0.2 go; the gradients −5 and 2 are the largest of what is zero.
    expected = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]]).bool()
    assert torch.equal(drop_and_grow(mask, weight, gradient, 0.5), expected)
    # One of four; a dropped weight whose gradient is the largest comes back at once.
    gradient[0, 1] = -6.0
    assert torch.equal(drop_and_grow(mask, weight, gradient, 0.25), mask)
    assert mask.tolist() == [[True] * 4, [False] * 4]


def test_nothing_moves_by_a_share_of_zero_and_everything_by_one():
    mask = torch.tensor([1, 0, 1, 0, 0, 1]).bool()
    gradient = torch.tensor([9.0, 1, 2, 8, 7, 3])
    weight = torch.ones(6)
    assert torch.equal(drop_and_grow(mask, weight, gradient, 0.0), mask)
    moved = drop_and_grow(mask, weight, gradient, 1.0)
    assert moved.tolist() == [True, False, False, True, True, False]


def test_of_equal_weights_and_gradients_the_first_move():
    mask = torch.tensor([1, 1, 1, 0, 0, 0]).bool()
    moved = drop_and_grow(mask, torch.ones(6), torch.zeros(6), 1 / 3)
    assert moved.tolist() == [True, True, True, False, False, False]  # the dropped one comes back
    moved = drop_and_grow(mask, torch.ones(6), torch.tensor([0.0, 0, 0, 1, 1, 1]), 1 / 3)
    assert moved.tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("fill", [True, False])
def test_full_and_empty_masks_stay(fill):
    mask = torch.full((3, 4), fill)
    weight, gradient = torch.randn(3, 4), torch.randn(3, 4)
    for share in (0.0, 0.4, 1.0):
        assert torch.equal(drop_and_grow(mask, weight, gradient, share), mask)
    assert drop_and_grow(mask[:0], weight[:0], gradient[:0], 0.5).shape == (0, 4)


def drop_and_grow_by_loops(mask, weight, gradient, share):
    active = [i for i, on in enumerate(mask) if on]
    count = round(share * len(active))
    dropped = set(sorted(active, key=lambda i: abs(weight[i]))[:count])
    kept = [i for i in active if i not in dropped]
    zeros = [i for i in range(len(mask)) if i not in kept]
    grown = sorted(zeros, key=lambda i: -abs(gradient[i]))[:count]
    return [i in kept or i in grown for i in range(len(mask))]


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 30), st.floats(0, 1))
def test_drop_and_grow_as_in_a_loop_and_the_count_stays(data, size, share):
    numbers = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([INF, -INF]))
    mask = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    weight = data.draw(st.lists(numbers, min_size=size, max_size=size))
    gradient = data.draw(st.lists(numbers, min_size=size, max_size=size))
    moved = drop_and_grow(torch.tensor(mask).bool(), *map(torch.tensor, (weight, gradient)), share)
    assert moved.tolist() == drop_and_grow_by_loops(mask, weight, gradient, share)
    assert int(moved.sum()) == sum(mask)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_count_stays_in_a_network_that_diverged(bad):
    mask = torch.tensor([0, 0, 1, 1, 0, 1]).bool()
    weight, gradient = torch.full((6,), bad), torch.full((6,), bad)
    for share in (0.3, 0.7, 1.0):
        assert int(drop_and_grow(mask, weight, gradient, share).sum()) == 3
        assert int(drop_and_grow(mask, weight, torch.ones(6), share).sum()) == 3


def test_masks_of_any_layout():
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(4, 6, 3, 3, generator=generator) for _ in range(2))
    mask = torch.rand(4, 6, 3, 3, generator=generator) < 0.5
    expected = drop_and_grow(mask, weight, gradient, 0.3)
    last = {"memory_format": torch.channels_last}
    moved = drop_and_grow(mask.to(**last), weight.to(**last), gradient, 0.3)
    assert torch.equal(moved, expected)
    assert not torch.equal(moved, mask)


@pytest.mark.parametrize("share", [-0.1, 1.1, NAN])
def test_shares_that_are_none_are_refused(share):
    ones = torch.ones(3)
    with pytest.raises(ValueError, match=r"share is .*; it must be from 0 to 1"):
        drop_and_grow(ones.bool(), ones, ones, share)


@pytest.mark.parametrize("sizes", [(3, 4, 4), (4, 3, 4), (4, 4, 3)])
def test_shapes_that_differ_are_refused(sizes):
    mask, weight, gradient = map(torch.ones, sizes)
    with pytest.raises(ValueError, match="they must be equal"):
        drop_and_grow(mask.bool(), weight, gradient, 0.5)


# ---------------------------------------------------------------- Erdős–Rényi-kernel


def test_erk_by_pencil():
    # (4 + 6 + 3 + 3) / (4 · 6 · 9) = 16/216 and (10 + 20) / 200; both times their sizes, 16 and
    # 30, add up to 46. Of 416 numbers 23 stay: half of 46, so half of 16 and of 30.
    shapes = {"conv": (4, 6, 3, 3), "fc": (10, 20)}
    sparsities = erk_sparsities(shapes, 1 - 23 / 416)
    assert list(sparsities) == ["conv", "fc"]
    assert sparsities["conv"] == pytest.approx(1 - 8 / 216)
    assert sparsities["fc"] == pytest.approx(1 - 15 / 200)


def test_a_layer_that_would_be_more_than_dense_is_dense():
    # Half of 9 + 900 numbers, 454.5, stay. In proportion to 7 and 60 the small layer would
    # have 47 of its 9: it is dense, and the other has the remaining 445.5.
    sparsities = erk_sparsities({"small": (3, 3, 1), "large": (30, 30)}, 0.5)
    assert sparsities["small"] == 0
    assert sparsities["large"] == pytest.approx(1 - 445.5 / 900)
    # In turn: of 1,620 numbers 182 stay, 182 / (8 + 4 + 80) = 1.98 times the dimensions. That
    # is too much for "b" and less than all for "a" (15.8 of 16). With "b" dense the factor is
    # 178 / 88 = 2.02, and "a" is dense as well (16.2 of 16).
    three = erk_sparsities({"a": (4, 4), "b": (2, 2), "c": (40, 40)}, 1 - 182 / 1620)
    assert three["a"] == three["b"] == 0
    assert three["c"] == pytest.approx(1 - 162 / 1600)


layers = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(layers, st.one_of(st.sampled_from([0.0, 0.9, 1.0]), st.floats(0, 1)))
def test_erk_is_exact_as_a_whole_and_in_proportion(shapes, sparsity):
    found = erk_sparsities(shapes, sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert list(found) == list(shapes)
    assert all(0 <= s <= 1 for s in found.values())
    zeros = sum(found[name] * sizes[name] for name in shapes)
    assert zeros == pytest.approx(sparsity * sum(sizes.values()), rel=1e-9, abs=1e-6)
    # Density by (sum of dimensions) / (product): one factor for all layers that are not dense,
    # and no dense layer deserves less than 1.
    factors = {n: (1 - found[n]) / (sum(shapes[n]) / sizes[n]) for n in shapes}
    thinned = [factors[name] for name in shapes if found[name] > 1e-6]
    if thinned:
        assert max(thinned) == pytest.approx(min(thinned), rel=1e-4, abs=1e-9)
        assert all(f <= max(thinned) * (1 + 1e-4) + 1e-9 for f in factors.values())


def test_erk_at_the_ends():
    shapes = {"a": (4, 6, 3, 3), "b": (10, 20), "c": (10,)}
    assert erk_sparsities(shapes, 1.0) == dict.fromkeys(shapes, 1.0)
    assert erk_sparsities(shapes, 0.0) == pytest.approx(dict.fromkeys(shapes, 0.0), abs=1e-12)
    assert erk_sparsities({}, 0.5) == {}


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, NAN])
def test_erk_refuses_what_is_no_sparsity(sparsity):
    with pytest.raises(ValueError, match=r"sparsity is .*; it must be a fraction of zeros, 0 to 1"):
        erk_sparsities({"a": (3, 3)}, sparsity)


# ---------------------------------------------------------------- gradients of hidden weights


def gradients_by_hand(model, batch, label_smoothing=0.0):
    """Autograd on a network of the same numbers that knows of no mask."""
    plain = network()
    plain.load_state_dict(finalize(model).state_dict())
    plain.train(model.training)
    loss = F.cross_entropy(plain(batch.images), batch.labels, label_smoothing=label_smoothing)
    names, parameters = zip(*plain.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_those_of_the_plain_network(mode):
    model = masked_network().train(mode)
    found, expected = dense_gradients(model, batch()), gradients_by_hand(model, batch())
    assert set(found) == set(expected) == {name for name, _ in network().named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    hidden = ~masks_of(model)["3.weight"]
    assert (found["3.weight"][hidden] != 0).sum() > 40  # what autograd of the masked one lacks
    loss, _ = training.cross_entropy()(model, batch())
    loss.backward()
    seen = original(model, "3.weight").grad
    assert not seen[hidden].any()
    torch.testing.assert_close(seen[~hidden], found["3.weight"][~hidden], rtol=1e-5, atol=1e-7)


def test_gradients_of_another_objective():
    model = masked_network()
    found = dense_gradients(model, batch(), training.cross_entropy(0.3))
    expected = gradients_by_hand(model, batch(), label_smoothing=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(found["5.weight"], dense_gradients(model, batch())["5.weight"])


def test_taking_gradients_leaves_the_model_unchanged():
    model = masked_network().train()
    model[0].eval()
    model[0].weight.requires_grad_(False)
    loss, _ = training.cross_entropy()(model, batch())
    loss.backward()
    loss, _ = training.cross_entropy()(model, batch())  # waits for its backward pass
    state = copy.deepcopy(model.state_dict())
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    buffers, modes = dict(model.named_buffers()), [m.training for m in model.modules()]
    found = dense_gradients(model, batch())
    assert found["0.weight"].any()  # frozen parameters have one, too
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    assert [m.training for m in model.modules()] == modes
    for name, parameter in model.named_parameters():
        before = gradients[name]
        assert parameter.grad is None if before is None else torch.equal(parameter.grad, before)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["0.weight"]
    assert set(masks_of(model)) == {"3.weight", "5.weight"}
    loss.backward()  # would fail, had the weights been written to


def test_an_unused_parameter_has_a_gradient_of_zero():
    model = masked_network()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, 3)))
    assert torch.equal(dense_gradients(model, batch())["unused"], torch.zeros(2, 3))


# ---------------------------------------------------------------- in training


class Watched:
    """A hook that keeps what another hook found and what it left."""

    def __init__(self, hook):
        self.hook, self.before, self.after, self.originals, self.expected = hook, [], [], [], {}

    def __call__(self, model, batch, step):
        self.before.append(masks_of(model))
        others = {
            n: t.clone() for n, t in model.state_dict().items() if "parametrizations" not in n
        }
        weights = {name: original(model, name).detach().clone() for name in self.before[-1]}
        if step in (4, 8):
            share = self.hook.fraction / 2 * (1 + math.cos(math.pi * step / self.hook.until))
            gradients = gradients_by_hand(model, batch)
            self.expected[step] = {
                name: drop_and_grow(mask, weights[name], gradients[name], share)
                for name, mask in self.before[-1].items()
            }
        self.hook(model, batch, step)
        self.after.append(masks_of(model))
        self.originals.append({n: original(model, n).detach().clone() for n in weights})
        assert all(torch.equal(model.state_dict()[name], t) for name, t in others.items())
        # Weights that were there before keep their numbers; those that begin are zero.
        for name, weight in weights.items():
            began = self.after[-1][name] & ~self.before[-1][name]
            now = self.originals[-1][name]
            assert torch.equal(now[~began], weight[~began])
            assert not now[began].any()
            assert weight[began].any() or not began.any()


def test_drop_and_grow_in_fit_keeps_the_counts_and_moves_weights():
    model = masked_network()
    counts = {name: int(mask.sum()) for name, mask in masks_of(model).items()}
    recipe = Recipe(epochs=2, batch_size=12, lr=0.05, average=0, augmentation=None)
    hook = Watched(DropAndGrow(until=12, every=4, fraction=0.4))
    trained, _ = training.fit(
        model, split(), recipe, seed=0, before_step=hook, device="cpu", progress=False
    )
    assert len(hook.after) == 16
    for step, (before, after) in enumerate(zip(hook.before, hook.after, strict=True)):
        assert {name: int(mask.sum()) for name, mask in after.items()} == counts
        changed = {name: int((after[name] & ~before[name]).sum()) for name in counts}
        if step in (4, 8):  # not 0, and not from 12 on
            share = 0.2 * (1 + math.cos(math.pi * step / 12))
            assert all(0 < changed[n] <= round(share * counts[n]) for n in counts)
            assert all(torch.equal(after[n], hook.expected[step][n]) for n in counts)
        else:
            assert not any(changed.values())
    final = masks_of(trained)
    assert all(torch.equal(final[name], hook.after[-1][name]) for name in counts)
    plain = finalize(trained)
    for name, count in counts.items():
        weight = plain.get_parameter(name)
        # A grown weight may still be zero by chance of a dead unit, no masked one may live.
        assert count - 3 <= int(weight.count_nonzero()) <= count
        assert not weight[~final[name]].any()
    assert all(torch.equal(m, masks_of(model)[n]) for n, m in hook.before[0].items())


@pytest.mark.parametrize(
    ("step", "until", "fraction"), [(10, 100, 0.3), (50, 100, 0.3), (90, 100, 1)]
)
def test_the_share_falls_along_a_cosine(step, until, fraction):
    """Zeros have the larger gradients, so that all that is dropped moves."""
    mask = torch.arange(400).view(1, 400) < 200
    model = apply_masks(nn.Sequential(nn.Linear(400, 1)), {"0.weight": mask})
    slope = torch.where(mask, 1.0, 2.0).squeeze()

    def objective(model, batch):
        return (model[0].weight.squeeze() * slope).sum(), None

    DropAndGrow(until, 10, fraction, objective)(model, batch(), step)
    share = {10: 0.5 + math.sqrt((5 + math.sqrt(5)) / 8) / 2, 50: 0.5, 90: None}[step]
    if share is None:
        share = 0.5 - math.sqrt((5 + math.sqrt(5)) / 8) / 2
    moved = masks_of(model)["0.weight"] & ~mask
    assert int(moved.sum()) == round(fraction * share * 200)
    assert not model[0].weight.detach()[moved].any()


@pytest.mark.parametrize("step", [0, 1, 9, 11, 99, 100, 110])
def test_between_updates_nothing_is_computed(step):
    model = masked_network()
    before = {n: t.clone() for n, t in model.state_dict().items()}

    def objective(model, batch):
        raise AssertionError("no gradient is needed")

    DropAndGrow(until=100, every=10, objective=objective)(model, batch(), step)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("fraction", [0, 0.0, 1])
def test_the_ends_of_the_fraction(fraction):
    model = masked_network()
    before = masks_of(model)
    DropAndGrow(until=10, every=1, fraction=fraction)(model, batch(), 1)
    same = all(torch.equal(mask, before[name]) for name, mask in masks_of(model).items())
    assert same is (fraction == 0)


def test_a_network_without_masks_is_left_alone():
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    DropAndGrow(until=10, every=1)(model, batch(), 3)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": 0}, "until is 0; it must be 1 or more"),
        ({"until": 9, "every": 0}, "every is 0; it must be 1 or more"),
        ({"until": 9, "fraction": -0.1}, "fraction is -0.1; it must be from 0 to 1"),
        ({"until": 9, "fraction": 1.1}, "fraction is 1.1"),
        ({"until": 9, "fraction": NAN}, "fraction is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DropAndGrow(**options)
