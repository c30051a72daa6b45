"""slimcnn.models: shapes, sizes, stable names."""

import pytest
import torch
from torch import nn

from slimcnn import models
from slimcnn.models import ResNet14, StudentNet


@pytest.mark.parametrize("network", [ResNet14, StudentNet])
@pytest.mark.parametrize(
    ("channels", "classes", "width"), [(1, 10, 1.0), (3, 7, 0.5), (4, 1, 0.01)]
)
def test_any_channels_classes_width_and_image_size(network, channels, classes, width):
    model = network(channels, classes, width).eval()
    assert model(torch.randn(1, channels, 28, 28)).shape == (1, classes)
    assert model(torch.randn(2, channels, 33, 17)).shape == (2, classes)


def test_parameter_counts_by_hand():
    def block(i, o, shortcut):
        return 9 * i * o + 9 * o * o + 4 * o + (i * o + 2 * o if shortcut else 0)

    expected = 9 * 32 + 64
    for i, o in ((32, 32), (32, 64), (64, 128)):
        expected += block(i, o, i != o) + block(o, o, False)
    expected += 128 * 10 + 10
    assert sum(p.numel() for p in ResNet14().parameters()) == expected == 696_042
    assert sum(p.numel() for p in StudentNet().parameters()) <= 60_000


@pytest.mark.parametrize("network", [ResNet14, StudentNet])
def test_each_relu_is_used_once(network):
    model = network().eval()
    calls = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            calls[name] = 0

            def count(*_, name=name):
                calls[name] += 1

            module.register_forward_hook(count)
    model(torch.zeros(1, 1, 28, 28))
    assert set(calls.values()) == {1}
    assert not any("relu" in str(n.target) and n.op == "call_function" for n in _graph(model))


def _graph(model):
    return torch.fx.symbolic_trace(model).graph.nodes


def test_weight_names_are_a_file_format():
    # Renaming any of these breaks every checkpoint that exists.
    names = list(ResNet14().state_dict())
    assert names[0] == "conv.weight"
    assert "stage2.0.shortcut.0.weight" in names
    assert "stage3.1.bn2.running_var" in names
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert len(names) == 92
    student = list(StudentNet().state_dict())
    assert "blocks.4.pointwise.weight" in student
    assert "blocks.0.bn1.weight" in student
    assert len(student) == 68


def test_residual_block_adds_its_input():
    block = models.BasicBlock(4, 4).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x)  # the residual branch is zero, x is not negative


def test_depthwise_separable_is_a_product_kernel():
    # With batch norm as the identity and positive values, depthwise then pointwise equals
    # one dense convolution whose kernel is the product of the two.
    block = models.DepthwiseSeparable(3, 5, stride=2).eval()
    for bn in (block.bn1, block.bn2):
        bn.eps = 1e-12
    for conv in (block.depthwise, block.pointwise):
        nn.init.uniform_(conv.weight)
    kernel = block.pointwise.weight * block.depthwise.weight[:, 0][None]
    x = torch.rand(2, 3, 8, 8)
    expected = nn.functional.conv2d(x, kernel, stride=2, padding=1)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("network", [ResNet14, StudentNet])
@pytest.mark.parametrize("argument", ["in_channels", "num_classes", "width"])
def test_non_positive_arguments_are_refused(network, argument):
    with pytest.raises(ValueError, match=f"{argument} is 0"):
        network(**{argument: 0})


def test_build_by_name():
    assert isinstance(models.build("student", width=0.5), StudentNet)
    with pytest.raises(ValueError, match="resnet14, student"):
        models.build("resnet15")


def test_scale_channels():
    assert [models.scale_channels(32, w) for w in (0.001, 0.25, 1, 1.5)] == [1, 8, 32, 48]
