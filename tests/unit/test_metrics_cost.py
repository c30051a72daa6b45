"""slimcnn.metrics, costs: MACs against pencil, ones and PyTorch; nothing lost or disturbed."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimcnn import metrics
from slimcnn.metrics._formulas import operation_macs
from slimcnn.models import ResNet14, StudentNet

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
PADDINGS = ("zeros", "circular", "reflect", "replicate")


def half_the_flops(model: nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return counter.get_total_flops() / 2


class TwoInputs(nn.Module):
    """A sum of two layers on two inputs, with two outputs."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(5, 4)

    def forward(self, a, b):
        y = self.left(a) + self.right(b)
        return y, y[:, :1].double()


class Functional(nn.Module):
    """A convolution by function, before an ordinary layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 3, 3, 3))
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(F.conv2d(x, self.weight).mean((2, 3)))


class Apply(nn.Module):
    """Any function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


# ---------------------------------------------------------------- MACs, by pencil


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        # 8 filters of 3·3·3 numbers, at 4·4 places
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (1, 3, 8, 8), 8 * 27 * 16),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (5, 3, 8, 8), 5 * 8 * 27 * 16),
        # depthwise: each of 6 channels has one 3·3 filter, at 8·8 places
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 8, 8), 6 * 9 * 64),
        # two groups of 2 → 3 channels; dilation 2 makes 3 span 5, so 8 - 5 + 1 = 4 places
        (nn.Conv2d(4, 6, 3, dilation=2, groups=2), (1, 4, 8, 8), 6 * (2 * 9) * 16),
        (nn.Conv2d(2, 3, (1, 5)), (1, 2, 7, 9), 3 * (2 * 5) * (7 * 5)),
        (nn.Conv2d(2, 2, 2, padding="same"), (1, 2, 5, 5), 2 * (2 * 4) * 25),
        (nn.Conv2d(2, 4, 3), (2, 6, 6), 4 * 18 * 16),  # no batch
        (nn.Conv1d(3, 6, 3, padding="same", groups=3), (2, 3, 17), 2 * 6 * 3 * 17),
        (nn.Conv3d(2, 4, 3, padding=1), (1, 2, 5, 6, 7), 4 * (2 * 27) * (5 * 6 * 7)),
        # transposed: each of 4·5·7 inputs goes into 3 channels (6 in 2 groups) by 3·3 numbers
        (
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            (1, 4, 5, 7),
            (4 * 5 * 7) * 3 * 9,
        ),
        (nn.Linear(7, 5), (3, 7), 3 * 35),
        (nn.Linear(7, 5, bias=False), (2, 3, 7), 2 * 3 * 35),
        (nn.Linear(7, 5), (2, 3, 7), 2 * 3 * 35),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 8, 8), 0),
        (nn.AdaptiveAvgPool2d(1), (1, 3, 8, 8), 0),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 8, 8), 0),
        (nn.Sequential(nn.Softmax(1), nn.LayerNorm(8), nn.GELU(), nn.Dropout()), (2, 8), 0),
    ],
)
def test_macs_by_pencil(layer, shape, macs):
    assert metrics.count_macs(layer, shape) == macs


def test_macs_of_resnet14_by_pencil():
    stem = 32 * 9 * 14**2
    stage1 = 4 * (32 * 32 * 9) * 14**2
    stage2 = (32 * 64 * 9 + 32 * 64 + 3 * 64 * 64 * 9) * 7**2
    stage3 = (64 * 128 * 9 + 64 * 128 + 3 * 128 * 128 * 9) * 4**2
    assert metrics.count_macs(ResNet14()) == stem + stage1 + stage2 + stage3 + 128 * 10


def test_macs_of_the_student_by_pencil():
    blocks = [(32, 64, 14), (64, 64, 14), (64, 128, 7), (128, 128, 7), (128, 128, 7)]
    separable = sum((9 * a + a * b) * size**2 for a, b, size in blocks)
    assert metrics.count_macs(StudentNet()) == 32 * 9 * 14**2 + separable + 128 * 10


# ---------------------------------------------------------------- MACs, by law


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (ResNet14, (1, 1, 28, 28)),
        (lambda: ResNet14(3, 7, 0.5), (2, 3, 40, 33)),
        (StudentNet, (1, 1, 28, 28)),
        (lambda: torchvision.models.resnet18(), (1, 3, 96, 64)),
        (lambda: torchvision.models.mobilenet_v2(), (2, 3, 64, 64)),
        (lambda: torchvision.models.googlenet(init_weights=False), (1, 3, 64, 64)),
        (lambda: torchvision.models.shufflenet_v2_x0_5(), (1, 3, 64, 64)),
    ],
)
def test_macs_are_half_of_pytorchs_flops(build, shape):
    model = build().eval()
    assert metrics.count_macs(model, shape) == half_the_flops(model, *shape) > 0


@st.composite
def convolutions(draw, kinds):
    dims = draw(st.integers(1, 3))
    size = st.integers(1, 3)
    groups = draw(size)
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    stride = [draw(size) for _ in range(dims)]
    arguments = {"groups": groups, "bias": draw(st.booleans())}
    if kinds is CONVOLUTIONS:
        arguments["dilation"] = [draw(size) for _ in range(dims)]
        arguments["padding_mode"] = draw(st.sampled_from(PADDINGS))
        if arguments["padding_mode"] == "reflect" and dims == 3:
            arguments["padding_mode"] = "replicate"  # PyTorch's reflection ends at two
        if draw(st.booleans()):
            stride, arguments["padding"] = 1, "same"
        else:
            arguments["padding"] = [draw(st.integers(0, 2)) for _ in range(dims)]
    layer = kinds[dims - 1](groups * draw(size), groups * draw(size), kernel, stride, **arguments)
    spatial = [draw(st.integers(7, 9)) for _ in range(dims)]
    return layer, (draw(size), layer.in_channels, *spatial)


@settings(max_examples=60, deadline=None)
@given(st.one_of(convolutions(CONVOLUTIONS), convolutions(TRANSPOSED)))
def test_random_convolutions_agree_with_pytorch(case):
    layer, shape = case
    assert metrics.count_macs(layer, shape) == half_the_flops(layer, *shape)


@settings(max_examples=40, deadline=None)
@given(convolutions(CONVOLUTIONS), st.booleans())
def test_a_convolution_of_ones_adds_up_its_macs(case, transposed):
    """Each MAC of ones adds 1·1, so the sum of the outputs counts them; no formula needed."""
    layer, shape = case
    layer.requires_grad_(False)
    if transposed:
        layer = TRANSPOSED[len(shape) - 3](
            layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups
        ).requires_grad_(False)
    elif layer.padding_mode == "zeros":
        layer.padding = 0  # padded zeros are MACs, but add nothing
    layer.weight.fill_(1)
    if layer.bias is not None:
        layer.bias.zero_()
    assert metrics.count_macs(layer, shape) == layer(torch.ones(shape)).sum().item()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (torch.matmul, [(3, 4), (4, 5)]),
        (torch.matmul, [(2, 3, 4), (2, 4, 5)]),
        (torch.matmul, [(2, 1, 3, 4), (6, 4, 5)]),
        (torch.matmul, [(3, 4), (4,)]),
        (torch.matmul, [(4,), (4,)]),
        (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 5)]),
        (lambda a, b: torch.addmm(torch.zeros(5), a, b), [(3, 4), (4, 5)]),
        (lambda a, b: torch.addmv(torch.zeros(3), a, b), [(3, 4), (4,)]),
        (lambda a, b: torch.baddbmm(torch.zeros(5), a, b), [(2, 3, 4), (2, 4, 5)]),
        (F.conv1d, [(2, 3, 9), (4, 3, 2)]),
        (F.conv_transpose2d, [(2, 3, 5, 5), (3, 4, 2, 2)]),
        (F.linear, [(2, 6, 3), (4, 3)]),
    ],
)
def test_functions_of_ones_add_up_their_macs(function, shapes):
    model, ones = Apply(function), tuple(torch.ones(shape) for shape in shapes)
    (row,) = metrics.layer_costs(model, ones)
    assert (row.name, row.kind) == ("", "Apply")
    assert row.macs == function(*ones).sum().item() > 0


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_counts_projections_scores_and_mixing(need_weights):
    batch, length, width, heads = 2, 5, 16, 4
    attention = nn.MultiheadAttention(width, heads, batch_first=True)
    model = Apply(lambda x: attention(x, x, x, need_weights=need_weights)[0])
    model.attention = attention
    projections = batch * length * (3 * width * width + width * width)
    scores_and_mixing = batch * heads * 2 * length * length * (width // heads)
    rows = metrics.layer_costs(model, (batch, length, width))
    assert {row.name: row.macs for row in rows if row.macs} == {
        "attention": projections + scores_and_mixing
    }
    assert sum(row.parameters for row in rows) == 4 * width * width + 4 * width


def test_fused_attention_is_counted_with_grouped_heads_and_its_own_value_width():
    # 2 · 6 heads, 5 queries, 7 keys; keys are 8 wide, values 4.
    def fused(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    shapes = ((2, 6, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))
    assert metrics.count_macs(Apply(fused), shapes) == 2 * 6 * 5 * 7 * (8 + 4)


def test_inference_mode_and_the_meta_device_count_the_same():
    model, expected = ResNet14(), metrics.count_macs(ResNet14())
    with torch.inference_mode():
        assert metrics.count_macs(model) == metrics.count_macs(ResNet14()) == expected
    assert metrics.count_macs(model.to("meta")) == expected


@pytest.mark.parametrize("operation", ["aten::_cudnn_rnn", "aten::_sparse_mm", "mylib::scale"])
def test_operations_without_a_formula_are_refused_by_name(operation):
    with pytest.raises(metrics.UncountableError, match=operation):
        operation_macs(operation, (), {}, None)
    assert operation_macs("aten::relu", (), {}, None) == 0


def test_a_layer_without_a_formula_is_refused_not_lost():
    with pytest.raises(metrics.UncountableError, match="_trilinear"):
        metrics.count_macs(nn.Bilinear(3, 4, 5), ((1, 3), (1, 4)))


# ---------------------------------------------------------------- rows


def test_rows_of_a_small_network():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    assert metrics.layer_costs(model, (5, 1, 4, 4)) == [
        metrics.LayerCost("0", "Conv2d", (5, 2, 2, 2), 20, 20, 5 * 2 * 4 * 9, 5 * 8 * 4),
        metrics.LayerCost("1", "ReLU", (5, 2, 2, 2), 0, 0, 0, 5 * 8 * 4),
        metrics.LayerCost("2", "Flatten", (5, 8), 0, 0, 0, 5 * 8 * 4),
        metrics.LayerCost("3", "Linear", (5, 3), 27, 27, 5 * 24, 5 * 3 * 4),
    ]


@pytest.mark.parametrize("build", [ResNet14, StudentNet, torchvision.models.mobilenet_v2])
def test_rows_are_the_leaves_in_call_order_and_columns_sum_up(build):
    model = build().eval()
    shape = (1, 3 if build is torchvision.models.mobilenet_v2 else 1, 32, 32)
    rows = metrics.layer_costs(model, shape)
    leaves = [name for name, module in model.named_modules() if not list(module.children())]
    # In BasicBlock the last ReLU is defined after the shortcut and called after it, too.
    assert [row.name for row in rows] == leaves
    assert sum(row.parameters for row in rows) == metrics.count_parameters(model)
    assert sum(row.nonzeros for row in rows) == metrics.count_nonzeros(model)
    assert sum(row.macs for row in rows) == metrics.count_macs(model, shape)


def test_functional_macs_belong_to_the_module_that_called():
    by_name = {row.name: row for row in metrics.layer_costs(Functional(), (1, 3, 5, 5))}
    assert by_name[""].macs == 8 * 27 * 9
    assert by_name[""].parameters == 8 * 27
    assert by_name["fc"].macs == 16
    assert set(by_name) == {"", "fc"}


def test_a_module_called_twice_has_two_rows_and_its_parameters_once():
    layer = nn.Linear(4, 4)
    rows = metrics.layer_costs(nn.Sequential(layer, nn.ReLU(), layer), (1, 4))
    assert [(row.name, row.macs, row.parameters) for row in rows] == [
        ("0", 16, 20),
        ("1", 0, 0),
        ("0", 16, 0),
    ]


def test_a_tied_parameter_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert metrics.count_parameters(model) == metrics.count_nonzeros(model) == 16
    assert [row.parameters for row in metrics.layer_costs(model, (1, 4))] == [16, 0]


def test_a_module_that_was_not_called_comes_last():
    model = nn.Sequential(nn.Linear(2, 3))
    model.auxiliary = nn.Linear(3, 7)
    model.forward = lambda x: model[0](x)
    rows = metrics.layer_costs(model, (1, 2))
    assert rows[-1] == metrics.LayerCost("auxiliary", "Linear", (), 28, 28, 0, 0)
    assert metrics.count_macs(model, (1, 2)) == 6


def test_several_inputs_and_outputs():
    mixed = ((2, 3), torch.zeros(2, 5))
    assert metrics.count_macs(TwoInputs(), mixed) == 2 * (12 + 20)
    assert metrics.count_macs(TwoInputs(), [(2, 3), (2, 5)]) == 2 * (12 + 20)
    identity = metrics.layer_costs(Apply(lambda a: {"a": a, "b": [a[0].double()]}), (2, 3))[0]
    assert identity.output_shape == ((2, 3), (3,))
    assert identity.activation_bytes == 6 * 4 + 3 * 8


def test_the_example_may_be_any_tensor_and_shapes_follow_the_models_type():
    row = metrics.layer_costs(nn.Embedding(10, 4), torch.tensor([[1, 2, 3]]))[0]
    assert (row.output_shape, row.macs, row.activation_bytes) == ((1, 3, 4), 0, 48)
    row = metrics.layer_costs(nn.Linear(3, 2).double(), torch.Size((1, 3)))[0]
    assert row.activation_bytes == 2 * 8


# ---------------------------------------------------------------- nothing disturbed


class Disturbing(nn.Module):
    """Changes its buffers and draws random numbers even in eval mode; can fail."""

    def __init__(self, fails: bool):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("calls", torch.zeros(()))
        self.fails = fails

    def forward(self, x):
        x = F.dropout(self.bn(self.conv(x)), training=True)
        F.batch_norm(x, self.bn.running_mean, self.bn.running_var, training=True)
        self.calls = self.calls + 1
        self.bn.train()
        if self.fails:
            raise ZeroDivisionError("as planned")
        return x


@pytest.mark.parametrize("measure", [metrics.layer_costs, metrics.peak_activation_bytes])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(measure, fails):
    model = Disturbing(fails).train()
    model.conv.eval()
    model.conv.register_forward_hook(lambda *_: None)
    state, buffer = copy.deepcopy(model.state_dict()), model.calls
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    example = torch.ones(3, 1, 4, 4)
    if fails:
        with pytest.raises(ZeroDivisionError) as caught:
            measure(model, example)
        assert "(3, 1, 4, 4)" in caught.value.__notes__[0]
    else:
        measure(model, example)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert model.calls is buffer
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == [0, 1, 0]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.backends.mha.get_fastpath_enabled()


def test_given_tensors_and_waiting_gradients_are_left_alone():
    example = -torch.ones(2, 3)
    metrics.count_macs(nn.ReLU(inplace=True), example)
    assert torch.equal(example, -torch.ones(2, 3))
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    loss = model(torch.randn(4, 3)).square().sum()
    metrics.count_macs(model, (1, 3))
    loss.backward()  # would fail, had the buffers been written to
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("wrong", [3, "1x28", None, True, (1, 2.5), (True, 3), ((1, 3), "x")])
def test_an_input_of_the_wrong_type_is_refused(wrong):
    with pytest.raises(TypeError, match="input_shape"):
        metrics.count_macs(nn.Linear(3, 3), wrong)


@pytest.mark.parametrize("wrong", [(), (1, 0), (-1, 3), ((1, 3), (0,))])
def test_an_input_of_no_size_is_refused(wrong):
    with pytest.raises(ValueError, match="1 or more"):
        metrics.count_macs(nn.Linear(3, 3), wrong)


@pytest.mark.parametrize("measure", [metrics.layer_costs, metrics.peak_activation_bytes])
def test_a_function_is_not_a_model(measure):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        measure(torch.relu, (1, 3))


# ---------------------------------------------------------------- numbers and bytes


def test_parameters_of_resnet14_by_pencil():
    def norms(*channels):
        return sum(2 * c for c in channels)

    stem = 9 * 32 + norms(32)
    stage1 = 4 * 9 * 32 * 32 + norms(32, 32, 32, 32)
    stage2 = 9 * 32 * 64 + 3 * 9 * 64 * 64 + 32 * 64 + norms(64, 64, 64, 64, 64)
    stage3 = 9 * 64 * 128 + 3 * 9 * 128 * 128 + 64 * 128 + norms(128, 128, 128, 128, 128)
    total = stem + stage1 + stage2 + stage3 + 128 * 10 + 10
    assert metrics.count_parameters(ResNet14()) == total


def test_nonzeros_count_what_is_not_zero():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -0.0, 1e-30], [float("nan"), -2.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 5.0]))
    assert metrics.count_nonzeros(layer) == 4
    assert metrics.layer_costs(layer, (1, 3))[0].nonzeros == 4
    assert metrics.count_parameters(layer) == 8


def test_pytorchs_pruning_masks_count_as_zeros():
    layer = nn.Linear(10, 10)
    torch.nn.utils.prune.l1_unstructured(layer, "weight", amount=0.7)
    assert metrics.count_nonzeros(layer) == 30 + int(layer.bias.count_nonzero())
    torch.nn.utils.prune.remove(layer, "weight")
    assert metrics.count_nonzeros(layer) == 30 + int(layer.bias.count_nonzero())


@pytest.mark.parametrize("build", [ResNet14, StudentNet])
def test_saved_bytes_are_those_of_the_file(build, tmp_path):
    model = build()
    save_file(model.state_dict(), tmp_path / "file")
    assert metrics.saved_bytes(model) == (tmp_path / "file").stat().st_size
    data = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert data < metrics.saved_bytes(model) < data + 10_000


def test_saved_bytes_store_tied_tensors_once_and_views_in_full():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    separate = metrics.saved_bytes(model)
    model[1].weight = model[0].weight
    assert 64 * 64 * 4 < metrics.saved_bytes(model) < separate - 64 * 64 * 4 + 8
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    assert metrics.saved_bytes(model) == separate


def test_saved_bytes_refuse_what_a_file_cannot_hold():
    with pytest.raises(TypeError, match=r"'weight'.*meta"):
        metrics.saved_bytes(nn.Linear(2, 2, device="meta"))
    sparse = nn.Module()
    sparse.register_buffer("mask", torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match=r"'mask'.*sparse"):
        metrics.saved_bytes(sparse)


def test_costs_grow_with_width_and_batch():
    for small, large in itertools.pairwise(
        metrics.layer_costs(ResNet14(width=width), (batch, 1, 28, 28))
        for width, batch in ((0.5, 1), (1, 1), (1, 2))
    ):
        assert sum(row.macs for row in small) < sum(row.macs for row in large)
