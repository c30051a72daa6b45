"""slimcnn.masking: zeros under any optimizer, plain weights again, nothing shared."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slimcnn import masking, metrics

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 1, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def some_masks(model, seed=0, names=("0.weight", "3.weight", "5.weight")):
    generator = torch.Generator().manual_seed(seed)
    weights = dict(model.named_parameters())
    masks = {n: torch.rand(weights[n].shape, generator=generator) < 0.5 for n in names}
    for mask in masks.values():  # something stays and something goes, in the smallest, too
        mask.view(-1)[0], mask.view(-1)[-1] = True, False
    return masks


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model, state):
    found = model.state_dict()
    return list(found) == list(state) and all(torch.equal(found[n], state[n]) for n in state)


def weight(model, name):
    module, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(module), attribute).detach().clone()


def steps(model, optimizer, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(count):
        images = torch.randn(8, 2, 4, 4, generator=generator)
        labels = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


# ---------------------------------------------------------------- what is computed


def test_a_masked_network_computes_with_weight_times_mask_and_the_original_is_whole():
    model = network().eval()
    before, masks = state_of(model), some_masks(model)
    masked = masking.apply_masks(model, masks)
    by_hand = copy.deepcopy(model)
    for name, mask in masks.items():
        dict(by_hand.named_parameters())[name].data.mul_(mask)
    images = torch.randn(5, 2, 4, 4)
    assert torch.equal(masked(images), by_hand(images))
    assert not torch.allclose(masked(images), model(images))
    assert same_state(model, before)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16), st.booleans())
def test_outputs_and_gradients_are_those_of_pytorchs_pruning(rows, columns, seed, bias):
    torch.manual_seed(seed)
    layer, x = nn.Linear(columns, rows, bias=bias), torch.randn(1, columns)
    mask = torch.rand(rows, columns) < 0.5
    masked = masking.apply_masks(layer, {"weight": mask})
    oracle = prune.custom_from_mask(copy.deepcopy(layer), "weight", mask)
    for network in (masked, oracle):
        network(x).square().sum().backward()
    assert torch.equal(masked(x), oracle(x))
    gradient = masked.parametrizations.weight.original.grad
    assert torch.equal(gradient, oracle.weight_orig.grad)
    assert not gradient[~mask].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_a_mask_hides_may_be_anything(value):
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[value, 3.0]])
    masked = masking.apply_masks(layer, {"weight": torch.tensor([[False, True]])})
    assert masked(torch.tensor([[5.0, 2.0]])).tolist() == [[6.0]]
    assert masking.finalize(masked).weight.tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_a_weight_stays(dtype):
    layer = nn.Linear(3, 2).to(dtype)
    masked = masking.apply_masks(layer, {"weight": torch.eye(2, 3).bool()})
    assert masked.weight.dtype == masking.finalize(masked).weight.dtype == dtype


def test_what_is_assigned_to_a_masked_weight_is_masked():
    masked = masking.apply_masks(nn.Linear(2, 2), {"weight": torch.eye(2).bool()})
    masked.weight = torch.full((2, 2), 7.0)
    assert masked.weight.tolist() == [[7.0, 0.0], [0.0, 7.0]]
    masking.set_masks_(masked, {"weight": torch.ones(2, 2).bool()})
    assert masked.weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_masks_of_returns_what_was_set_and_a_later_change_of_either_does_not_matter():
    model = network()
    masks = some_masks(model, names=("0.weight", "0.bias", "5.weight"))
    kept = {name: mask.clone() for name, mask in masks.items()}
    masked = masking.apply_masks(model, masks)
    masks["0.weight"].fill_(True)
    masking.masks_of(masked)["5.weight"].fill_(True)
    found = masking.masks_of(masked)
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    assert masking.masks_of(model) == {}


def test_the_networks_own_weight_has_a_name_without_a_dot():
    mask = torch.eye(2, 3).bool()
    found = masking.masks_of(masking.apply_masks(nn.Linear(3, 2), {"weight": mask}))
    assert list(found) == ["weight"]
    assert torch.equal(found["weight"], mask)


def test_metrics_count_a_masked_network_as_masked():
    model = network()
    masks = some_masks(model)
    dropped = sum(int((~mask).sum()) for mask in masks.values())
    masked = masking.apply_masks(model, masks)
    assert metrics.count_parameters(masked) == metrics.count_parameters(model)
    # Batch norm begins with 4 shifts of zero.
    expected = metrics.count_parameters(model) - 4 - dropped
    assert metrics.count_nonzeros(masked) == expected
    assert metrics.count_nonzeros(masking.finalize(masked)) == expected


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_and_the_others_move_as_with_pytorchs_pruning(name):
    model = network()
    masks = some_masks(model)
    masked, oracle = masking.apply_masks(model, masks), copy.deepcopy(model)
    for where, mask in masks.items():
        prune.custom_from_mask(oracle.get_submodule(where[0]), "weight", mask)
    before = {n: weight(masked, n) for n in masks}
    for trained in (masked, oracle):
        steps(trained, OPTIMIZERS[name](trained.parameters()), 10)
    for where, mask in masks.items():
        after = weight(masked, where)
        assert not after[~mask].any()
        assert (after[mask] != before[where][mask]).all()
        expected = oracle.get_submodule(where[0]).weight_orig * mask
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    final = masking.finalize(masked)
    assert all(not weight(final, n)[~mask].any() for n, mask in masks.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_waiting_momentum_does_not_bring_back_what_is_masked_in_mid_training(name):
    model = network()
    everything = {n: torch.ones_like(m) for n, m in some_masks(model).items()}
    masked = masking.apply_masks(model, everything)
    optimizer = OPTIMIZERS[name](masked.parameters())
    steps(masked, optimizer, 3)
    masks = some_masks(model, seed=1)
    masking.set_masks_(masked, masks)
    hidden = masked[0].parametrizations.weight.original
    gone = ~masks["0.weight"]
    before = hidden.detach().clone()
    for seed in range(3):
        steps(masked, optimizer, 1, seed)
        assert all(not weight(masked, n)[~mask].any() for n, mask in masks.items())
    assert (hidden[gone] != before[gone]).all()  # the optimizer did push


def test_an_unmasked_network_would_lose_its_zeros():
    """The reason for all this: zeros that are only written in do not last one step."""
    model = network()
    masks = some_masks(model)
    plain = masking.finalize(masking.apply_masks(model, masks))
    steps(plain, OPTIMIZERS["sgd"](plain.parameters()), 1)
    assert weight(plain, "0.weight")[~masks["0.weight"]].any()


def test_an_average_over_a_masked_network_is_masked():
    masked = masking.apply_masks(network(), some_masks(network()))
    averaged = AveragedModel(masked, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = OPTIMIZERS["sgd"](masked.parameters())
    for seed in range(3):
        steps(masked, optimizer, 1, seed)
        averaged.update_parameters(masked)
    for name, mask in some_masks(network()).items():
        assert torch.equal(masking.masks_of(averaged.module)[name], mask)
        assert not weight(averaged.module, name)[~mask].any()


def test_a_state_dict_carries_masks_into_a_network_prepared_alike():
    first = masking.apply_masks(network(), some_masks(network(), 0))
    second = masking.apply_masks(network(), some_masks(network(), 1))
    second.load_state_dict(first.state_dict())
    assert same_state(masking.finalize(second), state_of(masking.finalize(first)))


# ---------------------------------------------------------------- plain weights again


def test_finalize_gives_the_same_network_under_the_old_names():
    model = network().eval()
    masked = masking.apply_masks(model, some_masks(model))
    final = masking.finalize(masked)
    images = torch.randn(3, 2, 4, 4)
    assert torch.equal(final(images), masked(images))
    # A weight that was parametrized comes back at the end of its layer.
    assert sorted(final.state_dict()) == sorted(model.state_dict())
    assert [type(m) for m in final.modules()] == [type(m) for m in model.modules()]
    assert sorted(n for n, _ in final.named_parameters()) == sorted(
        n for n, _ in model.named_parameters()
    )
    assert same_state(masking.finalize(final), state_of(final))
    assert same_state(masking.finalize(model), state_of(model))


def test_after_finalize_the_masked_network_still_trains_masked():
    """PyTorch's deep copies share the class that finalize takes the mask from."""
    model = network()
    masks = some_masks(model)
    masked = masking.apply_masks(model, masks)
    state, images = state_of(masked), torch.randn(3, 2, 4, 4)
    expected = copy.deepcopy(masked).eval()(images)
    final = masking.finalize(masked)
    assert same_state(masked, state)
    assert torch.equal(copy.deepcopy(masked).eval()(images), expected)
    steps(final, OPTIMIZERS["sgd"](final.parameters()), 1)
    steps(masked, OPTIMIZERS["sgd"](masked.parameters()), 1)
    assert all(not weight(masked, n)[~mask].any() for n, mask in masks.items())
    assert same_state(masking.finalize(masked), state_of(masking.finalize(masked)))


def test_masking_more_of_a_masked_network_leaves_the_first_one_alone():
    model = network()
    first = masking.apply_masks(model, some_masks(model, 0, ["0.weight"]))
    state = state_of(first)
    added = some_masks(model, 1, ["0.bias", "5.weight"])
    second = masking.apply_masks(first, added)
    assert same_state(first, state)
    assert list(masking.masks_of(first)) == ["0.weight"]
    assert torch.equal(first[0].bias, model[0].bias)
    assert set(masking.masks_of(second)) == {"0.weight", "0.bias", "5.weight"}
    images = torch.randn(3, 2, 4, 4)
    plain = masking.finalize(second)
    for network_ in (first, second, plain):
        assert network_.eval()(images).shape == (3, 3)
    assert torch.equal(second(images), plain(images))


def test_a_new_mask_replaces_the_old_one_in_a_copy():
    model = network()
    old, new = some_masks(model, 0), some_masks(model, 1)
    first = masking.apply_masks(model, old)
    second = masking.apply_masks(first, new)
    for name in old:
        assert torch.equal(weight(first, name), weight(model, name) * old[name])
        assert torch.equal(weight(second, name), weight(model, name) * new[name])
    assert len(second[0].parametrizations.weight) == 1


def test_a_copy_of_a_copy_is_independent():
    masked = masking.apply_masks(network(), some_masks(network()))
    clone = copy.deepcopy(masked)
    final = masking.finalize(clone)
    del clone
    assert final[0].weight.shape == masked[0].weight.shape == (4, 2, 3, 3)
    assert torch.equal(final[0].weight, masked[0].weight)


def test_other_parametrizations_stay():
    model = network()
    parametrizations.weight_norm(model[5])
    masked = masking.apply_masks(model, some_masks(network(), names=["0.weight"]))
    final = masking.finalize(masked)
    assert parametrize.is_parametrized(final[5], "weight")
    assert not parametrize.is_parametrized(final[0])
    assert torch.equal(final[5].weight, model[5].weight)


def test_a_frozen_weight_stays_frozen():
    model = network()
    model[0].weight.requires_grad_(False)
    masked = masking.apply_masks(model, some_masks(model))
    assert not masked[0].parametrizations.weight.original.requires_grad
    final = masking.finalize(masked)
    assert [p.requires_grad for n, p in final.named_parameters() if n == "0.weight"] == [False]
    assert final[5].weight.requires_grad


# ---------------------------------------------------------------- errors


GOOD = {"0.weight": torch.zeros(4, 2, 3, 3).bool()}


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"9.weight": torch.ones(1).bool()}, KeyError, r"no parameter '9\.weight'"),
        ({"0.scale": torch.ones(1).bool()}, KeyError, r"no parameter '0\.scale'"),
        ({"3.bias": torch.ones(4).bool()}, KeyError, r"no parameter '3\.bias'"),
        ({"0": torch.ones(1).bool()}, KeyError, "no parameter '0'"),
        ({"0.stride": torch.ones(2).bool()}, KeyError, "no parameter '0.stride'"),
        ({"1.running_mean": torch.ones(4).bool()}, KeyError, "no parameter '1.running_mean'"),
        ({"": torch.ones(1).bool()}, KeyError, "no parameter ''"),
        ({"0.weight.x": torch.ones(1).bool()}, KeyError, "no parameter"),
        ({"5.weight": torch.ones(3, 16)}, TypeError, r"'5\.weight' is torch\.float32"),
        ({"5.weight": [True]}, TypeError, r"'5\.weight' is list; a bool tensor"),
        ({"5.weight": torch.ones(16, 3).bool()}, ValueError, r"shape \(16, 3\).* \(3, 16\)"),
        ({"5.weight": torch.ones(1, 1).bool()}, ValueError, r"shape \(1, 1\)"),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_wrong_masks_are_refused_and_nothing_is_masked(masks, error, message, in_place):
    model = network()
    state = state_of(model)
    with pytest.raises(error, match=message):
        (masking.set_masks_ if in_place else masking.apply_masks)(model, GOOD | masks)
    assert same_state(model, state)
    assert masking.masks_of(model) == {}


def test_wrong_masks_leave_a_masked_network_with_the_old_ones():
    masked = masking.apply_masks(network(), some_masks(network()))
    state = state_of(masked)
    with pytest.raises(ValueError, match="shape"):
        masking.set_masks_(masked, GOOD | {"5.weight": torch.ones(2).bool()})
    assert same_state(masked, state)


def test_no_masks_are_a_plain_copy():
    model = network()
    copied = masking.apply_masks(model, {})
    assert copied is not model
    assert same_state(copied, state_of(model))
