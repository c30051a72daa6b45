"""The experiments of chapter 3, and the rewinding of chapter 2.

    python scripts/sweep_sparsity.py             run what is missing (hours)
    python scripts/sweep_sparsity.py --list      say what is there and what is missing

Patterns start from the baseline and have the fine-tuning of scripts/sweep_pruning.py. Runs of
"ten epochs" start from nothing, or from an early state of such a run. Appends one record
a run to results/sparsity.jsonl, predictions to results/sparsity-predictions.safetensors.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimcnn import masking, models, pruning, report, sparsity, training
from slimcnn.checkpoints import load
from slimcnn.data import Augmentation, Batch
from slimcnn.training import Recipe
from sweep_pruning import FINE_TUNE, SHAPE, STEPS_AN_EPOCH, fine_tune
from sweeps import ROOT, Run, final_record, sweep

RECORDS = ROOT / "results" / "sparsity.jsonl"
EARLY = ROOT / "runs" / "sparsity-early.safetensors"
TEN_EPOCHS = Recipe(epochs=10, average=0.0, augmentation=Augmentation(erase=0.5))


def record(
    model: nn.Module, variant: str, seed: int, format: str | None, **settings: object
) -> report.Record:
    """Measure on the test set; bytes are those of the encoded file."""
    technique = "sparse training" if "ten epochs" in variant else "sparsity pattern"
    if "by sums" in variant:
        technique = "planted fault"
    return final_record(
        model,
        "sparsity",
        variant,
        seed,
        technique,
        save=partial(sparsity.save_encoded, format=format),
        keep=variant == "2:4" and seed == 0,
        **settings,
    )


# --- patterns, fine-tuned -----------------------------------------------------------------------


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Magnitudes of all weights but the stem's, which has a single input channel."""
    scores = pruning.magnitude(model)
    return {name: score for name, score in scores.items() if score.shape[1] > 1}


def permuted(model: nn.Module, n: int, m: int) -> nn.Module:
    """The same network, its channels in an order that N:M masks harm less."""
    groups = pruning.find_groups(model, SHAPE)
    scores = pruning.magnitude(model)
    orders = {}
    for group in groups:
        readers = [scores[m.tensor] for m in group.of_role("consumer") if m.tensor in scores]
        rows = [reader.movedim(1, 0).flatten(1) for reader in readers]  # (channels, numbers)
        orders[group.name] = sparsity.channel_permutation(torch.cat(rows, 1).T, n, m)
    return pruning.permute_channels(model, groups, orders)


def blocks_by_sums(scores: Tensor) -> Tensor:
    """4×4 blocks ranked by sums, a fault: small blocks at the edge go first (the lesson's bug)."""
    rows, columns = scores.flatten(1).shape
    padded = F.pad(scores.flatten(1), (0, -columns % 4, 0, -rows % 4))
    sums = padded.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).sum((1, 3))
    stays = pruning.mask_of(sums, 0.75)
    spread = stays.repeat_interleave(4, 0).repeat_interleave(4, 1)
    return spread[:rows, :columns].reshape(scores.shape)


PATTERNS: dict[str, Callable[[Tensor], Tensor]] = {
    "2:4": lambda scores: sparsity.nm_mask(scores, 2, 4),
    "1:4": lambda scores: sparsity.nm_mask(scores, 1, 4),
    "vector 1x4": lambda scores: sparsity.block_mask(scores, (1, 4), 0.75),
    "block 4x4": lambda scores: sparsity.block_mask(scores, (4, 4), 0.75),
    "block 4x4 by sums": blocks_by_sums,
    "kernel": lambda scores: sparsity.kernel_mask(scores, 0.75),
    "element": lambda scores: pruning.mask_of(scores, 0.75),
}


def pattern(name: str, permute: bool, variant: str, seed: int, state: Path) -> report.Record:
    """Masks of one pattern from the magnitudes, all at once, then the usual fine-tuning."""
    model = load("resnet14", seed)
    if permute:
        model = permuted(model, 2, 4)
    masks = {key: PATTERNS[name](score) for key, score in prunable(model).items()}
    tuned = fine_tune(masking.apply_masks(model, masks), seed, state)
    zeros = pruning.sparsity_of(masks)
    format = "bsr" if name.startswith("block") else None
    return record(tuned, variant, seed, format, zeros=zeros, epochs=FINE_TUNE.epochs)


# --- ten epochs ---------------------------------------------------------------------------------


def new_network(seed: int) -> nn.Module:
    """ResNet-14 with the initial weights of a seed."""
    with training.seeded(seed):
        return models.build("resnet14")


def dense_ten(variant: str, seed: int, state: Path) -> report.Record:
    """Dense for ten epochs; its state after the first one is kept for the rewinding."""

    def keep_early(model: nn.Module, batch: Batch, step: int) -> None:
        if step == STEPS_AN_EPOCH:
            tensors = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
            EARLY.parent.mkdir(exist_ok=True)
            save_file(tensors, EARLY)

    trained = fine_tune(new_network(seed), seed, state, TEN_EPOCHS, before_step=keep_early)
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, _trained(seed))
    return record(trained, variant, seed, "dense", zeros=0.0, epochs=10)


def rewound(early: bool, variant: str, seed: int, state: Path) -> report.Record:
    """The mask of the dense run, on its early weights or on new ones."""
    final = new_network(seed)
    final.load_state_dict(load_file(_trained(seed)))
    masks = pruning.global_masks(pruning.magnitude(final), 0.9)
    start = copy.deepcopy(final)
    start.load_state_dict(load_file(EARLY) if early else new_network(seed + 100).state_dict())
    trained = fine_tune(masking.apply_masks(start, masks), seed, state, TEN_EPOCHS)
    return record(trained, variant, seed, None, zeros=0.9, epochs=10)


def from_the_start(grow: bool, variant: str, seed: int, state: Path) -> report.Record:
    """Random sparse connections by the ERK rule: fixed, or moved by RigL."""
    model = new_network(seed)
    scores = pruning.random(model, None, torch.Generator().manual_seed(seed))
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    masks = pruning.layerwise_masks(scores, sparsity.erk_sparsities(shapes, 0.9))
    hook = sparsity.DropAndGrow(until=STEPS_AN_EPOCH * 10 * 3 // 4) if grow else None
    masked = masking.apply_masks(model, masks)
    trained = fine_tune(masked, seed, state, TEN_EPOCHS, before_step=hook)
    return record(trained, variant, seed, None, zeros=0.9, epochs=10)


def _trained(seed: int) -> Path:
    return ROOT / "runs" / f"sparsity-dense-ten-seed{seed}.safetensors"


def runs() -> list[Run]:
    """Everything, in the order of need."""
    found = [
        Run("2:4", seed, 6.5, partial(pattern, "2:4", False, "2:4", seed)) for seed in range(3)
    ]

    def add(variant: str, minutes: float, work: Callable) -> None:
        found.append(Run(variant, 0, minutes, partial(work, variant, 0)))

    add("2:4 permuted", 6.6, partial(pattern, "2:4", True))
    for name in list(PATTERNS)[1:]:
        add(f"{name} 75" if name != "1:4" else name, 6.5, partial(pattern, name, False))
    add("dense, ten epochs", 10, dense_ten)
    add("rewound, ten epochs", 10.5, partial(rewound, True))
    add("new weights, ten epochs", 10.5, partial(rewound, False))
    add("RigL, ten epochs", 10.5, partial(from_the_start, True))
    add("fixed mask, ten epochs", 10.5, partial(from_the_start, False))
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
