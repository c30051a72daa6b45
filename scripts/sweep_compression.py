"""Chapter 6, weight sharing: prune, share values, code; all bytes counted in `.slim` files.

    python scripts/sweep_compression.py             run what is missing (an hour)
    python scripts/sweep_compression.py --list      say what is there and what is missing

Starts from gradual pruning as in scripts/sweep_pruning.py (90 % zeros with its longer recipe),
folds the batch norms, lets weights share values and trains these, and rounds what is left of real
numbers, codebooks and biases, to float16. Appends one record a run to
results/compression.jsonl, predictions to results/compression-predictions.safetensors, and keeps the
file of the finalist's seed 0. What is measured is what the file gives back.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from slimcnn import checkpoints, coding, models, pruning, quantization, report, sparsity
from sweep_pruning import FINE_TUNE, LONGER, fine_tune, prune_gradually
from sweeps import ROOT, Run, final_record, sweep, weights_file

RECORDS = ROOT / "results" / "compression.jsonl"
# The gradient of a shared value is the sum of those of thousands of weights.
VALUES = replace(FINE_TUNE, epochs=2, lr=0.0002)
PRUNED_LONGER = 90  # percent of zeros: the finalist's


def pruned(zeros: int, seed: int) -> nn.Module:
    """The baseline of a seed with so many percent zeros; 0 for the baseline itself."""
    if zeros == 0:
        return checkpoints.load("resnet14", seed)
    longer = zeros == PRUNED_LONGER
    kept = weights_file(f"gradual {zeros}{' longer' if longer else ''}", seed)
    path = kept if kept.exists() else ROOT / "runs" / f"compression-pruned-{zeros}-{seed}"
    if not path.exists():
        state, recipe = path.with_suffix(".state.safetensors"), LONGER if longer else FINE_TUNE
        tuned = prune_gradually(zeros / 100, pruning.global_masks, seed, state, recipe)
        sparsity.save_encoded(pruning.finalize(tuned), path)
        state.unlink()
    return sparsity.load_encoded(models.build("resnet14"), path)


def compressed(
    zeros: int,
    values: int | None,
    train: bool,
    halves: bool,
    variant: str,
    seed: int,
    state: Path,
) -> report.Record:
    """Pruned, folded, with so many values a layer (None: all its own), from the file."""
    network = quantization.fold_batch_norm(pruned(zeros, seed))
    if values is not None:
        network = coding.share_weights(network, values)
    elif train:  # the control: as many epochs, values of its own
        masks = {
            name: weight != 0 for name, weight in network.named_parameters() if weight.ndim > 1
        }
        network = pruning.apply_masks(network, masks)
    if train:
        network = fine_tune(network, seed, state, VALUES)
    path = ROOT / "runs" / "compressed.slim"
    path.parent.mkdir(exist_ok=True)
    network = pruning.finalize(network)
    coding.save_slim(network.half().float() if halves else network, path)
    stored = coding.load_slim(path, quantization.fold_batch_norm(models.build("resnet14")))
    path.unlink()
    return final_record(
        stored,
        "compression",
        variant,
        seed,
        "pruned, shared, coded",
        save=coding.save_slim,
        keep=variant == FINALIST and seed == 0,
        kind="slim",
        zeros=zeros / 100,
        pruning_epochs=0 if not zeros else (LONGER if zeros == PRUNED_LONGER else FINE_TUNE).epochs,
        values=values,
        epochs=VALUES.epochs if train else 0,
        halves=halves,
    )


FINALIST = "zeros 90, values 16, halves"


def runs() -> list[Run]:
    """The finalist on three seeds, then what each stage does, on one."""
    found = []

    def add(
        variant: str,
        seeds: tuple[int, ...],
        zeros: int,
        values: int | None,
        train: bool,
        halves: bool = False,
    ) -> None:
        for seed in seeds:
            minutes = (2.5 if train else 0.5) + (14 if zeros and seed else 0)
            work = partial(compressed, zeros, values, train, halves, variant, seed)
            found.append(Run(variant, seed, minutes, work))

    add(FINALIST, (0, 1, 2), 90, 16, True, halves=True)
    add("zeros 90, values 16", (0, 1, 2), 90, 16, True)
    add("zeros 90, values 16, not trained", (0,), 90, 16, False)
    add("zeros 90", (0,), 90, None, False)
    add("zeros 90, two more epochs", (0,), 90, None, True)
    add("zeros 0, values 16", (0,), 0, 16, True)
    for zeros, values in ((90, 8), (90, 4), (80, 16), (95, 16)):
        add(f"zeros {zeros}, values {values}", (0,), zeros, values, True)
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
