"""Networks whose weights share values, and can be trained so.

Chapter 6 (Quantization: weight sharing).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slimcnn.coding.kmeans import Start, kmeans
from slimcnn.masking import Final, finalize, independent_copy


class Shared(Final):
    """The parametrization: a weight by its shared values; index 0 stands for zero.

    Attributes:
        indices: int64, in the shape of the weight: 0, or 1 more than the place of a value.
        start: the first values.
    """

    def __init__(self, indices: Tensor, start: Tensor):
        super().__init__()
        self.register_buffer("indices", indices)
        self.register_buffer("start", start, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return torch.cat([values.new_zeros(1), values])[self.indices]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is trained: the values."""
        return self.start.clone()


def share_weights(
    model: nn.Module, k: int | Mapping[str, int], start: Start = "linear"
) -> nn.Module:
    """A copy of `model` whose convolutions and linear layers have few different weights.

    `kmeans` finds the values of each layer. They are what is trained from now on: the gradient of
    a value is the sum of the gradients of all weights that have it (Han et al., 2016,
    arXiv:1510.00149). Zeros stay zeros, and do not count. `slimcnn.masking.finalize` writes the
    weights in, and `save_slim` writes them in few bytes.

    Args:
        model: it is not changed; its masks are written in.
        k: how many values other than zero, for all layers, or by the layer's name; layers that are
            not named stay as they are.
        start: of the iterations, as in `kmeans`.

    Raises:
        KeyError: a name is none of a convolution or linear layer.
        ValueError: k or start is out of range, or a weight is not finite.

    Chapter 6, Quantization: weight sharing.
    """
    model = finalize(independent_copy(model))
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    sizes = k if isinstance(k, Mapping) else dict.fromkeys(layers, k)
    unknown = sorted(sizes.keys() - layers.keys())
    if unknown:
        raise KeyError(f"the network has no convolution or linear layer {unknown[0]!r}")
    for name, size in sizes.items():
        weight = layers[name].weight.detach()
        filled = weight != 0
        if not filled.any():
            continue  # nothing but zeros, which are shared already
        book = kmeans(weight[filled].cpu(), size, start=start)
        indices = torch.zeros_like(weight, dtype=torch.int64)
        indices[filled] = book.indices.to(weight.device) + 1
        shared = Shared(indices, book.values.to(weight.device))
        parametrize.register_parametrization(layers[name], "weight", shared)
    return model
