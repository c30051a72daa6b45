"""Cross-layer equalization: channels of two layers in a row brought to the same range.

Chapter 6 (Quantization: post-training).
"""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

_LAYERS = (nn.Conv2d, nn.Linear)
# s · f(x) = f(s · x) for every s > 0 and channel: what may stand between two layers.
_HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_ROUNDS, _ENOUGH = 200, 1e-4


def equalize(model: nn.Module) -> nn.Module:
    """A copy of `model` that computes the same, its weights' ranges made even.

    A channel i between two layers can be divided by any s > 0 in the first one and multiplied by
    it in the second, since ReLU(x / s) · s = ReLU(x). With ranges r (largest absolute weights)

        s_i = √(r_i of the first / r_i of the second)

    gives both the range √(r r′), the best choice for one scale a tensor. Repeated along the
    network until nothing changes. Nagel et al., 2019, arXiv:1906.04721; chapter 6, Quantization:
    post-training.

    Args:
        model: batch norms folded (`fold_batch_norm`); it is not changed. Pairs are convolutions
            and linear layers with nothing between them but ReLU, pooling, dropout and flattening,
            when nothing else reads what lies between. Other layers stay as they are, those beside
            a ReLU6 too.

    Returns:
        The copy, in eval mode.

    Raises:
        ValueError: the network cannot be traced.

    Chapter 6, Quantization: post-training.
    """
    model = copy.deepcopy(model).eval()
    pairs = _pairs(model)
    for _ in range(_ROUNDS):
        if max((_equalize_(*pair) for pair in pairs), default=0.0) < _ENOUGH:
            break
    return model


def _pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Two layers each, in the order of the computation."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # whatever its code stumbles over
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx ({error}); its forward must not"
            " depend on the values of tensors"
        ) from error
    module_of = {n: model.get_submodule(n.target) for n in graph.nodes if n.op == "call_module"}
    calls = Counter(module_of.values())

    def fits(node: fx.Node) -> bool:
        layer = module_of.get(node)
        if type(layer) not in _LAYERS or calls[layer] > 1 or parametrize.is_parametrized(layer):
            return False
        return isinstance(layer, nn.Linear) or layer.padding_mode == "zeros"

    pairs = []
    for node in filter(fits, graph.nodes):
        following = node
        while len(following.users) == 1:
            (following,) = following.users
            if type(module_of.get(following)) not in _HOMOGENEOUS:
                break
        first, second = module_of[node], module_of.get(following)
        if following is not node and fits(following) and _channels(first) == _inputs(second):
            pairs.append((first, second))
    return pairs


def _channels(layer: nn.Module) -> int:
    return layer.weight.shape[0]


def _inputs(layer: nn.Module) -> int:
    return layer.weight.shape[1] * getattr(layer, "groups", 1)


@torch.no_grad()
def _equalize_(first: nn.Module, second: nn.Module) -> float:
    """Returns by how much the largest change was: |log s|."""
    groups = getattr(second, "groups", 1)
    # (groups, outputs of a group, inputs of a group, kernel)
    by_group = second.weight.view(groups, -1, *second.weight.shape[1:])
    before = first.weight.abs().flatten(1).amax(1)
    after = by_group.abs().movedim(2, 1).flatten(2).amax(2).flatten()
    scale = (before / after).sqrt()
    scale = torch.where((before > 0) & (after > 0), scale, torch.ones_like(scale))
    first.weight.div_(_along(scale, first.weight))
    if first.bias is not None:
        first.bias.div_(scale)
    along = scale.view(groups, 1, -1, *[1] * (second.weight.ndim - 2))
    by_group.mul_(along)
    return float(scale.log().abs().max())


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))
