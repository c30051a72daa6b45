"""slimcnn.lowrank.network: whole networks factorized, wherever a layer is used, and no others."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from slimcnn import data, lowrank, metrics
from slimcnn.lowrank import Choice
from slimcnn.masking import apply_masks
from slimcnn.models import ResNet14, StudentNet

EXACT = ("channel", "input", "spatial", "tucker2")

NETWORKS = {
    "resnet14": (ResNet14, (2, 1, 28, 28)),
    "student": (StudentNet, (2, 1, 28, 28)),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), (1, 3, 48, 48)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(weights=None), (1, 3, 48, 48)),
    "googlenet": (
        lambda: torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False),
        (1, 3, 64, 64),
    ),
}


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, state):
    found = model.state_dict()
    return list(found) == list(state) and all(torch.equal(found[n], state[n]) for n in state)


def full_plan(model):
    """Each layer at full rank, by the methods in turn; the slow one on small layers only."""
    plan = {}
    for index, (name, layer) in enumerate(lowrank.candidates(model).items()):
        method = "svd" if isinstance(layer, nn.Linear) else EXACT[index % 4]
        if method == "spatial" and layer.weight.numel() > 200_000:
            method = "channel"
        plan[name] = Choice(method, lowrank.largest_rank(layer, method))
    return plan


class Twice(nn.Module):
    """One convolution under two names and in a list, used three times; one that is masked."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.alias = self.first
        self.unregistered = [self.first]
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 6)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = self.act(self.alias(x)) + self.unregistered[0](x)
        return self.head(x.mean((2, 3)))


def twice():
    torch.manual_seed(0)
    return Twice().double().eval()


# ---------------------------------------------------------------- factorize


@pytest.mark.parametrize("name", NETWORKS)
def test_at_full_rank_a_network_computes_what_it_did(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    state, plan = state_of(model), full_plan(model)
    dense = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(plan) == sum(getattr(m, "groups", 1) == 1 for m in dense)
    made = lowrank.factorize(model, plan)
    with torch.no_grad():
        expected, found = model(x), made(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    assert unchanged(model, state)
    assert lowrank.plan_of(made) == plan
    assert lowrank.plan_of(model) == {}
    own = {t.data_ptr() for t in model.state_dict().values()}
    assert not own & {t.data_ptr() for t in made.state_dict().values()}
    assert set(made.state_dict()) >= {n for n in state if n.rpartition(".")[0] not in plan}


def test_only_the_named_layers_are_replaced_and_modes_are_kept():
    model = ResNet14().train()
    model.stage2.eval()
    plan = {"stage2.0.conv1": Choice("channel", 5), "fc": ("svd", 2)}
    made = lowrank.factorize(model, plan)
    for name, module in model.named_modules():
        other = made.get_submodule(name)
        assert other is not module
        assert other.training == module.training
        if name in plan:
            assert isinstance(other, lowrank.Factorized)
            assert (other.method, other.rank) == plan[name]
        else:
            assert type(other) is type(module)
    assert not made.stage2[0].conv1[0].training
    assert made.fc[0].training
    assert metrics.count_parameters(made) < metrics.count_parameters(model)


def test_a_shared_layer_is_replaced_wherever_it_is_used():
    model = twice()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for name in ("first", "alias"):
        made = lowrank.factorize(model, {name: Choice("channel", 4)})
        assert made.first is made.alias is made.unregistered[0]
        assert isinstance(made.first, lowrank.Factorized)
        torch.testing.assert_close(made(x), model(x), rtol=0, atol=1e-10)
        low = lowrank.factorize(model, {name: Choice("channel", 1)})
        by_hand = copy.deepcopy(model)
        by_hand.first.weight.data = low.first.composed().data
        torch.testing.assert_close(low(x), by_hand(x), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="layer 'alias' is in the plan under another name"):
        lowrank.factorize(model, {"first": Choice("channel", 4), "alias": Choice("channel", 4)})


def test_a_layer_alone_is_a_network_too():
    layer = nn.Linear(5, 4)
    made = lowrank.factorize(layer, {"": Choice("svd", 4)})
    assert isinstance(made, lowrank.Factorized)
    assert lowrank.candidates(layer) == {"": layer}
    x = torch.randn(3, 5)
    torch.testing.assert_close(made(x), layer(x))


def test_an_empty_plan_is_a_copy():
    model = twice()
    made = lowrank.factorize(model, {})
    assert unchanged(made, state_of(model))
    assert made.first is not model.first


def test_moments_are_for_the_methods_that_take_them():
    model = twice()
    moments = {"first": torch.diag(torch.tensor([1.0, 5.0, 0.1, 3.0]))}
    plan = {"first": Choice("channel", 2), "head": Choice("svd", 2)}
    made = lowrank.factorize(model, plan, moments)
    aware = lowrank.channel_conv(model.first, 2, moment=moments["first"])
    assert torch.equal(made.first.composed(), aware.composed())
    assert torch.equal(made.head.composed(), lowrank.svd_linear(model.head, 2).composed())
    other = lowrank.factorize(model, {"first": Choice("tucker2", (2, 2))}, moments)
    plain = lowrank.tucker2_conv(model.first, (2, 2))
    assert torch.equal(other.first.composed(), plain.composed())


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"firts": ("channel", 1)}, KeyError, r"Twice has no layer 'firts'; near: \['first', "),
        ({"9": ("channel", 1)}, KeyError, r"no layer '9'; near: \['first', 'head'\]"),
        ({"norm": ("channel", 1)}, ValueError, "layer 'norm': this BatchNorm2d cannot be"),
        ({"head": ("channel", 1)}, ValueError, "layer 'head': this Linear .* by 'svd'"),
        ({"first": ("channel", 5)}, ValueError, "layer 'first': rank is 5; .* from 1 to 4"),
        ({"first": ("qr", 1)}, ValueError, "layer 'first': there is no method 'qr'"),
    ],
)
def test_plans_that_do_not_fit_are_refused_by_name(plan, error, message):
    with pytest.raises(error, match=message):
        lowrank.factorize(twice(), plan)


def test_what_is_factorized_is_not_factorized_again():
    made = lowrank.factorize(twice(), {"first": Choice("channel", 2)})
    for name in ("first", "first.0"):
        with pytest.raises(ValueError, match=f"layer '{name}' is factorized already; start from"):
            lowrank.factorize(made, {name: Choice("channel", 1)})
    assert list(lowrank.candidates(made)) == ["head"]
    further = lowrank.factorize(made, {"head": Choice("svd", 1)})
    assert lowrank.plan_of(further) == {"first": Choice("channel", 2), "head": Choice("svd", 1)}


# ---------------------------------------------------------------- candidates


def test_candidates_are_plain_layers_with_weights_of_their_own():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 4, 3),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "transposed": nn.ConvTranspose2d(4, 4, 3),
            "fc": nn.Linear(4, 4),
            "tied": nn.Linear(4, 4),
            "tied_too": nn.Linear(4, 4),
            "masked": nn.Linear(4, 4),
            "attention": nn.MultiheadAttention(4, 2),
        }
    )
    model["tied_too"].weight = model["tied"].weight
    model = apply_masks(model, {"masked.weight": torch.ones(4, 4, dtype=torch.bool)})
    found = lowrank.candidates(model)
    assert list(found) == ["conv", "fc"]
    assert found["conv"] is model["conv"]
    assert list(lowrank.candidates(model, ("svd",))) == ["fc"]
    assert list(lowrank.candidates(model, ("cp", "input"))) == ["conv"]
    assert lowrank.candidates(model, ()) == {}
    assert list(lowrank.candidates(twice())) == ["first", "head"]
    with pytest.raises(ValueError, match="no method 'conv'; there are svd, channel"):
        lowrank.candidates(model, ("svd", "conv"))
    for name in ("tied", "tied_too"):  # by name it can be done: each gets factors of its own
        made = lowrank.factorize(model, {name: Choice("svd", 2)})
        assert isinstance(made[name], lowrank.Factorized)


# ---------------------------------------------------------------- moments of outputs


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, stride=2, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, (2, 3), dilation=2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 12 * 10, 3),
    )


def images(count=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)


def test_moments_are_those_of_the_patches_that_each_layer_sees():
    """E[y yᵀ] = W E[x xᵀ] Wᵀ, with x the patches that `F.unfold` cuts out."""
    model = small().double().eval()
    found = lowrank.output_moments(model, images(), batch_size=5)
    assert list(found) == ["0", "3", "5"]
    x = data.normalize(images()).double()
    for index in (0, 3):
        layer = model[index]
        inputs = model[:index](x)
        patches = F.unfold(
            inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        ).movedim(1, -1)
        patches = patches.reshape(-1, patches.shape[-1])
        weight = layer.weight.flatten(1)
        expected = weight @ (patches.T @ patches / len(patches)) @ weight.T
        torch.testing.assert_close(found[str(index)], expected.detach(), rtol=1e-9, atol=1e-12)
    y = (model(x) - model[5].bias).detach()
    torch.testing.assert_close(found["5"], y.T @ y / len(y), rtol=1e-9, atol=1e-12)
    assert {m.dtype for m in found.values()} == {torch.float64}


def test_pictures_and_their_inputs_and_any_batch_size_give_the_same():
    model = small()
    expected = lowrank.output_moments(model, images())
    for part in (images(), data.normalize(images())):
        for size in (1, 7, 100):
            found = lowrank.output_moments(model, part, batch_size=size)
            for name, moment in found.items():
                torch.testing.assert_close(moment, expected[name], rtol=1e-5, atol=1e-6)
    half = lowrank.output_moments(model.bfloat16(), images())
    for name, moment in half.items():
        assert (moment - expected[name]).abs().max() < 0.05 * expected[name].abs().max()


def test_all_calls_of_a_layer_count_and_sequences_too():
    model = twice()
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    seen = []
    model.first.register_forward_hook(
        lambda layer, _, y: seen.append(y - layer.bias.view(-1, 1, 1))
    )
    model(x)
    model.first._forward_hooks.clear()
    y = torch.cat(seen).movedim(1, -1).reshape(-1, 4).detach()
    assert len(seen) == 3
    found = lowrank.output_moments(model, x, ["first"])
    assert list(found) == ["first"]
    torch.testing.assert_close(found["first"], y.T @ y / len(y))
    linear = nn.Linear(4, 2).double()
    sequence = torch.randn(3, 6, 4, dtype=torch.float64)
    y = (linear(sequence) - linear.bias).reshape(-1, 2).detach()
    torch.testing.assert_close(lowrank.output_moments(linear, sequence)[""], y.T @ y / 18)


def test_measuring_leaves_the_network_alone():
    model = small().train()
    state = state_of(model)
    lowrank.output_moments(model, images())
    assert unchanged(model, state)
    assert all(m.training for m in model.modules())
    with pytest.raises(RuntimeError):
        lowrank.output_moments(model, torch.zeros(1, 3, 28, 28))
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="there are no images"):
        lowrank.output_moments(model, images(0))
    with pytest.raises(KeyError, match=r"'1' is no layer that can be .*; near: \['0', '3', '5'\]"):
        lowrank.output_moments(model, images(), ["1"])


def test_layers_that_do_not_run_have_no_moment():
    model = small()
    model.register_module("unused", nn.Linear(2, 2))
    model.forward = lambda x: nn.Sequential.forward(model[:6], x)
    assert list(lowrank.output_moments(model, images())) == ["0", "3", "5"]
