"""slimcnn.distillation.losses: closed forms, PyTorch, limits, gradients, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from slimcnn import distillation as kd


def logits(batch=5, classes=4, seed=0, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)).to(dtype)


def labels(batch=5, classes=4, seed=0):
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


def by_pytorch(student, teacher, temperature):
    return temperature**2 * F.kl_div(
        (student / temperature).log_softmax(1),
        (teacher / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


# --- soft targets -------------------------------------------------------------------------------


def test_two_classes_by_hand():
    # teacher 3 : 1 and student 1 : 1, so KL = 3/4 log(3/2) + 1/4 log(1/2)
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    student = torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd.soft_target_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    # at T = 2 the odds are √3 : 1, and the loss four times the divergence
    p = math.sqrt(3) / (1 + math.sqrt(3))
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert kd.soft_target_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    batch=st.integers(1, 6),
    classes=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 30),
    scale=st.floats(0, 20),
)
def test_equals_pytorch(batch, classes, seed, temperature, scale):
    student = logits(batch, classes, seed, scale=scale)
    teacher = logits(batch, classes, seed + 1, scale=scale)
    ours = kd.soft_target_loss(student, teacher, temperature)
    torch.testing.assert_close(
        ours, by_pytorch(student, teacher, temperature), atol=1e-9, rtol=1e-7
    )
    assert ours >= 0


def test_the_order_matters_teacher_first():
    # KL is not symmetric: a class that the teacher has and the student denies costs most
    sure, unsure = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.5, 0.0]])
    assert kd.soft_target_loss(sure, unsure, 1.0) > 3 * kd.soft_target_loss(unsure, sure, 1.0)


def test_shifting_logits_changes_nothing():
    student, teacher = logits(seed=1), logits(seed=2)
    shift = torch.arange(5.0, dtype=torch.float64)[:, None]
    before = kd.soft_target_loss(student, teacher, 3.0)
    torch.testing.assert_close(kd.soft_target_loss(student + shift, teacher - shift, 3.0), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 20.0, 1e6])
def test_identical_networks_lose_nothing(dtype, temperature):
    same = logits(dtype=dtype)
    loss = kd.soft_target_loss(same.clone().requires_grad_(), same, temperature)
    assert loss.item() == 0
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 1e4])
def test_the_gradient_is_the_difference_of_probabilities(temperature):
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2)
    kd.soft_target_loss(student, teacher, temperature).backward()
    q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    expected = temperature * (q - p).detach() / len(student)
    torch.testing.assert_close(student.grad, expected, atol=1e-10, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e3, 1e5, 1e8])
def test_a_very_high_temperature_matches_logits(dtype, temperature):
    """For T → ∞ the loss is half the mean square of the centered logits' difference."""
    student, teacher = logits(seed=1, dtype=dtype).requires_grad_(), logits(seed=2, dtype=dtype)
    difference = (student - teacher).detach().double()
    centered = difference - difference.mean(1, keepdim=True)
    loss = kd.soft_target_loss(student, teacher, temperature)
    limit = 0.5 * centered.square().mean(1).mean()
    assert loss.item() == pytest.approx(limit.item(), rel=2e-2 if temperature < 1e4 else 2e-4)
    loss.backward()
    torch.testing.assert_close(
        student.grad.double(),
        centered / centered.numel(),
        atol=5e-3 / math.log10(temperature),
        rtol=2e-2,
    )


def test_far_apart_stays_finite():
    student = torch.tensor([[0.0, 1000.0], [60000.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1000.0, 0.0], [0.0, 60000.0]], dtype=torch.float64)
    loss = kd.soft_target_loss(student, teacher, 1.0)
    assert loss.item() == pytest.approx((1000 + 60000) / 2)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[-0.5, 0.5], [0.5, -0.5]]).double())


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_gradcheck(temperature):
    student, teacher = logits(3, 4, 1).requires_grad_(), logits(3, 4, 2)
    target = labels(3)
    for function in (
        lambda s: kd.soft_target_loss(s, teacher, temperature),
        lambda s: kd.distillation_loss(s, teacher, target, temperature, 0.7, 0.1),
        lambda s: kd.decoupled_loss(s, teacher, target, temperature, 1.5, 4.0),
    ):
        assert torch.autograd.gradcheck(function, (student,))
        assert torch.autograd.gradgradcheck(function, (student,))


def test_half_precision_is_computed_precisely():
    student, teacher = logits(seed=1, dtype=torch.float16), logits(seed=2, dtype=torch.float16)
    student.requires_grad_()
    loss = kd.soft_target_loss(student, teacher, 8.0)
    expected = by_pytorch(student.detach().double(), teacher.double(), 8.0).item()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert student.grad.dtype == torch.float16 and student.grad.abs().sum() > 0


# --- with labels --------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_mixture_and_its_ends(smoothing):
    student, teacher, target = logits(seed=1), logits(seed=2), labels()
    soft = by_pytorch(student, teacher, 3.0)
    hard = F.cross_entropy(student, target, label_smoothing=smoothing)

    def mixed(alpha):
        return kd.distillation_loss(student, teacher, target, 3.0, alpha, smoothing)

    torch.testing.assert_close(mixed(0.3), 0.3 * soft + 0.7 * hard)
    torch.testing.assert_close(mixed(1.0), soft)
    torch.testing.assert_close(mixed(0.0), hard)


def test_without_labels_the_teacher_is_all_there_is():
    student, teacher = logits(seed=1), logits(seed=2)
    loss = kd.distillation_loss(student, teacher, None, 3.0, alpha=1.0)
    torch.testing.assert_close(loss, by_pytorch(student, teacher, 3.0))
    with pytest.raises(ValueError, match=r"no labels, and alpha is 0\.9"):
        kd.distillation_loss(student, teacher, None, 3.0)


def test_the_callables_are_the_functions():
    student, teacher, target = logits(seed=1), logits(seed=2), labels()
    torch.testing.assert_close(
        kd.SoftTargets(2.0, 0.5, 0.1)(student, teacher, target),
        kd.distillation_loss(student, teacher, target, 2.0, 0.5, 0.1),
    )
    torch.testing.assert_close(
        kd.Decoupled(2.0, 1.5, 4.0, 0.1)(student, teacher, target),
        kd.decoupled_loss(student, teacher, target, 2.0, 1.5, 4.0)
        + F.cross_entropy(student, target, label_smoothing=0.1),
    )


# --- decoupled ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(classes=st.integers(2, 8), seed=st.integers(0, 10_000), temperature=st.floats(0.5, 20))
def test_the_parts_add_up_to_the_whole(classes, seed, temperature):
    """KL = TCKD + (1 − p) · NCKD, image by image."""
    student, teacher = logits(1, classes, seed), logits(1, classes, seed + 1)
    target = labels(1, classes, seed)
    p = (teacher / temperature).softmax(1)[0, target.item()].item()
    parts = kd.decoupled_loss(student, teacher, target, temperature, alpha=1.0, beta=1 - p)
    torch.testing.assert_close(
        parts, by_pytorch(student, teacher, temperature), atol=1e-9, rtol=1e-6
    )


def test_decoupled_by_hand():
    # the target's odds agree, so only the other classes, 3 : 1 against 1 : 1, differ
    teacher = torch.tensor([[math.log(4.0), math.log(3.0), 0.0]], dtype=torch.float64)
    student = torch.tensor([[math.log(2.0), 0.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([0])
    others = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = kd.decoupled_loss(student, teacher, target, 1.0, alpha=5.0, beta=2.0)
    assert loss.item() == pytest.approx(2 * others)
    # and a teacher of other odds: log 6 makes them 6 : 4 = 3 : 2 against 2 : 2
    teacher[0, 0] = math.log(6.0)
    first = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    loss = kd.decoupled_loss(student, teacher, target, 1.0, alpha=5.0, beta=2.0)
    assert loss.item() == pytest.approx(5 * first + 2 * others)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_temperature_must_be_positive(temperature):
    student, teacher = logits(), logits()
    for call in (
        lambda: kd.soft_target_loss(student, teacher, temperature),
        lambda: kd.decoupled_loss(student, teacher, labels(), temperature),
        lambda: kd.SoftTargets(temperature),
        lambda: kd.Decoupled(temperature),
    ):
        with pytest.raises(ValueError, match=r"temperature is .*above 0 and finite"):
            call()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValueError, match=r"alpha is .*from 0 to 1"):
        kd.distillation_loss(logits(), logits(), labels(), 1.0, alpha)
    with pytest.raises(ValueError, match=r"alpha is .*from 0 to 1"):
        kd.SoftTargets(alpha=alpha)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_is_checked_early(smoothing):
    for kind in (kd.SoftTargets, kd.Decoupled):
        with pytest.raises(ValueError, match=r"label_smoothing is .*below 1"):
            kind(label_smoothing=smoothing)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_of_the_decoupled_parts(name, weight):
    with pytest.raises(ValueError, match=f"{name} is .*0 or more"):
        kd.decoupled_loss(logits(), logits(), labels(), **{name: weight})


def test_what_the_losses_refuse():
    for loss in (
        lambda s, t: kd.soft_target_loss(s, t, 1.0),
        lambda s, t: kd.decoupled_loss(s, t, labels()),
    ):
        with pytest.raises(ValueError, match="student has 4 classes and the teacher 7"):
            loss(logits(classes=4), logits(classes=7))
        with pytest.raises(ValueError, match="to 5 images and the teacher to 6"):
            loss(logits(5), logits(6))
        with pytest.raises(ValueError, match="teacher's logits carry gradients"):
            loss(logits(), logits().requires_grad_())
        with pytest.raises(TypeError, match=r"teacher's logits are torch\.int64"):
            loss(logits(), labels()[:, None])
        with pytest.raises(ValueError, match=r"student's logits have shape \(4,\)"):
            loss(logits()[0], logits())
        with pytest.raises(ValueError, match=r"student's logits have shape \(0, 4\)"):
            loss(logits()[:0], logits()[:0])
    with pytest.raises(ValueError, match="at least 2"):
        kd.decoupled_loss(logits(classes=1), logits(classes=1), labels(classes=1))


def test_a_class_that_the_teacher_excludes():
    teacher, student = logits(3, 5, seed=1), logits(3, 5, seed=2).requires_grad_()
    teacher[0, 0] = -math.inf
    found = kd.soft_target_loss(student, teacher, 1.0)
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, (student.softmax(1) - teacher.softmax(1)).detach() / 3)


@pytest.mark.parametrize("temperature", [1e4, 1e8, 1e12, 1e16, 1e50, 1e100])
def test_the_limit_of_high_temperatures_is_reached_and_kept(temperature):
    student, teacher = logits(4, 10, seed=1).requires_grad_(), logits(4, 10, seed=2)
    found = kd.soft_target_loss(student, teacher, temperature)
    distance = student.detach() - teacher
    distance -= distance.mean(1, keepdim=True)
    torch.testing.assert_close(found, distance.square().mean(1).mean() / 2, rtol=1e-3, atol=0)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, distance / 40, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e101, 1e-101])
def test_temperatures_whose_squares_are_no_numbers_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        kd.soft_target_loss(logits(), logits(seed=1), temperature)


def test_labels_count_precisely_in_half_precision_too():
    student, teacher = logits(seed=1).half(), logits(seed=2).half()
    found = kd.Decoupled(alpha=0.0, beta=0.0)(student, teacher, labels())
    torch.testing.assert_close(found, F.cross_entropy(student.double(), labels()).float())
    for weights in ({"alpha": -1.0}, {"beta": math.nan}):
        with pytest.raises(ValueError, match="must be 0 or more"):
            kd.Decoupled(**weights)
