"""The network of the book, ResNet-14, and its small depthwise-separable student.

Both take any number of input channels, classes, and a width multiplier. Every ReLU is a
module of its own (quantizers and feature taps address modules by name), and the weight
names are a file format: checkpoints made today must load tomorrow.
"""

from torch import Tensor, nn

RESNET14_CHANNELS = (32, 64, 128)
STUDENT_STEM = 32
# (output channels, stride) of each depthwise-separable block.
STUDENT_BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (128, 1))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., 2016, arXiv:1512.03385).

    Shapes: (B, in, H, W) → (B, out, ⌈H/stride⌉, ⌈W/stride⌉). The shortcut is the identity,
    or a 1×1 convolution with batch norm where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class DepthwiseSeparable(nn.Module):
    """A depthwise 3×3 and a pointwise 1×1 convolution (MobileNet, arXiv:1704.04861).

    Shapes: (B, in, H, W) → (B, out, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.depthwise(x)))
        return self.relu2(self.bn2(self.pointwise(x)))


class ResNet14(nn.Module):
    """The network of the book: a stride-2 stem, three stages of two blocks, one linear layer.

    Shapes: (B, in_channels, H, W) → logits (B, num_classes). At 1×28×28 and width 1 it
    has about 0.70 M parameters and 22 M multiply-accumulates (chapter 1 counts them).

    Args:
        in_channels: channels of the image.
        num_classes: number of logits.
        width: factor on the channels (32, 64, 128) of the three stages.

    Raises:
        ValueError: an argument is not positive.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: float = 1.0):
        super().__init__()
        _check_positive(in_channels=in_channels, num_classes=num_classes, width=width)
        first, second, third = (scale_channels(c, width) for c in RESNET14_CHANNELS)
        self.conv = nn.Conv2d(in_channels, first, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.stage1 = nn.Sequential(BasicBlock(first, first), BasicBlock(first, first))
        self.stage2 = nn.Sequential(BasicBlock(first, second, 2), BasicBlock(second, second))
        self.stage3 = nn.Sequential(BasicBlock(second, third, 2), BasicBlock(third, third))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(third, num_classes)
        _initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.flatten(self.pool(x)))


class StudentNet(nn.Module):
    """The student: a stride-2 stem, five depthwise-separable blocks, one linear layer.

    Shapes: (B, in_channels, H, W) → logits (B, num_classes); fewer than 60,000
    parameters at 1×28×28 and width 1. Chapter 4 teaches it with ResNet-14.

    Args:
        in_channels: channels of the image.
        num_classes: number of logits.
        width: factor on the channels of the stem and of every block.

    Raises:
        ValueError: an argument is not positive.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: float = 1.0):
        super().__init__()
        _check_positive(in_channels=in_channels, num_classes=num_classes, width=width)
        channels = scale_channels(STUDENT_STEM, width)
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential()
        for out_channels, stride in STUDENT_BLOCKS:
            out_channels = scale_channels(out_channels, width)
            self.blocks.append(DepthwiseSeparable(channels, out_channels, stride))
            channels = out_channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        _initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn(self.conv(x))))
        return self.fc(self.flatten(self.pool(x)))


MODELS: dict[str, type[nn.Module]] = {"resnet14": ResNet14, "student": StudentNet}


def build(name: str, **arguments) -> nn.Module:
    """Build a network by its name in `MODELS`, as checkpoints and command lines do.

    Raises:
        ValueError: no network has that name.
    """
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name](**arguments)


def scale_channels(channels: int, width: float) -> int:
    """`channels` × `width`, rounded to a whole number, at least 1."""
    return max(1, round(channels * width))


def _initialize_(model: nn.Module) -> None:
    """He initialization (arXiv:1502.01852) for convolutions; PyTorch's defaults elsewhere."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")
