"""What each function does to the labels of its inputs: one rule for each kind of function.

A rule gets a `Call` and returns the labels of its outputs. Functions that move numbers are
run on the labels themselves; those that let channels meet tie them; those that mix
channels, or count them out by position, fix them. `graph` applies the rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from slimcnn.pruning.labels import (
    FIXED,
    NONE,
    Ties,
    along,
    compact,
    constant_dims_expanded,
    varying_dims,
)


def plain_name(func: Callable) -> str:
    """The plain name of a function or method: `Tensor.add_` and `torch.add` are "add"."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property of tensors
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


@dataclass
class Call:
    """One call of one function, as its rule sees it."""

    tracer: Any  # the `graph.Tracer` that saw the call
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
            return fixed(value.shape) if value.is_floating_point() else value  # or an index

        with torch._C.DisableTorchFunction():
            args, kwargs = tree_map(replaced, (self.args, self.kwargs))
            result = self.func(*args, **kwargs)
        leaves = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        return [constant_dims_expanded(t) for t in leaves]

    def refuse(self, why: str) -> NoReturn:
        self.tracer.refuse(self.func, why)


def fixed(shape: torch.Size) -> Tensor:
    """Labels of numbers whose channels cannot be removed."""
    return torch.tensor(FIXED).expand(shape)


def spread(ids: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Labels of a given shape that change along `dim` only."""
    view = [1] * len(shape)
    view[dim] = -1
    return ids.view(view).expand(shape)


def _unary(call: Call) -> list[Tensor]:
    """Each output number comes of the input number in its place."""
    labels = call.labels(call.get(0, "input"))
    return [labels.expand(out.shape) for out in call.outputs]


def _elementwise(call: Call) -> list[Tensor]:
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
    role = "statistic" if plain_name(call.func) in _DIVISION else "norm"
    for tensor in tensors:
        offset = len(shape) - tensor.ndim
        for dim, size in enumerate(tensor.shape):
            if tensor not in call.tracer.labels and size > 1 and dim + offset in wide:
                call.tracer.note(tensor, dim, role, along(result, dim + offset, call.ties))
    return [result.expand(out.shape) for out in call.outputs]


def _move(call: Call) -> list[Tensor]:
    """The numbers move and none is lost: views, permutations, concatenation."""
    return call.on_labels()


def _cut(call: Call) -> list[Tensor]:
    """Some numbers are taken: channels that are counted out by position must stay."""
    source = call.get(0, "input")
    outputs = call.on_labels(only=source)
    order = compact(call.labels(source)).flatten()
    if any(not torch.equal(compact(labels).flatten(), order) for labels in outputs):
        for tensor in tree_leaves((call.args, call.kwargs)):
            if isinstance(tensor, Tensor):  # the source, and an index that was computed
                call.ties.fix(call.labels(tensor))
    return outputs


def _chunk(call: Call) -> list[Tensor]:
    """Equal parts: channels at the same place of each part go together, so parts stay equal."""
    outputs = call.on_labels()
    equal = len({labels.shape for labels in outputs}) == 1
    if not equal or len(outputs) != call.get(1, "chunks"):
        return _cut(call)
    for labels in outputs[1:]:
        call.ties.tie(compact(outputs[0]), compact(labels))
    return outputs


def _glu(call: Call) -> list[Tensor]:
    """The second half gates the first: channels at the same place of both go together."""
    first, second = call.labels(call.get(0, "input")).chunk(2, call.get(1, "dim", -1))
    call.ties.tie(compact(first), compact(second))
    return [constant_dims_expanded(first)]


def _view(call: Call) -> list[Tensor]:
    """A view that splits the channels into (parts, rest) keeps its parts equal."""
    source = call.labels(call.get(0, "input"))
    labels = constant_dims_expanded(source.reshape(call.shape))
    before, dims = varying_dims(source), varying_dims(labels)
    if len(dims) > 1 and len(dims) > len(before):
        sizes = [s for s in tree_leaves((call.args[1:], call.kwargs)) if isinstance(s, int)]
        free_parts = len(sizes) == len(call.shape) and sizes[dims[0]] == -1
        _tie_parts(call, labels, dims[1:] if free_parts else dims[:1])
    return [labels]


def _channel_shuffle(call: Call) -> list[Tensor]:
    parts = call.labels(call.get(0, "input")).unflatten(1, (call.get(1, "groups"), -1))
    _tie_parts(call, parts, [1])
    return call.on_labels()


def _tie_parts(call: Call, labels: Tensor, dims: list[int]) -> None:
    """What differs only along these dimensions goes together."""
    first = small = compact(labels)
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    call.ties.tie(small, first)


def _pixel_shuffle(call: Call) -> list[Tensor]:
    """The channels that become one channel go together."""
    outputs = call.on_labels()
    along(outputs[0], outputs[0].ndim - 3, call.ties)
    return outputs


def _pad(call: Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    padding = list(call.get(1, "pad"))
    padded = {source.ndim - 1 - i // 2 for i, p in enumerate(padding) if p}
    if padded & set(varying_dims(source)):
        call.ties.fix(source)  # a number of channels is written down in the padding
        return [fixed(call.shape)]
    return [compact(source).expand(call.shape)]


def _spatial(call: Call) -> list[Tensor]:
    """Pooling and resizing: each channel on its own, the dimensions before space are kept."""
    source = call.get(0, "input")
    for tensor in tree_leaves((call.args, call.kwargs)):
        if isinstance(tensor, Tensor) and tensor is not source:  # the grid of `grid_sample`
            call.ties.fix(call.labels(tensor))
    ids = along(call.labels(source), 1, call.ties)
    return [spread(ids, 1, out.shape) for out in call.outputs]


def _reduce(call: Call) -> list[Tensor]:
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


def _mix(call: Call) -> list[Tensor]:
    """Every output number depends on all channels: none can go."""
    for tensor in tree_leaves((call.args, call.kwargs)):
        if isinstance(tensor, Tensor) and tensor in call.tracer.labels:
            call.ties.fix(call.labels(tensor))
    return [fixed(out.shape) for out in call.outputs]


def _softmax(call: Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    dim = call.get(1, "dim")
    if dim is not None and dim % source.ndim not in varying_dims(source):
        return _unary(call)
    return _mix(call)


def _norm_over_channels(call: Call) -> NoReturn:
    call.refuse(
        "it normalizes over channels, so a removed channel would change all others"
        " (use batch norm, or leave this network whole)"
    )


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

RULES: dict[str, Callable[[Call], list[Tensor]]] = {
    name: rule
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
    )
    for name in names.split()
}

# Weights that meet activations in these are vectors, whose numbers belong to channels.
MEETS_VECTORS = (_unary, _elementwise, _move, _view, _cut)

# Functions that take no number of channels: whatever they did, they do to fewer of them.
SIMPLE = frozenset(f"{_UNARY} {_ELEMENTWISE} {_SPATIAL} {_REDUCE} cat concat flatten".split())
