"""How many channels each group keeps under a budget of MACs, parameters or bytes.

Each group has a curve: what removing its first, second, ... channel costs in accuracy, from a
sensitivity scan or from scores. `allocate` accepts the same damage everywhere, as much as the
budget asks for. Chapter 2 (Pruning: structured).
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, isnan, lcm, prod
from typing import Literal

import torch
from torch import Tensor

from slimcnn.pruning.groups import ChannelGroups, Group

Resource = Literal["macs", "parameters", "bytes"]
Damage = Callable[[float], float]


@dataclass(frozen=True)
class Cost:
    """What a network costs with some of its channels: for one image, or one example batch."""

    macs: int
    parameters: int
    bytes: int


def cost(groups: ChannelGroups, counts: Mapping[str, int] | None = None) -> Cost:
    """MACs, parameters and bytes of tensors if each group keeps `counts[name]` channels.

    Nothing is built: sizes follow from the shapes. MACs are those of convolutions and linear
    layers; they equal `metrics.count_macs` of the network that `shrink` makes, unless it
    multiplies matrices of its own (attention). Bytes are those of parameters and buffers,
    without the header of a file.

    Args:
        groups: from `find_groups`.
        counts: channels kept; groups that are not named keep all.

    Raises:
        KeyError, ValueError: a name is unknown, a count is not from 1 to the group's size.
    """
    lost: dict[str, dict[int, int]] = {}
    for name, count in (counts or {}).items():
        group = groups[name]
        if not 1 <= count <= group.size:
            raise ValueError(f"group {name!r} cannot keep {count} of {group.size} channels")
        for member in group.members:
            per_dim = lost.setdefault(member.tensor, {})
            removed = (group.size - count) * member.indices.shape[1]
            per_dim[member.dim] = per_dim.get(member.dim, 0) + removed
    macs = parameters = size = 0
    for name, shape in groups.shapes.items():
        gone = lost.get(name, {})
        numbers = prod(full - gone.get(dim, 0) for dim, full in enumerate(shape))
        macs += groups.positions.get(name, 0) * numbers
        parameters += numbers if name in groups.parameters else 0
        size += numbers * groups.itemsizes[name]
    return Cost(macs, parameters, size)


def allocate(
    groups: ChannelGroups,
    damage: Mapping[str, Damage],
    *,
    budget: float,
    resource: Resource = "macs",
    round_to: int = 1,
) -> dict[str, int]:
    """Channels to keep in each group, so that all suffer alike and the budget is met.

    A level of damage is chosen by bisection: each group gives up channels as long as its own
    damage stays at or below the level. Then single steps are given back, where the next step
    had cost most, as long as they fit. So the result is never above the budget, and below it
    by no more than one step of the group with the smallest one.

    Args:
        groups: from `find_groups`.
        damage: for each group that may be pruned, a function from the fraction removed, 0 to
            1, to the damage, in any unit that is the same for all. It is read as if it never
            fell: what a larger fraction spares, a smaller one does not cost.
        budget: what may be left, as a fraction of the whole network's `resource`, in (0, 1].
        resource: "macs", "parameters" or "bytes" (of the tensors).
        round_to: let each layer of a group keep a multiple of this many channels, or all: many
            kernels are fast only for multiples of 8 or 16.

    Returns:
        For each name in `damage`, how many channels to keep.

    Raises:
        KeyError, ValueError: an argument is not as described, or no such choice fits the
            budget; the message gives the smallest fraction that can be reached.

    Chapter 2, Pruning: structured.
    """
    if resource not in ("macs", "parameters", "bytes"):
        raise ValueError(f"resource is {resource!r}; it must be macs, parameters or bytes")
    if not 0 < budget <= 1:
        raise ValueError(f"budget is {budget}; it must be above 0 and at most 1")
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ValueError(f"round_to is {round_to!r}; it must be a whole number, 1 or more")
    steps = {name: _steps(groups[name], round_to) for name in damage}
    price = {}
    for name, function in damage.items():
        size, worst, price[name] = groups[name].size, float("-inf"), []
        for count in steps[name]:
            found = float(function(1 - count / size))
            if isnan(found):
                raise ValueError(f"the damage of group {name!r} is NaN at {1 - count / size:.3f}")
            worst = max(worst, found)
            price[name].append(worst)

    whole = getattr(cost(groups), resource)

    def left(choice: Mapping[str, int]) -> float:
        return getattr(cost(groups, {n: steps[n][i] for n, i in choice.items()}), resource)

    def at(level: float) -> dict[str, int]:
        """The furthest step of each group whose damage is within the level; 0 is always free."""
        return {n: bisect_right(prices, level, lo=1) - 1 for n, prices in price.items()}

    allowed = budget * whole
    smallest = {name: len(options) - 1 for name, options in steps.items()}
    if left(smallest) > allowed:
        raise ValueError(
            f"no choice of channels leaves {budget:.3f} of the {resource}: with the fewest, one"
            f" step a group, {left(smallest) / whole:.3f} are left"
        )
    levels = sorted({p for prices in price.values() for p in prices})
    low, high = 0, len(levels) - 1  # the highest level is `smallest`, which fits
    while low < high:
        middle = (low + high) // 2
        if left(at(levels[middle])) <= allowed:
            high = middle
        else:
            low = middle + 1
    choice = at(levels[low]) if levels else {}

    def share(name: str) -> float:
        return steps[name][choice[name]] / groups[name].size

    open_groups = {name for name, index in choice.items() if index > 0}
    while open_groups:
        name = max(open_groups, key=lambda n: (price[n][choice[n]], -share(n), n))
        trial = {**choice, name: choice[name] - 1}
        if left(trial) <= allowed:
            choice = trial
        if choice != trial or choice[name] == 0:
            open_groups.remove(name)  # what does not fit now never will: the rest only grows
    return {name: steps[name][index] for name, index in choice.items()}


def keep_best(
    groups: ChannelGroups, scores: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """Masks that keep the `counts[name]` channels of the highest score in each group.

    Equal scores: the first channels stay. See `group_scores` for `scores`.

    Raises:
        KeyError, ValueError: a group is unknown, scores have another size or are NaN, a count
            is impossible.
    """
    keep = {}
    for name, count in counts.items():
        size, values = groups[name].size, scores[name]
        if values.shape != (size,):
            raise ValueError(f"scores of {name!r} have shape {tuple(values.shape)}, not ({size},)")
        if not 1 <= count <= size:
            raise ValueError(f"group {name!r} cannot keep {count} of {size} channels")
        if values.isnan().any():
            raise ValueError(f"a score of {name!r} is NaN; nothing can be ranked by it")
        order = values.argsort(descending=True, stable=True)
        keep[name] = torch.zeros(size, dtype=torch.bool)
        keep[name][order[:count].cpu()] = True
    return keep


def _steps(group: Group, round_to: int) -> list[int]:
    """The counts that a group may keep, all of them first."""
    at_once = {m.indices.shape[1] for m in group.of_role("producer")}  # of a layer's channels
    step = lcm(*(round_to // gcd(round_to, channels) for channels in at_once))
    return [group.size, *range((group.size - 1) // step * step, 0, -step)]
