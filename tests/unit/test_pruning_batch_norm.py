"""slimcnn.pruning.batch_norm: averages over batches by hand, and the penalty of slimming."""

import copy

import pytest
import torch
from torch import nn

from slimcnn import data, pruning, training
from slimcnn.data import Batch
from slimcnn.masking import masks_of


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3, momentum=0.3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2, momentum=None),
        nn.Flatten(),
        nn.BatchNorm1d(8, affine=False),
        nn.Linear(8, 4),
    )
    for norm in (model[1], model[5], model[7]):
        norm.running_mean.fill_(50.0)
        norm.running_var.fill_(70.0)
    return model


def batch(count=6):
    return Batch(data.normalize(images(count)), torch.arange(count) % 4, torch.arange(count))


def test_statistics_are_plain_averages_over_the_batches():
    model, pixels = network(), images(10)
    found = pruning.recalibrate(model, pixels, batch_size=4)
    means, variances = [], []
    with torch.no_grad():
        for part in pixels.split(4):  # 4, 4 and 2 images, with the same say each
            y = model[0](data.normalize(part))
            means.append(y.mean((0, 2, 3)))
            variances.append(y.var((0, 2, 3), unbiased=True))
    torch.testing.assert_close(found[1].running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(found[1].running_var, torch.stack(variances).mean(0))
    assert int(found[1].num_batches_tracked) == 3


def test_deeper_statistics_are_those_of_train_mode_without_dropout():
    model, pixels = network(), images(8)
    found = pruning.recalibrate(model, pixels, batch_size=8)
    expected = copy.deepcopy(model).train()
    expected[3].eval()
    for norm in (expected[1], expected[5], expected[7]):
        norm.reset_running_stats()
        norm.momentum = 1.0  # one batch: only that one counts
    expected(data.normalize(pixels))
    for index in (1, 5, 7):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(found[index], name), getattr(expected[index], name))


def test_a_last_batch_of_one_image_is_left_out():
    whole = pruning.recalibrate(network(), images(9), batch_size=4)
    cut = pruning.recalibrate(network(), images(9)[:8], batch_size=4)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, cut.state_dict()[name])


def test_nothing_else_changes():
    model = network().train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    found = pruning.recalibrate(model, images(8))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in found.modules())
    assert [found[index].momentum for index in (1, 5, 7)] == [0.3, None, 0.1]
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, state[name])
        assert parameter.requires_grad


def test_it_repairs_what_masking_does_to_the_statistics():
    model = pruning.recalibrate(network(), images(40))
    masks = pruning.layerwise_masks(pruning.magnitude(model), {"0.weight": 0.6})
    masked = pruning.apply_masks(model, {"0.weight": masks["0.weight"]})

    def distance(m):
        with torch.no_grad():
            y = m[0](data.normalize(images(40)))
        return float((y.mean((0, 2, 3)) - m[1].running_mean).abs().max())

    repaired = pruning.recalibrate(masked, images(40))
    assert distance(masked) > 1e-2
    assert distance(repaired) < 1e-5
    assert torch.equal(masks_of(repaired)["0.weight"], masks["0.weight"])


def test_a_norm_without_statistics_and_a_network_without_norms_are_left_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    found = pruning.recalibrate(model, images(4))
    assert found[1].running_mean is None
    plain = nn.Conv2d(1, 2, 3)
    assert torch.equal(pruning.recalibrate(plain, images(4)).weight, plain.weight)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused(count):
    with pytest.raises(ValueError, match=f"there are {count} images.* at least 2"):
        pruning.recalibrate(network(), images(count))


@pytest.mark.parametrize("size", [1, 0, -3])
def test_batches_too_small_for_a_variance_are_refused(size):
    model = network()
    with pytest.raises(ValueError, match=f"batch_size is {size}; it must be 2 or more"):
        pruning.recalibrate(model, images(4), batch_size=size)
    assert model[1].running_mean.tolist() == [50.0] * 3


# ---------------------------------------------------------------- network slimming


def test_the_penalty_is_the_sum_of_the_scales_magnitudes():
    model = network().eval()
    model[1].weight.data = torch.tensor([-2.0, 0.5, 0.0])
    model[5].weight.data = torch.tensor([1.0, -3.0])
    plain, logits = training.cross_entropy()(model, batch())
    loss, same_logits = pruning.slimming_objective(1e-2)(model, batch())
    assert loss.item() == pytest.approx(plain.item() + 1e-2 * 6.5, rel=1e-6)
    assert torch.equal(logits, same_logits)


def test_the_penalty_pulls_each_scale_by_its_sign():
    model = network().eval()
    model[1].weight.data = torch.tensor([-2.0, 0.5, 0.0])
    gradients = []
    for strength in (0.0, 0.1):
        loss, _ = pruning.slimming_objective(strength)(model, batch())
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    names = [name for name, _ in model.named_parameters()]
    for name, without, pulled in zip(names, *gradients, strict=True):
        pull = torch.zeros_like(without)
        if name in ("1.weight", "5.weight"):
            pull = 0.1 * model.get_parameter(name).sign()
        torch.testing.assert_close(pulled - without, pull, rtol=1e-4, atol=1e-6)


def test_any_objective_can_be_the_base():
    def base(model, batch):
        return torch.tensor(5.0), "logits"

    loss, logits = pruning.slimming_objective(2.0, base)(nn.BatchNorm2d(3), None)
    assert (loss.item(), logits) == (5.0 + 2 * 3, "logits")
    loss, _ = pruning.slimming_objective(2.0, base)(nn.Linear(1, 1), None)
    assert loss.item() == 5.0


def test_training_with_it_makes_scales_small():
    split = data.load("validation").subset(130)
    recipe = training.Recipe(epochs=4, batch_size=32, lr=0.05, average=0.0, augmentation=None)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    )
    sums = []
    for strength in (0.0, 0.1):
        objective = pruning.slimming_objective(strength)
        trained, _ = training.fit(
            model, split, recipe, seed=0, objective=objective, device="cpu", progress=False
        )
        sums.append(trained[1].weight.abs().sum().item())
    assert sums[1] < 0.8 * sums[0]


@pytest.mark.parametrize("strength", [-1e-4, float("nan")])
def test_a_strength_below_zero_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        pruning.slimming_objective(strength)
