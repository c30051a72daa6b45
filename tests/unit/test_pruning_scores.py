"""slimcnn.pruning.scores: each score against its formula, and one call shape for all."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimcnn import pruning
from slimcnn.data import Batch
from slimcnn.masking import apply_masks, masks_of
from slimcnn.models import ResNet14

OF_WEIGHTS = (pruning.magnitude, pruning.random, pruning.taylor, pruning.snip)
OF_FILTERS = (
    pruning.filter_l1,
    pruning.filter_l2,
    pruning.filter_random,
    pruning.filter_taylor,
    pruning.filter_fpgm,
)
OF_GRADIENTS = (pruning.taylor, pruning.snip, pruning.filter_taylor)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.ConvTranspose2d(6, 4, 2, groups=2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


WEIGHTS = ["0.weight", "4.weight", "5.weight", "7.weight"]


def batches(count=2, size=5, seed=0):
    torch.manual_seed(seed)
    return [
        Batch(torch.randn(size, 2, 4, 4), torch.randint(3, (size,)), torch.arange(size))
        for _ in range(count)
    ]


def gradients(model, batch):
    """By hand: the network in eval mode, the mean cross-entropy of one batch."""
    model = copy.deepcopy(model).eval()
    F.cross_entropy(model(batch.images), batch.labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def rows(model, name, tensor):
    """Row j: the numbers that make output channel j, found index by index."""
    layer = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(layer, nn.ConvTranspose2d):
        return [tensor[j].flatten() for j in range(len(tensor))]
    ins, outs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return [
        tensor[j // outs * ins : (j // outs + 1) * ins, j % outs].flatten()
        for j in range(layer.out_channels)
    ]


# ---------------------------------------------------------------- one call shape


@pytest.mark.parametrize("score", [*OF_WEIGHTS, *OF_FILTERS])
def test_names_and_shapes_and_the_network_is_left_alone(score):
    model = network()
    model[1].eval()
    model[7].weight.grad = torch.ones(3, 16)
    model[0].weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    scores = score(model, batches(), torch.Generator().manual_seed(0))
    assert list(scores) == WEIGHTS
    channels = {"0.weight": 4, "4.weight": 6, "5.weight": 4, "7.weight": 3}
    for name, values in scores.items():
        shape = (channels[name],) if score in OF_FILTERS else tuple(state[name].shape)
        assert tuple(values.shape) == shape
        assert (values >= 0).all()
        assert values.any()
        assert not values.requires_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.grad is not None for p in model.parameters()] == [False] * 7 + [True, False]
    assert torch.equal(model[7].weight.grad, torch.ones(3, 16))


@pytest.mark.parametrize("score", [*OF_WEIGHTS, *OF_FILTERS])
def test_a_bare_layer_has_the_name_weight(score):
    images = Batch(torch.randn(1, 4), torch.tensor([1]), torch.arange(1))  # a batch of one
    assert list(score(nn.Linear(4, 3), [images], None)) == ["weight"]


@pytest.mark.parametrize("score", OF_GRADIENTS)
def test_gradients_need_batches_of_which_a_generator_is_enough(score):
    for nothing in (None, [], iter(())):
        with pytest.raises(ValueError, match=f"{score.__name__} needs batches"):
            score(network(), nothing)
    from_list, from_generator = (score(network(), b) for b in (batches(), iter(batches())))
    assert all(torch.equal(from_list[n], from_generator[n]) for n in WEIGHTS)


@pytest.mark.parametrize("score", OF_WEIGHTS)
def test_what_is_masked_scores_nothing(score):
    if score is pruning.random:
        return
    model = network()
    mask = torch.rand(4, 2, 3, 3) < 0.5
    masked = apply_masks(model, {"0.weight": mask})
    scores = score(masked, batches())
    assert list(scores) == WEIGHTS
    assert not scores["0.weight"][~mask].any()
    assert (scores["0.weight"][mask] > 0).all()
    assert torch.equal(masks_of(masked)["0.weight"], mask)


# ---------------------------------------------------------------- of single weights


def test_magnitude_is_the_absolute_value():
    model = network()
    for name, values in pruning.magnitude(model).items():
        assert torch.equal(values, model.get_parameter(name).abs())


def test_random_scores_are_uniform_and_follow_the_generator():
    layer = nn.Linear(100, 100)
    first, again = (
        pruning.random(layer, None, torch.Generator().manual_seed(4))["weight"] for _ in range(2)
    )
    other = pruning.random(layer, None, torch.Generator().manual_seed(5))["weight"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # 10,000 uniform numbers: their mean is 1/2 ± 0.0029, and a quarter of them is below 1/4.
    assert first.mean().item() == pytest.approx(0.5, abs=0.015)
    assert (first < 0.25).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert 0 <= first.min() < first.max() < 1


def test_taylor_is_the_mean_of_the_squared_products():
    model = network()
    grads = [gradients(model, batch) for batch in batches(3)]
    scores = pruning.taylor(model, batches(3))
    for name in WEIGHTS:
        weight = model.get_parameter(name).detach()
        expected = sum((weight * g[name]) ** 2 for g in grads) / 3
        torch.testing.assert_close(scores[name], expected)


def test_taylor_of_a_linear_classifier_in_closed_form():
    """∂L/∂W = (softmax(Wx) − y) xᵀ for one image."""
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
    x = torch.tensor([[2.0, -1.0, 3.0]])
    scores = pruning.taylor(layer, [Batch(x, torch.tensor([1]), torch.arange(1))])["weight"]
    first, second = math.exp(2 - 3), math.exp(1 - 2)  # logits −1 and −1
    assert first == second
    error = torch.tensor([[0.5], [0.5 - 1]])
    torch.testing.assert_close(scores, (layer.weight.detach() * error * x) ** 2)


def test_taylor_predicts_the_change_of_the_loss_to_first_order():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    layer.weight.data.mul_(1e-4)
    batch = Batch(torch.randn(6, 4).double(), torch.randint(3, (6,)), torch.arange(6))
    scores = pruning.taylor(layer, [batch])["weight"]
    with torch.no_grad():
        before = F.cross_entropy(layer(batch.images), batch.labels)
        for row in range(3):
            for column in range(4):
                without = layer.weight.clone()
                without[row, column] = 0
                logits = F.linear(batch.images, without, layer.bias)
                change = F.cross_entropy(logits, batch.labels) - before
                expected = scores[row, column].sqrt().item()
                assert abs(change.item()) == pytest.approx(expected, rel=2e-3, abs=1e-9)


def test_snip_is_the_share_of_the_whole_mean_gradient():
    model = network()
    grads = [gradients(model, batch) for batch in batches(3)]
    scores = pruning.snip(model, batches(3))
    products = {
        name: (model.get_parameter(name).detach() * sum(g[name] for g in grads) / 3).abs()
        for name in WEIGHTS
    }
    total = sum(p.sum() for p in products.values())
    for name in WEIGHTS:
        torch.testing.assert_close(scores[name], products[name] / total)
    assert sum(s.sum().item() for s in scores.values()) == pytest.approx(1, rel=1e-5)


def test_snip_of_a_network_that_feels_nothing_is_zero():
    layer = nn.Linear(2, 2)
    nothing = Batch(torch.zeros(1, 2), torch.tensor([0]), torch.arange(1))
    assert pruning.snip(layer, [nothing])["weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_snip_differs_from_taylor_where_gradients_of_batches_cancel():
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data.fill_(1.0)
    x = torch.ones(1, 1)
    both = [Batch(x, torch.tensor([label]), torch.arange(1)) for label in (0, 1)]
    assert pruning.snip(layer, both)["weight"].flatten().tolist() == [0.0, 0.0]
    assert pruning.taylor(layer, both)["weight"].flatten().tolist() == [0.25, 0.25]


@pytest.mark.parametrize("score", OF_GRADIENTS)
def test_a_layer_that_the_loss_does_not_see_scores_zero(score):
    model = network()
    model[1].unused = nn.Linear(2, 2)
    scores = score(model, batches())
    assert not scores["1.unused.weight"].any()
    assert scores["0.weight"].any()


@pytest.mark.parametrize("score", OF_GRADIENTS)
def test_tied_weights_are_scored_under_both_names(score):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    batch = Batch(torch.randn(4, 3), torch.randint(3, (4,)), torch.arange(4))
    scores = score(model, [batch])
    assert torch.equal(scores["0.weight"], scores["2.weight"])
    product = model[0].weight.detach() * gradients(model, batch)["0.weight"]
    if score is pruning.taylor:
        torch.testing.assert_close(scores["0.weight"], product**2)


# ---------------------------------------------------------------- of filters


def test_norms_of_filters_by_index():
    model = network()
    l1, l2 = pruning.filter_l1(model), pruning.filter_l2(model)
    for name in WEIGHTS:
        filters = rows(model, name, model.get_parameter(name).detach())
        torch.testing.assert_close(l1[name], torch.stack([f.abs().sum() for f in filters]))
        torch.testing.assert_close(
            l2[name], torch.stack([f.square().sum().sqrt() for f in filters])
        )


def test_filter_taylor_is_the_squared_gradient_of_a_gate_on_the_channel():
    """A gate α on a channel without bias has ∂L/∂α = Σ w · ∂L/∂w at α = 1."""
    model = network()
    model[4].bias = model[5].bias = model[7].bias = None
    scores = pruning.filter_taylor(model, batches(2))
    for name, channels in (("0", 4), ("4", 6), ("5", 4), ("7", 3)):
        expected = torch.zeros(channels)
        for batch in batches(2):
            gated = copy.deepcopy(model).eval()
            gate = torch.ones(channels, requires_grad=True)
            gated[int(name)].register_forward_hook(
                lambda _, __, y, gate=gate: y * gate.view(-1, *[1] * (y.ndim - 2))
            )
            F.cross_entropy(gated(batch.images), batch.labels).backward()
            expected += gate.grad**2 / 2
        torch.testing.assert_close(scores[f"{name}.weight"], expected, rtol=1e-4, atol=1e-8)


def test_fpgm_sums_distances_and_is_lowest_at_the_geometric_median():
    model = network()
    scores = pruning.filter_fpgm(model)
    for name in WEIGHTS:
        filters = rows(model, name, model.get_parameter(name).detach().double())
        expected = [sum(float((a - b).norm()) for b in filters) for a in filters]
        assert scores[name].tolist() == pytest.approx(expected, rel=1e-5)
    layer = nn.Linear(2, 5, bias=False)
    layer.weight.data = torch.tensor([[0.0, 0.0], [1, 0], [-1, 0], [0, 1], [0, -1]]) * 3 + 40
    assert pruning.filter_fpgm(layer)["weight"].argmin() == 0
    assert pruning.filter_fpgm(layer)["weight"][0].item() == pytest.approx(12)


def test_fpgm_of_many_equal_filters_is_next_to_nothing():
    """A distance by way of x² + y² − 2xy is off by the rounding of large squares."""
    torch.manual_seed(0)
    layer = nn.Linear(50, 64)
    layer.weight.data = torch.randn(1, 50).repeat(64, 1) * 100
    length = layer.weight[0].norm().item()
    assert pruning.filter_fpgm(layer)["weight"].max() < 64 * 1e-6 * length


def test_a_random_number_for_each_filter():
    first, again = (
        pruning.filter_random(network(), None, torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert all(torch.equal(first[n], again[n]) for n in WEIGHTS)
    assert len(set(torch.cat(list(first.values())).tolist())) == 4 + 6 + 4 + 3


def test_batch_norm_scale_is_its_magnitude():
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.BatchNorm1d(2, affine=False), nn.InstanceNorm2d(2, affine=True)
    )
    model[0].weight.data = torch.tensor([-2.0, 0.0, 0.5])
    scores = pruning.batch_norm_scale(model)
    assert {n: s.tolist() for n, s in scores.items()} == {
        "0.weight": [2.0, 0.0, 0.5],
        "2.weight": [1.0, 1.0],
    }
    with pytest.raises(ValueError, match="no batch norm with a scale"):
        pruning.batch_norm_scale(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, affine=False)))


# ---------------------------------------------------------------- of groups


def mean_one(values):
    return values / values.mean()


def test_the_score_of_a_group_is_the_sum_of_shares_over_its_tensors():
    model = network()[:5].append(nn.Flatten()).append(nn.Linear(6, 3))
    model[4].groups = 1
    model[4].weight = nn.Parameter(torch.randn(6, 4, 2, 2))
    groups = pruning.find_groups(model, (1, 2, 4, 4))
    filters = pruning.filter_l1(model)
    scores = pruning.group_scores(groups, filters)
    torch.testing.assert_close(scores["0"], mean_one(filters["0.weight"]))
    model[1].weight.data = torch.tensor([0.5, -1.0, 2.0, 4.0])
    both = pruning.group_scores(groups, filters | pruning.batch_norm_scale(model))
    expected = mean_one(filters["0.weight"]) + mean_one(torch.tensor([0.5, 1.0, 2.0, 4.0]))
    torch.testing.assert_close(both["0"], expected / 2)
    alone = pruning.group_scores(groups, filters | {"0.weight": torch.tensor([1.0, 2, 3, 6])})
    assert alone["0"].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 2])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_group_scores_have_mean_one_and_do_not_feel_a_layers_size(seed, factor):
    model = ResNet14(width=0.125)
    groups = pruning.find_groups(model, (1, 1, 28, 28))
    filters = pruning.filter_random(model, None, torch.Generator().manual_seed(seed))
    scores = pruning.group_scores(groups, filters)
    assert list(scores) == [group.name for group in groups]
    assert all(s.mean().item() == pytest.approx(1, rel=1e-4) for s in scores.values())
    scaled = {n: s * factor if "conv2" in n else s for n, s in filters.items()}
    for name, values in pruning.group_scores(groups, scaled).items():
        torch.testing.assert_close(values, scores[name], rtol=1e-4, atol=1e-5)


def test_channels_tied_in_a_group_add_up():
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1, bias=False),
        nn.Conv2d(2, 4, 1, groups=2, bias=False),
        nn.Conv2d(4, 1, 1, bias=False),
    )
    groups = pruning.find_groups(model, (1, 2, 1, 1))
    scores = {"0.weight": torch.tensor([3.0, 1.0]), "1.weight": torch.tensor([1.0, 1.0, 1.0, 5.0])}
    found = pruning.group_scores(groups, scores)
    # Depthwise with two filters a channel: shares 3 : 1 and (1 + 1) : (1 + 5).
    assert found["0"].tolist() == pytest.approx([(1.5 + 0.5) / 2, (0.5 + 1.5) / 2])


@pytest.mark.parametrize("groups_of_layer", [1, 2, 4])
def test_transposed_filters_are_found_by_output_channel(groups_of_layer):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 8, 2, groups=groups_of_layer, bias=False)
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), layer, nn.Conv2d(8, 1, 1, bias=False))
    filters = {"1.weight": torch.arange(1.0, 9.0) ** 2}
    found = pruning.find_groups(model, (1, 1, 2, 2))
    scored = {
        group.name: group
        for group in found
        if any(m.tensor == "1.weight" and m.role == "producer" for m in group.members)
    }
    (name,) = scored
    filters |= {f"{i}.weight": torch.ones(n) for i, n in ((0, 4), (2, 1))}
    values = pruning.group_scores(found, filters)[name]
    squares = torch.arange(1.0, 9.0) ** 2
    if groups_of_layer == 1:
        expected = mean_one(squares)
    elif groups_of_layer == 2:  # output j of both groups goes together
        expected = mean_one(squares.view(2, 4).sum(0))
    else:  # depthwise, two outputs a channel, which go with the channel itself
        expected = (mean_one(squares.view(4, 2).sum(1)) + 1) / 2
    torch.testing.assert_close(values, expected)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def test_all_zero_scores_stay_zero():
    groups = pruning.find_groups(chain(), (1, 2))
    assert pruning.group_scores(groups, {"0.weight": torch.zeros(3)})["0"].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"0.weight": torch.ones(3, 2)}, r"'0\.weight' has shape \(3, 2\).*filter_"),
        ({"0.weight": torch.ones(4)}, r"'0\.weight' has shape \(4,\)"),
        ({"0.weight": torch.ones(2)}, r"'0\.weight' has shape \(2,\)"),
        ({"0.weight": torch.tensor(1.0)}, r"'0\.weight' has shape \(\)"),
        ({"0.weight": torch.tensor([1.0, float("nan"), 2.0])}, "a score of '0.weight' is NaN"),
        ({"2.weight": torch.ones(2)}, r"no tensor of group '0' has a score.*2\.weight"),
        ({}, "no tensor of group '0' has a score"),
    ],
)
def test_scores_that_do_not_fit_a_group_are_refused(scores, message):
    groups = pruning.find_groups(chain(), (1, 2))
    with pytest.raises(ValueError, match=message):
        pruning.group_scores(groups, scores)


def test_batch_norm_scales_need_a_norm_in_each_group():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Linear(4, 2))
    groups = pruning.find_groups(model, (1, 2))
    with pytest.raises(ValueError, match="no tensor of group '2' has a score"):
        pruning.group_scores(groups, pruning.batch_norm_scale(model))
