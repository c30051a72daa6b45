"""Checks for the assignment of chapter 2, Pruning."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimcnn import data, metrics, models, pruning, training
from slimcnn.checkpoints import CheckpointError
from slimcnn.checks import Verdict, check

FILE = Path("pruned.safetensors")


def keep_largest(function: Callable, seed: int = 0) -> Verdict:
    """A mask that keeps the k largest weights of every filter."""

    def reference(weight: Tensor, k: int) -> Tensor:
        size = weight.abs().flatten(1)
        order = size.argsort(dim=1, descending=True, stable=True)
        mask = torch.zeros(size.shape, dtype=torch.bool)
        return mask.scatter_(1, order[:, :k], True).view(weight.shape)

    def explain(found: Tensor, expected: Tensor, weight: Tensor, k: int) -> str | None:
        found, size = torch.as_tensor(found), weight.abs().flatten(1)
        if not ((found == 0) | (found == 1)).all():
            return "a mask holds True and False; yours holds other numbers"
        counts = found.flatten(1).sum(1).long().tolist()
        wrong = next((i for i, count in enumerate(counts) if count != k), None)
        if wrong is not None:
            if weight.shape[1] > 1 and set(found.transpose(0, 1).flatten(1).sum(1).tolist()) == {k}:
                return f"it keeps {k} weights of every input channel; filters are the first axis"
            return f"filter {wrong} keeps {counts[wrong]} weights; {k} of each were asked"
        if torch.equal(found.bool(), reference(weight - weight.min(), k)):
            return "it keeps the largest weights; the sign does not count, the magnitude does"
        for i, (row, stays) in enumerate(zip(size, found.flatten(1).bool(), strict=True)):
            if row[stays].min() < row[~stays].max():
                return (
                    f"filter {i} keeps a weight of magnitude {row[stays].min():g} and drops one of"
                    f" {row[~stays].max():g}"
                )
        return "of equal magnitudes the first stay; you keep later ones"

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cases = [
        (torch.tensor([[3.0, -4.0, 0.0, 1.0], [0.1, 0.2, -0.3, 0.4]]), 2),
        (torch.zeros(3, 2, 2, 2), 5),
        (torch.tensor([[1.0, -1.0, 1.0, 2.0]]), 2),
        (torch.ones(2, 40), 13),
    ]
    for round_ in range(20):
        shape = [draw.randint(1, 6) for _ in range(draw.choice((2, 4)))]
        weight = torch.randn(shape, generator=generator)
        if round_ % 2:  # few different values, so that many are equal
            weight = weight.round()
        size = weight[0].numel()
        k = (0, size)[round_ // 2 % 2] if round_ < 6 else draw.randint(0, size)
        cases.append((weight, k))
    closed = (pruning.mask_of, pruning.layerwise_masks)
    return check(function, reference, cases, explain=explain, closed=closed)


def affordable(function: Callable, seed: int = 0) -> Verdict:
    """Channels by score per MAC, as long as the budget allows; one of each layer at least."""

    def reference(scores: Tensor, macs: Tensor, layer: Tensor, budget: int) -> Tensor:
        mask = torch.zeros(len(scores), dtype=torch.bool)
        for number in layer.unique():
            members = (layer == number).nonzero().flatten()
            mask[members[scores[members].argmax()]] = True
        for i in (scores.double() / macs).argsort(descending=True, stable=True):
            if not mask[i] and macs[mask].sum() + macs[i] <= budget:
                mask[i] = True
        return mask

    def explain(
        found: Tensor, expected: Tensor, scores: Tensor, macs: Tensor, layer: Tensor, budget: int
    ) -> str | None:
        found = torch.as_tensor(found)
        if not ((found == 0) | (found == 1)).all():
            return "a mask holds True and False; yours holds other numbers"
        kept = found.bool()
        empty = set(layer.tolist()) - set(layer[kept].tolist())
        if empty:
            return f"layer {min(empty)} keeps no channel, so nothing passes any more"
        spent = int(macs[kept].sum())
        if spent > budget:
            return f"it spends {spent} MACs; the budget is {budget}"
        fits = (~kept & (macs <= budget - spent)).nonzero().flatten().tolist()
        if fits:
            left = budget - spent
            return f"{left} MACs are left, and channel {fits[0]} for {macs[fits[0]]} would fit"
        order = (scores.double() / macs).argsort(descending=True, stable=True).tolist()
        i = next(i for i in order if kept[i] != expected[i])
        if (
            expected[i]
            and (kept & ~expected & (scores.double() / macs == scores[i].double() / macs[i])).any()
        ):
            return f"channel {i} comes first among those of equal score per MAC, and you drop it"
        did, ratio = ("keeps", "drops")[int(expected[i])], scores[i] / macs[i]
        return (
            f"it {did} channel {i} (score {scores[i]:g}, {macs[i]} MACs, {ratio:.3g} a MAC)"
            " against the order of the rule"
        )

    draw = random.Random(seed)
    cases = [
        (torch.tensor([8.0, 2, 6, 1, 3]), torch.tensor([4, 4, 4, 1, 1]), [0, 0, 0, 1, 1], 8),
        (torch.tensor([1.0]), torch.tensor([3]), [0], 3),
        (torch.tensor([0.0, 0, 0, 0]), torch.tensor([2, 2, 5, 5]), [0, 0, 1, 1], 9),
        (torch.tensor([5.0, 4, 3, 2, 1, 9]), torch.tensor([7] * 5 + [2]), [0] * 5 + [1], 20),
        # Equal ratios, in one layer and in two, and room for one: the first.
        (torch.tensor([9.0, 1, 1]), torch.tensor([2, 2, 2]), [0, 0, 0], 4),
        (torch.tensor([2.0, 9, 9, 1]), torch.tensor([4, 4, 2, 2]), [0, 0, 1, 1], 10),
        (torch.tensor([1.0, 9, 9, 2]), torch.tensor([2, 2, 4, 4]), [0, 0, 1, 1], 10),
    ]
    for _ in range(30):
        sizes = [draw.randint(1, 6) for _ in range(draw.randint(1, 5))]
        costs = [draw.randint(1, 12) for _ in sizes]
        layer = [n for n, size in enumerate(sizes) for _ in range(size)]
        macs = torch.tensor([costs[n] for n in layer])
        scores = torch.tensor([draw.randrange(40) / 4 for _ in layer])
        # From just enough for one channel a layer to more than all of them cost.
        budget = draw.randint(sum(costs), int(macs.sum()) + 3)
        order = torch.randperm(len(layer), generator=torch.Generator().manual_seed(budget))
        cases.append((scores[order], macs[order], torch.tensor(layer)[order], budget))
    cases = [(s, m, torch.as_tensor(la), b) for s, m, la, b in cases]
    return check(function, reference, cases, explain=explain, closed=(pruning.allocate,))


def small_file(function: Callable, kilobytes: float, accuracy: float) -> Verdict:
    """A ResNet-14 with fewer channels in the file that the function writes; on validation."""
    FILE.unlink(missing_ok=True)
    try:
        function(FILE)
    except NotImplementedError:
        return Verdict(False, "Your turn: prune is not written yet.")
    return measured(kilobytes, accuracy)


def measured(kilobytes: float, accuracy: float, split: data.SplitName = "validation") -> Verdict:
    """What is in the file that `small_file` had written."""
    if not FILE.exists():
        return Verdict(False, f"✗ prune has written no file {FILE}")
    size = FILE.stat().st_size / 1000
    try:
        model = pruning.load_pruned(models.ResNet14(), FILE)
    except CheckpointError as error:
        return Verdict(False, f"✗ the file is no ResNet-14 with fewer channels: {error}")
    if size > kilobytes:
        zeros = 1 - metrics.count_nonzeros(model) / metrics.count_parameters(model)
        hint = " Zeros take four bytes each: remove channels." if zeros > 0.1 else ""
        return Verdict(
            False, f"✗ the file has {size:,.1f} kB; at most {kilobytes:,} are allowed.{hint}"
        )
    found = training.evaluate(model, data.load(split))
    if not found >= accuracy:
        return Verdict(False, f"✗ {found:.2f} % on {split}; at least {accuracy} are asked")
    return Verdict(True, f"✓ {size:,.1f} kB, {found:.2f} % on {split}")


def train_sparse(function: Callable, seed: int = 0) -> Verdict:
    """Training of a pruned layer with momentum and decay that keeps its zeros, and counts them."""

    def reference(
        weight: Tensor, velocity: Tensor, mask: Tensor, inputs: Tensor, targets: Tensor, steps: int
    ) -> tuple[Tensor, float]:
        weight = weight * mask
        for _ in range(steps):
            gradient = inputs.T @ (inputs @ weight - targets) / len(inputs)
            velocity = 0.9 * velocity + gradient + 0.01 * weight
            weight = (weight - 0.05 * velocity) * mask
        return weight, (weight == 0).double().mean().item()

    def explain(
        found: tuple, expected: tuple, weight: Tensor, velocity: Tensor, mask: Tensor,
        inputs: Tensor, targets: Tensor, steps: int,
    ) -> str | None:  # fmt: skip
        trained, zeros = torch.as_tensor(found[0]).detach(), float(found[1])
        revived = int((trained[~mask] != 0).sum())
        if revived:
            return (
                f"{revived} of {int((~mask).sum())} pruned weights are not zero after {steps}"
                f" steps; share of zeros reported: {zeros:.2f}, found in the weights:"
                f" {(trained == 0).double().mean():.2f}"
            )
        if not torch.allclose(trained.double(), expected[0].double(), rtol=1e-4, atol=1e-5):
            if mask.all():
                return (
                    "nothing is pruned here, and the weights are not those of `announced`: go on"
                    " from the velocity that is given, with its rates and its decay"
                )
            return (
                "the pruned weights are zero at the end, but those that stay are not what they"
                " would be had they been zero in every step"
            )
        if abs(zeros - expected[1]) > 1e-6:
            return f"the weights have {expected[1]:.3f} zeros; {zeros:.3f} are reported"
        return "the weights are nearly right: compute in the type that they come in, float64"

    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def case(size: int, share: float, steps: int, dead: int = 0) -> tuple:
        weight, velocity = torch.randn(2, size, 1, dtype=torch.float64, generator=generator)
        mask = torch.rand(size, 1, generator=generator) >= share
        inputs = torch.randn(20, size, dtype=torch.float64, generator=generator)
        targets = torch.randn(20, 1, dtype=torch.float64, generator=generator)
        # Inputs that are never there: their weights stay, by the mask, and are zero all the same.
        weight[:dead], velocity[:dead], inputs[:, :dead], mask[:dead] = 0, 0, 0, True
        return weight, velocity, mask, inputs, targets, steps

    cases = [case(6, 0, 4), case(8, 0.5, 3), case(5, 1.0, 4), case(8, 0.5, 0), case(9, 0.3, 5, 2)]
    for _ in range(12):
        size = draw.randint(1, 12)
        dead = draw.choice((0, 0, min(size, 2)))
        cases.append(case(size, draw.random(), draw.randint(1, 12), dead))
    return check(function, reference, cases, explain=explain, rtol=1e-6, atol=1e-8)
