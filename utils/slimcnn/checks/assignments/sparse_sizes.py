"""The check of the assignment of chapter 3 that counts the bytes of a pruned network's file."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


@dataclass(frozen=True)
class _Network:
    """Tensors of a network, some of them pruned, made from a seed."""

    seed: int
    value_bytes: int
    masked: int
    whole: int

    def __str__(self) -> str:
        return f"{self.masked} masked tensors and {self.whole} others, {self.value_bytes}"

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        draw, generator = random.Random(self.seed), torch.Generator().manual_seed(self.seed)
        state, masks = {}, {}
        for n in range(self.masked + self.whole):
            tensor = torch.randn(draw.randint(1, 12), draw.randint(1, 12), generator=generator)
            # A few numbers are zero by themselves, whatever the mask says.
            tensor[torch.rand(tensor.shape, generator=generator) < 0.1] = 0
            if n < self.masked:
                share = draw.choice((0.0, 0.01, 0.5, 0.9, 1.0))
                masks[f"weight{n}"] = torch.rand(tensor.shape, generator=generator) >= share
                state[f"weight{n}"] = tensor
            else:
                state[f"norm{n}"] = tensor[0]
        return state, masks, self.value_bytes


def times_smaller(function: Callable, seed: int = 0) -> Verdict:
    """How many times smaller a pruned network's file is, all of it counted."""

    def count(
        network: _Network, *, positions: bool = True, others: bool = True, dense_too: bool = True,
        values: bool = True, masked: bool = True, before_bytes: int | None = None,
        rounded: bool = True,
    ) -> float:  # fmt: skip
        state, masks, each = network.parts()
        before = sum((before_bytes or each) * t.numel() for t in state.values())
        after = 0
        for name, tensor in state.items():
            dense = each * tensor.numel()
            if name not in masks:
                after += dense * others
                continue
            stays = (tensor != 0) | (not values)
            stored = int((stays & masks[name]).sum() if masked else stays.sum())
            bits = -(-tensor.numel() // 8) if rounded else tensor.numel() / 8
            sparse = each * stored + bits * positions
            after += min(dense, sparse) if dense_too else sparse
        return before / after

    def explain(found: float, expected: float, network: _Network) -> str | None:
        mistakes = {
            "dense numbers are counted with 4 bytes, sparse ones with fewer": {"before_bytes": 4},
            "where the numbers are is not counted": {"positions": False},
            "what is not masked is not counted": {"others": False},
            "where a bitmask does not pay the tensor is stored dense": {"dense_too": False},
            "numbers are counted that are zero although their mask is True": {"values": False},
            "numbers are counted that the mask drops": {"masked": False},
            "a bitmask takes whole bytes": {"rounded": False},
        }
        for mistake, settings in mistakes.items():
            try:
                if abs(count(network, **settings) - float(found)) < 1e-6 * expected:
                    return f"{mistake}; {expected:.3f} times is right, yours gives {found:.3f}"
            except ZeroDivisionError:
                continue
        return None

    @wraps(function)
    def of_parts(network: _Network) -> object:
        parts = network.parts()
        found = function(*parts)
        for given, left in zip(network.parts()[:2], parts[:2], strict=True):
            if given.keys() != left.keys() or any(
                not torch.equal(given[n], left[n]) for n in given
            ):
                raise ValueError("it changes its arguments; leave them as they are")
        return found

    draw = random.Random(seed)
    cases = [(_Network(1, 4, 1, 2),), (_Network(3, 4, 2, 0),), (_Network(2, 2, 2, 1),)]
    for _ in range(25):
        parts = draw.choice((1, 2, 4)), draw.randint(1, 4), draw.randint(1, 3)
        cases.append((_Network(draw.randrange(10**6), *parts),))
    return check(of_parts, lambda network: count(network), cases, explain=explain)
