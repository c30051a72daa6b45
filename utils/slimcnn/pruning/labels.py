"""Which channel each number of an activation belongs to: labels, and what ties them.

An activation's labels are an integer tensor of the same shape: every number carries the
label of the channel that made it. So a reshape, a concatenation or a channel shuffle of the
activation is the same operation on its labels. Labels are equal over space, which costs
nothing: such dimensions are expanded, they have stride 0. Chapter 2 (Pruning: structured)
draws the idea; `graph` runs a network on it.
"""

import numpy as np
import torch
from torch import Tensor

# Label 0 marks numbers that belong to no channel (constants), label 1 those of channels that
# cannot be removed: the network's inputs and outputs, and what is tied to them.
NONE, FIXED = 0, 1


class Ties:
    """Labels, and which of them are one: channels that can only be removed together.

    Ties are stored as they come and resolved by `classes`.
    """

    def __init__(self) -> None:
        self._count = 2
        self._pairs: list[Tensor] = []

    def fresh(self, count: int) -> Tensor:
        """`count` new labels, shape (count,)."""
        first, self._count = self._count, self._count + count
        return torch.arange(first, self._count)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Make the labels in `a` and `b` one, element by element; `NONE` ties nothing."""
        a, b = torch.broadcast_tensors(a, b)
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs != NONE).all(0)]
        if pairs.shape[1]:
            self._pairs.append(pairs)

    def fix(self, labels: Tensor) -> None:
        """Say that these channels cannot be removed."""
        self.tie(compact(labels), torch.tensor(FIXED))

    def classes(self) -> np.ndarray:
        """For each label the smallest label that it is one with, shape (labels,)."""
        smallest = np.arange(self._count)
        if not self._pairs:
            return smallest
        a, b = torch.cat(self._pairs, 1).numpy()
        while True:
            both = np.minimum(smallest[a], smallest[b])
            # A label that is tied passes the smaller one on, also to the label it stood for.
            new = smallest.copy()
            for side in (a, b, smallest[a], smallest[b]):
                np.minimum.at(new, side, both)
            new = new[new]
            if np.array_equal(new, smallest):
                return smallest
            smallest = new


def compact(labels: Tensor) -> Tensor:
    """`labels` with each expanded dimension cut to size 1."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def constant_dims_expanded(labels: Tensor) -> Tensor:
    """`labels` with every dimension along which they do not change stored once, expanded."""
    small = compact(labels)
    for dim in range(small.ndim):
        first = small.narrow(dim, 0, 1)
        if small.shape[dim] > 1 and bool((small == first).all()):
            small = first
    return small.expand(labels.shape)


def along(labels: Tensor, dim: int, ties: Ties) -> Tensor:
    """The label of each index of dimension `dim`, shape (size,).

    Where labels differ over the other dimensions, as after a pixel shuffle, all that meet
    at one index are tied.
    """
    small = compact(labels).movedim(dim, 0)
    small = small.reshape(len(small), -1)  # (size or 1, rest)
    if small.shape[1] > 1:
        ties.tie(small, small[:, :1])
    return small[:, 0].expand(labels.shape[dim])


def varying_dims(labels: Tensor) -> list[int]:
    """The dimensions along which the labels change."""
    return [d for d, size in enumerate(compact(labels).shape) if size > 1]
