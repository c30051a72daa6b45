"""Networks as graphs of their operations, by torch.fx, and what kinds of operations there are.

Chapter 6 (Quantization: integers).
"""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

# What only moves values, so that each stays what it is.
_MOVING_MODULES = (nn.Flatten, nn.ChannelShuffle, nn.modules.dropout._DropoutNd)
_MOVING_FUNCTIONS = (
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze),
    torch.unsqueeze,
)
_MOVING_METHODS = (
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze"),
    "contiguous",
)
# What selects some of them: a part of a tensor, or the largest of a window.
PARTS = (torch.chunk, torch.split, "chunk", "split")  # several tensors
_SELECTING_MODULES = (nn.MaxPool2d,)
_SELECTING_FUNCTIONS = (operator.getitem, F.max_pool2d)
FUNCTIONS_OF_INTEGERS = (*_MOVING_FUNCTIONS, *(p for p in PARTS if callable(p)), operator.getitem)
METHODS_OF_INTEGERS = (*_MOVING_METHODS, *(p for p in PARTS if isinstance(p, str)))
_SIZES = ("size", "dim", "numel")
_ATTRIBUTES = ("shape", "ndim", "dtype", "device")


def trace(network: nn.Module, leaves: tuple[type, ...] = ()) -> fx.GraphModule:
    """A copy of a network in eval mode, as a graph of its operations.

    `nn.Identity` is left out, and what reads a tensor after an operation in place reads the
    operation's result: then no operation changes what another one has given.

    Args:
        network: it is not changed.
        leaves: modules that are not looked into, beside those of PyTorch.

    Raises:
        ValueError: its forward depends on the values of tensors.
    """
    network = copy.deepcopy(network).eval()

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, leaves) or super().is_leaf_module(module, name)

    tracer = Tracer()
    try:
        graph = tracer.trace(network)
    except Exception as error:  # whatever its code stumbles over
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx ({error}); its forward must"
            " not depend on the values of tensors"
        ) from error
    traced = fx.GraphModule(tracer.root, graph, type(network).__name__)
    for node in list(graph.nodes):
        if isinstance(module_of(traced, node), nn.Identity):  # what a folded batch norm has left
            node.replace_all_uses_with(source_of(node))
            graph.erase_node(node)
    _read_results_of_in_place_operations_(traced)
    traced.recompile()
    return traced


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return graph.get_submodule(node.target) if node.op == "call_module" else None


def source_of(node: fx.Node) -> fx.Node | None:
    """The first argument of a call, under whatever name."""
    return node.args[0] if node.args else node.kwargs.get("input")


def is_call(graph: fx.GraphModule, node: fx.Node, modules: tuple, calls: tuple) -> bool:
    """Whether a node is the call of one of these modules, functions or methods."""
    if node.op == "call_module":
        return isinstance(module_of(graph, node), modules)
    return node.op in ("call_function", "call_method") and node.target in calls


def is_selection(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives some values of its first argument as they are."""
    return is_call(graph, node, _SELECTING_MODULES, (*PARTS, *_SELECTING_FUNCTIONS))


def is_pool(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives the largest value of each window."""
    return is_call(graph, node, (nn.MaxPool2d,), (F.max_pool2d,))


def is_move(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only moves values of its first argument, or selects some."""
    moving = (*_MOVING_FUNCTIONS, *_MOVING_METHODS, F.dropout)
    return is_call(graph, node, _MOVING_MODULES, moving) or is_selection(graph, node)


def readers(node: fx.Node) -> list[fx.Node]:
    """What reads the values of a node, not its size alone."""
    return [user for user in node.users if not _asks_for_size(user)]


def _asks_for_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SIZES
    return node.op == "call_function" and node.target is getattr and node.args[1] in _ATTRIBUTES


def _read_results_of_in_place_operations_(traced: fx.GraphModule) -> None:
    place = {node: index for index, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        source = source_of(node)
        if isinstance(source, fx.Node) and _works_in_place(traced, node):
            for user in list(source.users):
                if place[user] > place[node]:
                    user.replace_input_with(source, node)


def _works_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(module_of(traced, node), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    flag = node.kwargs.get("inplace", len(node.args) > 1 and node.args[-1] is True)
    return bool(flag) or (name.endswith("_") and not name.endswith("__"))
