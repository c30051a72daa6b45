"""slimcnn.quantization.fake: values of the quantizers, gradients of the formulas."""

import math

import pytest
import torch

from slimcnn import quantization as q
from slimcnn.quantization.fake import BinaryWeight


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rounding_passes_gradients_through():
    x = torch.tensor([0.2, 0.5, 1.5, -1.7], requires_grad=True)
    y = q.round_through(x)
    assert y.tolist() == [0.0, 0.0, 2.0, -2.0]
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("axis", [None, 1])
def test_fake_quantization_equals_pytorchs(axis):
    x = 2 * normal(3, 4, 5)
    high = torch.tensor(1.5) if axis is None else torch.tensor([0.5, 1.0, 1.5, 2.0])
    quantizer = q.affine_quantizer(-0.6 * high, high, 4, axis)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = q.fake_quantize(mine, quantizer)
    if axis is None:
        expected = torch.fake_quantize_per_tensor_affine(
            theirs, quantizer.scale, quantizer.zero_point, 0, 15
        )
    else:
        expected = torch.fake_quantize_per_channel_affine(
            theirs, quantizer.scale, quantizer.zero_point, axis, 0, 15
        )
    torch.testing.assert_close(found, expected)
    upstream = normal(3, 4, 5, seed=1)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mine.grad, theirs.grad)
    assert (mine.grad == 0).any() and (mine.grad != 0).any()


@pytest.mark.parametrize("axis", [None, 0])
def test_weights_take_the_scale_of_their_largest_value(axis):
    weight = normal(4, 3, 3, 3) * torch.arange(1.0, 5).view(4, 1, 1, 1)
    module = q.WeightQuantizer(4, axis)
    largest = weight.abs().max() if axis is None else weight.abs().flatten(1).amax(1)
    expected = q.symmetric_quantizer(largest, 4, axis)
    torch.testing.assert_close(module(weight), expected(weight))
    parameter = weight.clone().requires_grad_()
    module(parameter).sum().backward()
    assert (parameter.grad == 1).all()  # nothing is clipped


def test_binary_weights():
    weight = torch.tensor([[0.5, -1.5], [0.25, 0.75]], requires_grad=True)
    y = BinaryWeight()(weight)
    assert y.tolist() == [[1.0, -1.0], [0.5, 0.5]]
    y.sum().backward()
    assert weight.grad.tolist() == [[1.0, 0.0], [1.0, 1.0]]  # none beyond ±1


def test_activations_follow_batches_in_training_only():
    module = q.ActivationQuantizer(8, momentum=0.5)
    with pytest.raises(RuntimeError, match="range of these activations is unknown"):
        module.eval()(torch.ones(2))
    module.train()(torch.tensor([-1.0, 3.0]))
    assert (module.low.item(), module.high.item()) == (-1.0, 3.0)
    module(torch.tensor([-3.0, 5.0]))
    assert (module.low.item(), module.high.item()) == (-2.0, 4.0)
    x = torch.tensor([-9.0, 0.3, 9.0])
    expected = q.affine_quantizer(torch.tensor(-2.0), torch.tensor(4.0), 8)(x)
    torch.testing.assert_close(module.eval()(x), expected)
    assert (module.low.item(), module.high.item()) == (-2.0, 4.0)
    module.set_range(torch.tensor(0.0), torch.tensor(1.0))
    assert module(torch.tensor([7.0])).item() == pytest.approx(1.0)
    other = q.ActivationQuantizer(8)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other.eval()(x), module(x))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_learned_steps_have_the_gradient_of_the_paper(bits, signed):
    x = (normal(50) if signed else normal(50).abs()).requires_grad_()
    module = q.LearnedStep(bits, x, numbers=50, signed=signed)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert module.step.item() == pytest.approx(2 * x.abs().mean().item() / math.sqrt(high))
    step = module.step.detach().clone()
    y = module(x)
    torch.testing.assert_close(y, (x / step).clamp(low, high).round() * step)
    upstream = normal(50, seed=1)
    y.backward(upstream)
    v = (x / step).detach()
    inside = (v > low) & (v < high)
    each = torch.where(inside, v.round() - v, v.clamp(low, high))
    expected = (upstream * each).sum() / math.sqrt(50 * high)
    torch.testing.assert_close(module.step.grad, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(x.grad, upstream * inside)
    torch.testing.assert_close(module.quantizer()(x), y)


def test_a_step_for_zeros_is_one():
    assert q.LearnedStep(4, torch.zeros(3), 3).step.item() == 1


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_are_checked(bits):
    for make in (
        lambda: q.WeightQuantizer(bits),
        lambda: q.ActivationQuantizer(bits),
        lambda: q.LearnedStep(bits, torch.ones(2), 2),
    ):
        with pytest.raises(ValueError, match=r"bits is .*2 to 16"):
            make()


@pytest.mark.parametrize("pushed", [-0.25, 0.0])
def test_a_step_below_zero_counts_by_its_size(pushed):
    weight = torch.tensor([-1.0, -0.3, 0.1, 0.6])
    learned, same = (q.LearnedStep(2, weight, 4) for _ in range(2))
    learned.step.data.fill_(pushed)
    same.step.data.fill_(max(abs(pushed), 1e-12))
    torch.testing.assert_close(learned(weight), same(weight))
    integers, scale = learned.integers(weight)
    torch.testing.assert_close(integers * scale, learned(weight).detach())
    assert learned.quantizer().scale > 0
    gradients = (torch.autograd.grad(s(weight).sum(), s.step)[0] for s in (learned, same))
    a, b = gradients
    if pushed:
        torch.testing.assert_close(a, -b)


def test_the_way_to_a_range_is_checked():
    with pytest.raises(ValueError, match="range is 'best'; allowed are 'min-max', 'percentile'"):
        q.WeightQuantizer(8, range="best")


def test_infinity_is_clipped_and_gets_no_gradient():
    quantizer = q.affine_quantizer(torch.tensor(-1.0), torch.tensor(1.0), 8)
    x = torch.tensor([math.inf, -math.inf, 0.5], requires_grad=True)
    made = q.fake_quantize(x, quantizer)
    torch.testing.assert_close(made.detach(), quantizer(x.detach()), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(made.sum(), x)
    assert gradient.tolist() == [0.0, 0.0, 1.0]


def test_binary_weights_are_computed_as_they_are_stored():
    weight = normal(4, 3, 3, 3).float()
    weight[1], weight[2] = 0.0, weight[2] * 1e-6
    signs, scale = BinaryWeight().integers(weight)
    assert torch.equal(BinaryWeight()(weight), signs * scale.view(-1, 1, 1, 1))
    with pytest.raises(ValueError, match="NaN or infinity"):
        BinaryWeight()(torch.full((1, 2), math.nan))


@pytest.mark.parametrize("first", [torch.tensor([1.0, math.nan]), torch.tensor([math.inf])])
def test_a_step_is_not_learned_from_what_is_no_number(first):
    with pytest.raises(ValueError, match="NaN or infinity"):
        q.LearnedStep(8, first, 2)
    with pytest.raises(ValueError, match="no range"):
        q.LearnedStep(8, torch.zeros(0), 2)
