"""Dependency groups: which slices of which tensors go when a channel goes.

`find_groups` runs a network once (`graph`) and returns its prunable channels, grouped by the
layers they touch. A residual addition ties the channels of all its inputs; a depthwise
convolution ties its output to its input; a linear layer after `flatten` owns many inputs of
one channel. Chapter 2 (Pruning: structured) derives the groups of ResNet-14 by hand.

Paper: Fang et al., DepGraph: Towards any structural pruning, CVPR 2023 (arXiv:2301.12900).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.pruning.graph import UnprunableError, trace
from slimcnn.pruning.labels import FIXED
from slimcnn.tracing import ModelInput, named_tensors


@dataclass(frozen=True)
class Member:
    """What one tensor loses when a channel of a group goes.

    Attributes:
        tensor: its name, as in `named_parameters` and `named_buffers`.
        dim: the dimension that gets shorter.
        role: "producer" (filters and biases), "consumer" (the inputs of a filter), "norm"
            (scale and shift) or "statistic" (running mean and variance, divisors).
        indices: row i holds the indices along `dim` that go with channel i, shape
            (channels, indices a channel).
    """

    tensor: str
    dim: int
    role: str
    indices: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that touch the same tensors in the same way.

    Attributes:
        name: the layer that makes the channels; the first one, if several do.
        size: how many channels can be removed one by one. With grouped convolutions one
            such channel is one index in every group.
        members: every slice that goes with them.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    def of_role(self, role: str) -> list[Member]:
        """The members of one role."""
        return [member for member in self.members if member.role == role]


@dataclass(frozen=True)
class ChannelGroups:
    """All prunable channels of a network, and what its weights cost.

    Attributes:
        groups: in the order in which their channels first appear.
        shapes, itemsizes: of every parameter and buffer; bytes a number.
        parameters: the names among them that are parameters.
        positions: for each weight of a convolution or linear layer, at how many positions of
            the example its numbers are used: MACs = positions · numbers.
        simple: the network's code writes no number of channels down, so cutting tensors is
            all that a smaller network takes; see `shrink`.
        example: what they were found with.
    """

    groups: tuple[Group, ...]
    shapes: dict[str, tuple[int, ...]]
    itemsizes: dict[str, int]
    parameters: frozenset[str]
    positions: dict[str, int]
    simple: bool
    example: ModelInput

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups) or "none"
        raise KeyError(f"there is no group {name!r}; there are {known}")


def find_groups(model: nn.Module, example: ModelInput) -> ChannelGroups:
    """The dependency groups of `model`: what goes together when a channel is removed.

    The model runs once, in eval mode, and is left as it was. Channels of its inputs and
    outputs are in no group, and neither is what is tied to them, or what the network counts
    out by position (`x[:, :16]`) or mixes (a softmax or a mean over channels).

    Args:
        model: any network whose functions have a rule in `graph`.
        example: an input, or its shape, batch first; a tuple of these for several inputs.

    Raises:
        UnprunableError: the channels cannot be followed through some function, which is named
            (norms over channels, such as layer norm and group norm, are among these); or no
            channel of the network can be removed.
    """
    traced = trace(model, example)
    classes = traced.ties.classes()
    slices = sorted(traced.slices.values(), key=lambda s: int(s.labels.min()))

    # One row for each index of each slice: its channel, its slice, itself.
    none = np.zeros(0, dtype=np.int64)  # for a network without weights
    channel = classes[np.concatenate([none, *(part.labels.numpy() for part in slices)])]
    sizes = [len(part.labels) for part in slices]
    number = np.concatenate([none, *(np.full(size, i) for i, size in enumerate(sizes))])
    index = np.concatenate([none, *(np.arange(size) for size in sizes)])
    order = np.lexsort((index, number, channel))
    order = order[channel[order] > FIXED]
    channel, number, index = channel[order], number[order], index[order]

    # Channels whose rows have the same slices, each as often, form a group.
    starts = np.flatnonzero(np.diff(channel, prepend=FIXED))
    alike: dict[bytes, list[int]] = {}
    for start, end in zip(starts, np.append(starts, len(channel))[1:], strict=True):
        alike.setdefault(number[start:end].tobytes(), []).append(start)
    groups: list[Group] = []
    for signature, first_rows in alike.items():
        parts, counts = np.unique(np.frombuffer(signature, number.dtype), return_counts=True)
        rows = np.array(first_rows)[:, None] + np.arange(counts.sum())
        indices = torch.from_numpy(index[rows]).split(counts.tolist(), dim=1)
        members = tuple(
            Member(slices[part].tensor, slices[part].dim, slices[part].role, owned.contiguous())
            for part, owned in zip(parts, indices, strict=True)
        )
        producers = [m.tensor for m in members if m.role == "producer"]
        if producers and any(m.role == "consumer" for m in members):
            first = producers[0]
            layer = first.rpartition(".")[0] or first  # the network's own parameters have no layer
            name = _unused(layer, {group.name for group in groups})
            groups.append(Group(name, len(first_rows), members))
    if not groups:
        raise UnprunableError(
            "no channel of this network can be removed: each one is an input or output of the"
            " network, or tied to one"
        )
    tensors = named_tensors(model)
    return ChannelGroups(
        groups=tuple(groups),
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        itemsizes={name: tensor.element_size() for name, tensor in tensors.items()},
        parameters=frozenset(name for name, _ in model.named_parameters()),
        positions=traced.positions,
        simple=traced.simple,
        example=example,
    )


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    return candidate
