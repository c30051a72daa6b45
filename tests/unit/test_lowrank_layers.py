"""slimcnn.lowrank.layers: at full rank the same function, else that of the nearest kernel."""

import copy
import itertools

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from slimcnn import lowrank
from slimcnn.export import to_onnx
from slimcnn.masking import apply_masks

CONV_METHODS = lowrank.METHODS[1:]
EXACT = ("channel", "input", "spatial", "tucker2")
DOUBLE = {"rtol": 0, "atol": 1e-10}

CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(6, 8, 3),
    "strided, no bias": lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
    "dilated": lambda: nn.Conv2d(4, 5, 3, padding=2, dilation=2),
    "1x7": lambda: nn.Conv2d(5, 6, (1, 7), padding=(0, 3), bias=False),
    "7x1": lambda: nn.Conv2d(5, 6, (7, 1), stride=(1, 2), padding=(3, 0)),
    "pointwise": lambda: nn.Conv2d(7, 5, 1, stride=2),
    "stem": lambda: nn.Conv2d(1, 8, 3, stride=2, padding=1),
    "one output": lambda: nn.Conv2d(8, 1, 3, padding=1),
    "unequal": lambda: nn.Conv2d(
        3, 7, (5, 2), stride=(3, 1), padding=(2, 1), dilation=(1, 3), bias=False
    ),
    "same": lambda: nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(2, 1)),
    "valid": lambda: nn.Conv2d(4, 6, (3, 5), padding="valid", stride=2),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(4, 6, (3, 5), padding=(1, 2), padding_mode="replicate"),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2, padding_mode="circular"),
    "reflect, same": lambda: nn.Conv2d(4, 6, 5, padding="same", padding_mode="reflect"),
}


def conv(name, dtype=torch.float64):
    torch.manual_seed(0)
    return CONVOLUTIONS[name]().to(dtype)


def images(layer, batch=2, size=(15, 16)):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, layer.in_channels, *size)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(layer.weight.dtype)


def with_weight(layer, weight):
    other = copy.deepcopy(layer)
    other.weight.data = weight
    return other


def half(layer, method):
    """About half of the largest rank."""
    largest = lowrank.largest_rank(layer, method)
    if method == "tucker2":
        return tuple(max(1, r // 2) for r in largest)
    return max(1, min(largest, 12) // 2)


# ---------------------------------------------------------------- the same function


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("method", EXACT)
def test_at_full_rank_a_convolution_computes_what_it_did(name, method):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        layer = conv(name, dtype)
        x = images(layer)
        made = lowrank.factorize_layer(layer, method, lowrank.largest_rank(layer, method))
        torch.testing.assert_close(made(x), layer(x), rtol=0, atol=tolerance)
        torch.testing.assert_close(made(x[0]), layer(x[0]), rtol=0, atol=tolerance)
        torch.testing.assert_close(made.composed(), layer.weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("method", CONV_METHODS)
def test_at_a_lower_rank_it_is_the_convolution_with_the_composed_kernel(name, method):
    layer = conv(name)
    made = lowrank.factorize_layer(layer, method, half(layer, method))
    x = images(layer)
    composed = made.composed()
    assert composed.shape == layer.weight.shape
    torch.testing.assert_close(made(x), with_weight(layer, composed)(x), **DOUBLE)


def truncated(matrix, rank):
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


@pytest.mark.parametrize("name", ["3x3", "unequal", "1x7", "pointwise"])
def test_the_kernel_is_the_nearest_of_its_rank(name):
    """Each unfolding by NumPy: cut, and folded back."""
    layer = conv(name)
    kernel = layer.weight.detach().numpy()
    outputs, inputs, height, width = kernel.shape
    by_rank = {
        "channel": (kernel.reshape(outputs, -1), (outputs, inputs, height, width), (0, 1, 2, 3)),
        "input": (
            kernel.transpose(0, 2, 3, 1).reshape(-1, inputs),
            (outputs, height, width, inputs),
            (0, 3, 1, 2),
        ),
        "spatial": (
            kernel.transpose(1, 2, 0, 3).reshape(inputs * height, -1),
            (inputs, height, outputs, width),
            (2, 0, 1, 3),
        ),
    }
    for method, (matrix, shape, back) in by_rank.items():
        for rank in (1, 2, 4):
            if rank <= min(matrix.shape):
                made = lowrank.factorize_layer(layer, method, rank)
                best = truncated(matrix, rank).reshape(shape).transpose(back)
                torch.testing.assert_close(made.composed(), torch.from_numpy(best), **DOUBLE)
    ranks = (2, 2)
    tucker = lowrank.tucker2(layer.weight, ranks)
    made = lowrank.factorize_layer(layer, "tucker2", ranks)
    torch.testing.assert_close(made.composed(), tucker.reconstruct(), **DOUBLE)
    found = lowrank.cp(layer.weight.flatten(2), 3)
    made = lowrank.factorize_layer(layer, "cp", 3)
    torch.testing.assert_close(made.composed().flatten(2), found.reconstruct(), **DOUBLE)
    error = (made.composed() - layer.weight).detach().norm() / layer.weight.detach().norm()
    assert float(error) == pytest.approx(found.errors[-1], abs=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(9, 4), (4, 9), (1, 3), (3, 1)])
def test_a_linear_layer(inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs, bias=bias).double()
    x = torch.randn(5, 2, inputs, dtype=torch.float64)
    for rank in range(1, min(inputs, outputs) + 1):
        made = lowrank.factorize_layer(layer, "svd", rank)
        assert [type(m) for m in made] == [nn.Linear, nn.Linear]
        assert made[0].weight.shape == (rank, inputs)
        best = torch.from_numpy(truncated(layer.weight.detach().numpy(), rank))
        torch.testing.assert_close(made.composed(), best, **DOUBLE)
        torch.testing.assert_close(made(x), F.linear(x, best, layer.bias), **DOUBLE)
    torch.testing.assert_close(made(x), layer(x), **DOUBLE)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 2, *[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(0, 3)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    st.booleans(),
    st.sampled_from(EXACT),
)
def test_any_geometry_at_full_rank(shape, stride, padding, dilation, mode, bias, method):
    outputs, inputs, *kernel = shape
    torch.manual_seed(0)
    layer = nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation, 1, bias, mode, dtype=torch.float64
    )
    made = lowrank.factorize_layer(layer, method, lowrank.largest_rank(layer, method))
    x = images(layer, 1, (9, 8))
    torch.testing.assert_close(made(x), layer(x), **DOUBLE)


# ---------------------------------------------------------------- what it is made of


@pytest.mark.parametrize(
    ("method", "rank", "expected"),
    [
        ("channel", 4, [(4, 6, 3, 5), (8, 4, 1, 1)]),
        ("input", 4, [(4, 6, 1, 1), (8, 4, 3, 5)]),
        ("spatial", 4, [(4, 6, 3, 1), (8, 4, 1, 5)]),
        ("tucker2", (5, 2), [(2, 6, 1, 1), (5, 2, 3, 5), (8, 5, 1, 1)]),
        ("cp", 4, [(4, 6, 1, 1), (4, 1, 3, 5), (8, 4, 1, 1)]),
        ("cp", 1, [(1, 6, 1, 1), (1, 1, 3, 5), (8, 1, 1, 1)]),
    ],
)
def test_parts_are_plain_convolutions_each_with_its_own_axes(method, rank, expected):
    settings = {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1)}
    layer = nn.Conv2d(6, 8, (3, 5), **settings, padding_mode="replicate")
    made = lowrank.factorize_layer(layer, method, rank)
    assert isinstance(made, lowrank.Factorized)
    assert (made.method, made.rank) == (method, rank)
    assert f"method='{method}', rank={rank}" in repr(made)
    assert [tuple(m.weight.shape) for m in made] == expected
    assert [m.bias is not None for m in made] == [False] * (len(expected) - 1) + [True]
    for part in made:
        assert type(part) is nn.Conv2d
        for axis in (0, 1):
            reaches = part.kernel_size[axis] > 1
            assert part.stride[axis] == (settings["stride"][axis] if reaches else 1)
            assert part.padding[axis] == (settings["padding"][axis] if reaches else 0)
            assert part.dilation[axis] == (settings["dilation"][axis] if reaches else 1)
        assert part.padding_mode == ("zeros" if part.kernel_size == (1, 1) else "replicate")
    assert torch.equal(made[-1].bias, layer.bias)
    assert made[-1].bias is not layer.bias


def test_factors_are_balanced():
    """No part is much larger than another: by component for the matrices and for CP."""
    layer = conv("3x3")
    for method in ("channel", "input", "spatial"):
        first, second = lowrank.factorize_layer(layer, method, 3)
        norms = (
            first.weight.flatten(1).norm(dim=1),
            second.weight.transpose(0, 1).flatten(1).norm(dim=1),
        )
        torch.testing.assert_close(*norms)
    first, middle, last = lowrank.factorize_layer(layer, "cp", 3)
    torch.testing.assert_close(
        first.weight.flatten(1).norm(dim=1), last.weight.flatten(1).norm(dim=0)
    )
    torch.testing.assert_close(
        first.weight.flatten(1).norm(dim=1), middle.weight.flatten(1).norm(dim=1)
    )


@pytest.mark.parametrize("method", lowrank.METHODS)
def test_type_mode_and_frozen_parameters_are_kept_and_the_layer_is_whole(method):
    layer = nn.Linear(6, 8) if method == "svd" else nn.Conv2d(6, 8, 3)
    layer = layer.half().eval()
    layer.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state = torch.get_rng_state()
    made = lowrank.factorize_layer(layer, method, (2, 2) if method == "tucker2" else 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[n]) for n, tensor in layer.state_dict().items())
    assert {p.dtype for p in made.parameters()} == {torch.float16}
    assert not any(m.training for m in made.modules())
    assert [p.requires_grad for p in made.parameters()] == [True] * len(made) + [False]
    assert all(p.is_leaf and p.grad is None for p in made.parameters())
    trained = lowrank.factorize_layer(layer.train().requires_grad_(False), method, made.rank)
    assert all(m.training for m in trained.modules())
    assert not any(p.requires_grad for p in trained.parameters())
    copied = copy.deepcopy(made)
    assert (copied.method, copied.rank) == (made.method, made.rank)
    assert all(map(torch.equal, copied.state_dict().values(), made.state_dict().values()))


def test_options_reach_the_decompositions():
    layer = conv("3x3")
    hosvd = lowrank.factorize_layer(layer, "tucker2", (2, 2), iterations=0)
    expected = lowrank.tucker2(layer.weight, (2, 2), iterations=0).reconstruct()
    torch.testing.assert_close(hosvd.composed(), expected, **DOUBLE)
    assert not torch.allclose(hosvd.composed(), lowrank.tucker2_conv(layer, (2, 2)).composed())
    short = lowrank.factorize_layer(layer, "cp", 4, iterations=3)
    expected = lowrank.cp(layer.weight.flatten(2), 4, iterations=3).reconstruct()
    torch.testing.assert_close(short.composed().flatten(2), expected, **DOUBLE)
    with pytest.raises(TypeError, match="unexpected keyword argument 'moment'"):
        lowrank.factorize_layer(layer, "input", 2, moment=torch.eye(8))


@pytest.mark.parametrize("method", ["svd", "channel"])
def test_with_a_moment_the_outputs_come_first(method):
    torch.manual_seed(0)
    layer = (nn.Linear(6, 8) if method == "svd" else nn.Conv2d(6, 8, 3)).double()
    shape = (50, 6) if method == "svd" else (50, 6, 5, 5)
    scales = torch.arange(1.0, 7).double() ** 2
    x = torch.randn(shape, dtype=torch.float64) * scales.view(-1, *[1] * (len(shape) - 2))
    y = (layer(x).movedim(1, -1) - layer.bias).reshape(-1, 8)
    moment = (y.T @ y / len(y)).detach()
    tail = torch.linalg.eigvalsh(moment)[:-2].sum()

    def error(made):
        return (made(x) - layer(x)).square().sum(1).mean()

    aware = lowrank.factorize_layer(layer, method, 2, moment=moment)
    torch.testing.assert_close(error(aware), tail, rtol=1e-6, atol=0)
    assert error(aware) < 0.9 * error(lowrank.factorize_layer(layer, method, 2))


@pytest.mark.parametrize("method", lowrank.METHODS)
def test_what_is_made_can_be_trained_exported_and_factorized_from(method, tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(6, 8) if method == "svd" else nn.Conv2d(6, 8, 3, stride=2, padding=1)
    made = lowrank.factorize_layer(layer, method, (3, 2) if method == "tucker2" else 3)
    x = torch.randn((2, 6) if method == "svd" else (2, 6, 9, 9))
    made(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())
    path = to_onnx(made, x, tmp_path / "made.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, made(x).detach().numpy(), atol=1e-5)


# ---------------------------------------------------------------- what is refused


class Own(nn.Linear):
    pass


def parametrized():
    return parametrizations.weight_norm(nn.Conv2d(2, 3, 3))


def masked():
    return apply_masks(nn.Conv2d(2, 3, 3), {"weight": torch.ones(3, 2, 3, 3, dtype=torch.bool)})


def pruned():
    layer = nn.Conv2d(2, 3, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


def hooked():
    layer = nn.Conv2d(2, 3, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


REFUSED = {
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=2), "it has 2 groups"),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), "it has 4 groups"),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3), r"only nn\.Linear and nn\.Conv2d can be"),
    "1d": (lambda: nn.Conv1d(2, 3, 3), r"only nn\.Linear"),
    "3d": (lambda: nn.Conv3d(2, 3, 3), r"only nn\.Linear"),
    "norm": (lambda: nn.BatchNorm2d(3), r"only nn\.Linear"),
    "lazy": (lambda: nn.LazyConv2d(3, 3), "no shape yet; run the network once"),
    "lazy linear": (lambda: nn.LazyLinear(3), "no shape yet"),
    "masked": (masked, r"slimcnn\.masking\.finalize"),
    "weight norm": (parametrized, "remove_parametrizations"),
    "pruned": (pruned, r"torch\.nn\.utils\.prune\.remove"),
    "subclass": (lambda: Own(2, 3), "it is a subclass"),
    "attention": (lambda: nn.MultiheadAttention(4, 2).out_proj, "subclass, .* as attention does"),
    "hooks": (hooked, "it has hooks"),
    "complex": (lambda: nn.Conv2d(2, 3, 3, dtype=torch.complex64), r"weight is torch\.complex64"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", lowrank.METHODS)
def test_layers_of_other_kinds_are_refused_with_the_reason(name, method):
    build, reason = REFUSED[name]
    with pytest.raises(ValueError, match=rf"cannot be factorized by '{method}': .*{reason}"):
        lowrank.factorize_layer(build(), method, (1, 1) if method == "tucker2" else 1)


def test_methods_and_kinds_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no method 'qr'; there are svd, channel, input, spatial"):
        lowrank.factorize_layer(nn.Linear(2, 3), "qr", 1)
    with pytest.raises(ValueError, match="a linear layer is factorized by 'svd'"):
        lowrank.factorize_layer(nn.Linear(2, 3), "channel", 1)
    with pytest.raises(ValueError, match=r"a convolution is factorized by 'channel', .*, 'cp'"):
        lowrank.factorize_layer(nn.Conv2d(2, 3, 3), "svd", 1)
    with pytest.raises(ValueError, match="a linear layer is factorized by 'svd'"):
        lowrank.cp_conv(nn.Linear(2, 3), 1)


@pytest.mark.parametrize(
    ("method", "largest"),
    [("channel", 8), ("input", 6), ("spatial", 18), ("tucker2", (8, 6)), ("cp", 48)],
)
def test_ranks_beyond_the_largest_are_refused_and_it_is_named(method, largest):
    """O = 8, I = 6, 3 × 5: min(8, 90), min(120, 6), min(18, 40), (8, 6), 8 · 6."""
    layer = nn.Conv2d(6, 8, (3, 5))
    assert lowrank.largest_rank(layer, method) == largest
    if method == "tucker2":
        wrong = [(9, 6), (8, 7), (0, 1), (1, 0), 3, (1, 2, 3), (1,), [1, 1], (1.0, 1), (True, 1)]
        text = r"takes a pair \(r_out, r_in\) of whole numbers from \(1, 1\) to \(8, 6\)"
    else:
        wrong = [largest + 1, 0, -1, 1.0, True, None, (1, 1)]
        text = f"takes a whole number from 1 to {largest}"
    for rank in wrong:
        with pytest.raises(ValueError, match=text):
            lowrank.factorize_layer(layer, method, rank)
    with pytest.raises(ValueError, match=r"rank is 5; 'svd' of this layer .* from 1 to 4"):
        lowrank.svd_linear(nn.Linear(9, 4), 5)


def test_the_largest_cp_rank_is_the_product_of_the_two_smaller_sizes():
    for outputs, inputs, side in itertools.product((1, 3, 10), (1, 4, 12), (1, 3)):
        sizes = sorted((outputs, inputs, side * side))
        layer = nn.Conv2d(inputs, outputs, side)
        assert lowrank.largest_rank(layer, "cp") == sizes[0] * sizes[1]
