"""slimcnn.quantization.quantizers: against PyTorch and ONNX Runtime's rules, and as laws."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimcnn import quantization as q


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_affine_by_hand():
    # -1 to 3 in two bits: a step of 4/3, zero-point 0.75 -> 1
    quantizer = q.affine_quantizer(torch.tensor(-1.0), torch.tensor(3.0), 2)
    assert quantizer.scale.item() == pytest.approx(4 / 3)
    assert (quantizer.zero_point.item(), quantizer.low, quantizer.high) == (1, 0, 3)
    x = torch.tensor([-9.0, -1.0, 0.0, 0.5, 1.0, 3.0, 9.0])
    assert quantizer.quantize(x).tolist() == [0, 0, 1, 1, 2, 3, 3]
    expected = torch.tensor([-4 / 3, -4 / 3, 0, 0, 4 / 3, 8 / 3, 8 / 3])
    torch.testing.assert_close(quantizer(x), expected)


def test_symmetric_by_hand():
    quantizer = q.symmetric_quantizer(torch.tensor(6.0), 3)
    assert (quantizer.scale.item(), quantizer.low, quantizer.high) == (2.0, -3, 3)
    x = torch.tensor([-9.0, -6.0, -1.0, 1.0, 3.0, 5.0, 7.0])
    # halves go to the even neighbor: -0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    assert quantizer.quantize(x).tolist() == [-3, -3, 0, 0, 2, 2, 3]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_equals_pytorchs_fake_quantization(bits, signed):
    x = 3 * normal(4, 5, 6) + 1
    quantizer = q.affine_quantizer(x.min(), x.max(), bits, signed=signed)
    expected = torch.fake_quantize_per_tensor_affine(
        x, quantizer.scale, quantizer.zero_point, quantizer.low, quantizer.high
    )
    torch.testing.assert_close(quantizer(x), expected)
    assert quantizer.quantize(x).unique().numel() <= 2**bits


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_equals_pytorch_and_single_channels(axis):
    x = normal(3, 4, 5) * torch.arange(1, 61).view(3, 4, 5)
    largest = x.abs().movedim(axis, 0).flatten(1).amax(1)
    quantizer = q.symmetric_quantizer(largest, 8, axis)
    expected = torch.fake_quantize_per_channel_affine(
        x, quantizer.scale, quantizer.zero_point, axis, -127, 127
    )
    torch.testing.assert_close(quantizer(x), expected)
    for i, part in enumerate(x.unbind(axis)):
        single = q.symmetric_quantizer(part.abs().max(), 8)
        torch.testing.assert_close(quantizer(x).select(axis, i), single(part))


def test_equals_onnx_runtime(tmp_path):
    x = 3 * normal(200) + 1
    x[:4] = torch.tensor([0.5, 1.5, -0.5, 2.5])  # halves, for a scale of 1
    for quantizer in (
        q.affine_quantizer(x.min(), x.max(), 8),
        q.affine_quantizer(torch.tensor(0.0), torch.tensor(255.0), 8),
    ):
        nodes = [
            onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        values = {
            "s": quantizer.scale.numpy(),
            "z": quantizer.zero_point.numpy().astype(np.uint8),
        }
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [200])],
            [
                onnx.helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, [200]),
                onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [200]),
            ],
            [onnx.numpy_helper.from_array(v, k) for k, v in values.items()],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9
        )
        session = onnxruntime.InferenceSession(model.SerializeToString())
        integers, numbers = session.run(None, {"x": x.numpy()})
        np.testing.assert_array_equal(quantizer.quantize(x).numpy(), integers)
        np.testing.assert_allclose(quantizer(x).numpy(), numbers, rtol=1e-6)


@settings(deadline=None)
@given(
    st.floats(-100, 100, width=32),
    st.floats(-100, 100, width=32),
    st.integers(2, 16),
    st.booleans(),
)
def test_laws_of_the_affine_map(a, b, bits, signed):
    low, high = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    quantizer = q.affine_quantizer(low, high, bits, signed=signed)
    assert quantizer.high - quantizer.low == 2**bits - 1
    assert quantizer(torch.tensor(0.0)) == 0  # zero is exact
    inside = torch.linspace(min(a, b, 0), max(a, b, 0), 100)
    error = (quantizer(inside) - inside).abs().max()
    # half a step, and half a step more at the ends, which moved with the zero-point
    assert error <= 1.001 * quantizer.scale + 1e-6
    again = quantizer(quantizer(inside))
    torch.testing.assert_close(again, quantizer(inside))  # what can be had is kept
    integers = torch.arange(quantizer.low, quantizer.high + 1)
    assert torch.equal(quantizer.quantize(quantizer.dequantize(integers)), integers.int())


@pytest.mark.parametrize("bits", range(2, 17))
def test_symmetric_is_odd_and_rounds_by_half_a_step(bits):
    x = normal(1000)
    quantizer = q.symmetric_quantizer(x.abs().max(), bits)
    assert torch.equal(quantizer.quantize(-x), -quantizer.quantize(x))
    assert (quantizer(x) - x).abs().max() <= 0.5001 * quantizer.scale
    assert quantizer.quantize(x).abs().max() == 2 ** (bits - 1) - 1


def test_zeros_and_hardly_anything_get_a_scale_of_one():
    for largest in (0.0, 1e-40):
        quantizer = q.symmetric_quantizer(torch.tensor([largest, 1.0]), 8, 0)
        assert quantizer.scale[0] == 1
        assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert q.affine_quantizer(torch.tensor(0.0), torch.tensor(0.0), 8)(torch.tensor(0.0)) == 0


def test_types_and_shapes():
    x = normal(2, 3).half()
    quantizer = q.symmetric_quantizer(x.abs().max(), 8)
    assert quantizer.quantize(x).dtype == torch.int32
    assert quantizer(x).dtype == torch.float16
    assert quantizer(torch.zeros(0, 3)).shape == (0, 3)


def test_sqnr_by_hand_and_six_decibels_a_bit():
    assert q.sqnr(torch.tensor([10.0]), torch.tensor([9.0])) == pytest.approx(20.0)
    assert q.sqnr(torch.ones(3), torch.ones(3)) == math.inf
    assert q.sqnr(torch.zeros(3), torch.zeros(3)) == math.inf
    assert q.sqnr(torch.zeros(3), torch.ones(3)) == -math.inf
    x = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = [q.sqnr(x, q.symmetric_quantizer(x.abs().max(), b)(x)) for b in range(6, 13)]
    gains = np.diff(found)
    # 2^b - 2 steps: a bit more than halves the step, by less and less
    np.testing.assert_allclose(gains, 6.02, atol=0.2)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_binary_weights_are_the_nearest(axis):
    weight = normal(4, 5)
    found = q.binarize(weight, axis)
    rows = weight.view(1, -1) if axis is None else weight.movedim(axis, 0)
    others = found.view(1, -1) if axis is None else found.movedim(axis, 0)
    for row, other in zip(rows, others, strict=True):
        assert torch.equal(other > 0, row >= 0)
        assert other.abs().unique().numel() == 1
        best = ((row - other) ** 2).sum()
        for factor in (0.9, 1.1):
            assert ((row - factor * other) ** 2).sum() > best
        assert other.abs()[0] == pytest.approx(row.abs().mean().item())
    assert q.binarize(torch.tensor([0.0, 2.0]), None).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bits", [1, 17, 8.0, True])
def test_bits_are_two_to_sixteen(bits):
    for make in (
        lambda: q.symmetric_quantizer(torch.tensor(1.0), bits),
        lambda: q.affine_quantizer(torch.tensor(0.0), torch.tensor(1.0), bits),
    ):
        with pytest.raises(ValueError, match=r"bits is .*2 to 16"):
            make()


def test_what_is_refused():
    one = torch.tensor(1.0)
    for bad in (torch.tensor(-1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))):
        with pytest.raises(ValueError, match="negative or not finite"):
            q.symmetric_quantizer(bad, 8)
    with pytest.raises(ValueError, match="begins above its end"):
        q.affine_quantizer(one, -one, 8)
    with pytest.raises(ValueError, match="not finite"):
        q.affine_quantizer(-one, torch.tensor(float("inf")), 8)
    quantizer = q.symmetric_quantizer(torch.ones(3), 8, 1)
    with pytest.raises(ValueError, match=r"shape \(2, 4\); along axis 1 it needs 3 channels"):
        quantizer(torch.ones(2, 4))
    with pytest.raises(ValueError, match="needs 3 channels"):
        quantizer(torch.ones(3))
    with pytest.raises(ValueError, match="holds NaN"):
        quantizer(torch.full((2, 3), float("nan")))
    zero = torch.tensor(0, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(\)"):
        q.Quantizer(torch.ones(2), zero, 0, 255)
    with pytest.raises(ValueError, match="not positive and finite"):
        q.Quantizer(0 * one, zero, 0, 255)
    with pytest.raises(TypeError, match=r"zero_point is torch\.int64"):
        q.Quantizer(one, zero.long(), 0, 255)
    with pytest.raises(ValueError, match="there are none"):
        q.Quantizer(one, zero, 3, 3)
    with pytest.raises(ValueError, match="a zero_point is not from 1 to 255"):
        q.Quantizer(one, zero, 1, 255)


def test_half_precision_is_no_half_hearted_quantization():
    x = torch.linspace(-1, 1.37, 1000)
    for bits in (8, 12, 16):
        quantizer = q.affine_quantizer(torch.tensor(-1.0), torch.tensor(1.37), bits)
        for dtype in (torch.float16, torch.bfloat16):
            short = x.to(dtype)
            assert torch.equal(quantizer.quantize(short), quantizer.quantize(short.float()))
            assert quantizer(torch.zeros(1, dtype=dtype)) == 0 and quantizer(short).dtype == dtype


def test_integers_are_not_cast_back():
    quantizer = q.affine_quantizer(torch.tensor(0.0), torch.tensor(255.0), 4)
    found = quantizer(torch.tensor([10, 20, 100], dtype=torch.uint8))
    assert found.tolist() == [17.0, 17.0, 102.0]


def test_what_has_no_number_is_refused():
    bad = torch.tensor([1.0, float("nan")])
    for x, y in ((bad, bad), (torch.ones(2), bad), (torch.tensor([1.0, math.inf]), torch.ones(2))):
        with pytest.raises(ValueError, match="NaN or infinity"):
            q.sqnr(x, y)
    with pytest.raises(ValueError, match="NaN or infinity"):
        q.binarize(bad[None])
    for axis in (-1, 5):
        with pytest.raises(ValueError, match="axis"):
            q.binarize(torch.ones(2, 3), axis=axis)
    with pytest.raises(ValueError, match="axis is -1"):
        q.symmetric_quantizer(torch.ones(3), 8, -1)
