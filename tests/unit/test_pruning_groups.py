"""slimcnn.pruning.groups, graph and labels: members by hand, refusals by name, nothing touched."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from slimcnn import pruning
from slimcnn.models import ResNet14, StudentNet
from slimcnn.pruning import UnprunableError, labels


def table(group):
    """A group's members as plain numbers: {(tensor, dim): (role, rows)}."""
    return {(m.tensor, m.dim): (m.role, m.indices.tolist()) for m in group.members}


def column(size):
    return [[i] for i in range(size)]


class Net(nn.Module):
    """Any function of layers and inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


# ---------------------------------------------------------------- members


def test_members_of_a_chain_into_a_flattened_linear_layer():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    groups = pruning.find_groups(model, (1, 1, 4, 4))
    (group,) = groups
    assert (group.name, group.size) == ("0", 3)
    assert table(group) == {
        ("0.weight", 0): ("producer", column(3)),
        ("0.bias", 0): ("producer", column(3)),
        ("1.weight", 0): ("norm", column(3)),
        ("1.bias", 0): ("norm", column(3)),
        ("1.running_mean", 0): ("statistic", column(3)),
        ("1.running_var", 0): ("statistic", column(3)),
        ("4.weight", 1): ("consumer", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
    }
    assert [m.tensor for m in group.of_role("norm")] == ["1.weight", "1.bias"]
    assert groups.positions == {"0.weight": 4, "4.weight": 1}
    assert groups.shapes["4.weight"] == (2, 12)
    assert groups.shapes["1.num_batches_tracked"] == ()
    assert groups.itemsizes["1.num_batches_tracked"] == 8
    assert groups.itemsizes["1.running_var"] == groups.itemsizes["0.bias"] == 4
    assert groups.parameters == {
        "0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"
    }  # fmt: skip


def test_groups_of_resnet14_by_pencil():
    """One group a stage, tied by the shortcuts, and one inside each block."""
    groups = pruning.find_groups(ResNet14(), (1, 1, 28, 28))
    assert {g.name: g.size for g in groups} == {
        "conv": 32,
        "stage1.0.conv1": 32,
        "stage1.1.conv1": 32,
        "stage2.0.conv1": 64,
        "stage2.0.conv2": 64,
        "stage2.1.conv1": 64,
        "stage3.0.conv1": 128,
        "stage3.0.conv2": 128,
        "stage3.1.conv1": 128,
    }
    stage = groups["stage2.0.conv2"]
    assert {m.tensor for m in stage.of_role("producer")} == {
        "stage2.0.conv2.weight",
        "stage2.0.shortcut.0.weight",
        "stage2.1.conv2.weight",
    }
    assert {(m.tensor, m.dim) for m in stage.of_role("consumer")} == {
        ("stage2.1.conv1.weight", 1),
        ("stage3.0.conv1.weight", 1),
        ("stage3.0.shortcut.0.weight", 1),
    }
    assert len(stage.of_role("norm")) == 2 * 3
    assert len(stage.of_role("statistic")) == 2 * 3
    assert all(m.indices.tolist() == column(64) for m in stage.members)
    inner = groups["stage3.1.conv1"]
    assert {m.tensor for m in inner.of_role("consumer")} == {"stage3.1.conv2.weight"}


def test_a_depthwise_filter_goes_with_its_channel():
    groups = pruning.find_groups(StudentNet(), (1, 1, 28, 28))
    assert [(g.name, g.size) for g in groups] == [
        ("conv", 32),
        ("blocks.0.pointwise", 64),
        ("blocks.1.pointwise", 64),
        ("blocks.2.pointwise", 128),
        ("blocks.3.pointwise", 128),
        ("blocks.4.pointwise", 128),
    ]
    assert [m.tensor for m in groups["blocks.0.pointwise"].of_role("producer")] == [
        "blocks.0.pointwise.weight",
        "blocks.1.depthwise.weight",
    ]


def test_members_of_grouped_convolutions_are_one_of_each_part():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1, bias=False),
        nn.Conv2d(4, 6, 1, groups=2, bias=False),
        nn.Conv2d(6, 2, 1, bias=False),
    )
    first, second = pruning.find_groups(model, (1, 1, 1, 1))
    assert table(first) == {
        ("0.weight", 0): ("producer", [[0, 2], [1, 3]]),
        ("1.weight", 1): ("consumer", [[0], [1]]),
    }
    assert table(second) == {
        ("1.weight", 0): ("producer", [[0, 3], [1, 4], [2, 5]]),
        ("2.weight", 1): ("consumer", [[0, 3], [1, 4], [2, 5]]),
    }


def test_members_behind_a_concatenation_are_shifted():
    def run(m, x):
        return m.c(torch.cat([m.a(x), x, m.b(x)], 1))

    model = Net(
        run,
        a=nn.Conv2d(1, 2, 1, bias=False),
        b=nn.Conv2d(1, 3, 1, bias=False),
        c=nn.Conv2d(6, 1, 1),
    )
    a, b = pruning.find_groups(model, (1, 1, 2, 2))
    assert table(a)["c.weight", 1] == ("consumer", [[0], [1]])
    assert table(b)["c.weight", 1] == ("consumer", [[3], [4], [5]])


def test_a_depthwise_transposed_layer_with_two_filters_a_channel():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ConvTranspose2d(2, 4, 2, groups=2), nn.Conv2d(4, 1, 1)
    )
    (group,) = pruning.find_groups(model, (1, 1, 2, 2))
    assert table(group) == {
        ("0.weight", 0): ("producer", [[0], [1]]),
        ("1.weight", 0): ("producer", [[0], [1]]),
        ("1.bias", 0): ("producer", [[0, 1], [2, 3]]),
        ("2.weight", 1): ("consumer", [[0, 1], [2, 3]]),
    }


def test_channels_of_one_layer_that_touch_different_tensors_are_different_groups():
    def run(m, x):
        y = m.a(x)
        return m.c(torch.cat([y, m.b(x)], 1)) + m.e(m.d(x) + torch.cat([y, y], 1))

    def layer(inputs, outputs):
        return nn.Conv2d(inputs, outputs, 1, bias=False)

    model = Net(run, a=layer(1, 2), b=layer(1, 3), c=layer(5, 1), d=layer(1, 4), e=layer(4, 1))
    a, b = pruning.find_groups(model, (1, 1, 2, 2))
    assert (a.name, a.size, b.name, b.size) == ("a", 2, "b", 3)
    assert table(a) == {
        ("a.weight", 0): ("producer", [[0], [1]]),
        ("c.weight", 1): ("consumer", [[0], [1]]),
        ("d.weight", 0): ("producer", [[0, 2], [1, 3]]),
        ("e.weight", 1): ("consumer", [[0, 2], [1, 3]]),
    }


def test_parts_of_one_layer_have_numbered_names():
    # The first half of "a" is tied to "b", which has a reader more than the second half's "e".
    def halves(m, x):
        y = m.a(x) + torch.cat([m.b(x), m.e(x)], 1)
        return m.c(y) + m.d(m.b(x))

    model = Net(
        halves,
        a=nn.Conv2d(1, 4, 1),
        b=nn.Conv2d(1, 2, 1),
        e=nn.Conv2d(1, 2, 1),
        c=nn.Conv2d(4, 1, 1),
        d=nn.Conv2d(2, 1, 1),
    )
    groups = pruning.find_groups(model, (1, 1, 2, 2))
    assert [(g.name, g.size) for g in groups] == [("a", 2), ("a#2", 2)]
    assert table(groups["a"])["a.weight", 0] == ("producer", [[0], [1]])
    assert table(groups["a#2"])["a.weight", 0] == ("producer", [[2], [3]])


def test_roles_of_divisors_and_frozen_norms_are_statistics():
    model = Net(
        lambda m, x: m.c(m.a(x) / m.scale * m.gain),
        a=nn.Conv2d(1, 2, 1, bias=False),
        c=nn.Conv2d(2, 1, 1),
        scale=nn.Parameter(torch.ones(1, 2, 1, 1)),
        gain=nn.Parameter(torch.ones(2, 1, 1)),
    )
    (group,) = pruning.find_groups(model, (1, 1, 2, 2))
    assert table(group)["scale", 1] == ("statistic", column(2))
    assert table(group)["gain", 0] == ("norm", column(2))


def test_heads_that_only_training_runs_lose_channels_but_cost_nothing():
    class WithHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.Linear(2, 5), nn.Linear(5, 3)
            self.head = nn.Sequential(
                nn.Dropout(), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
            )

        def forward(self, x):
            y = F.relu(self.body(x))
            return (self.out(y), self.head(y)) if self.training else self.out(y)

    groups = pruning.find_groups(WithHead(), (2, 2))
    assert {g.name: g.size for g in groups} == {"body": 5, "head.1": 4}
    assert {m.tensor for m in groups["body"].of_role("consumer")} == {"out.weight", "head.1.weight"}
    assert groups.positions == {"body.weight": 2, "out.weight": 2}


def test_groups_are_found_by_name_and_in_order():
    groups = pruning.find_groups(
        nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3), nn.Linear(3, 1)), (1, 1)
    )
    assert len(groups) == 2
    assert [g.name for g in groups] == ["0", "1"]
    assert groups["1"].size == 3
    with pytest.raises(KeyError, match=r"no group 'fc'; there are 0, 1"):
        groups["fc"]


def test_positions_count_the_example():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ConvTranspose2d(3, 4, 2, 2), nn.Conv2d(4, 1, 1))
    groups = pruning.find_groups(model, torch.zeros(5, 1, 6, 6))
    # 4·4 outputs of the first, 4·4 inputs of the transposed one, 8·8 of the last.
    assert groups.positions == {"0.weight": 5 * 16, "1.weight": 5 * 16, "2.weight": 5 * 64}


# ---------------------------------------------------------------- nothing touched


class Moody(nn.Module):
    def __init__(self, refused):
        super().__init__()
        self.a, self.bn, self.c = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.drop, self.refused = nn.Dropout(), refused

    def forward(self, x):
        y = F.dropout(self.drop(self.bn(self.a(x))), training=True)
        self.bn.running_mean.add_(1)
        return self.c(F.group_norm(y, 2) if self.refused else y)


@pytest.mark.parametrize("refused", [False, True])
def test_the_network_is_left_as_it_was(refused):
    model = Moody(refused).train()
    model.bn.eval()
    model.a.weight.grad = torch.ones(4, 1, 1, 1)
    model.c.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    tensors = {n: id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    torch.manual_seed(5)
    random_state, example = torch.get_rng_state(), torch.ones(2, 1, 3, 3)
    if refused:
        with pytest.raises(UnprunableError, match="group_norm"):
            pruning.find_groups(model, example)
    else:
        assert [g.size for g in pruning.find_groups(model, example)] == [4]
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert {n: id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]} == tensors
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(model.a.weight.grad, torch.ones(4, 1, 1, 1))
    assert [len(m._forward_hooks) for m in model.modules()] == [0, 0, 0, 1, 0]
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_networks_output_is_not_replaced_while_it_is_watched():
    """A forward hook that returns something replaces the output: the network's own has no name."""
    seen = []
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    model.register_forward_hook(lambda _, __, output: seen.append(output))
    pruning.find_groups(model, (1, 1))
    assert [tuple(output.shape) for output in seen] == [(1, 1)]


# ---------------------------------------------------------------- refusals


def between(*layers, width=8):
    return nn.Sequential(nn.Conv2d(2, width, 1), *layers, nn.Conv2d(width, 2, 1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.inner(x)
        return self.attention(y, y, y)[0]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.cell = nn.Linear(4, 8), kind(8, 3, batch_first=True)

    def forward(self, x):
        return self.cell(self.inner(x))[0]


def written_into(m, x):
    y = m.a(x)
    y[:, 0] = 0
    return m.c(y)


def written_from(m, x):
    y = torch.zeros(1, 6, 4, 4)
    y[:, :] = m.a(x)
    return m.c(y)


def of_six(function):
    return Net(function, a=nn.Conv2d(2, 6, 1), c=nn.Conv2d(6, 3, 1))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            between(nn.GroupNorm(2, 8)),
            (1, 2, 3, 3),
            r"group_norm in module '1': it normalizes over",
        ),
        (between(nn.LayerNorm(3)), (1, 2, 3, 3), r"layer_norm in module '1': .*use batch norm"),
        (between(nn.RMSNorm(3)), (1, 2, 3, 3), r"rms_norm in module '1'"),
        (between(nn.LocalResponseNorm(2)), (1, 2, 3, 3), r"local_response_norm in module '1'"),
        (Attention(), (1, 5, 4), r"multi_head_attention_forward in module 'attention': no rule"),
        (Recurrent(nn.LSTM), (1, 5, 4), r"lstm in module 'cell': no rule says"),
        (Recurrent(nn.GRU), (1, 5, 4), r"gru in module 'cell'"),
        (of_six(written_into), (1, 2, 4, 4), r"__setitem__: no rule"),
        (of_six(written_from), (1, 2, 4, 4), r"__setitem__: no rule"),
        (
            of_six(lambda m, x: m.c(m.a(x).repeat_interleave(1, 1))),
            (1, 2, 4, 4),
            "repeat_interleave",
        ),
        (of_six(lambda m, x: m.c(torch.linalg.matrix_exp(m.a(x)))), (1, 2, 4, 4), "matrix_exp"),
        (of_six(lambda m, x: m.c(torch.fft.fft(m.a(x)).real)), (1, 2, 4, 4), "fft"),
    ],
)
def test_what_cannot_be_followed_is_named(model, shape, message):
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(UnprunableError, match=message) as caught:
        pruning.find_groups(model, shape)
    assert "left as it was" in str(caught.value)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_a_rule_that_meets_an_unknown_use_refuses_and_does_not_break(monkeypatch):
    from slimcnn.pruning import graph

    def broken(call):
        raise IndexError("as planned")

    monkeypatch.setitem(graph.ALL_RULES, "relu", broken)
    with pytest.raises(UnprunableError, match=r"relu.*does not know this use.*as planned"):
        pruning.find_groups(between(nn.ReLU()), (1, 2, 3, 3))


def test_what_has_no_rule_may_meet_the_networks_inputs():
    model = Net(
        lambda m, x: m.c(F.relu(m.a(m.cell(x)[0]))),
        cell=nn.LSTM(4, 6, batch_first=True),
        a=nn.Linear(6, 5),
        c=nn.Linear(5, 2),
    )
    assert {g.name: g.size for g in pruning.find_groups(model, (1, 3, 4))} == {"a": 5}


def test_masks_are_to_be_finalized_first():
    model = between(nn.BatchNorm2d(8), nn.ReLU())
    masks = pruning.layerwise_masks(pruning.magnitude(model), 0.5)
    masked = pruning.apply_masks(model, masks)
    with pytest.raises(UnprunableError, match=r"conv2d in module '0'.*a mask.*finalize"):
        pruning.find_groups(masked, (1, 2, 3, 3))
    assert all(torch.equal(m, masks[n]) for n, m in pruning.masks_of(masked).items())
    groups = pruning.find_groups(pruning.finalize(masked), (1, 2, 3, 3))
    assert [g.size for g in groups] == [8]


@pytest.mark.parametrize(
    "parametrize", [parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_other_parametrizations_are_refused(parametrize):
    model = between(nn.ReLU())
    parametrize(model[2])
    with pytest.raises(UnprunableError, match="in module"):
        pruning.find_groups(model, (1, 2, 3, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:FutureWarning")
def test_a_scripted_module_is_refused():
    scripted = torch.jit.trace(nn.Conv2d(2, 8, 1), torch.zeros(1, 2, 3, 3))
    with pytest.raises(UnprunableError, match="scripted"):
        pruning.find_groups(nn.Sequential(scripted, nn.Conv2d(8, 2, 1)), (1, 2, 3, 3))


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(2, 4, 1),
        nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.ReLU(), nn.Conv2d(2, 4, 1)),
        Net(lambda m, x: x + m.a(x), a=nn.Conv2d(2, 2, 1)),
        Net(lambda m, x: x * 2),
        Net(lambda m, x: (y := m.a(x), m.c(y)), a=nn.Conv2d(2, 4, 1), c=nn.Conv2d(4, 1, 1)),
        Net(
            lambda m, x: {"inner": [(y := m.a(x))], "y": m.c(y)},
            a=nn.Conv2d(2, 4, 1),
            c=nn.Conv2d(4, 1, 1),
        ),
    ],
)
def test_a_network_of_which_nothing_can_go_is_refused(model):
    with pytest.raises(UnprunableError, match="no channel of this network can be removed"):
        pruning.find_groups(model, (1, 2, 3, 3))


@pytest.mark.parametrize(("wrong", "error"), [("1x2", TypeError), ((1, 0), ValueError)])
def test_an_example_that_is_none_is_refused(wrong, error):
    with pytest.raises(error, match="input_shape"):
        pruning.find_groups(nn.Linear(1, 1), wrong)


# ---------------------------------------------------------------- labels


PAIRS = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=25)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_classes_are_those_of_a_search_through_the_ties(pairs):
    ties = labels.Ties()
    assert ties.fresh(13).tolist() == list(range(2, 15))
    for a, b in pairs:
        ties.tie(torch.tensor([a]), torch.tensor([b]))
    near = {label: {label} for label in range(15)}
    for a, b in pairs:
        if labels.NONE not in (a, b):
            near[a].add(b)
            near[b].add(a)
    expected = []
    for label in range(15):
        reached, waiting = {label}, [label]
        while waiting:
            new = near[waiting.pop()] - reached
            reached |= new
            waiting += new
        expected.append(min(reached))
    assert np.array_equal(ties.classes(), expected)


@pytest.mark.parametrize("length", [2, 50, 1000])
def test_long_chains_of_ties_in_any_order_are_one_class(length):
    ties = labels.Ties()
    ids = ties.fresh(length)
    order = torch.randperm(length - 1, generator=torch.Generator().manual_seed(0))
    ties.tie(ids[order], ids[order + 1])
    assert ties.classes().tolist() == [0, 1] + [2] * length
    ties.fix(ids[-1:])
    assert ties.classes().tolist() == [0] + [1] * (length + 1)


def test_ties_broadcast_and_none_ties_nothing():
    ties = labels.Ties()
    ids = ties.fresh(4)
    ties.tie(ids.view(2, 2), ids[:2])
    ties.tie(ids, torch.tensor(labels.NONE))
    assert ties.classes().tolist() == [0, 1, 2, 3, 2, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_labels_are_stored_once_where_they_do_not_change(shape, data):
    full = torch.tensor(data.draw(st.lists(st.integers(2, 3), min_size=1, max_size=1)))
    full = full.expand(shape).clone()
    dim = data.draw(st.integers(0, len(shape) - 1))
    full += torch.arange(shape[dim]).view([-1 if d == dim else 1 for d in range(len(shape))])
    small = labels.constant_dims_expanded(full)
    assert torch.equal(small, full)
    changing = [dim] if shape[dim] > 1 else []
    assert labels.varying_dims(small) == changing
    assert labels.compact(small).numel() == shape[dim]
    ties = labels.Ties()
    found = labels.along(small, dim, ties)
    assert torch.equal(found, full.movedim(dim, 0).reshape(shape[dim], -1)[:, 0])


def test_labels_that_meet_at_one_index_are_tied():
    ties = labels.Ties()
    ids = ties.fresh(4)
    found = labels.along(ids.view(2, 2), 0, ties)
    assert ties.classes()[found.numpy()].tolist() == [2, 4]
    assert ties.classes().tolist() == [0, 1, 2, 2, 4, 4]


def test_a_training_pass_that_wants_other_inputs_is_left_out():
    class WantsTargets(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)
            self.loss_scale = nn.Linear(1, 1)

        def forward(self, x, targets=None):
            if self.training:
                return self.loss_scale((self.last(self.first(x)).mean() - targets).view(1, 1))
            return self.last(self.first(x))

    model = WantsTargets().eval()
    groups = pruning.find_groups(model, (1, 1, 8, 8))
    assert [(group.name, group.size) for group in groups] == [("first", 4)]
    assert not any(module.training for module in model.modules())
