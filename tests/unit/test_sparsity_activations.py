"""slimcnn.sparsity, activations: zeros counted by hand, the model as it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimcnn.data import normalize
from slimcnn.models import ResNet14
from slimcnn.sparsity import activation_sparsity


def random_images(count=7, channels=1, size=6):
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


class TwoTurns(nn.Module):
    """One ReLU called twice, after one that is defined later; one that is never called."""

    def __init__(self):
        super().__init__()
        self.twice = nn.ReLU()
        self.idle = nn.ReLU()
        self.inner = nn.Sequential(nn.ReLU6())

    def forward(self, x):
        return self.twice(-self.twice(self.inner(x) - 0.5))


def test_dark_pixels_are_the_zeros():
    """Black is below the mean and becomes zero, white stays: no network is needed."""
    images = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    images[:2, :, 0] = 255  # 2 images · 4 pixels
    images[4, 0, 3, 3] = 255
    for batch_size in (1, 2, 5, 500):
        found = activation_sparsity(nn.Sequential(nn.ReLU()), images, batch_size=batch_size)
        assert found == {"0": (5 * 16 - 9) / (5 * 16)}


def test_zeros_of_two_layers_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.5)
    )
    model.append(nn.Linear(48, 20)).append(nn.ReLU6())
    model[1].running_mean.copy_(torch.tensor([0.3, -0.2, 0.0]))
    model[1].running_var.copy_(torch.tensor([2.0, 0.5, 1.0]))
    images = random_images()
    with torch.no_grad():
        x = F.conv2d(normalize(images), model[0].weight, model[0].bias)
        mean, variance = (v.view(1, 3, 1, 1) for v in (model[1].running_mean, model[1].running_var))
        first = ((x - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
        second = F.linear(first.flatten(1), model[5].weight, model[5].bias).clamp(0, 6)
    found = activation_sparsity(model.train(), images, batch_size=3)
    assert list(found) == ["2", "6"]
    assert found["2"] == int((first == 0).sum()) / (7 * 48)
    assert found["6"] == int((second == 0).sum()) / (7 * 20)
    assert 0.2 < found["2"] < 0.8


def test_a_module_that_is_called_twice_counts_all_its_outputs():
    images = random_images()
    x = normalize(images)
    inner = x.clamp(0, 6)
    first = (inner - 0.5).clamp(min=0)
    second = (-first).clamp(min=0)  # all zero
    zeros = int((first == 0).sum()) + second.numel()
    found = activation_sparsity(TwoTurns(), images, batch_size=4)
    assert list(found) == ["inner.0", "twice"]  # in the order of the calls, "idle" has none
    assert found["inner.0"] == int((inner == 0).sum()) / x.numel()
    assert found["twice"] == zeros / (2 * x.numel())


def test_other_kinds_of_modules():
    images = random_images()
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Hardshrink(1.0))
    assert list(activation_sparsity(model, images)) == ["1"]
    found = activation_sparsity(model, images, kinds=(nn.Identity, nn.Hardshrink))
    assert list(found) == ["0", "2"]
    assert found["0"] == 0
    assert found["2"] == int((normalize(images) <= 1).sum()) / images.numel()


def test_zeros_of_resnet14_are_those_of_every_relu():
    torch.manual_seed(0)
    model = ResNet14().eval()
    found = activation_sparsity(model, random_images(3, 1, 28))
    relus = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    assert sorted(found) == sorted(relus)
    assert all(0 < zeros < 1 for zeros in found.values())


class Fails(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("as planned")


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5)).train()
    model[1].eval()
    if fails:
        model.append(Fails())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images, generator = random_images(), torch.get_rng_state()
    given = images.clone()
    if fails:
        with pytest.raises(ZeroDivisionError):
            activation_sparsity(model, images)
    else:
        activation_sparsity(model, images)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(images, given)


@pytest.mark.parametrize(
    ("model", "count", "kinds", "message"),
    [
        (nn.Sequential(nn.ReLU()), 0, (nn.ReLU,), "there are 0 images and 1 modules of the kinds"),
        (nn.Sequential(nn.GELU()), 3, (nn.ReLU, nn.ReLU6), "3 images and 0 .* ReLU, ReLU6; both"),
    ],
)
def test_nothing_to_count_is_refused(model, count, kinds, message):
    with pytest.raises(ValueError, match=message):
        activation_sparsity(model, random_images(count), kinds)


def test_images_must_be_bytes():
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        activation_sparsity(nn.Sequential(nn.ReLU()), torch.rand(2, 1, 4, 4))
