"""Dependency groups and pruning of a network: slimcnn against Torch-Pruning.

    python benchmarks/pruning.py

Both find the groups of a network, rank channels by the L1 norm of filters, and remove half of
them. Prints medians of interleaved runs and their ratio. slimcnn's time includes the check
that the smaller network computes what the masked one does; Torch-Pruning has none.
"""

import copy
import statistics
import time

import torch
import torch_pruning
import torchvision
from torch import nn

from slimcnn import pruning

SHAPE = (1, 3, 224, 224)
ROUNDS = 7


def ours(model: nn.Module) -> nn.Module:
    """Half of the channels of every group go."""
    groups = pruning.find_groups(model, SHAPE)
    scores = pruning.group_scores(groups, pruning.filter_l1(model))
    counts = {group.name: max(1, group.size // 2) for group in groups}
    return pruning.shrink(model, groups, pruning.keep_best(groups, scores, counts))


def theirs(model: nn.Module) -> nn.Module:
    """The same by Torch-Pruning; it changes the model that it is given."""
    model = copy.deepcopy(model)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    torch_pruning.pruner.MagnitudePruner(
        model,
        torch.zeros(SHAPE),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[last],
    ).step()
    return model


def main() -> None:
    """Time both on two networks, one after the other in every round."""
    for name in ("resnet50", "mobilenet_v2"):
        model = getattr(torchvision.models, name)(weights=None).eval()
        times: dict[str, list[float]] = {"slimcnn": [], "Torch-Pruning": []}
        for round_ in range(ROUNDS + 1):
            for label, prune in (("slimcnn", ours), ("Torch-Pruning", theirs)):
                began = time.perf_counter()
                prune(model)
                if round_:  # the first round warms up
                    times[label].append(time.perf_counter() - began)
        medians = {label: statistics.median(found) for label, found in times.items()}
        ratio = medians["slimcnn"] / medians["Torch-Pruning"]
        text = ", ".join(f"{label} {1000 * found:.0f} ms" for label, found in medians.items())
        print(f"{name}: {text}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
