"""A quantizer on every tensor between the layers, as a network of integers has it.

`quantize` rounds what the layers multiply. A phone also stores sums of branches, pooled values and
all else as integers of a few bits; here each of these gets a quantizer too, so that one network
stands for both: `slimcnn.quantization.inference` computes it with integers alone, and
`slimcnn.quantization.qdq` writes it for ONNX Runtime. Chapter 6 (Quantization: integers).
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from slimcnn.data import normalize
from slimcnn.quantization.fake import ActivationQuantizer
from slimcnn.quantization.network import RANGES, QuantizedLayer, RangeName
from slimcnn.tracing import tensors, undisturbed

# What follows a layer or a sum and is computed with it, before anything is rounded.
_FUSED = (nn.ReLU, nn.ReLU6, nn.modules.batchnorm._BatchNorm)
_FUSED_CALLS = (F.relu, F.relu6, torch.relu, torch.relu_, "relu", "relu_")
# What only moves or selects values, so that the integers stay what they are.
MOVING_FUNCTIONS = (
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze),
    *(torch.unsqueeze, torch.chunk, operator.getitem),
)
MOVING_METHODS = (
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk"),
    *("split", "contiguous"),
)
_MOVES = (nn.Flatten, nn.modules.dropout._DropoutNd, nn.MaxPool2d, nn.ChannelShuffle)
_MOVES_CALLS = (*MOVING_FUNCTIONS, *MOVING_METHODS, F.dropout, F.max_pool2d)
# In the `meta` of a node: it gives no tensor, but sizes, say.
PLAIN = "plain"
QUANTIZERS = "tensor_quantizers"  # the module that holds them


def place_quantizers(
    network: nn.Module, images: Tensor, *, bits: int = 8, range: RangeName = "min-max"
) -> fx.GraphModule:
    """A copy of a quantized network in which every tensor between two operations is quantized.

    A tensor that a `QuantizedLayer` reads keeps the quantizer of that layer (of the first one, if
    there are several); all others get one of their own. A ReLU or a batch norm that alone reads
    what a layer or a sum gives is part of it, and the quantizer comes after it. The outputs of the
    network are not quantized.

    Args:
        network: from `quantize`; it is not changed.
        images: uint8 *training* images, (N, C, H, W), on which the other ranges are found.
        bits: of those other tensors, 2 to 16.
        range: how these ranges are found, as in `Scheme`.

    Returns:
        A graph of the operations (`torch.fx`), in eval mode; it can be evaluated and trained.

    Raises:
        ValueError: there are no images, or no `QuantizedLayer`; the network cannot be traced.

    Chapter 6, Quantization: integers.
    """
    if len(images) == 0:
        raise ValueError("there are no images; activations' ranges are found on some")
    graph = _trace(network)
    layers = [n for n in graph.graph.nodes if is_layer(graph, n)]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no quantized layer; quantize it first"
            " (slimcnn.quantization.quantize)"
        )
    ranges = _Ranges(graph, bits, RANGES[range])
    with undisturbed(graph):
        ranges.run(normalize(images.to(next(graph.parameters()).device)))
    graph.add_module(QUANTIZERS, nn.ModuleDict())
    for node in list(graph.graph.nodes):
        if node in ranges.found and _is_stored(graph, node):
            _place_(graph, node, ranges.found[node], bits)
    for layer in layers:
        graph.get_submodule(layer.target).input_quantizer = nn.Identity()
    graph.graph.lint()
    graph.recompile()
    return graph.eval()


def is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is the call of a `QuantizedLayer`."""
    return isinstance(_module(graph, node), QuantizedLayer)


def is_quantizer(node: fx.Node) -> bool:
    """Whether a node is one of the quantizers that were placed."""
    return node.op == "call_module" and node.target.startswith(f"{QUANTIZERS}.")


def is_move(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only moves or selects values of its first argument."""
    return _is(graph, node, _MOVES, _MOVES_CALLS)


class _Tracer(fx.Tracer):
    """Quantized layers are not looked into."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, QuantizedLayer) or super().is_leaf_module(module, name)


def _trace(network: nn.Module) -> fx.GraphModule:
    network = copy.deepcopy(network).eval()
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except Exception as error:  # whatever its code stumbles over
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx ({error}); its forward must"
            " not depend on the values of tensors"
        ) from error
    module = fx.GraphModule(tracer.root, graph, type(network).__name__)
    for node in list(graph.nodes):
        if isinstance(_module(module, node), nn.Identity):  # what a folded batch norm has left
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return module


class _Ranges(fx.Interpreter):
    """Runs the graph and keeps the range of each tensor that has numbers to round."""

    def __init__(self, graph: fx.GraphModule, bits: int, find: Callable):
        super().__init__(graph)
        self.bits, self.find = bits, find
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        node.meta[PLAIN] = not tensors(result)
        moves = is_move(self.module, node) or node.op in ("output", "get_attr")
        if isinstance(result, Tensor) and result.is_floating_point() and not moves:
            # only where it will be asked for: some methods are slow
            stored = _is_stored(self.module, node) and _reader(self.module, node) is None
            self.found[node] = self.find(result, self.bits) if stored else None
        return result


def _is_stored(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the tensor is kept: not the network's output, nor what a fused operation takes."""
    users = list(node.users)
    if len(users) == 1 and _is(graph, users[0], _FUSED, _FUSED_CALLS):
        return False
    return not all(_is_output(graph, user) for user in users)


def _is_output(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "output":
        return True
    return is_move(graph, node) and all(_is_output(graph, u) for u in node.users)


def _reader(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The quantizer of the first layer that reads this tensor, or what only moves its values."""
    for user in node.users:
        if is_layer(graph, user):
            found = graph.get_submodule(user.target).input_quantizer
            if not isinstance(found, nn.Identity):
                return found
        elif is_move(graph, user):
            found = _reader(graph, user)
            if found is not None:
                return found
    return None


def _place_(graph: fx.GraphModule, node: fx.Node, found: Any, bits: int) -> None:
    """Everything that reads the node reads its quantizer instead."""
    quantizer = _reader(graph, node)
    if quantizer is None:
        quantizer = ActivationQuantizer(bits)
        quantizer.set_range(*found)
    graph.get_submodule(QUANTIZERS).add_module(f"after_{node.name}", quantizer)
    users = list(node.users)
    with graph.graph.inserting_after(node):
        target, name = f"{QUANTIZERS}.after_{node.name}", f"{node.name}_quantized"
        made = graph.graph.create_node("call_module", target, (node,), name=name)
    for user in users:
        user.replace_input_with(node, made)


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(node.target) if node.op == "call_module" else None


def _is(graph: fx.GraphModule, node: fx.Node, modules: tuple, calls: tuple) -> bool:
    """Whether a node is the call of one of these modules, functions or methods."""
    if node.op == "call_module":
        return isinstance(_module(graph, node), modules)
    return node.op in ("call_function", "call_method") and node.target in calls
