"""The experiments of chapter 2: pruned networks, and the controls beside them.

    python scripts/sweep_pruning.py             run what is missing (hours)
    python scripts/sweep_pruning.py --list      say what is there and what is missing
    python scripts/sweep_pruning.py --only channels

Every run starts from the baseline of its seed and has the same fine-tuning, the dense
control too. Appends one record a run to results/pruning.jsonl, predictions to
results/pruning-predictions.safetensors, and keeps the weights of the finalists' seed 0.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn

from slimcnn import checkpoints, data, metrics, models, pruning, report, sparsity, training
from slimcnn.data import Augmentation, Batch
from slimcnn.training import Recipe
from sweeps import ROOT, Run, final_record, on_best_device, sweep, weights_file

RECORDS = ROOT / "results" / "pruning.jsonl"

SHAPE = (1, 1, 28, 28)
# The best rate of scripts/screen_pruning.py so far.
FINE_TUNE = Recipe(epochs=6, lr=0.02, average=0.0, augmentation=Augmentation(erase=0.5))
# What more patience gives; its rate, too, is that of the screen.
LONGER = replace(FINE_TUNE, epochs=18, lr=0.05)
STEPS_AN_EPOCH = 215
FRACTIONS = (0.25, 0.5, 0.625, 0.75, 0.875)


def fine_tune(
    model: nn.Module, seed: int, state: Path, recipe: Recipe = FINE_TUNE, **options
) -> nn.Module:
    """Train on from here; the state's file lets a killed run go on."""
    tuned, _ = training.fit(
        model,
        data.load("train"),
        recipe,
        seed=seed,
        validation=data.load("validation"),
        checkpoint=state,
        progress=sys.stderr.isatty(),
        **options,
    )
    return tuned.cpu()


def batches() -> list[Batch]:
    """Training images, as they are, for scores of gradients."""
    return list(islice(data.batches(data.load("train"), 250, seed=0, epoch=0), 8))


def record(
    model: nn.Module, variant: str, seed: int, technique: str, finalist: bool, **settings: object
) -> report.Record:
    """Measure on the test set; weights with masks are stored encoded."""
    encoded = technique == "weight pruning"
    return final_record(
        model,
        "pruning",
        variant,
        seed,
        technique,
        save=sparsity.save_encoded if encoded else checkpoints.save_weights,
        keep=finalist and seed == 0,
        **{"epochs": FINE_TUNE.epochs, "lr": FINE_TUNE.lr, **settings},
    )


# --- single weights ---------------------------------------------------------------------------


def dense_control(recipe: Recipe, variant: str, seed: int, state: Path) -> report.Record:
    """The baseline itself, trained as long as every pruned network is."""
    tuned = fine_tune(checkpoints.load("resnet14", seed), seed, state, recipe)
    return record(tuned, variant, seed, "dense", False, epochs=recipe.epochs, lr=recipe.lr)


def prune_gradually(
    zeros: float, allocate: Callable, seed: int, state: Path, recipe: Recipe = FINE_TUNE
) -> nn.Module:
    """The baseline of a seed, with more and more zeros; the last third only trains on."""
    model = checkpoints.load("resnet14", seed)
    masked = pruning.apply_masks(model, pruning.layerwise_masks(pruning.magnitude(model), 0.0))
    steps = STEPS_AN_EPOCH * recipe.epochs * 2 // 3
    schedule = pruning.GradualPruning(zeros, steps, every=STEPS_AN_EPOCH // 5, allocate=allocate)
    return fine_tune(masked, seed, state, recipe, before_step=schedule)


def gradual(
    zeros: float, allocate: Callable, recipe: Recipe, variant: str, seed: int, state: Path
) -> report.Record:
    """Gradual pruning: the recommended recipe with `global_masks`."""
    tuned = prune_gradually(zeros, allocate, seed, state, recipe)
    finalist = variant.startswith("gradual")
    more = {"zeros": zeros, "epochs": recipe.epochs, "lr": recipe.lr}
    return record(tuned, variant, seed, "weight pruning", finalist, **more)


def one_shot(zeros: float, score: Callable, variant: str, seed: int, state: Path) -> report.Record:
    """All zeros before the fine-tuning, at the places that a score names."""
    model = checkpoints.load("resnet14", seed)
    scores = score(model, batches(), torch.Generator().manual_seed(seed))
    masked = pruning.apply_masks(model, pruning.global_masks(scores, zeros))
    tuned = fine_tune(masked, seed, state)
    return record(tuned, variant, seed, "weight pruning", False, zeros=zeros)


# --- channels ---------------------------------------------------------------------------------


def counts_for(
    model: nn.Module,
    groups: pruning.ChannelGroups,
    scores: Mapping[str, Tensor],
    budget: float,
    round_to: int,
) -> dict[str, int]:
    """Channels a group, from the sensitivity on validation images."""
    looked_at = data.load("validation").subset(2000)
    scan = pruning.channel_sensitivity(
        model,
        groups,
        scores,
        FRACTIONS,
        lambda m: training.evaluate(on_best_device(m), looked_at),
    )
    return pruning.allocate(groups, pruning.damage_curves(scan), budget=budget, round_to=round_to)


def prune_channels(
    budget: float, round_to: int, score: Callable, seed: int
) -> tuple[nn.Module, dict[str, int]]:
    """A smaller network: channels by a score, their number by sensitivity and budget."""
    model = checkpoints.load("resnet14", seed)
    groups = pruning.find_groups(model, SHAPE)
    scores = pruning.group_scores(
        groups, score(model, batches(), torch.Generator().manual_seed(seed))
    )
    counts = counts_for(model, groups, scores, budget, round_to)
    return pruning.shrink(model, groups, pruning.keep_best(groups, scores, counts)), counts


def channels(
    budget: float,
    round_to: int,
    score: Callable,
    recipe: Recipe,
    variant: str,
    seed: int,
    state: Path,
) -> report.Record:
    """Channel pruning and fine-tuning."""
    smaller, counts = prune_channels(budget, round_to, score, seed)
    tuned = fine_tune(smaller, seed, state, recipe)
    finalist = score is pruning.filter_l1
    more = {"budget": budget, "kept": counts, "epochs": recipe.epochs, "lr": recipe.lr}
    return record(tuned, variant, seed, "channel pruning", finalist, **more)


def slimming(budget: float, round_to: int, variant: str, seed: int, state: Path) -> report.Record:
    """Network slimming: first as many epochs again with the penalty, then as all others."""
    model = checkpoints.load("resnet14", seed)
    penalized = fine_tune(
        model,
        seed,
        state.with_suffix(".penalty.safetensors"),
        objective=pruning.slimming_objective(1e-4, training.cross_entropy(0.1)),
    )
    groups = pruning.find_groups(penalized, SHAPE)
    scores = pruning.group_scores(groups, pruning.batch_norm_scale(penalized))
    counts = counts_for(penalized, groups, scores, budget, round_to)
    smaller = pruning.shrink(penalized, groups, pruning.keep_best(groups, scores, counts))
    tuned = fine_tune(smaller, seed, state)
    state.with_suffix(".penalty.safetensors").unlink()
    return record(tuned, variant, seed, "channel pruning", False, budget=budget, kept=counts)


def rival(budget: float, variant: str, seed: int, state: Path) -> report.Record:
    """Torch-Pruning with the same criterion, L1 of filters, one ratio for all layers, same MACs."""
    model = checkpoints.load("resnet14", seed)
    example = torch.zeros(SHAPE)
    whole = pruning.cost(pruning.find_groups(model, SHAPE)).macs
    low, high, best = 0.0, 1.0, None
    for _ in range(12):  # the largest network within the budget
        ratio = (low + high) / 2
        candidate = checkpoints.load("resnet14", seed)
        torch_pruning.pruner.MagnitudePruner(
            candidate,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=[candidate.fc],
        ).step()
        if metrics.count_macs(candidate, SHAPE) <= budget * whole:
            high, best = ratio, candidate
        else:
            low = ratio
    tuned = fine_tune(best, seed, state)
    return record(tuned, variant, seed, "Torch-Pruning", False, budget=budget)


def from_scratch(shape_of: str, variant: str, seed: int, state: Path) -> report.Record:
    """The architecture of a finalist, new weights, the epochs of the baseline."""
    smaller = pruning.load_pruned(models.build("resnet14"), weights_file(shape_of, 0))
    with training.seeded(seed):
        for module in smaller.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif hasattr(module, "reset_parameters"):
                module.reset_parameters()
    recipe = checkpoints.entry("resnet14", 0).recipe
    trained = fine_tune(smaller, seed, state, recipe)
    return record(trained, variant, seed, "from scratch", False, epochs=recipe.epochs, lr=recipe.lr)


SCORES = {
    "L2": pruning.filter_l2,
    "Taylor": pruning.filter_taylor,
    "FPGM": pruning.filter_fpgm,
    "batch norm": pruning.batch_norm_scale,
    "random": pruning.filter_random,
}


def runs() -> list[Run]:
    """Everything, in the order of need."""
    found = []

    def add(variant: str, seeds: tuple[int, ...], minutes: float, work: Callable) -> None:
        found.extend(Run(variant, s, minutes, partial(work, variant, s)) for s in seeds)

    three, one = (0, 1, 2), (0,)
    for recipe, length in ((FINE_TUNE, ""), (LONGER, " longer")):
        times = recipe.epochs / FINE_TUNE.epochs
        add(f"dense control{length}", three, 6 * times, partial(dense_control, recipe))
        for zeros in (90,) if recipe is LONGER else (90, 95, 80):
            work = partial(gradual, zeros / 100, pruning.global_masks, recipe)
            add(f"gradual {zeros}{length}", three, 6.5 * times, work)
        for budget in (50, 25) if recipe is LONGER else (50, 25, 35):
            # A vector register of AVX2 holds 8 numbers, one of AVX-512 holds 16.
            round_to = 16 if budget == 25 or recipe is LONGER else 8
            work = partial(channels, budget / 100, round_to, pruning.filter_l1, recipe)
            minutes = 1.5 + 6 * budget / 100 * 1.1 * times
            add(f"channels L1 {budget}{length}", three, minutes, work)
    add("Torch-Pruning L1 50", three, 3.5, partial(rival, 0.5))
    for name, score in SCORES.items():
        add(f"channels {name} 50", one, 5, partial(channels, 0.5, 8, score, FINE_TUNE))
    add("channels slimming 50", one, 11, partial(slimming, 0.5, 8))
    for budget in (50, 25):
        work = partial(channels, budget / 100, 1, pruning.filter_l1, FINE_TUNE)
        add(f"channels unaligned L1 {budget}", one, 4, work)
    add("one-shot magnitude 90", one, 6.2, partial(one_shot, 0.9, pruning.magnitude))
    add("one-shot Taylor 90", one, 6.2, partial(one_shot, 0.9, pruning.taylor))
    add("one-shot SNIP 90", one, 6.2, partial(one_shot, 0.9, pruning.snip))
    add("one-shot random 90", one, 6.2, partial(one_shot, 0.9, pruning.random))
    add("layer-wise 90", one, 6.5, partial(gradual, 0.9, pruning.layerwise_masks, FINE_TUNE))
    for zeros in (50, 70, 98):
        work = partial(gradual, zeros / 100, pruning.global_masks, FINE_TUNE)
        add(f"gradual {zeros}", one, 6.5, work)
    add("from scratch 50", one, 17, partial(from_scratch, "channels L1 50"))
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
