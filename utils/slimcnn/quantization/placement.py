"""A quantizer on every tensor between the layers, as a network of integers has it.

`quantize` rounds what the layers multiply. A phone also stores sums of branches, pooled values and
all else as integers of a few bits; here each of these gets a quantizer too, so that one network
stands for both: `slimcnn.quantization.inference` computes it with integers alone, and
`slimcnn.quantization.qdq` writes it for ONNX Runtime. Chapter 6 (Quantization: integers).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from slimcnn.data import normalize
from slimcnn.quantization.fake import ActivationQuantizer, BiasQuantizer
from slimcnn.quantization.graphs import (
    is_call,
    is_move,
    is_pool,
    is_selection,
    module_of,
    readers,
    source_of,
    trace,
)
from slimcnn.quantization.network import RANGES, QuantizedLayer, RangeName
from slimcnn.tracing import tensors, undisturbed

# What follows a layer or a sum and is computed with it, before anything is rounded.
_FUSED = (nn.ReLU, nn.ReLU6, nn.modules.batchnorm._BatchNorm)
_FUSED_CALLS = (F.relu, F.relu6, torch.relu, torch.relu_, "relu", "relu_")
# In the `meta` of a node: it gives no tensor, but sizes, say.
PLAIN = "plain"
QUANTIZERS = "tensor_quantizers"  # the module that holds them


def place_quantizers(
    network: nn.Module, images: Tensor, *, bits: int = 8, range: RangeName = "min-max"
) -> fx.GraphModule:
    """A copy of a quantized network in which every tensor between two operations is quantized.

    A tensor that a `QuantizedLayer` reads keeps the quantizer of that layer (of the first one, if
    there are several); all others get one of their own, those of which a layer reads a part with
    the layer's bits. A ReLU or a batch norm that alone reads what a layer or a sum gives is part of
    it, and the quantizer comes after it. What only the network's outputs need is not quantized. A
    bias is rounded to the unit of its layer's sums; not in a layer that reads tensors of several
    quantizers, since each has another unit.

    Args:
        network: from `quantize`, with one input; it is not changed.
        images: uint8 *training* images, (N, C, H, W), on which the other ranges are found.
        bits: of the other tensors, 2 to 16.
        range: how these ranges are found, as in `Scheme`.

    Returns:
        A graph of the operations (`torch.fx`), in eval mode; it can be evaluated and trained.

    Raises:
        ValueError: there are no images, or no `QuantizedLayer`; the network cannot be traced; an
            argument is out of range.

    Chapter 6, Quantization: integers.
    """
    if len(images) == 0:
        raise ValueError("there are no images; activations' ranges are found on some")
    if range not in RANGES:
        raise ValueError(f"range is {range!r}; allowed are {', '.join(map(repr, RANGES))}")
    graph = trace(network, (QuantizedLayer,))
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
            _place_(graph, node, ranges.found[node])
    _quantize_biases_(graph, layers)
    graph.graph.lint()
    graph.recompile()
    return graph.eval()


def is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is the call of a `QuantizedLayer`."""
    return isinstance(module_of(graph, node), QuantizedLayer)


def is_quantizer(node: fx.Node) -> bool:
    """Whether a node is one of the quantizers that were placed."""
    return node.op == "call_module" and node.target.startswith(f"{QUANTIZERS}.")


def placed(network: nn.Module) -> fx.GraphModule:
    """The network itself, if quantizers were placed in it.

    Raises:
        TypeError: they were not.
    """
    nodes = network.graph.nodes if isinstance(network, fx.GraphModule) else ()
    if not any(is_quantizer(node) for node in nodes):
        raise TypeError(
            f"a {type(network).__name__} has no quantizers between its layers; place them"
            " (slimcnn.quantization.place_quantizers)"
        )
    return network


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
            self.found[node] = None
            if _is_stored(self.module, node) and _reader(self.module, node) is None:
                bits = _bits(self.module, node, self.bits)
                self.found[node] = bits, self.find(result, bits)
        return result


def _is_stored(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the tensor is kept: not the network's output, nor what a fused operation takes."""
    found = readers(node)
    fused = node.op != "placeholder" and len(found) == 1
    if fused and is_call(graph, found[0], _FUSED, _FUSED_CALLS):
        return False
    return not all(_is_output(graph, user) for user in found)


def _is_output(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "output":
        return True
    return is_move(graph, node) and all(_is_output(graph, u) for u in readers(node))


def _reader(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The quantizer of the first layer that reads this tensor, or what only moves its values.

    A layer that reads a part has seen the range of that part alone. Behind a maximum pool that is
    the only reader it is as good: what is clipped there is clipped before it with the same result.
    """
    for user in readers(node):
        found = None
        if is_layer(graph, user):
            found = graph.get_submodule(user.target).input_quantizer
        elif is_move(graph, user):
            alone = is_pool(graph, user) and len(readers(node)) == 1
            if alone or not is_selection(graph, user):
                found = _reader(graph, user)
        if found is not None and not isinstance(found, nn.Identity):
            return found
    return None


def _bits(graph: fx.GraphModule, node: fx.Node, otherwise: int) -> int:
    """Of the first layer that reads this tensor or a part of it."""
    for user in readers(node):
        if is_layer(graph, user):
            otherwise = getattr(graph.get_submodule(user.target).input_quantizer, "bits", otherwise)
            return otherwise
        if is_move(graph, user):
            found = _bits(graph, user, 0)
            if found:
                return found
    return otherwise


def _quantize_biases_(graph: fx.GraphModule, layers: list[fx.Node]) -> None:
    """Each layer leaves its input to the quantizer in front of it, and rounds its bias by it."""
    read: dict[QuantizedLayer, dict[nn.Module, None]] = {}
    for node in layers:
        source = source_of(node)
        while is_move(graph, source):
            source = source_of(source)
        if is_quantizer(source):
            read.setdefault(module_of(graph, node), {})[module_of(graph, source)] = None
    for node in layers:
        module_of(graph, node).input_quantizer = nn.Identity()
    for layer, quantizers in read.items():
        if len(quantizers) == 1 and not isinstance(layer.weight_quantizer, nn.Identity):
            layer.bias_quantizer = BiasQuantizer(*quantizers)


def _place_(graph: fx.GraphModule, node: fx.Node, found: Any) -> None:
    """Everything that reads the node reads its quantizer instead."""
    quantizer = _reader(graph, node)
    if quantizer is None:
        bits, limits = found
        quantizer = ActivationQuantizer(bits).to(limits[0].device)
        quantizer.set_range(*limits)
    graph.get_submodule(QUANTIZERS).add_module(f"after_{node.name}", quantizer)
    users = list(node.users)
    with graph.graph.inserting_after(node):
        target, name = f"{QUANTIZERS}.after_{node.name}", f"{node.name}_quantized"
        made = graph.graph.create_node("call_module", target, (node,), name=name)
    for user in users:
        user.replace_input_with(node, made)
