"""slimcnn.distillation.features: taps that see the truth; losses against formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from slimcnn import distillation as kd
from slimcnn.models import ResNet14


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- taps ---------------------------------------------------------------------------------------


def test_taps_return_what_the_modules_return():
    model, images = ResNet14(width=0.25).eval(), torch.randn(2, 1, 28, 28)
    with torch.no_grad(), kd.tapped(model, ["stage1", "stage2.0.bn1", "flatten"]) as found:
        logits = model(images)
    with torch.no_grad():
        stem = model.relu(model.bn(model.conv(images)))
        first = model.stage1(stem)
        norm = model.stage2[0].bn1(model.stage2[0].conv1(first))
    assert list(found) == ["stage1", "stage2.0.bn1", "flatten"]
    torch.testing.assert_close(found["stage1"], first)
    # the ReLU after it works in place, and must not reach the copy
    torch.testing.assert_close(found["stage2.0.bn1"], norm)
    assert norm.min() < 0
    torch.testing.assert_close(model.fc(found["flatten"]), logits)


def test_gradients_flow_through_a_tap():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True))
    with kd.tapped(model, ["0"]) as found:
        model(torch.ones(1, 3))
    found["0"].sum().backward()
    torch.testing.assert_close(model[0].weight.grad, torch.ones(2, 3))


def test_hooks_go_and_each_pass_begins_anew():
    model = nn.Sequential(nn.Linear(3, 2))
    with kd.tapped(model, ["0"]) as found:
        model(torch.zeros(1, 3))
        model(torch.ones(4, 3))
        assert found["0"].shape == (4, 2)
    assert not model._forward_pre_hooks and not model[0]._forward_hooks
    with pytest.raises(ZeroDivisionError), kd.tapped(model, ["0"]):
        _ = 1 / 0
    assert not model._forward_pre_hooks and not model[0]._forward_hooks


def test_a_module_can_be_named_twice():
    model = nn.Sequential(nn.Linear(3, 2))
    with kd.tapped(model, ["0", "0"]) as found:
        output = model(torch.ones(1, 3))
    torch.testing.assert_close(found["0"], output)


def test_the_network_itself_can_be_tapped():
    model = nn.Sequential(nn.Linear(3, 2))
    with kd.tapped(model, [""]) as found:
        output = model(torch.ones(1, 3))
    torch.testing.assert_close(found[""], output)


def test_what_taps_refuse():
    model = ResNet14(width=0.25)
    with (
        pytest.raises(KeyError, match=r"no module 'stage4'; near: .*'stage1'"),
        kd.tapped(model, ["stage4"]),
    ):
        pass
    twice = torchvision.models.resnet18(weights=None).eval()  # one ReLU module, used twice
    with (
        torch.no_grad(),
        kd.tapped(twice, ["layer1.0.relu"]),
        pytest.raises(RuntimeError, match=r"'layer1\.0\.relu' is used twice"),
    ):
        twice(torch.zeros(1, 3, 32, 32))
    lstm = nn.Sequential(nn.LSTM(3, 2))
    with kd.tapped(lstm, ["0"]), pytest.raises(TypeError, match="'0' answers with a tuple"):
        lstm(torch.zeros(1, 1, 3))


# --- losses -------------------------------------------------------------------------------------


def test_attention_by_hand():
    # one channel of 3 and 4, squares 9 and 16, length √337
    features = torch.tensor([[[[3.0, 4.0]]]])
    expected = torch.tensor([[9.0, 16.0]]) / math.sqrt(337)
    torch.testing.assert_close(kd.attention_map(features), expected)
    # maps (1, 0) and (0, 1) are √2 apart, maps (1, 0) and (-1, 0) are the same
    left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    assert kd.attention_loss(left, right).item() == pytest.approx(2.0)
    assert kd.attention_loss(left, -left).item() == 0


def test_attention_ignores_channels_order_and_scale():
    features = random(3, 6, 4, 5)
    shuffled = -2.5 * features[:, torch.tensor([3, 1, 5, 0, 2, 4])]
    assert kd.attention_loss(features, shuffled).item() == pytest.approx(0, abs=1e-12)
    other = random(3, 2, 4, 5, seed=1)
    expected = sum(
        (kd.attention_map(features)[i] - kd.attention_map(other)[i]).pow(2).sum() for i in range(3)
    )
    torch.testing.assert_close(kd.attention_loss(features, other), expected / 3)


def test_the_larger_map_is_pooled():
    small, large = random(2, 3, 4, 4), random(2, 3, 8, 12, seed=1)
    pooled = F.avg_pool2d(large, (2, 3))
    torch.testing.assert_close(kd.attention_loss(small, large), kd.attention_loss(small, pooled))
    torch.testing.assert_close(kd.attention_loss(large, small), kd.attention_loss(pooled, small))


def test_distances_by_hand():
    # points 0, 3, 4 on a line: distances 3, 4, 1 over their mean 8/3; all 1 for a triangle
    line = torch.tensor([[0.0], [3.0], [4.0]])
    triangle = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)]])
    gaps = [abs(d / (8 / 3) - 1) for d in (3, 4, 1)]
    expected = sum(0.5 * g**2 for g in gaps) / 3  # all below 1: the square part of Huber
    assert kd.distance_loss(line, triangle).item() == pytest.approx(expected, rel=1e-5)


def test_distances_know_no_position_size_or_dimension():
    points = random(6, 3)
    turned = torch.linalg.qr(random(3, 3, seed=2)).Q
    moved = 7 * points @ turned + 5
    assert kd.distance_loss(points, moved).item() == pytest.approx(0, abs=1e-12)
    assert kd.angle_loss(points, moved).item() == pytest.approx(0, abs=1e-12)
    padded = torch.cat([points, torch.zeros(6, 2, dtype=torch.float64)], 1)
    assert kd.distance_loss(points, padded).item() == pytest.approx(0, abs=1e-12)


def test_angles_against_a_triple_loop():
    student, teacher = random(5, 3), random(5, 4, seed=1)

    def cosine(points, i, j, k):
        a, b = points[i] - points[j], points[k] - points[j]
        return a @ b / a.norm() / b.norm()

    total, count = 0.0, 0
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if len({i, j, k}) == 3:
                    gap = (cosine(student, i, j, k) - cosine(teacher, i, j, k)).abs().item()
                    total += 0.5 * gap**2 if gap < 1 else gap - 0.5
                    count += 1
    assert kd.angle_loss(student, teacher).item() == pytest.approx(total / count)


def test_equal_images_give_finite_gradients():
    student = torch.zeros(4, 3, requires_grad=True)
    loss = kd.distance_loss(student, torch.randn(4, 3)) + kd.angle_loss(student, torch.randn(4, 3))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_gradcheck():
    maps, teacher = random(2, 3, 4, 4).requires_grad_(), random(2, 5, 2, 2, seed=1)
    points, others = random(4, 3).requires_grad_(), random(4, 2, seed=1)
    assert torch.autograd.gradcheck(lambda s: kd.attention_loss(s, teacher), (maps,))
    assert torch.autograd.gradcheck(lambda s: kd.distance_loss(s, others), (points,))
    assert torch.autograd.gradcheck(lambda s: kd.angle_loss(s, others), (points,))


def test_hints_need_regressors():
    maps = [torch.randn(2, 3, 4, 4)]
    with pytest.raises(RuntimeError, match="the regressors are not made yet; `build` them"):
        kd.Hints([("a", "b")], 1.0)(maps, maps)


@pytest.mark.parametrize(("loss", "least"), [(kd.distance_loss, 2), (kd.angle_loss, 3)])
def test_what_relations_refuse(loss, least):
    with pytest.raises(ValueError, match=f"at least {least} images"):
        loss(random(least - 1, 3), random(least - 1, 3))
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(4, 3\); \(B, D\)"):
        loss(random(3, 3), random(4, 3))
    with pytest.raises(ValueError, match=r"\(B, D\) and \(B, E\) are needed"):
        loss(random(3, 3, 2), random(3, 3, 2))


# --- as distill takes them ----------------------------------------------------------------------


def test_hints_are_the_error_of_a_regressor():
    loss = kd.Hints([("a", "b"), ("c", "d")], weight=2.0)
    students = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    teachers = [torch.randn(2, 7, 4, 4), torch.randn(2, 6, 4, 4)]
    loss.build(students, teachers)
    shapes = [tuple(r.weight.shape) for r in loss.regressors]
    assert shapes == [(7, 3, 1, 1), (6, 5, 1, 1)]
    expected = [
        F.mse_loss(loss.regressors[0](students[0]), teachers[0]),
        F.mse_loss(loss.regressors[1](students[1]), F.avg_pool2d(teachers[1], 2)),
    ]
    torch.testing.assert_close(loss(students, teachers), torch.stack(expected).mean())


def test_the_other_losses_are_means_over_pairs():
    maps = [torch.randn(3, 2, 4, 4), torch.randn(3, 4, 4, 4)]
    others = [torch.randn(3, 5, 4, 4), torch.randn(3, 1, 4, 4)]
    attention = kd.AttentionTransfer([("a", "b"), ("c", "d")], weight=1.0)
    expected = [kd.attention_loss(s, t) for s, t in zip(maps, others, strict=True)]
    torch.testing.assert_close(attention(maps, others), torch.stack(expected).mean())
    relations = kd.Relations([("a", "b")], weight=1.0)
    flat, other = maps[0].flatten(1), others[0].flatten(1)
    torch.testing.assert_close(
        relations(maps[:1], others[:1]),
        kd.distance_loss(flat, other) + 2 * kd.angle_loss(flat, other),
    )


def test_relations_of_large_batches_take_the_angles_in_parts():
    students, teachers = torch.randn(130, 5), torch.randn(130, 4)
    parts = [slice(0, 44), slice(44, 87), slice(87, 130)]
    angles = [kd.angle_loss(students[part], teachers[part]) for part in parts]
    expected = kd.distance_loss(students, teachers) + 2 * torch.stack(angles).mean()
    relations = kd.Relations([("a", "b")], weight=1.0)
    torch.testing.assert_close(relations([students], [teachers]), expected)


def test_what_feature_losses_refuse():
    with pytest.raises(ValueError, match="no pairs"):
        kd.Hints([], 1.0)
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"weight is .*above 0"):
            kd.AttentionTransfer([("a", "b")], weight)
    for kind in (kd.Hints, kd.AttentionTransfer):
        with pytest.raises(
            ValueError, match=r"'a' and 'b' have shapes \(2, 3\) and \(2, 3, 4, 4\)"
        ):
            kind([("a", "b")], 1.0).build([torch.zeros(2, 3)], [torch.zeros(2, 3, 4, 4)])
    kd.Relations([("a", "b")], 1.0).build([torch.zeros(2, 3)], [torch.zeros(2, 3, 4, 4)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_losses(dtype):
    a, b = random(5, 7).to(dtype), random(5, 7, seed=1).to(dtype)
    assert kd.angle_loss(a, a.clone()) == 0 and kd.distance_loss(a, a.clone()) == 0
    torch.testing.assert_close(kd.angle_loss(a, b), kd.angle_loss(a.float(), b.float()))
    large, zero = torch.full((2, 3, 4, 4), 300.0).to(dtype), torch.zeros(2, 3, 4, 4).to(dtype)
    map_ = random(2, 3, 4, 4, seed=2).abs().to(dtype)
    for features in (large, zero):
        expected = kd.attention_loss(features.float(), map_.float())
        torch.testing.assert_close(kd.attention_loss(features, map_), expected)


def test_maps_of_other_images_are_refused():
    with pytest.raises(ValueError, match="same images"):
        kd.attention_loss(random(1, 3, 4, 4), random(3, 3, 4, 4))


@pytest.mark.parametrize("count", [1, 2])
def test_the_rest_of_an_epoch_may_have_no_triangle(count):
    relations = kd.Relations([("a", "b")], 1.0)
    assert relations.compare(0, random(count, 4), random(count, 5)) == 0
    assert relations.compare(0, random(3, 4), random(3, 5, seed=1)) > 0
