"""slimcnn.quantization.folding: the same outputs, fewer layers, nothing folded that must not be."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from slimcnn.models import ResNet14, StudentNet
from slimcnn.quantization import fold_batch_norm


def lively(model, seed=0):
    """Batch norms with statistics and weights that are not those of a new network."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    random = torch.rand(tensor.shape, generator=generator)
                    tensor.data.copy_(low + (high - low) * random)
    return model.eval()


def norms(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def check(model, shape, left, dtype=torch.float64):
    model = lively(model).to(dtype)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model, shape)
    assert norms(folded) == left
    images = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        tolerance = {"atol": 1e-10, "rtol": 1e-10} if dtype is torch.float64 else {}
        torch.testing.assert_close(folded(images), model(images), **tolerance)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return folded


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_the_books_networks(width):
    for network in (ResNet14, StudentNet):
        folded = check(network(width=width), (1, 1, 28, 28), 0)
        convolutions = [m for m in folded.modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.bias is not None for conv in convolutions)
        check(network(width=width), (1, 1, 28, 28), 0, torch.float32)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("mobilenet_v2", 0),
        ("mobilenet_v3_small", 0),
        ("efficientnet_b0", 0),
        ("regnet_y_400mf", 0),
        ("shufflenet_v2_x0_5", 0),
        ("vgg11_bn", 0),
        ("squeezenet1_1", 0),
        # norm1 of each dense layer, of the transitions and at the end follow concatenations
        ("densenet121", 58 + 3 + 1),
    ],
)
def test_torchvisions_networks(name, left):
    torch.manual_seed(0)
    check(getattr(torchvision.models, name)(weights=None), (1, 3, 64, 64), left)


def test_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    conv.weight.data.fill_(3.0)
    conv.bias.data.fill_(1.0)
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    norm.weight.data.fill_(6.0)
    norm.bias.data.fill_(0.5)
    folded = fold_batch_norm(nn.Sequential(conv, norm), (1, 1, 2, 2))
    # 6 (3x + 1 - 2) / 2 + 0.5 = 9x - 2.5
    assert (folded[0].weight.item(), folded[0].bias.item()) == (9.0, -2.5)
    assert isinstance(folded[1], nn.Identity)


LAYERS = {
    "linear": (nn.Linear(5, 4), nn.BatchNorm1d(4), (3, 5)),
    "1d": (nn.Conv1d(3, 4, 3, groups=1), nn.BatchNorm1d(4), (2, 3, 9)),
    "3d": (nn.Conv3d(2, 4, 3, bias=False), nn.BatchNorm3d(4), (2, 2, 5, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), (2, 4, 6, 6)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), (2, 3, 6, 6)),
    "transposed groups": (
        nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False),
        nn.BatchNorm2d(8),
        (2, 6, 5, 5),
    ),
    "no affine": (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), (2, 2, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer(name):
    layer, norm, shape = copy.deepcopy(LAYERS[name])
    check(nn.Sequential(layer, norm, nn.ReLU()), shape, 0)


class Net(nn.Module):
    """A convolution and a batch norm, put together in some way."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.way = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), forward

    def forward(self, x):
        return self.way(self, x)


def two_outputs(net, x):
    y = net.conv(x)
    return net.norm(y), y


@pytest.mark.parametrize(
    "way",
    [
        lambda net, x: net.norm(net.conv(x).relu()),  # something between
        lambda net, x: net.norm(torch.relu_(net.conv(x))),  # in place: the same tensor object
        lambda net, x: net.conv(net.norm(x)),  # the other way round
        lambda net, x: (lambda y: net.norm(y) + y)(net.conv(x)),  # another reader
        lambda net, x: (lambda y: net.norm(y) * y[:, :1])(net.conv(x)),
        lambda net, x: net.norm(net.conv(net.conv(x))),  # the layer is used twice
        lambda net, x: net.norm(net.norm(net.conv(x))),  # the norm is used twice
        lambda net, x: net.norm(net.conv(x)[:, :, :1]),  # a part of it
        lambda net, x: net.norm(net.conv(x)) + net.conv.weight.sum(),  # the weight has a reader
        lambda net, x: net.norm(net.conv(x)) + net.conv.bias.view(1, -1, 1, 1),
    ],
)
def test_what_must_not_be_folded_stays(way):
    check(Net(way), (2, 2, 3, 3), 1)


def test_an_output_of_the_network_stays():
    model = lively(Net(two_outputs))
    folded = fold_batch_norm(model, (1, 2, 3, 3))
    assert norms(folded) == 1
    for a, b in zip(folded(torch.ones(1, 2, 3, 3)), model(torch.ones(1, 2, 3, 3)), strict=True):
        torch.testing.assert_close(a, b)


def test_asking_for_the_shape_is_no_reading():
    check(Net(lambda net, x: (lambda y: net.norm(y) / y.shape[1])(net.conv(x))), (2, 2, 3, 3), 0)


def test_norms_without_statistics_and_linear_layers_on_sequences_stay():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    assert norms(fold_batch_norm(model, (2, 2, 3, 3))) == 1
    check(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3)), (2, 3, 5), 1)


class WithActivation(nn.BatchNorm2d):
    """As some libraries have it."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_norm_that_does_more_stays():
    check(nn.Sequential(nn.Conv2d(2, 3, 1), WithActivation(3)), (2, 2, 4, 4), 1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_is_computed_in_each_pass_stays():
    layer = nn.utils.spectral_norm(nn.Conv2d(2, 3, 1))
    check(nn.Sequential(layer, nn.BatchNorm2d(3)), (2, 2, 4, 4), 1)


def test_tied_weights_of_another_layer_stay():
    model = lively(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)))
    model[2].weight = model[0].weight
    check(model, (2, 2, 4, 4), 1)


def test_masks_are_left_alone():
    from slimcnn import masking

    model = lively(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))
    mask = torch.tensor([[1, 0], [0, 1], [1, 1]]).bool().view(3, 2, 1, 1)
    masked = masking.apply_masks(model, {"0.weight": mask})
    folded = fold_batch_norm(masked, (1, 2, 4, 4))
    assert norms(folded) == 1 and torch.equal(masking.masks_of(folded)["0.weight"], mask)


def test_the_copy_is_in_eval_mode_and_frozen_weights_stay_frozen():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model[0].requires_grad_(False)
    folded = fold_batch_norm(model, (1, 1, 2, 2))
    assert model.training and not folded.training
    assert not folded[0].weight.requires_grad and not folded[0].bias.requires_grad


class Read(nn.Module):
    """A convolution and its batch norm, read in some way."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), how
        self.listed = [self.conv, self.norm]

    def forward(self, x):
        if self.how == "keyword":
            return self.norm(input=self.conv(x))
        if self.how == "parameter":
            return self.norm(self.conv(x)) + self.norm.weight.abs().sum()
        for layer in self.listed:
            x = layer(x)
        return x


def test_a_norm_may_be_called_by_keyword():
    check(Read("keyword"), (2, 3, 4, 4), 0)


def test_a_norm_whose_weight_is_read_elsewhere_stays():
    check(Read("parameter"), (2, 3, 4, 4), 1)


def test_hooks_keep_what_they_hang_on():
    for place in (0, 1):
        model = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
        model[place].register_forward_hook(lambda module, inputs, output: output * 3)
        check(model, (2, 3, 4, 4), 1)


def test_the_channels_of_an_image_without_a_batch_are_not_the_norms():
    model = lively(nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4)))
    image = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norm(model, image)
    assert norms(folded) == 1
    torch.testing.assert_close(folded(image), model(image))


def test_modules_that_a_list_holds_are_not_lost():
    model = lively(Read("list"))
    with pytest.raises(ValueError, match="computes something else"):
        fold_batch_norm(model, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
