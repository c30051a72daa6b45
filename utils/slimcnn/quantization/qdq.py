"""A quantized network as an ONNX file that runtimes compute with integers.

In the QDQ form each integer tensor is followed by a DequantizeLinear node, each stored result by a
QuantizeLinear node; a runtime fuses them with the operation between them into one of integers.
Weights are int8 in the file, biases int32. Chapter 6 (Quantization: integers).
"""

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from slimcnn.export import import_runtime, to_onnx
from slimcnn.quantization.graphs import PARTS, is_move, source_of
from slimcnn.quantization.network import QuantizedLayer, apply_layer
from slimcnn.quantization.placement import PLAIN, is_layer, is_quantizer, placed
from slimcnn.quantization.quantizers import Quantizer


def to_qdq_onnx(
    network: fx.GraphModule, example: Tensor, path: Path | str, dynamic_batch: bool = False
) -> Path:
    """Write a network of `place_quantizers` as a single ONNX file in QDQ form.

    Stored tensors become uint8 (int8 where their quantizer is signed), weights int8, in each case
    with the same scale and zero-point; fewer bits than 8 use a part of them. A bias becomes int32
    with the scale of its layer's sums, where the layer is one operation of ONNX (not of a linear
    layer on sequences, nor behind a padding of its own). ONNX Runtime computes such a file with
    integers.

    Args:
        network: its batch norms folded; it is not changed.
        example, path, dynamic_batch: as for `slimcnn.export.to_onnx`.

    Returns:
        The path.

    Raises:
        TypeError: the network has no placed quantizers.
        ValueError: a weight or a stored tensor has more than 8 bits; a bias needs more than 32.
        MissingRuntimeError, FileNotFoundError: as `slimcnn.export.to_onnx`.

    Chapter 6, Quantization: integers.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".float")
    try:
        to_onnx(_written(placed(network)), example, unfinished, dynamic_batch)
        onnx = import_runtime("onnx")
        proto = onnx.load(unfinished)
        _store_integers_(onnx, proto.graph)
        onnx.save(proto, unfinished)
        os.replace(unfinished, path)  # a failed export leaves an older file as it was
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _written(network: fx.GraphModule) -> fx.GraphModule:
    """A copy made of operations that the exporter knows.

    What only moves values is followed by their quantizer once more, since runtimes look for the
    pair right beside an operation; rounding twice changes nothing.
    """
    network = copy.deepcopy(network).cpu()
    written = copy.deepcopy(network)
    known: dict[fx.Node, Quantizer] = {}

    def put(node: fx.Node, module: nn.Module) -> None:
        node.target = f"{node.name}_written"  # one for each call
        written.add_submodule(node.target, module)

    for node in list(written.graph.nodes):
        if is_quantizer(node):
            known[node] = network.get_submodule(node.target).quantizer()
            put(node, _rounded(known[node]))
        elif is_layer(network, node):
            put(node, _Layer(network.get_submodule(node.target)))
        elif is_move(network, node) and source_of(node) in known and not node.meta[PLAIN]:
            known[node] = known[source_of(node)]
            if node.target not in PARTS:
                users = list(node.users)
                with written.graph.inserting_after(node):
                    again = written.graph.create_node("call_module", "", (node,))
                put(again, _rounded(known[node]))
                known[again] = known[node]
                for user in users:
                    user.replace_input_with(node, again)
    written.graph.lint()
    written.recompile()
    return written


class _Rounded(nn.Module):
    """QuantizeLinear and DequantizeLinear.

    Args:
        scale, zero_point: scalars, or one for each index of the first dimension.
        signed: int8, else uint8.
        bounds: real ones, where fewer than all integers of the type are used.
    """

    def __init__(
        self, scale: Tensor, zero_point: Tensor, signed: bool, bounds: tuple | None = None
    ):
        super().__init__()
        self.register_buffer("scale", scale.detach().float())
        self.register_buffer("zero_point", zero_point.to(torch.int8 if signed else torch.uint8))
        self.bounds = bounds

    def forward(self, x: Tensor) -> Tensor:
        if self.bounds is not None:
            x = x.clamp(*self.bounds)
        kind, constants = self.zero_point.dtype, (self.scale, self.zero_point)
        if torch.__version__ >= (2, 8):
            attributes = {"axis": 0} if self.scale.ndim else {}
            node = partial(torch.onnx.ops.symbolic, attrs=attributes, shape=x.shape)
            q = node("QuantizeLinear", (x, *constants), dtype=kind)
            return node("DequantizeLinear", (q, *constants), dtype=x.dtype)
        # the older exporter knows PyTorch's own operation
        low, high = torch.iinfo(kind).min, torch.iinfo(kind).max
        constants = (self.scale, self.zero_point.int())
        if self.scale.ndim:
            return torch.fake_quantize_per_channel_affine(x, *constants, 0, low, high)
        return torch.fake_quantize_per_tensor_affine(x, *constants, low, high)


def _rounded(quantizer: Quantizer) -> _Rounded:
    """The one for a tensor between layers."""
    low, high = quantizer.low, quantizer.high
    signed = low < 0
    full = (-128, 127) if signed else (0, 255)
    _check_type(low, high, full)
    bounds = None
    if (low, high) != full:
        bounds = tuple(quantizer.dequantize(torch.tensor([low, high])).tolist())
    return _Rounded(quantizer.scale, quantizer.zero_point, signed, bounds)


class _Layer(nn.Module):
    """A layer whose weight is dequantized integers."""

    def __init__(self, module: QuantizedLayer):
        super().__init__()
        self.layer = module.layer
        integers, scale = module.weight_quantizer.integers(module.layer.weight)
        _check_type(int(integers.min()), int(integers.max()), (-128, 127))
        shape = (-1, *[1] * (integers.ndim - 1)) if scale.ndim else ()
        self.register_buffer("weight", integers * scale.float().view(shape))
        self.rounded = _Rounded(scale, torch.zeros_like(scale), signed=True)

    def forward(self, x: Tensor) -> Tensor:
        return apply_layer(self.layer, x, self.rounded(self.weight), self.layer.bias)


def _check_type(low: int, high: int, allowed: tuple[int, int]) -> None:
    if low < allowed[0] or high > allowed[1]:
        raise ValueError(f"integers from {low} to {high} do not fit 8 bits; use at most 8 bits")


def _store_integers_(onnx: Any, graph: Any) -> None:
    """Weights that the graph quantizes become the integers themselves; biases, too.

    Each layer gets integers, scale and zero-point of its own, also where a layer is used twice:
    ONNX Runtime changes them where it makes int8 weights uint8.
    """
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}

    def put(node: Any, place: int, what: str, x: np.ndarray, scale: np.ndarray, zero: Any) -> None:
        """Input number `place` of a node becomes DequantizeLinear of integers."""
        name = f"{node.output[0]}_{what}"
        integers = _integers(x, scale, zero.dtype)
        parts = {"integers": integers, "scale": scale.astype(np.float32)}
        if zero.dtype != np.int32:  # which has none
            parts["zero_point"] = zero
        inputs = [f"{name}_{part}" for part in parts]
        for given, array in zip(inputs, parts.values(), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(array, given))
        options = {"axis": 0} if scale.ndim else {}
        made = onnx.helper.make_node("DequantizeLinear", inputs, [name], **options)
        graph.node.insert(list(graph.node).index(node), made)
        node.input[place] = name

    def dequantized(name: str) -> Any:
        """The DequantizeLinear node that makes a tensor, if one does."""
        node = made_by.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    for node in [n for n in graph.node if n.op_type in ("Conv", "Gemm")]:
        x, weight = (dequantized(name) for name in node.input[:2])
        if weight is None:
            continue  # a layer that is not quantized
        rounded = made_by[weight.input[0]]  # QuantizeLinear of what the integers stand for
        values, scale, zero = (constants[name] for name in rounded.input)
        put(node, 1, "weight", values, scale, zero)
        if len(node.input) == 3 and x is not None and node.input[2] in constants:
            bias = constants[node.input[2]]
            scale = constants[x.input[1]].astype(np.float64) * np.broadcast_to(scale, bias.shape)
            put(node, 2, "bias", bias, scale, np.int32(0))
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear"]:
        if node.input[0] in constants:  # of layers that became another operation, such as MatMul
            x, scale, zero = (constants[name] for name in node.input)
            integers = _integers(x, scale, zero.dtype)
            graph.initializer.append(onnx.numpy_helper.from_array(integers, node.output[0]))
            graph.node.remove(node)
    _drop_unused_(graph)


def _integers(x: np.ndarray, scale: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Rounded multiples of a scale, or of one for each index of the first dimension."""
    found = np.round(x / (scale.reshape(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale))
    if found.size and np.abs(found).max() > np.iinfo(kind).max:
        raise ValueError(f"an integer is {np.abs(found).max():.0f}, more than {kind} holds")
    return found.astype(kind)


def _drop_unused_(graph: Any) -> None:
    """Nodes and constants that nothing reads any more."""
    kept: set[str] = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):  # they are in the order of their computation
        if kept.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            kept.update(node.input)
    for tensor in list(graph.initializer):
        if tensor.name not in kept:
            graph.initializer.remove(tensor)
