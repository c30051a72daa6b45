"""What layers with weights do to labels: they read channels, and give birth to new ones.

Each notes which slices of which weights belong to which channel. `graph` applies the rules.
"""

from collections.abc import Callable
from math import prod

from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from slimcnn.pruning.labels import along
from slimcnn.pruning.rules import Call, plain_name, spread


def _batch_norm(call: Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    ids = along(source, 1, call.ties)
    names = ("running_mean", "running_var", "weight", "bias")
    for index, name in enumerate(names, start=1):
        role = "statistic" if index <= 2 else "norm"
        call.tracer.note(call.get(index, name), 0, role, ids)
    return [spread(ids, 1, call.shape)]


def _prelu(call: Call) -> list[Tensor]:
    source = call.labels(call.get(0, "input"))
    weight = call.get(1, "weight")
    if weight.numel() > 1:
        call.tracer.note(weight, 0, "norm", along(source, 1, call.ties))
    return [source]


def _weight_of(call: Call) -> Tensor:
    weight = call.get(1, "weight")
    if id(weight) not in call.tracer.names:
        call.refuse(
            "its weight is not a parameter but computed from one (a mask or another"
            " parametrization); make it permanent first, with `slimcnn.pruning.finalize`"
        )
    return weight


def _linear(call: Call) -> list[Tensor]:
    source, weight = call.labels(call.get(0, "input")), _weight_of(call)
    call.tracer.note(weight, 1, "consumer", along(source, source.ndim - 1, call.ties))
    ids = call.ties.fresh(weight.shape[0])
    call.tracer.note(weight, 0, "producer", ids)
    call.tracer.note(call.get(2, "bias"), 0, "producer", ids)
    _count_positions(call, weight, prod(call.shape[:-1]))
    return [spread(ids, len(call.shape) - 1, call.shape)]


def _convolution(call: Call) -> list[Tensor]:
    """Filters (O, I/g, ...) or, transposed, (I, O/g, ...): channels in, channels out."""
    transposed = plain_name(call.func).startswith("conv_transpose")
    source, weight = call.labels(call.get(0, "input")), _weight_of(call)
    groups = call.get(6, "groups", 1)
    channel_dim = source.ndim - (weight.ndim - 1)  # 1, or 0 without a batch
    inputs = along(source, channel_dim, call.ties)
    count = call.shape[channel_dim]
    outputs = call.ties.fresh(count)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    depthwise = groups > 1 and len(inputs) == groups
    if groups > 1:
        if not isinstance(call.tracer.module(), _ConvNd):
            call.tracer.trace.simple = False  # the number of groups stands in the code
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
    return [spread(outputs, channel_dim, call.shape)]


def _count_positions(call: Call, weight: Tensor, positions: int) -> None:
    name = call.tracer.names[id(weight)]
    counted = call.tracer.trace.positions
    counted[name] = counted.get(name, 0) + positions


LAYER_RULES: dict[str, Callable[[Call], list[Tensor]]] = {
    name: rule
    for names, rule in (
        ("batch_norm instance_norm", _batch_norm),
        ("prelu", _prelu),
        ("linear", _linear),
        ("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", _convolution),
    )
    for name in names.split()
}
