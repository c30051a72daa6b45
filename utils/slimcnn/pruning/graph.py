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
from functools import cache
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from slimcnn.pruning.labels import (
    FIXED,
    NONE,
    Ties,
    along,
    compact,
    constant_dims_expanded,
    varying_dims,
)
from slimcnn.tracing import ModelInput, example_inputs, undisturbed


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
    """

    slices: dict[tuple[str, int], Slices] = field(default_factory=dict)
    ties: Ties = field(default_factory=Ties)
    positions: dict[str, int] = field(default_factory=dict)


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
            tracer.run(inputs)
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
        self.names = {id(t): n for n, t in model.named_buffers()}
        self.names |= {id(t): n for n, t in model.named_parameters()}
        self.where: list[str] = []
        self.seen: set[int] = set()

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        """Follow one forward pass; inputs and outputs keep their channels."""
        for tensor in inputs:
            self.labels[tensor] = _fixed(tensor.shape)
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
        rule = _rules().get(_name(func))
        if not known and rule in (_unary, _elementwise, _move, _view, _cut):
            known = [t for t in tensors if self._label_vector(t)]
        # In-place functions change a tensor, so the labels of the inputs are taken before.
        before = [self.labels[t] for t in known]
        result = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not outputs:
            if known and _name(func) == "setitem":
                self._refuse(func)
            return result
        if not known:
            # Made from weights alone (or from nothing, which stays unlabelled).
            if any(id(t) in self.names for t in tensors):
                self._set(outputs, [_fixed(t.shape) for t in outputs])
            return result
        if rule is not None:
            call = _Call(self, func, args, kwargs, outputs)
            try:
                self._set(outputs, rule(call))
            except UnprunableError:
                raise
            except Exception as error:
                self._refuse(func, f"its rule does not know this use of it ({error})")
        elif all(bool((compact(labels) <= FIXED).all()) for labels in before):
            self._set(outputs, [_fixed(t.shape) for t in outputs])
        else:
            self._refuse(func)
        return result

    def _label_vector(self, tensor: Tensor) -> bool:
        """Label a weight or buffer that is a vector, whatever its dimensions of size 1.

        The network reshapes it or computes something of it before it meets an activation, to
        whose channels its own are tied then.
        """
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if id(tensor) not in self.names or len(long) != 1:
            return False
        ids = self.trace.ties.fresh(tensor.shape[long[0]])
        self.labels[tensor] = _spread(ids, long[0], tensor.shape)
        role = "norm" if isinstance(tensor, nn.Parameter) else "statistic"
        self.note(tensor, long[0], role, ids)
        return True

    def _set(self, outputs: list[Tensor], labels: list[Tensor]) -> None:
        for tensor, label in zip(outputs, labels, strict=True):
            if tensor.shape != label.shape:
                raise AssertionError(f"labels {tuple(label.shape)} for {tuple(tensor.shape)}")
            self.labels[tensor] = label

    def _refuse(
        self, func: Callable, why: str = "no rule says what it does to channels"
    ) -> NoReturn:
        try:
            name = resolve_name(func) or _name(func)
        except Exception:  # resolve_name fails on some builtins
            name = _name(func)
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


@dataclass
class _Call:
    """One call of one function, as its rule sees it."""

    tracer: _Tracer
    func: Callable
    args: tuple
    kwargs: dict
    outputs: list[Tensor]

    @property
    def ties(self) -> Ties:
        return self.tracer.trace.ties

    @property
    def shape(self) -> torch.Size:
        return self.outputs[0].shape

    def get(self, index: int, name: str, default: Any = None) -> Any:
        if len(self.args) > index:
            return self.args[index]
        return self.kwargs.get(name, default)

    def labels(self, tensor: Tensor) -> Tensor:
        """Labels of an activation; `NONE` for what never had any."""
        found = self.tracer.labels.get(tensor)
        return torch.tensor(NONE).expand(tensor.shape) if found is None else found

    def on_labels(self, only: Tensor | None = None) -> list[Tensor]:
        """The function itself, run on the labels of its tensors, or of one of them only."""

        def replaced(value: Any) -> Any:
            if not isinstance(value, Tensor) or (only is not None and value is not only):
                return value
            if value in self.tracer.labels:
                return self.tracer.labels[value]
            return _fixed(value.shape) if value.is_floating_point() else value  # or an index

        with torch._C.DisableTorchFunction():
            args, kwargs = tree_map(replaced, (self.args, self.kwargs))
            result = self.func(*args, **kwargs)
        leaves = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        return [constant_dims_expanded(t) for t in leaves]

    def refuse(self, why: str) -> NoReturn:
        self.tracer._refuse(self.func, why)


def _fixed(shape: torch.Size) -> Tensor:
    return torch.tensor(FIXED).expand(shape)


def _spread(ids: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Labels of a given shape that change along `dim` only."""
    view = [1] * len(shape)
    view[dim] = -1
    return ids.view(view).expand(shape)


# --- rules: (call) -> labels of the outputs ---------------------------------------------------


def _unary(call: _Call) -> list[Tensor]:
    """Each output number comes of the input number in its place."""
    labels = call.labels(call.get(0, "input"))
    return [labels.expand(out.shape) for out in call.outputs]


def _elementwise(call: _Call) -> list[Tensor]:
    """Numbers that meet are of one channel; a weight or buffer that meets them follows."""
    shape = call.shape
    tensors = [t for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
    known = [t for t in tensors if t in call.tracer.labels]
    wide = {d for t in known for d in varying_dims(call.labels(t).expand(shape))}
    result = torch.tensor(NONE).expand(shape)
    for tensor in known:
        labels = call.labels(tensor)
        sizes = [1] * (len(shape) - tensor.ndim) + list(tensor.shape)
        if wide and all(sizes[dim] == 1 for dim in wide):
            call.ties.fix(labels)  # one channel meets many: they do without each other, not it
            continue
        small = compact(labels.expand(shape))
        call.ties.tie(compact(result), small)
        a, b = torch.broadcast_tensors(compact(result), small)
        result = torch.where(a == NONE, b, a)
        for dim, size in enumerate(shape):
            if result.shape[dim] != size:
                result = result.narrow(dim, 0, 1)
        result = result.expand(shape)
    # A weight that is zero must not become a divisor.
    role = "statistic" if _name(call.func) in _DIVISION else "norm"
    for tensor in tensors:
        offset = len(shape) - tensor.ndim
        for dim, size in enumerate(tensor.shape):
            if tensor not in call.tracer.labels and size > 1 and dim + offset in wide:
                call.tracer.note(tensor, dim, role, along(result, dim + offset, call.ties))
    return [result.expand(out.shape) for out in call.outputs]


def _move(call: _Call) -> list[Tensor]:
    """The numbers move and none is lost: views, permutations, concatenation."""
    return call.on_labels()


def _cut(call: _Call) -> list[Tensor]:
    """Some numbers are taken: channels that are counted out by position must stay."""
    source = call.get(0, "input")
    outputs = call.on_labels(only=source)
    order = compact(call.labels(source)).flatten()
    if any(not torch.equal(compact(labels).flatten(), order) for labels in outputs):
        for tensor in tree_leaves((call.args, call.kwargs)):
            if isinstance(tensor, Tensor):  # the source, and an index that was computed
                call.ties.fix(call.labels(tensor))
    return outputs


def _chunk(call: _Call) -> list[Tensor]:
    """Equal parts: channels at the same place of each part go together, so parts stay equal."""
    outputs = call.on_labels()
    equal = len({labels.shape for labels in outputs}) == 1
    if not equal or len(outputs) != call.get(1, "chunks"):
        return _cut(call)
    for labels in outputs[1:]:
        call.ties.tie(compact(outputs[0]), compact(labels))
    return outputs


def _glu(call: _Call) -> list[Tensor]:
    """The second half gates the first: channels at the same place of both go together."""
    first, second = call.labels(call.get(0, "input")).chunk(2, call.get(1, "dim", -1))
    call.ties.tie(compact(first), compact(second))
    return [constant_dims_expanded(first)]


def _view(call: _Call) -> list[Tensor]:
    """A view that splits the channels into (parts, rest) keeps its parts equal."""
    source = call.labels(call.get(0, "input"))
    labels = constant_dims_expanded(source.reshape(call.shape))
    before, dims = varying_dims(source), varying_dims(labels)
    if len(dims) > 1 and len(dims) > len(before):
        sizes = [s for s in tree_leaves((call.args[1:], call.kwargs)) if isinstance(s, int)]
        free_parts = len(sizes) == len(call.shape) and sizes[dims[0]] == -1
        _tie_parts(call, labels, dims[1:] if free_parts else dims[:1])
    return [labels]


def _channel_shuffle(call: _Call) -> list[Tensor]:
    parts = call.labels(call.get(0, "input")).unflatten(1, (call.get(1, "groups"), -1))
    _tie_parts(call, parts, [1])
    return call.on_labels()


def _tie_parts(call: _Call, labels: Tensor, dims: list[int]) -> None:
    """What differs only along these dimensions goes together."""
    first = small = compact(labels)
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    call.ties.tie(small, first)


def _pixel_shuffle(call: _Call) -> list[Tensor]:
    """The channels that become one channel go together."""
    outputs = call.on_labels()
    along(outputs[0], outputs[0].ndim - 3, call.ties)
    return outputs


def _pad(call: _Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    padding = list(call.get(1, "pad"))
    padded = {source.ndim - 1 - i // 2 for i, p in enumerate(padding) if p}
    if padded & set(varying_dims(source)):
        call.ties.fix(source)  # a number of channels is written down in the padding
        return [_fixed(call.shape)]
    return [compact(source).expand(call.shape)]


def _spatial(call: _Call) -> list[Tensor]:
    """Pooling and resizing: each channel on its own, the dimensions before space are kept."""
    source = call.get(0, "input")
    for tensor in tree_leaves((call.args, call.kwargs)):
        if isinstance(tensor, Tensor) and tensor is not source:  # the grid of `grid_sample`
            call.ties.fix(call.labels(tensor))
    ids = along(call.labels(source), 1, call.ties)
    return [_spread(ids, 1, out.shape) for out in call.outputs]


def _reduce(call: _Call) -> list[Tensor]:
    """A mean, sum or maximum over dimensions; over channels it needs all of them."""
    source = call.labels(call.get(0, "input"))
    dims = call.get(1, "dim")
    if isinstance(dims, Tensor):  # torch.max(a, b) is elementwise
        return _elementwise(call)
    if dims is None or isinstance(dims, bool):  # a bool is the correction of `var` and `std`
        dims = list(range(source.ndim))
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(source.ndim))
    dims = {d % source.ndim for d in dims}
    if dims & set(varying_dims(source)):
        return _mix(call)
    keep = call.shape if len(call.shape) == source.ndim else None
    small = compact(source)
    if keep is None:
        for dim in sorted(dims, reverse=True):
            small = small.narrow(dim, 0, 1).squeeze(dim)
    else:
        for dim in dims:
            small = small.narrow(dim, 0, 1)
    return [small.expand(out.shape) for out in call.outputs]


def _mix(call: _Call) -> list[Tensor]:
    """Every output number depends on all channels: none can go."""
    for tensor in tree_leaves((call.args, call.kwargs)):
        if isinstance(tensor, Tensor) and tensor in call.tracer.labels:
            call.ties.fix(call.labels(tensor))
    return [_fixed(out.shape) for out in call.outputs]


def _softmax(call: _Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    dim = call.get(1, "dim")
    if dim is not None and dim % source.ndim not in varying_dims(source):
        return _unary(call)
    return _mix(call)


def _norm_over_channels(call: _Call) -> NoReturn:
    call.refuse(
        "it normalizes over channels, so a removed channel would change all others"
        " (use batch norm, or leave this network whole)"
    )


def _batch_norm(call: _Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    ids = along(source, 1, call.ties)
    names = ("running_mean", "running_var", "weight", "bias")
    for index, name in enumerate(names, start=1):
        role = "statistic" if index <= 2 else "norm"
        call.tracer.note(call.get(index, name), 0, role, ids)
    return [_spread(ids, 1, call.shape)]


def _prelu(call: _Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    weight = call.get(1, "weight")
    if weight.numel() > 1:
        call.tracer.note(weight, 0, "norm", along(source, 1, call.ties))
    return [source]


def _weight_of(call: _Call) -> Tensor:
    weight = call.get(1, "weight")
    if id(weight) not in call.tracer.names:
        call.refuse(
            "its weight is not a parameter but computed from one (a mask or another"
            " parametrization); make it permanent first, with `slimcnn.pruning.finalize`"
        )
    return weight


def _linear(call: _Call) -> list[Tensor]:
    source, weight = call.labels(call.get(0, "input")), _weight_of(call)
    call.tracer.note(weight, 1, "consumer", along(source, source.ndim - 1, call.ties))
    ids = call.ties.fresh(weight.shape[0])
    call.tracer.note(weight, 0, "producer", ids)
    call.tracer.note(call.get(2, "bias"), 0, "producer", ids)
    _count_positions(call, weight, prod(call.shape[:-1]))
    return [_spread(ids, len(call.shape) - 1, call.shape)]


def _convolution(call: _Call) -> list[Tensor]:
    """Filters (O, I/g, ...) or, transposed, (I, O/g, ...): channels in, channels out."""
    transposed = _name(call.func).startswith("conv_transpose")
    source, weight = call.labels(call.get(0, "input")), _weight_of(call)
    groups = call.get(6, "groups", 1)
    channel_dim = source.ndim - (weight.ndim - 1)  # 1, or 0 without a batch
    inputs = along(source, channel_dim, call.ties)
    count = call.shape[channel_dim]
    outputs = call.ties.fresh(count)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    depthwise = groups > 1 and len(inputs) == groups
    if groups > 1:
        # One channel of each group goes at a time, so that the groups stay equal; where a
        # group has a single input, the group itself goes.
        by_group = outputs.view(groups, -1)
        if depthwise:
            call.ties.tie(by_group, inputs[:, None])
        else:
            in_groups = inputs.view(groups, -1)
            call.ties.tie(in_groups, in_groups[:1])
            call.ties.tie(by_group, by_group[:1])
    note = call.tracer.note
    if transposed:
        note(weight, in_dim, "producer" if depthwise else "consumer", inputs)
        if not depthwise:
            note(weight, out_dim, "producer", outputs[: weight.shape[1]])
    else:
        note(weight, out_dim, "producer", outputs)
        if not depthwise:
            note(weight, in_dim, "consumer", inputs[: weight.shape[1]])
    note(call.get(2, "bias"), 0, "producer", outputs)
    shape = call.get(0, "input").shape if transposed else call.shape
    _count_positions(call, weight, prod(shape) // shape[channel_dim])
    return [_spread(outputs, channel_dim, call.shape)]


def _count_positions(call: _Call, weight: Tensor, positions: int) -> None:
    name = call.tracer.names[id(weight)]
    counted = call.tracer.trace.positions
    counted[name] = counted.get(name, 0) + positions


_UNARY = """relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid logsigmoid tanh hardtanh
hardswish hardsigmoid hardshrink softplus softsign tanhshrink softshrink threshold clamp clip
abs neg exp expm1 log log1p sqrt rsqrt square reciprocal sign sin cos erf round floor ceil positive
dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout clone contiguous detach to float
double half bfloat16 cpu type_as requires_grad nan_to_num logical_not zeros_like ones_like full_like
fake_quantize_per_tensor_affine rrelu quantize_per_tensor data"""
_ELEMENTWISE = """add radd iadd sub rsub isub mul rmul imul div rdiv truediv rtruediv idiv itruediv
pow rpow maximum minimum where lerp addcmul addcdiv gt ge lt le eq ne masked_fill logical_and
logical_or subtract multiply divide true_divide fmod remainder atan2 and or floordiv"""
_DIVISION = ("div", "idiv", "truediv", "itruediv", "true_divide", "divide", "fmod", "remainder")
_MOVE = """permute transpose swapaxes movedim squeeze unsqueeze cat concat concatenate stack expand
expand_as pixel_unshuffle flip repeat t T mT tile"""
_VIEW = "view reshape flatten unflatten view_as reshape_as"
_CUT = """getitem narrow select split split_with_sizes tensor_split unbind index_select gather
take_along_dim hsplit vsplit roll"""
_SPATIAL = """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
lp_pool1d lp_pool2d interpolate upsample upsample_nearest upsample_bilinear fractional_max_pool2d
max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices grid_sample"""
_REDUCE = "mean sum amax amin max min var std norm logsumexp prod all any"
_MIX = """matmul rmatmul mm bmm einsum baddbmm addmm scaled_dot_product_attention argmax argmin topk
sort argsort normalize cosine_similarity cumsum kthvalue dot"""


@cache
def _rules() -> dict[str, Callable[[_Call], list[Tensor]]]:
    rules: dict[str, Callable[[_Call], list[Tensor]]] = {}
    for names, rule in (
        (_UNARY, _unary),
        (_ELEMENTWISE, _elementwise),
        (_MOVE, _move),
        (_VIEW, _view),
        (_CUT, _cut),
        ("chunk", _chunk),
        ("glu", _glu),
        ("channel_shuffle native_channel_shuffle", _channel_shuffle),
        ("pixel_shuffle", _pixel_shuffle),
        ("pad", _pad),
        (_SPATIAL, _spatial),
        (_REDUCE, _reduce),
        (_MIX, _mix),
        ("softmax log_softmax softmin", _softmax),
        ("group_norm layer_norm rms_norm local_response_norm", _norm_over_channels),
        ("batch_norm instance_norm", _batch_norm),
        ("prelu", _prelu),
        ("linear", _linear),
        ("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", _convolution),
    ):
        rules |= dict.fromkeys(names.split(), rule)
    return rules


def _name(func: Callable) -> str:
    """The plain name of a function or method: `Tensor.add_` and `torch.add` are "add"."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property of tensors
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")
