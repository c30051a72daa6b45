"""Follow the channels of any network through one forward pass.

The network is run once on an example, and every function that it calls is seen, with its
arguments, before it happens (PyTorch's `TorchFunctionMode`). A rule for each kind of
function says what it does to the labels of its inputs (`labels`), and notes which slices
of which weights belong to which channel. A function without a rule stops the analysis and
is named: a network is either understood or left alone.

Depthwise and grouped convolutions follow Fang et al., DepGraph, 2023 (arXiv:2301.12900),
in what must go together; how it is found here is by labels, not by a graph of layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from slimcnn.pruning.labels import FIXED, Ties, along, compact
from slimcnn.pruning.layer_rules import LAYER_RULES
from slimcnn.pruning.rules import MEETS_VECTORS, RULES, SIMPLE, Call, fixed, plain_name, spread
from slimcnn.tracing import ModelInput, example_inputs, named_tensors, undisturbed

ALL_RULES = RULES | LAYER_RULES
_SIZES = ("shape", "size", "numel", "nelement", "stride")


class UnprunableError(RuntimeError):
    """The network does something through which its channels cannot be followed."""


@dataclass
class Slices:
    """One dimension of one tensor of the network: index i belongs to channel `labels[i]`.

    Attributes:
        tensor: its name, as in `named_parameters` and `named_buffers`.
        dim: the dimension that channels index.
        role: "producer" (filters and biases), "consumer" (the inputs of a filter), "norm"
            (scale and shift) or "statistic" (running mean and variance, divisors).
        labels: shape (size of `dim`,).
    """

    tensor: str
    dim: int
    role: str
    labels: Tensor


@dataclass
class Trace:
    """What one forward pass says about the channels.

    Attributes:
        slices: by (tensor, dim).
        ties: which labels are one.
        positions: for each weight of a convolution or linear layer, at how many positions
            its numbers are used: MACs = positions · numbers in the weight.
        simple: the network's code has called no function that can write a number of channels
            down, as `view` and slicing can.
    """

    slices: dict[tuple[str, int], Slices] = field(default_factory=dict)
    ties: Ties = field(default_factory=Ties)
    positions: dict[str, int] = field(default_factory=dict)
    simple: bool = True


def trace(model: nn.Module, example: ModelInput) -> Trace:
    """Run `model` on `example` in eval mode and follow its channels; the model is unchanged.

    Raises:
        UnprunableError: a function has no rule; the message names it and the module.
    """
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise UnprunableError("a scripted module hides what it calls; give the original module")
    inputs = example_inputs(model, example)
    tracer = _Tracer(model)
    with undisturbed(model), tracer.watch_modules():
        tracer.run(inputs)
        if any(id(parameter) not in tracer.seen for parameter in model.parameters()):
            # Layers that only training runs (auxiliary classifiers) read channels, too.
            for module in model.modules():
                module.training = not isinstance(module, (_NormBase, _DropoutNd))
            positions = dict(tracer.trace.positions)
            try:
                tracer.run(inputs)
            except UnprunableError:
                raise
            except Exception:
                pass  # it wants other inputs (targets); then there is nothing to follow
            tracer.trace.positions = positions  # what inference costs
    return tracer.trace


class _Tracer(TorchFunctionMode):
    """Carries the labels of every activation while the model runs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.trace = Trace()
        # Activations die as in any forward pass, and their labels with them.
        self.labels: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self.where: list[str] = []
        self.seen: set[int] = set()

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        """Follow one forward pass; inputs and outputs keep their channels."""
        for tensor in inputs:
            self.labels[tensor] = fixed(tensor.shape)
        with self:
            output = self.model(*inputs)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf in self.labels:
                self.trace.ties.fix(self.labels[leaf])

    def watch_modules(self):
        """Know which module is running, for messages."""
        return _ModuleNames(self.model, self.where)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self.seen.update(id(t) for t in tensors)
        known = [t for t in tensors if t in self.labels]
        rule = ALL_RULES.get(plain_name(func))
        if not known and rule in MEETS_VECTORS:
            known = [t for t in tensors if self._label_vector(t)]
        # In-place functions change a tensor, so the labels of the inputs are taken before.
        before = [self.labels[t] for t in known]
        result = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not outputs:
            # Code that asks for sizes may decide by them.
            self.trace.simple &= not known or plain_name(func) not in _SIZES
            if known and plain_name(func) == "setitem":
                self.refuse(func)
            return result
        if not known:
            # Made from weights alone (or from nothing, which stays unlabelled).
            if any(id(t) in self.names for t in tensors):
                self._set(outputs, [fixed(t.shape) for t in outputs])
            return result
        if rule is not None:
            self.trace.simple &= plain_name(func) in SIMPLE or rule in LAYER_RULES.values()
            call = Call(self, func, args, kwargs, outputs)
            try:
                self._set(outputs, rule(call))
            except UnprunableError:
                raise
            except Exception as error:
                self.refuse(func, f"its rule does not know this use of it ({error})")
        elif all(bool((compact(labels) <= FIXED).all()) for labels in before):
            self._set(outputs, [fixed(t.shape) for t in outputs])
        else:
            self.refuse(func)
        return result

    def module(self) -> nn.Module:
        """The innermost module that is running."""
        return self.model.get_submodule(self.where[-1]) if self.where else self.model

    def _label_vector(self, tensor: Tensor) -> bool:
        """Label a weight or buffer that is a vector, whatever its dimensions of size 1.

        The network reshapes it or computes something of it before it meets an activation, to
        whose channels its own are tied then.
        """
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if id(tensor) not in self.names or len(long) != 1:
            return False
        ids = self.trace.ties.fresh(tensor.shape[long[0]])
        self.labels[tensor] = spread(ids, long[0], tensor.shape)
        role = "norm" if isinstance(tensor, nn.Parameter) else "statistic"
        self.note(tensor, long[0], role, ids)
        return True

    def _set(self, outputs: list[Tensor], labels: list[Tensor]) -> None:
        for tensor, label in zip(outputs, labels, strict=True):
            if tensor.shape != label.shape:
                raise AssertionError(f"labels {tuple(label.shape)} for {tuple(tensor.shape)}")
            self.labels[tensor] = label

    def refuse(
        self, func: Callable, why: str = "no rule says what it does to channels"
    ) -> NoReturn:
        try:
            name = resolve_name(func) or plain_name(func)
        except Exception:  # resolve_name fails on some builtins
            name = plain_name(func)
        place = f" in module {self.where[-1]!r}" if self.where and self.where[-1] else ""
        raise UnprunableError(f"{name}{place}: {why}; the network is left as it was")

    def note(self, tensor: Tensor | None, dim: int, role: str, labels: Tensor) -> None:
        """Index i of dimension `dim` of this weight or buffer belongs to channel labels[i]."""
        slices, ties = self.trace.slices, self.trace.ties
        if tensor is None:
            return
        if id(tensor) not in self.names:
            if tensor in self.labels:  # computed from a weight
                ties.tie(along(self.labels[tensor], dim, ties), labels)
            else:  # a constant, which cannot be cut
                ties.fix(labels)
            return
        name = self.names[id(tensor)]
        if (name, dim) in slices:  # a shared weight: both uses speak of the same channels
            ties.tie(slices[name, dim].labels, labels)
        else:
            slices[name, dim] = Slices(name, dim, role, labels.clone())


class _ModuleNames:
    """Keeps the stack of the names of the modules that are running."""

    def __init__(self, model: nn.Module, stack: list[str]):
        self._model, self._stack = model, stack

    def __enter__(self) -> None:
        self._handles = []
        for name, module in self._model.named_modules():
            enter = module.register_forward_pre_hook(self._enter(name), prepend=True)
            self._handles += [enter, module.register_forward_hook(self._leave)]

    def _enter(self, name: str) -> Callable:
        return lambda *_: self._stack.append(name)

    def _leave(self, *_: object) -> None:
        self._stack.pop()  # and return None: anything else would replace the output

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
