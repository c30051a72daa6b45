"""slimcnn.pruning.structured: the smaller network is the masked one, whatever the network."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d

from slimcnn import metrics, pruning
from slimcnn.checkpoints import CheckpointError, save_weights
from slimcnn.export import to_onnx
from slimcnn.models import ResNet14, StudentNet
from slimcnn.pruning import UnprunableError


def random_keep(groups, seed=0, share=0.6):
    """In each group of two or more at least one channel goes, and at least one stays."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        kept = torch.rand(group.size, generator=generator) < share
        kept[0], kept[-1] = (False, True) if group.size > 1 else (True, True)
        keep[group.name] = kept[torch.randperm(group.size, generator=generator)]
    return keep


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, state):
    found = model.state_dict()
    return list(found) == list(state) and all(torch.equal(found[n], state[n]) for n in state)


def outputs(model, *inputs):
    with torch.no_grad():
        answer = model(*(x.clone() if isinstance(x, torch.Tensor) else x for x in inputs))
    return [y for y in tree_leaves(answer) if isinstance(y, torch.Tensor)]


def assert_same(found, expected, tolerance=1e-10):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max()


def randomized(model, *inputs):
    """Weights of He's size, statistics near the true ones, scales of both signs, shifts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
                parameter.mul_(1 - 2 * (torch.rand(parameter.shape, generator=generator) < 0.3))
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        norms = [norm for norm in norms if norm.track_running_stats]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = 0.9
        model.train()(*(x.clone() for x in inputs))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean.add_(torch.randn(norm.num_features, generator=generator), alpha=0.1)
            norm.running_var.mul_(torch.rand(norm.num_features, generator=generator) + 0.5)
    return model.eval()


# ---------------------------------------------------------------- networks of others


def torchvision_network(name, **arguments):
    return getattr(torchvision.models, name)(weights=None, **arguments)


def small_vgg11_bn():
    model = torchvision_network("vgg11_bn", init_weights=False)
    model.classifier = nn.Sequential(
        nn.Linear(512 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)
    )
    return model


NETWORKS = {
    "resnet14": ResNet14,
    "student": StudentNet,
    "resnet18": lambda: torchvision_network("resnet18"),
    "mobilenet_v2": lambda: torchvision_network("mobilenet_v2"),
    "mobilenet_v3_small": lambda: torchvision_network("mobilenet_v3_small"),
    "densenet121": lambda: torchvision_network("densenet121"),
    "squeezenet1_1": lambda: torchvision_network("squeezenet1_1"),
    "googlenet": lambda: torchvision_network("googlenet", init_weights=False),
    "efficientnet_b0": lambda: torchvision_network("efficientnet_b0"),
    "vgg11_bn": small_vgg11_bn,
    "regnet_y_400mf": lambda: torchvision_network("regnet_y_400mf"),
    "regnet_x_400mf": lambda: torchvision_network("regnet_x_400mf"),
    "shufflenet_v2_x1_0": lambda: torchvision_network("shufflenet_v2_x1_0"),
}


class Case:
    """A network in double precision, its groups, what is kept, and the smaller network."""

    def __init__(self, name):
        # The weights are drawn below; RegNet's builder computes with tensors.
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            model = NETWORKS[name]().double()
        channels = 1 if name in ("resnet14", "student") else 3
        size = 28 if channels == 1 else 64
        torch.manual_seed(1)
        self.images = torch.randn(2, channels, size, size, dtype=torch.float64)
        self.shape = (1, channels, size, size)
        self.model = randomized(model.to_empty(device="cpu"), self.images)
        self.state = state_of(self.model)
        self.groups = pruning.find_groups(self.model, self.shape)
        self.keep = random_keep(self.groups)
        self.smaller = pruning.shrink(self.model, self.groups, self.keep)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    return Case(request.param)


def masked_by_hand(case):
    """Removed filters and biases are zero; so is each norm's part that only zeros arrive at.

    What follows a channel is found by running, not from the groups: where zeros arrive at a
    norm, it becomes zero, and the pass goes on. Without activation functions it runs, so that
    nothing else is zero by chance.
    """
    masked = copy.deepcopy(case.model)
    with torch.no_grad():
        for group in case.groups:
            for member in group.of_role("producer"):
                lost = member.indices[~case.keep[group.name]].flatten()
                masked.get_parameter(member.tensor).index_fill_(member.dim, lost, 0)
        straight = copy.deepcopy(masked)
        for module in list(straight.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU | nn.ReLU6 | nn.Hardswish | nn.SiLU):
                    setattr(module, name, nn.Identity())
        for name, norm in straight.named_modules():
            if isinstance(norm, _BatchNorm):
                both = norm, masked.get_submodule(name)
                norm.register_forward_pre_hook(lambda _, inputs, both=both: silence(both, *inputs))
        straight(case.images)
    return masked


def silence(norms, arriving):
    gone = arriving.abs().amax((0, 2, 3)) == 0
    for norm in norms:
        norm.weight[gone] = 0
        norm.bias[gone] = 0


def test_a_smaller_network_computes_what_the_masked_one_computes(case):
    found = outputs(case.smaller, case.images)
    assert_same(found, outputs(masked_by_hand(case), case.images))
    assert_same(
        found, outputs(pruning.mask_channels(case.model, case.groups, case.keep), case.images)
    )
    assert (found[0] - outputs(case.model, case.images)[0]).abs().max() > 0.01


def test_the_given_network_is_whole_and_the_smaller_one_is_smaller(case):
    assert unchanged(case.model, case.state)
    shrunk = {m.tensor for g in case.groups if g.size > 1 for m in g.members}
    for name, tensor in case.smaller.state_dict().items():
        before = case.state[name]
        assert tensor.dtype == before.dtype
        assert (tensor.numel() < before.numel()) == (name in shrunk), name
        for small, full in zip(tensor.shape, before.shape, strict=True):
            assert 0 < small <= full
    producers = {m.tensor for group in case.groups for m in group.of_role("producer")}
    weights = [n for n, p in case.model.named_parameters() if p.ndim > 1]
    assert len(producers & set(weights)) >= 0.4 * len(weights)


def test_costs_are_known_before_the_network_is_built(case):
    counts = {name: int(kept.sum()) for name, kept in case.keep.items()}
    for model, expected in (
        (case.model, pruning.cost(case.groups)),
        (case.smaller, pruning.cost(case.groups, counts)),
    ):
        assert metrics.count_macs(model, case.shape) == expected.macs
        assert metrics.count_parameters(model) == expected.parameters
        tensors = model.state_dict().values()
        assert sum(t.numel() * t.element_size() for t in tensors) == expected.bytes


def test_layers_say_of_themselves_what_their_tensors_are(case):
    for module in case.smaller.modules():
        if isinstance(module, nn.Conv2d):
            rows, columns = module.weight.shape[:2]
            assert (module.out_channels, module.in_channels) == (rows, columns * module.groups)
        elif isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        elif isinstance(module, _BatchNorm):
            assert len(module.weight) == len(module.running_var) == module.num_features


def test_a_file_of_the_smaller_network_is_enough_to_have_it_back(case, tmp_path):
    sha256 = save_weights(case.smaller, tmp_path / "pruned.safetensors")
    fresh = copy.deepcopy(case.model).train()
    loaded = pruning.load_pruned(fresh, tmp_path / "pruned.safetensors", sha256=sha256)
    assert not any(module.training for module in loaded.modules())
    assert unchanged(loaded, case.smaller.state_dict())
    assert_same(outputs(loaded, case.images), outputs(case.smaller, case.images), 0)
    assert [repr(m) for m in loaded.modules()] == [repr(m) for m in case.smaller.modules()]
    assert unchanged(fresh, case.state)


def test_the_smaller_network_trains_and_can_be_pruned_again(case):
    model = copy.deepcopy(case.smaller).train()
    before = state_of(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    answer = model(case.images)
    sum(y.square().mean() for y in tree_leaves(answer)).backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    moved = [not torch.equal(p, before[n]) for n, p in model.named_parameters()]
    assert sum(moved) >= 0.8 * len(moved)
    groups = pruning.find_groups(model, case.shape)
    assert {g.name: g.size for g in groups} == {
        g.name: int(case.keep[g.name].sum()) for g in case.groups
    }


def test_sixty_percent_of_the_macs_can_be_reached(case):
    damage = {group.name: lambda fraction: fraction for group in case.groups}
    counts = pruning.allocate(case.groups, damage, budget=0.6)
    share = pruning.cost(case.groups, counts).macs / pruning.cost(case.groups).macs
    assert 0.58 <= share <= 0.6


# ---------------------------------------------------------------- graphs made by hand


class Net(nn.Module):
    """Any function of layers and inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def conv(channels, filters, size=1, **arguments):
    return nn.Conv2d(channels, filters, size, padding=size // 2, **arguments)


def parameter(*shape):
    return nn.Parameter(torch.rand(shape) + 0.5)


def shuffled(x, groups):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def excited(m, x):
    y = m.a(x)
    scale = torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))
    return m.c(y * scale)


def gated_halves(m, x):
    p, q = m.a(x).chunk(2, dim=1)
    return m.c(p * torch.sigmoid(q))


def halves_to_two_readers(m, x):
    p, q = m.a(x).chunk(2, 1)
    return m.c(p) + m.d(q)


def three_chunks_of_four(m, x):
    return m.c(sum(m.a(x).chunk(4, 1)))  # six channels in parts of two: three parts


def twice(m, x):
    return m.c(F.relu(m.s(F.relu(m.s(m.a(x))))))


def in_place(m, x):
    y = m.a(x)
    y += m.b(x)
    y.relu_().mul_(2)
    return m.c(y)


def branches(m, x):
    y = F.relu(m.bn(torch.cat([m.a(x), m.b(x)], 1)))
    return m.d(torch.cat([y, m.c(y)], 1))


def two_outputs(m, x):
    y = m.a(x)
    return m.c(F.relu(m.b(F.relu(y)))), y


def dictionary(m, x):
    y = F.relu(m.a(x))
    return {"logits": m.c(y), "more": [m.d(y), (F.relu(m.e(y)),)], "name": "a string"}


def writes_into_its_input(m, x):
    return m.c(F.relu(m.a(x.mul_(2).sub_(0.5))))


def other_types(m, x):
    y = m.c(F.relu(m.a(x)))
    return y, y > 0, y.argmax(1), y.flatten(1).sum(1).half()


def spatial_gate(m, x):
    return m.c(m.a(x) * torch.sigmoid(m.s(x)))


def channels_last(m, x):
    y = F.relu(m.linear(m.a(x).permute(0, 2, 3, 1)))
    return m.c(y.permute(0, 3, 1, 2))


def over_space(m, x):
    return m.c(m.linear(m.a(x).flatten(2)))


def own_weight(m, x):
    return m.c(F.relu(F.conv2d(F.conv2d(x, m.weight, m.bias, padding=1), m.inner)))


def unbatched(m, x):
    return torch.stack([m.c(F.relu(m.a(image))) for image in x])


def functional_norm(m, x):
    y = m.a(x)
    return m.c(F.relu(F.batch_norm(y, m.mean, m.variance, m.scale, m.shift)))


def grouped_max(m, x):
    b, c, h, w = (y := m.a(x)).shape
    return m.c(y.view(b, c // 2, 2, h, w).amax(2))


def interleaved(m, x):
    b, _, h, w = (y := m.a(x)).shape
    return m.c(F.relu(y.view(b, -1, 2, h, w).transpose(1, 2).reshape(b, -1, h, w)))


def norm_net(norm):
    return lambda: Net(
        lambda m, x: m.c(F.relu(m.n(m.a(x)))), a=conv(2, 5, 3), n=norm(), c=conv(5, 3)
    )


def chain_net(function, channels=6, read=None, **layers):
    """A convolution, any function, a convolution; and one more group, b."""

    def run(m, x):
        return m.c(function(m, m.a(x))) + m.e(F.relu(m.b(x))).mean()

    return lambda: Net(
        run,
        a=conv(2, channels, 3),
        c=conv(read or channels, 3),
        b=conv(2, 4),
        e=conv(4, 3),
        **layers,
    )


X = (2, 2, 4, 4)
# What is built, on what it runs, and the groups that there must be, with their sizes.
GRAPHS = {
    "addition": (
        lambda: Net(
            lambda m, x: m.c(F.relu(m.a(x) + m.b(x))), a=conv(2, 6, 3), b=conv(2, 6), c=conv(6, 3)
        ),
        X,
        {"a": 6},
    ),
    "addition in place": (
        lambda: Net(in_place, a=conv(2, 6, 3), b=conv(2, 6, bias=False), c=conv(6, 3)),
        X,
        {"a": 6},
    ),
    "addition to the input": (
        lambda: Net(
            lambda m, x: m.c(x + m.b(F.relu(m.a(x)))), a=conv(2, 6), b=conv(6, 2), c=conv(2, 3)
        ),
        X,
        {"a": 6},
    ),
    "maximum of two": (
        lambda: Net(
            lambda m, x: m.c(torch.maximum(m.a(x), m.b(x))),
            a=conv(2, 6),
            b=conv(2, 6),
            c=conv(6, 3),
        ),
        X,
        {"a": 6},
    ),
    "concatenation, norm, concatenation": (
        lambda: Net(
            branches,
            a=conv(2, 4, 3),
            b=conv(2, 3),
            bn=nn.BatchNorm2d(7),
            c=conv(7, 5),
            d=conv(12, 3),
        ),
        X,
        {"a": 4, "b": 3, "c": 5},
    ),
    "concatenation with the input": (
        lambda: Net(lambda m, x: m.c(torch.cat([x, m.a(x), x], 1)), a=conv(2, 4), c=conv(8, 3)),
        X,
        {"a": 4},
    ),
    "concatenation with itself": (
        lambda: Net(lambda m, x: m.c(torch.cat([y := m.a(x), -y], 1)), a=conv(2, 4), c=conv(8, 3)),
        X,
        {"a": 4},
    ),
    "concatenation plus convolution": (
        lambda: Net(
            lambda m, x: m.d(torch.cat([m.a(x), m.b(x)], 1) + m.c(x)),
            a=conv(2, 4),
            b=conv(2, 3),
            c=conv(2, 7),
            d=conv(7, 3),
        ),
        X,
        {"a": 4, "b": 3},
    ),
    "repeated channels": (
        chain_net(lambda m, y: y.repeat(1, 2, 1, 1), read=12),
        X,
        {"a": 6, "b": 4},
    ),
    "depthwise": (
        chain_net(lambda m, y: F.relu(m.g(y)), g=conv(6, 6, 3, groups=6)),
        X,
        {"a": 6, "b": 4},
    ),
    "depthwise with two filters a channel": (
        chain_net(lambda m, y: F.relu(m.g(y)), read=12, g=conv(6, 12, 3, groups=6)),
        X,
        {"a": 6, "b": 4},
    ),
    "grouped": (
        chain_net(lambda m, y: F.relu(m.g(y)), read=8, g=conv(6, 8, 3, groups=2)),
        X,
        {"a": 3, "g": 4, "b": 4},
    ),
    "grouped, with a shortcut": (
        chain_net(lambda m, y: y + m.g(y), channels=8, g=conv(8, 8, groups=4)),
        X,
        {"a": 2, "b": 4},
    ),
    "two groupings of the same channels": (
        chain_net(
            lambda m, y: torch.cat([m.g(y), m.h(y)], 1),
            channels=12,
            read=24,
            g=conv(12, 12, groups=2),
            h=conv(12, 12, groups=3),
        ),
        X,
        {"a": 2, "g": 6, "h": 4, "b": 4},
    ),
    "transposed": (
        chain_net(lambda m, y: F.relu(m.t(y)), read=5, t=nn.ConvTranspose2d(6, 5, 2, stride=2)),
        X,
        {"a": 6, "t": 5, "b": 4},
    ),
    "transposed, grouped": (
        chain_net(lambda m, y: F.relu(m.t(y)), read=8, t=nn.ConvTranspose2d(6, 8, 3, groups=2)),
        X,
        {"a": 3, "t": 4, "b": 4},
    ),
    "transposed, depthwise": (
        chain_net(lambda m, y: F.relu(m.t(y)), read=12, t=nn.ConvTranspose2d(6, 12, 3, groups=6)),
        X,
        {"a": 6, "b": 4},
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(5, 3, 1)
        ),
        (2, 2, 9),
        {"0": 5},
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 4, 2),
            nn.BatchNorm3d(4),
            nn.AvgPool3d(2),
            nn.Conv3d(4, 4, 1, groups=4),
            nn.ConvTranspose3d(4, 3, 1),
            nn.Conv3d(3, 2, 1),
        ),
        (1, 2, 5, 5, 5),
        {"0": 4, "4": 3},
    ),
    "flattened into a linear layer": (
        lambda: nn.Sequential(
            conv(2, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(80, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 3),
        ),
        X,
        {"0": 5, "4": 6},
    ),
    "a norm over what was flattened": (
        lambda: nn.Sequential(conv(2, 5, 3), nn.Flatten(), nn.BatchNorm1d(80), nn.Linear(80, 3)),
        X,
        {"0": 5},
    ),
    "convolutions without a batch": (
        lambda: Net(unbatched, a=conv(2, 5, 3), c=conv(5, 3)),
        X,
        {"a": 5},
    ),
    "a tuple that shows inner channels": (
        lambda: Net(two_outputs, a=conv(2, 5), b=conv(5, 6), c=conv(6, 3)),
        X,
        {"b": 6},
    ),
    "nested outputs": (
        lambda: Net(dictionary, a=conv(2, 5), c=conv(5, 3), d=conv(5, 4), e=conv(5, 2)),
        X,
        {"a": 5},
    ),
    "outputs that are no real numbers": (
        lambda: Net(other_types, a=conv(2, 5), c=conv(5, 3)),
        X,
        {"a": 5},
    ),
    "an input that is written into": (
        lambda: Net(writes_into_its_input, a=conv(2, 5), c=conv(5, 3)),
        X,
        {"a": 5},
    ),
    "two inputs": (
        lambda: Net(
            lambda m, x, z: m.c(F.relu(m.a(x) + m.b(z)[..., None, None])),
            a=conv(2, 6),
            b=nn.Linear(3, 6),
            c=conv(6, 3),
        ),
        (X, (2, 3)),
        {"a": 6},
    ),
    "an index as input": (
        lambda: Net(
            lambda m, x: m.b(F.relu(m.a(m.words(x)))),
            words=nn.Embedding(7, 4),
            a=nn.Linear(4, 5),
            b=nn.Linear(5, 3),
        ),
        torch.tensor([[1, 5, 2]]),
        {"a": 5},
    ),
    "a layer used twice": (
        lambda: Net(twice, a=conv(2, 6), s=conv(6, 6, 3), c=conv(6, 3)),
        X,
        {"a": 6},
    ),
    "squeeze and excitation": (
        lambda: Net(excited, a=conv(2, 6), down=conv(6, 4), up=conv(4, 6), c=conv(6, 3)),
        X,
        {"a": 6, "down": 4},
    ),
    "a gate of one channel": (
        lambda: Net(spatial_gate, a=conv(2, 6), s=conv(2, 1), c=conv(6, 3)),
        X,
        {"a": 6},
    ),
    "PReLU a channel": (chain_net(lambda m, y: m.act(y), act=nn.PReLU(6)), X, {"a": 6, "b": 4}),
    "PReLU for all": (chain_net(lambda m, y: m.act(y), act=nn.PReLU()), X, {"a": 6, "b": 4}),
    "a scale": (
        chain_net(lambda m, y: y * m.scale, scale=parameter(1, 6, 1, 1)),
        X,
        {"a": 6, "b": 4},
    ),
    "a scale without a batch": (
        chain_net(
            lambda m, y: m.scale * y + m.shift, scale=parameter(6, 1, 1), shift=parameter(6, 1, 1)
        ),
        X,
        {"a": 6, "b": 4},
    ),
    "a scale to divide by": (
        chain_net(lambda m, y: y / m.scale, scale=parameter(1, 6, 1, 1)),
        X,
        {"a": 6, "b": 4},
    ),
    "a scale that is reshaped first": (
        chain_net(
            lambda m, y: y * m.scale.view(1, -1, 1, 1) + m.shift[None, :, None, None],
            scale=parameter(6),
            shift=parameter(6),
        ),
        X,
        {"a": 6, "b": 4},
    ),
    "the logarithm of a scale": (
        chain_net(lambda m, y: torch.exp(m.scale) * y, scale=parameter(6, 1, 1)),
        X,
        {"a": 6, "b": 4},
    ),
    "a bias that is computed": (
        lambda: Net(
            lambda m, x: m.c(F.conv2d(x, m.weight, m.bias * 2).relu()),
            weight=parameter(6, 2, 1, 1),
            bias=parameter(6),
            c=conv(6, 3),
        ),
        X,
        {"weight": 6},
    ),
    "frozen batch norm of torchvision": (
        norm_net(lambda: FrozenBatchNorm2d(5)),
        X,
        {"a": 5},
    ),
    "statistics that are no buffers": (
        chain_net(lambda m, y: F.batch_norm(y, torch.zeros(6).double(), torch.ones(6).double())),
        X,
        {"b": 4},
    ),
    "a computed scale for all": (
        chain_net(lambda m, y: y * m.scale.exp(), scale=parameter(1)),
        X,
        {"a": 6, "b": 4},
    ),
    "a scale for all": (
        chain_net(lambda m, y: y * m.scale, scale=parameter(1)),
        X,
        {"a": 6, "b": 4},
    ),
    "a scale for each place": (
        chain_net(lambda m, y: y * m.scale, scale=parameter(1, 6, 4, 4)),
        X,
        {"a": 6, "b": 4},
    ),
    "a scale that is no parameter": (
        chain_net(lambda m, y: y * torch.arange(1.0, 7).double().view(6, 1, 1)),
        X,
        {"b": 4},
    ),
    "sigmoid": (chain_net(lambda m, y: torch.sigmoid(y)), X, {"a": 6, "b": 4}),
    "exponential": (chain_net(lambda m, y: y.exp() + 1), X, {"a": 6, "b": 4}),
    "sigmoid, then depthwise": (
        chain_net(lambda m, y: torch.cos(m.g(torch.sigmoid(y))), g=conv(6, 6, groups=6)),
        X,
        None,
    ),
    "functional norm": (
        lambda: Net(
            functional_norm,
            a=conv(2, 6),
            c=conv(6, 3),
            mean=nn.Buffer(torch.randn(6)),
            variance=nn.Buffer(torch.rand(6)),
            scale=parameter(6),
            shift=parameter(6),
        ),
        X,
        {"a": 6},
    ),
    "batch norm": (norm_net(lambda: nn.BatchNorm2d(5)), X, {"a": 5}),
    "batch norm without scale": (norm_net(lambda: nn.BatchNorm2d(5, affine=False)), X, {"a": 5}),
    "batch norm without statistics": (
        norm_net(lambda: nn.BatchNorm2d(5, track_running_stats=False)),
        X,
        {"a": 5},
    ),
    "instance norm": (norm_net(lambda: nn.InstanceNorm2d(5, affine=True)), X, {"a": 5}),
    "halves that gate": (lambda: Net(gated_halves, a=conv(2, 6), c=conv(3, 3)), X, {"a": 3}),
    "halves with two readers": (
        lambda: Net(halves_to_two_readers, a=conv(2, 6), c=conv(3, 3), d=conv(3, 3)),
        X,
        {"a": 3},
    ),
    "chunks fewer than asked for": (
        lambda: Net(three_chunks_of_four, a=conv(2, 6), c=conv(2, 3)),
        X,
        None,
    ),
    "gated linear unit": (chain_net(lambda m, y: F.glu(y, 1), read=3), X, {"a": 3, "b": 4}),
    "gated linear unit over space": (chain_net(lambda m, y: F.glu(y, -1)), X, {"a": 6, "b": 4}),
    "the first channels": (chain_net(lambda m, y: y[:, :4], read=4), X, {"b": 4}),
    "every other channel": (chain_net(lambda m, y: y[:, ::2], read=3), X, {"b": 4}),
    "channels by index": (chain_net(lambda m, y: y[:, [5, 4, 3, 2, 1, 0]]), X, {"b": 4}),
    "channels by another tensor": (
        chain_net(
            lambda m, y: y.index_select(1, m.order), order=nn.Buffer(torch.arange(6).flip(0))
        ),
        X,
        {"b": 4},
    ),
    "all channels, some places": (chain_net(lambda m, y: y[:, :, 1:, ::2]), X, {"a": 6, "b": 4}),
    "unequal parts": (
        chain_net(lambda m, y: torch.cat(y.split([2, 4], 1)[::-1], 1)),
        X,
        {"b": 4},
    ),
    "channel shuffle": (chain_net(lambda m, y: shuffled(y, 3)), X, {"a": 2, "b": 4}),
    "channel shuffle of PyTorch": (
        chain_net(lambda m, y: F.channel_shuffle(y, 3)),
        X,
        {"a": 2, "b": 4},
    ),
    "channel shuffle, then depthwise": (
        chain_net(lambda m, y: m.g(shuffled(y, 2)), g=conv(6, 6, 3, groups=6)),
        X,
        {"a": 3, "b": 4},
    ),
    "pairs taken apart": (lambda: Net(interleaved, a=conv(2, 6), c=conv(6, 3)), X, {"a": 3}),
    "maximum of pairs": (lambda: Net(grouped_max, a=conv(2, 6), c=conv(3, 3)), X, None),
    "channels taken by a mask of numbers": (
        chain_net(lambda m, y: y * (y > 0.1)),
        X,
        {"a": 6, "b": 4},
    ),
    "the numbers above zero": (
        chain_net(lambda m, y: y + y[y > 0].mean()),
        X,
        {"b": 4},
    ),
    "the largest channels": (
        chain_net(lambda m, y: y.gather(1, y.topk(3, 1).indices), read=3),
        X,
        {"b": 4},
    ),
    "sampled at places that the network computes": (
        chain_net(lambda m, y: F.grid_sample(y, y[:, :2].permute(0, 2, 3, 1), align_corners=False)),
        X,
        {"b": 4},
    ),
    "sampled at places of other channels": (
        lambda: Net(
            lambda m, x: (
                m.c(F.grid_sample(m.a(x), (g := m.g(x)).permute(0, 2, 3, 1), align_corners=False))
                + m.e(g)
            ),
            a=conv(2, 6),
            g=conv(2, 2),
            c=conv(6, 3),
            e=conv(2, 3),
        ),
        X,
        {"a": 6},
    ),
    "zeros of the same shape": (
        chain_net(lambda m, y: torch.cat([torch.zeros_like(y), y], 1), read=12),
        X,
        {"a": 6, "b": 4},
    ),
    "spread over places": (
        chain_net(lambda m, y: y * y.std((2, 3), keepdim=True)),
        X,
        {"a": 6, "b": 4},
    ),
    "spread over all": (chain_net(lambda m, y: y * y.std(True)), X, {"b": 4}),
    "the brightest place": (
        chain_net(lambda m, y: y.flatten(2).max(2).values[..., None, None] - y),
        X,
        {"a": 6, "b": 4},
    ),
    "mirrored channels": (chain_net(lambda m, y: y.flip(1)), X, {"a": 6, "b": 4}),
    "rolled channels": (chain_net(lambda m, y: y.roll(2, 1)), X, {"b": 4}),
    "rolled places": (chain_net(lambda m, y: y.roll((1, 2), (2, 3))), X, {"a": 6, "b": 4}),
    "pixel shuffle": (
        chain_net(lambda m, y: F.pixel_shuffle(y, 2), channels=12, read=3),
        X,
        {"a": 3, "b": 4},
    ),
    "pixel shuffle, flattened": (
        lambda: nn.Sequential(conv(2, 12), nn.PixelShuffle(2), nn.Flatten(), nn.Linear(192, 3)),
        X,
        {"0": 3},
    ),
    "pixel unshuffle": (
        chain_net(lambda m, y: F.pixel_unshuffle(y, 2), read=24),
        X,
        {"a": 6, "b": 4},
    ),
    "softmax of the logits": (
        lambda: nn.Sequential(conv(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3), nn.Softmax(1)),
        X,
        {"0": 6},
    ),
    "softmax over channels": (chain_net(lambda m, y: y.softmax(1)), X, {"b": 4}),
    "softmax over places": (
        chain_net(lambda m, y: y.flatten(2).softmax(-1).view_as(y)),
        X,
        {"a": 6, "b": 4},
    ),
    "mean over channels": (chain_net(lambda m, y: y - y.mean(1, keepdim=True)), X, {"b": 4}),
    "mean over all": (chain_net(lambda m, y: y - y.mean()), X, {"b": 4}),
    "mean over places": (chain_net(lambda m, y: y - y.mean((2, 3), True)), X, {"a": 6, "b": 4}),
    "length one": (chain_net(lambda m, y: F.normalize(y, dim=1)), X, {"b": 4}),
    "padded places": (
        chain_net(lambda m, y: F.pad(y, (1, 2, 0, 1), value=3.0)),
        X,
        {"a": 6, "b": 4},
    ),
    "padded channels": (chain_net(lambda m, y: F.pad(y, (0, 0, 0, 0, 1, 1)), read=8), X, {"b": 4}),
    "padding modes": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1, padding_mode="circular"),
            nn.ReflectionPad2d(1),
            nn.Conv2d(5, 4, 3, padding="same", padding_mode="replicate"),
            nn.ZeroPad2d(1),
            nn.Conv2d(4, 2, 1),
        ),
        X,
        {"0": 5, "2": 4},
    ),
    "pooled and resized": (
        chain_net(
            lambda m, y: F.interpolate(
                F.adaptive_max_pool2d(F.avg_pool2d(F.max_pool2d(y, 2), 2), 3), scale_factor=2.0
            )
        ),
        X,
        {"a": 6, "b": 4},
    ),
    "channels last": (
        lambda: Net(channels_last, a=conv(2, 6), linear=nn.Linear(6, 5), c=conv(5, 3)),
        X,
        {"a": 6, "linear": 5},
    ),
    "a linear layer over places": (
        lambda: Net(over_space, a=conv(2, 6), linear=nn.Linear(16, 7), c=nn.Conv1d(6, 3, 1)),
        X,
        None,
    ),
    "matrix product": (
        chain_net(lambda m, y: (y.flatten(2).mT @ m.w).mT.view_as(y), w=parameter(6, 6)),
        X,
        {"b": 4},
    ),
    "weights of its own": (
        lambda: Net(
            own_weight,
            weight=parameter(6, 2, 3, 3),
            bias=parameter(6),
            inner=parameter(5, 6, 1, 1),
            c=conv(5, 3),
        ),
        X,
        {"weight": 6, "inner": 5},
    ),
    "a layer that is not used": (
        chain_net(lambda m, y: y, unused=nn.Linear(6, 6)),
        X,
        {"a": 6, "b": 4},
    ),
    "ordinary arithmetic": (
        chain_net(lambda m, y: torch.where(y > 0, 1 - y, y**2) / 3 + abs(-y).clamp(max=2)),
        X,
        {"a": 6, "b": 4},
    ),
    "one channel": (
        lambda: Net(
            lambda m, x: m.c(F.relu(m.b(m.a(x)))), a=conv(2, 1), b=conv(1, 4), c=conv(4, 3)
        ),
        X,
        {"a": 1, "b": 4},
    ),
}


def gated(model, groups, keep):
    """The whole network, where each reader finds zeros in place of what is gone.

    None if something else than a layer reads.
    """
    model = copy.deepcopy(model)
    for group in groups:
        for member in group.of_role("consumer"):
            layer = model.get_submodule(member.tensor.rpartition(".")[0])
            if not isinstance(layer, _ConvNd | nn.Linear):
                return None
            gone = member.indices[~keep[group.name]].flatten()
            if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd):
                width = layer.weight.shape[1]
                gone = torch.cat([gone + i * width for i in range(layer.groups)])
            dim = -1 if isinstance(layer, nn.Linear) else -layer.weight.ndim + 1
            layer.register_forward_pre_hook(
                lambda _, inputs, dim=dim, gone=gone: inputs[0].index_fill(dim, gone, 0)
            )
    return model


def inputs_like(example, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(example, torch.Tensor):
        return (example,)
    shapes = example if isinstance(example[0], tuple) else (example,)
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_made_by_hand_are_grouped_and_shrunk(name, tmp_path):
    build, example, expected = GRAPHS[name]
    torch.manual_seed(0)
    model = build().double()
    inputs = inputs_like(example)
    randomized(model, *inputs)
    state = state_of(model)
    if expected is None:
        try:
            groups = pruning.find_groups(model, example)
        except UnprunableError:
            assert unchanged(model, state)
            return
    groups = pruning.find_groups(model, example)
    found = {group.name: group.size for group in groups}
    if expected is not None:
        assert found == expected
    for seed in range(3):
        keep = random_keep(groups, seed, share=(0.6, 0.2, 0.9)[seed])
        smaller = pruning.shrink(model, groups, keep)
        result = outputs(smaller, *inputs)
        assert_same(result, outputs(pruning.mask_channels(model, groups, keep), *inputs))
        reference = gated(model, groups, keep)
        if reference is not None:
            assert_same(result, outputs(reference, *inputs))
        counts = {n: int(kept.sum()) for n, kept in keep.items()}
        if name != "matrix product":  # its own product has no layer
            assert metrics.count_macs(smaller, example) == pruning.cost(groups, counts).macs
        assert metrics.count_parameters(smaller) == pruning.cost(groups, counts).parameters
        save_weights(smaller, tmp_path / "file")
        loaded = pruning.load_pruned(model, tmp_path / "file")
        assert_same(outputs(loaded, *inputs), result, 0)
        assert unchanged(model, state)


# ---------------------------------------------------------------- graphs made at random


class RandomNet(nn.Module):
    """Steps drawn at random over a growing list of activations of one height and width."""

    def __init__(self, draw):
        super().__init__()
        self.layers = nn.ModuleDict()
        self.steps = []
        widths = [3]
        for number in range(draw(st.integers(2, 9))):
            kinds = ["conv", "norm", "act", "cat", "depthwise", "grouped", "excite", "scale"]
            source = draw(st.integers(0, len(widths) - 1))
            same = [i for i, w in enumerate(widths) if w == widths[source] and i != source]
            kind = draw(st.sampled_from(kinds + ["add"] * 4 * bool(same)))
            name, width, other = f"{kind}{number}", widths[source], None
            bias = draw(st.booleans())
            if kind == "conv":
                # Few widths, so that additions are common.
                filters = draw(st.sampled_from([1, 4, 6, 6]))
                layer = conv(width, filters, draw(st.sampled_from([1, 3])), bias=bias)
            elif kind == "depthwise":
                layer = conv(width, width * draw(st.integers(1, 2)), 3, groups=width, bias=bias)
            elif kind == "grouped":
                count = draw(st.sampled_from([g for g in (1, 2, 3) if width % g == 0]))
                layer = conv(width, count * draw(st.integers(1, 3)), 1, groups=count, bias=bias)
            elif kind == "norm":
                layer = nn.BatchNorm2d(width)
            elif kind == "excite":
                layer = nn.Sequential(
                    nn.AdaptiveAvgPool2d(1), conv(width, 4), nn.ReLU(), conv(4, width), nn.Sigmoid()
                )
            elif kind == "act":
                act = draw(st.sampled_from(["relu", "sigmoid", "prelu"]))
                layer = {"relu": nn.ReLU(), "sigmoid": nn.Sigmoid()}.get(act) or nn.PReLU(width)
            elif kind == "scale":
                layer = nn.ParameterDict({"scale": parameter(1, width, 1, 1)})
            else:
                others = same if kind == "add" else list(range(len(widths)))
                layer, other = nn.Identity(), draw(st.sampled_from(others))
            self.layers[name] = layer
            self.steps.append((name, kind, source, other))
            outgoing = layer.weight.shape[0] if isinstance(layer, nn.Conv2d) else width
            widths.append(width + widths[other] if kind == "cat" else outgoing)
        self.head = nn.Linear(sum(widths[-3:]), 2)

    def forward(self, x, alive=None):
        """With `alive`, what each filter's group keeps, every activation is cut to zero there.

        So this is the masked network by its meaning, from nothing but the filters' groups;
        and it checks on the way that what meets is kept together.
        """
        values, lives = [x], [torch.ones(3, dtype=torch.bool)]
        for name, kind, source, other in self.steps:
            layer, y, life = self.layers[name], values[source], lives[source]
            if kind == "add":
                y = y + values[other]
                assert alive is None or torch.equal(life, lives[other])
            elif kind == "cat":
                y, life = torch.cat([y, values[other]], 1), torch.cat([life, lives[other]])
            elif kind == "scale":
                y = y * layer["scale"]
            elif kind == "excite":
                if alive is None:
                    y = y * layer(y)
                else:
                    inner = layer[2](layer[1](layer[0](y)))
                    y = y * layer[4](layer[3](inner * alive[f"layers.{name}.1"].view(-1, 1, 1)))
                    assert torch.equal(life, alive[f"layers.{name}.3"])
            else:
                y = layer(y)
                if isinstance(layer, nn.Conv2d) and alive is not None:
                    depthwise = 1 < layer.groups == layer.in_channels
                    if depthwise:
                        life = life.repeat_interleave(layer.out_channels // layer.in_channels)
                        assert torch.equal(life, alive[f"layers.{name}"])
                    life = alive[f"layers.{name}"]
            if alive is not None:
                y = y * life.view(-1, 1, 1)
            values.append(y)
            lives.append(life)
        return self.head(torch.cat([v.mean((2, 3)) for v in values[-3:]], 1))


def filters_alive(model, groups, keep):
    alive = {n: torch.ones(m.out_channels, dtype=torch.bool) for n, m in model.named_modules()
             if isinstance(m, nn.Conv2d)}  # fmt: skip
    for group in groups:
        for member in group.of_role("producer"):
            module, _, kind = member.tensor.rpartition(".")
            if kind == "weight":
                alive[module][member.indices[~keep[group.name]].flatten()] = False
    return alive


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 2**16), st.floats(0.1, 0.9))
def test_networks_made_at_random_shrink_to_what_is_left_of_them(data, seed, share):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    model = randomized(RandomNet(data.draw).double(), x)
    state = state_of(model)
    try:
        groups = pruning.find_groups(model, (1, 3, 4, 4))
    except UnprunableError as error:
        assert "no channel of this network can be removed" in str(error)
        return
    keep = random_keep(groups, seed, share)
    smaller = pruning.shrink(model, groups, keep)
    found = outputs(smaller, x)
    assert_same(found, outputs(model, x, filters_alive(model, groups, keep)), 1e-9)
    assert_same(found, outputs(pruning.mask_channels(model, groups, keep), x), 1e-9)
    counts = {name: int(kept.sum()) for name, kept in keep.items()}
    assert metrics.count_macs(smaller, (1, 3, 4, 4)) == pruning.cost(groups, counts).macs
    orders = {group.name: torch.randperm(group.size) for group in groups}
    permuted = pruning.permute_channels(model, groups, orders)
    assert_same(outputs(permuted, x), outputs(model, x), 1e-9)
    back = {name: order.argsort() for name, order in orders.items()}
    assert unchanged(pruning.permute_channels(permuted, groups, back), state)
    assert unchanged(model, state)


# ---------------------------------------------------------------- masks and tensors, by number


def chain():
    return nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Sigmoid(), nn.Flatten(), nn.Linear(12, 2)
    )


def chain_and_groups():
    torch.manual_seed(0)
    model = randomized(chain(), torch.randn(4, 1, 2, 2))
    return model, pruning.find_groups(model, (1, 1, 2, 2))


KEEP = {"0": torch.tensor([True, False, True])}


def test_exactly_what_belongs_to_a_channel_becomes_zero():
    model, groups = chain_and_groups()
    masked = pruning.mask_channels(model, groups, KEEP).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.clone()
        if name in ("0.weight", "0.bias", "1.weight", "1.bias"):
            expected[1] = 0
        elif name == "4.weight":
            expected[:, 4:8] = 0
        assert torch.equal(masked[name], expected)


def test_exactly_what_belongs_to_a_channel_is_cut_away():
    model, groups = chain_and_groups()
    smaller = pruning.shrink(model, groups, KEEP).state_dict()
    columns = [0, 1, 2, 3, 8, 9, 10, 11]
    for name, tensor in model.state_dict().items():
        if name == "4.weight":
            tensor = tensor[:, columns]
        elif tensor.ndim and name != "4.bias":
            tensor = tensor[[0, 2]]
        assert torch.equal(smaller[name], tensor)
        assert smaller[name].dtype == tensor.dtype


def test_nothing_is_lost_when_everything_is_kept():
    model, groups = chain_and_groups()
    for keep in ({}, {"0": torch.ones(3, dtype=torch.bool)}):
        for function in (pruning.shrink, pruning.mask_channels):
            made = function(model, groups, keep)
            assert made is not model
            assert unchanged(made, state_of(model))


def test_modes_frozen_weights_and_ties_survive():
    model = nn.Sequential(
        nn.Linear(2, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
    )
    model[2].weight = model[1].weight
    model[0].bias.requires_grad_(False)
    model[1].eval()
    groups = pruning.find_groups(model, (1, 2))
    assert {g.name: g.size for g in groups} == {"0": 4}
    smaller = pruning.shrink(model, groups, {"0": torch.tensor([True, True, False, True])})
    assert smaller[2].weight is smaller[1].weight
    assert smaller[1].weight.shape == (3, 3)
    assert [p.requires_grad for p in smaller.parameters()] == [True, False, True, True, True]
    assert [m.training for m in smaller] == [True, False, True, True]


def test_pruning_twice_is_pruning_at_once():
    model, groups = chain_and_groups()
    once = pruning.shrink(model, groups, {"0": torch.tensor([False, False, True])})
    first = pruning.shrink(model, groups, {"0": torch.tensor([True, False, True])})
    again = pruning.find_groups(first, (1, 1, 2, 2))
    twice_ = pruning.shrink(first, again, {"0": torch.tensor([False, True])})
    assert unchanged(twice_, once.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_pass_the_check(dtype):
    torch.manual_seed(0)
    x = torch.randn(4, 16, 4, 4)
    model = randomized(
        nn.Sequential(
            conv(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), conv(64, 64, 3), nn.ReLU(), conv(64, 8)
        ),
        x,
    ).to(dtype)
    groups = pruning.find_groups(model, (1, 16, 4, 4))
    smaller = pruning.shrink(model, groups, random_keep(groups))
    assert {p.dtype for p in smaller.parameters()} == {dtype}


def test_masks_may_come_from_the_best_scores():
    torch.manual_seed(0)
    model = ResNet14(width=0.25).eval()
    groups = pruning.find_groups(model, (1, 1, 28, 28))
    scores = pruning.group_scores(groups, pruning.filter_l2(model))
    keep = pruning.keep_best(groups, scores, {g.name: max(1, g.size // 2) for g in groups})
    smaller = pruning.shrink(model, groups, keep)
    x = torch.randn(2, 1, 28, 28)
    assert_same(outputs(smaller, x), outputs(pruning.mask_channels(model, groups, keep), x), 1e-4)
    assert tuple(smaller.fc.weight.shape) == (10, 16)


# ---------------------------------------------------------------- another order


def test_each_channel_goes_to_the_place_that_the_order_says():
    model, groups = chain_and_groups()
    permuted = pruning.permute_channels(model, groups, {"0": torch.tensor([2, 0, 1])}).state_dict()
    columns = [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    for name, tensor in model.state_dict().items():
        if name == "4.weight":
            tensor = tensor[:, columns]
        elif tensor.ndim and name != "4.bias":
            tensor = tensor[[2, 0, 1]]
        assert torch.equal(permuted[name], tensor)


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1], [1, 2, 3], [0, 1, 2, 3], [-1, 0, 1]])
def test_what_is_no_permutation_is_refused(order):
    model, groups = chain_and_groups()
    with pytest.raises(ValueError, match=r"orders\['0'\] is no permutation of 3 channels"):
        pruning.permute_channels(model, groups, {"0": torch.tensor(order)})
    with pytest.raises(KeyError, match="no group '7'"):
        pruning.permute_channels(model, groups, {"7": torch.tensor(order)})


# ---------------------------------------------------------------- other runtimes


def shuffling():
    layers = {"a": conv(1, 8, 3), "bn": nn.BatchNorm2d(8), "g": conv(8, 8, 3, groups=2)}

    def run(m, x):
        y = F.relu(m.bn(m.a(x)))
        y = torch.cat([m.d(shuffled(m.g(y), 2)), y], 1)
        return m.fc(F.silu(y).mean((2, 3)))

    return Net(run, d=conv(8, 16, 3, groups=8), fc=nn.Linear(24, 5), **layers)


@pytest.mark.parametrize("build", [StudentNet, shuffling])
def test_onnx_runtime_agrees(build, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 1, 28, 28)
    model = randomized(build(), x)
    groups = pruning.find_groups(model, (1, 1, 28, 28))
    smaller = pruning.shrink(model, groups, random_keep(groups))
    path = to_onnx(smaller, x, tmp_path / "pruned.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x.numpy()})
    (expected,) = outputs(smaller, x)
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * expected.abs().max().item()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("function", [pruning.shrink, pruning.mask_channels])
@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        ({"9": torch.ones(3).bool()}, KeyError, "no group '9'; there are 0"),
        ({"0": torch.ones(3)}, TypeError, r"keep\['0'\] is torch\.float32"),
        ({"0": [True, False, True]}, TypeError, r"keep\['0'\] is list; a bool tensor"),
        ({"0": torch.ones(4).bool()}, ValueError, r"shape \(4,\); the group has 3 channels"),
        ({"0": torch.ones(3, 1).bool()}, ValueError, r"shape \(3, 1\)"),
        ({"0": torch.zeros(3).bool()}, ValueError, "keeps no channel; at least one"),
    ],
)
def test_masks_of_channels_that_do_not_fit_are_refused(function, keep, error, message):
    model, groups = chain_and_groups()
    state = state_of(model)
    with pytest.raises(error, match=message):
        function(model, groups, keep)
    assert unchanged(model, state)


@pytest.mark.parametrize("function", [pruning.shrink, pruning.mask_channels])
def test_groups_of_another_network_are_refused(function):
    _, groups = chain_and_groups()
    with pytest.raises(ValueError, match="another network"):
        function(nn.Sequential(nn.Conv2d(1, 4, 1)), groups, KEEP)


def hard_coded(m, x):
    return m.fc(F.relu(m.a(x)).view(-1, 512))


def by_position(m, x):
    weights = torch.linspace(0, 1, x.shape[1] * 0 + m.a.out_channels, dtype=x.dtype)
    return m.c(m.a(x) * weights.view(1, -1, 1, 1))


def by_number_of_channels(m, x):
    y = m.a(x)
    return m.c(y / y.shape[1])


@pytest.mark.parametrize(
    ("function", "layers"),
    [
        (hard_coded, {"a": conv(2, 32), "fc": nn.Linear(512, 3)}),
        (by_number_of_channels, {"a": conv(2, 6), "c": conv(6, 3)}),
    ],
)
def test_code_that_counts_channels_is_noticed_and_the_network_left_alone(function, layers):
    torch.manual_seed(0)
    model = Net(function, **layers).train()
    state = state_of(model)
    groups = pruning.find_groups(model, X)
    keep = {"a": torch.arange(groups["a"].size) % 2 == 0}
    with pytest.raises(UnprunableError, match=r"the smaller network .*left as it was"):
        pruning.shrink(model, groups, keep)
    assert unchanged(model, state)
    assert all(module.training for module in model.modules())


def test_a_constant_that_differs_by_position_keeps_its_channels():
    model = Net(by_position, a=conv(2, 6), c=conv(6, 3))
    with pytest.raises(UnprunableError, match="no channel"):
        pruning.find_groups(model, X)


def test_files_that_are_no_pruned_version_are_refused(tmp_path):
    model, groups = chain_and_groups()
    state, path = state_of(model), tmp_path / "file"
    with pytest.raises(CheckpointError, match="is not there"):
        pruning.load_pruned(model, path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        pruning.load_pruned(model, path)
    smaller = pruning.shrink(model, groups, KEEP)
    save_weights(smaller, path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        pruning.load_pruned(model, path, sha256="0" * 64)
    good = load_file(path)
    for change, message in (
        ({"more": torch.ones(1)}, "more is unexpected"),
        ({"more": torch.tensor(1.0)}, "more is unexpected"),
        ({"0.weight": torch.ones(5, 1, 1, 1)}, r"0\.weight is \(5, 1, 1, 1\).*\(3, 1, 1, 1\)"),
        ({"0.weight": torch.ones(2, 1)}, r"0\.weight is \(2, 1\)"),
        ({"0.weight": torch.ones(2, 1, 1, 0)}, r"0\.weight is \(2, 1, 1, 0\)"),
        ({"0.weight": good["0.weight"].double()}, r"0\.weight is .*float64"),
    ):
        save_file(good | change, path)
        with pytest.raises(CheckpointError, match=message):
            pruning.load_pruned(model, path)
    save_file({n: t for n, t in good.items() if n != "1.bias"}, path)
    with pytest.raises(CheckpointError, match=r"1\.bias is missing"):
        pruning.load_pruned(model, path)
    assert unchanged(model, state)


def test_a_whole_networks_file_loads_as_it_is(tmp_path):
    model, _ = chain_and_groups()
    save_weights(model, tmp_path / "file")
    assert unchanged(pruning.load_pruned(chain(), tmp_path / "file"), state_of(model))


def test_what_is_simple_by_the_functions_that_were_called():
    class Net(nn.Module):
        def __init__(self, after):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
            self.after = after

        def forward(self, x):
            return self.after(self.second(self.first(x).relu()))

    def simple(after):
        return pruning.find_groups(Net(after), (1, 1, 8, 8)).simple

    assert simple(lambda y: y.mean((2, 3)))
    assert simple(lambda y: torch.flatten(F.max_pool2d(y + 1, 2), 1))
    assert not simple(lambda y: y.view(1, -1))
    assert not simple(lambda y: y[:, :2])
    assert not simple(lambda y: y if y.shape[1] == 4 else -y)
    assert not simple(lambda y: y if y.size(1) == 4 else -y)


def test_numbers_that_are_not_finite_are_compared_too():
    class Net(nn.Module):
        def __init__(self, wrong):
            super().__init__()
            self.first, self.last, self.wrong = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1), wrong

        def forward(self, x):
            y = self.last(self.first(x))
            if self.wrong and self.first.weight.shape[0] < 4:
                y = y + 1  # what only the smaller network does
            return torch.cat([y.view(-1), torch.tensor([float("inf"), float("nan")])])

    keep = {"first": torch.tensor([True, True, False, True])}
    for wrong in (False, True):
        model = Net(wrong)
        groups = pruning.find_groups(model, (1, 1, 3, 3))
        assert not groups.simple
        if wrong:
            with pytest.raises(UnprunableError, match="computes something else"):
                pruning.shrink(model, groups, keep)
        else:
            assert pruning.shrink(model, groups, keep).first.out_channels == 3
