"""Cross-layer equalization: channels of two layers in a row brought to the same range.

Chapter 6 (Quantization: post-training).
"""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from slimcnn.quantization.graphs import trace
from slimcnn.tracing import has_hooks

_LAYERS = (nn.Conv2d, nn.Linear)
# s · f(x) = f(s · x) for every s > 0 and channel: what may stand between two layers.
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout2d, nn.Flatten, *_POOLS)
_ROUNDS, _ENOUGH = 200, 1e-4
# A channel with smaller weights than this share of the layer's largest is its bias, nearly. Raised
# to the range of others it would have a bias that ruins the range of the activations.
_SMALLEST_SHARE = 1e-3


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
            and linear layers with nothing between them but modules of ReLU, pooling, dropout and
            flattening, when nothing else reads what lies between. Other layers stay as they are,
            those beside a ReLU6 or a function too.

    Returns:
        The copy, in eval mode. Channels of which hardly more than the bias is there are not raised,
        layers with hooks stay as they are.

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
    traced = trace(model)
    module_at = {n: n.target for n in traced.graph.nodes if n.op == "call_module"}
    layer_of = {node: model.get_submodule(name) for node, name in module_at.items()}
    calls = Counter(layer_of.values())
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    read = {str(n.target) for n in traced.graph.nodes if n.op == "get_attr"}

    def fits(node: fx.Node) -> bool:
        layer = layer_of.get(node)
        if type(layer) not in _LAYERS or calls[layer] > 1 or parametrize.is_parametrized(layer):
            return False
        if has_hooks(layer):
            return False
        names = {f"{module_at[node]}.{name}" for name in ("weight", "bias")}
        alone = all(owners[id(p)] == 1 for p in layer.parameters()) and not names & read
        return alone and (isinstance(layer, nn.Linear) or layer.padding_mode == "zeros")

    pairs = []
    for node in filter(fits, traced.graph.nodes):
        following, between = node, []
        while len(following.users) == 1:
            (following,) = following.users
            if type(layer_of.get(following)) not in _HOMOGENEOUS or has_hooks(layer_of[following]):
                break
            between.append(layer_of[following])
        if following is not node and fits(following):
            first, second = layer_of[node], layer_of[following]
            if _channels(first) == _inputs(second) and _same_channels(first, between, second):
                pairs.append((first, second))
    return pairs


def _same_channels(first: nn.Module, between: list[nn.Module], second: nn.Module) -> bool:
    """Whether the second layer reads the first one's channels as its own, not another dimension."""
    shapes = [m for m in between if isinstance(m, nn.Flatten)]
    if isinstance(first, nn.Linear):
        pools = [m for m in between if isinstance(m, _POOLS)]
        return isinstance(second, nn.Linear) and not shapes and not pools
    if isinstance(second, nn.Conv2d):
        return not shapes
    return len(shapes) == 1 and (shapes[0].start_dim, shapes[0].end_dim) == (1, -1)


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
    scale = before.sqrt() / after.sqrt()
    raised = (scale < 1) & (before < _SMALLEST_SHARE * before.max())
    scale = torch.where((before > 0) & (after > 0) & ~raised, scale, torch.ones_like(scale))
    first.weight.div_(_along(scale, first.weight))
    if first.bias is not None:
        first.bias.div_(scale)
    along = scale.view(groups, 1, -1, *[1] * (second.weight.ndim - 2))
    by_group.mul_(along)
    return float(scale.log().abs().max())


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))
