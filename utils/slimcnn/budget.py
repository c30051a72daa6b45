"""One option for each of many things, so that a budget is kept and the least damage is done.

A layer's ranks, or its numbers of bits, are options with a cost and a damage; costs and damages
add up. This is the multiple-choice knapsack problem (Kellerer, Pferschy & Pisinger, 2004,
doi:10.1007/978-3-540-24777-7_11). Chapter 5 (Low-rank) and chapter 6 (Quantization) use it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite
from typing import NamedTuple

import numpy as np

# Costs are rounded up to this many parts of what the budget leaves to decide.
BUCKETS = 10_000


class Option(NamedTuple):
    """What may be chosen.

    Attributes:
        cost: 0 or more, in the unit of the budget.
        damage: what it does harm, in any unit that is the same for all; below 0 it does good.
    """

    cost: float
    damage: float


def choose(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, int]:
    """Choose one option for each name: Σ damage smallest with Σ cost ≤ budget.

    Dynamic programming over costs in `BUCKETS` steps of δ = (budget − least total cost) /
    BUCKETS, or in steps of 1 where costs are whole numbers and δ is smaller. What an option costs
    more than the cheapest one of its name is rounded up, so the budget is never exceeded, and no
    choice that leaves δ a name unused does less damage. What rounding left is then spent, as long
    as a single option can be exchanged for one of less damage: the largest gain first.

    Of options of one name with equal damage the cheapest counts, of these the first. Of choices
    with equal damage the one with the lower (rounded) cost is taken.

    Args:
        options: by name; at least one each.
        budget: the largest total cost.

    Returns:
        By name, the index of the option chosen.

    Raises:
        ValueError: a name has no option, a cost is negative, a number is not finite, or no
            choice fits the budget; the message says the smallest total cost.

    Chapter 5, Low-rank: tensors.
    """
    tables = {name: _frontier(name, found) for name, found in options.items()}
    least = fsum(table[0].cost for table in tables.values())
    if not budget >= least:  # nor NaN
        raise ValueError(f"budget is {budget}; the cheapest options cost {least} in total")
    places = dict(zip(tables, _dynamic_program(list(tables.values()), budget), strict=True))
    _spend_rest_(places, tables, budget)
    return {name: tables[name][place].index for name, place in places.items()}


class _Entry(NamedTuple):
    cost: float
    damage: float
    index: int


def _frontier(name: str, options: Sequence[Option]) -> list[_Entry]:
    """The options that no other beats, by rising cost and falling damage."""
    if not options:
        raise ValueError(f"{name!r} has no option; at least one is needed")
    for cost, damage in options:
        if not (isfinite(cost) and cost >= 0 and isfinite(damage)):
            raise ValueError(
                f"{name!r} has an option of cost {cost} and damage {damage}; a cost must be a"
                " finite number from 0, a damage a finite number"
            )
    frontier: list[_Entry] = []
    for entry in sorted(_Entry(*option, index) for index, option in enumerate(options)):
        if not frontier or entry.damage < frontier[-1].damage:
            frontier.append(entry)
    return frontier


def _dynamic_program(tables: list[list[_Entry]], budget: float) -> list[int]:
    """The place of the option chosen in each table."""
    costs = [np.array([entry.cost - table[0].cost for entry in table]) for table in tables]
    slack = budget - fsum(table[0].cost for table in tables)
    slack = min(slack, fsum(extra[-1] for extra in costs))
    whole = all((extra == np.floor(extra)).all() for extra in costs)
    step = max(slack / BUCKETS, 1.0) if whole else slack / BUCKETS
    if step == 0:
        return [0] * len(tables)
    size = int(slack / step)
    best, chosen, steps = np.zeros(size + 1), [], []  # least damage at a cost of at most so much
    for table, extra in zip(tables, costs, strict=True):
        steps.append(np.ceil(extra[extra <= size * step] / step).astype(np.int64))
        here, choice = np.full(size + 1, np.inf), np.zeros(size + 1, dtype=np.int32)
        for place, (shift, entry) in enumerate(zip(steps[-1], table, strict=False)):
            found = best[: size + 1 - shift] + entry.damage
            better = found < here[shift:]
            here[shift:][better] = found[better]
            choice[shift:][better] = place
        best = here
        chosen.append(choice)
    while True:
        left = size = int(best[: size + 1].argmin())  # the first of equals, the cheapest
        places = []
        for step_of, choice in zip(reversed(steps), reversed(chosen), strict=True):
            places.append(int(choice[left]))
            left -= int(step_of[places[-1]])
        places.reverse()
        if _total(tables, places) <= budget:
            return places
        size -= 1  # dividing by the step has rounded a sum the wrong way


def _spend_rest_(places: dict[str, int], tables: dict[str, list[_Entry]], budget: float) -> None:
    """Exchange single options for better ones while the budget allows, the best one first."""
    while True:
        gains, rest = [], budget - _total(tables.values(), places.values())
        for name, place in places.items():
            table = tables[name]
            reach = table[place].cost + rest
            other = bisect_right(table, reach, key=lambda entry: entry.cost) - 1
            while _total(tables.values(), {**places, name: other}.values()) > budget:
                other -= 1  # adding up has rounded the other way
            if other > place:
                gains.append((table[place].damage - table[other].damage, name, other))
        if not gains:
            return
        _, name, other = max(gains, key=lambda found: found[0])
        places[name] = other


def _total(tables: Iterable[list[_Entry]], places: Iterable[int]) -> float:
    return fsum(table[place].cost for table, place in zip(tables, places, strict=True))
