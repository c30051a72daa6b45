"""Try peak learning rates for the fine-tuning of chapter 2; chosen on validation, one seed.

    python scripts/screen_pruning.py            run what is missing
    python scripts/screen_pruning.py --list     say what is there and what is missing

Gradual pruning to 90 % zeros and channel pruning to half the MACs, as in
scripts/sweep_pruning.py. Appends one record a run to results/pruning-screen.jsonl.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from slimcnn import data, pruning, report
from slimcnn.training import Recipe
from sweep_pruning import FINE_TUNE, LONGER, fine_tune, prune_channels, prune_gradually
from sweeps import ROOT, Run, sweep

RATES = (0.02, 0.1, 0.05, 0.01)


def run(channels: bool, recipe: Recipe, variant: str, state: Path) -> report.Record:
    """Prune and fine-tune by one recipe, measure on validation."""
    if channels:
        smaller, _ = prune_channels(0.5, 8, pruning.filter_l1, 0)
        tuned = fine_tune(smaller, 0, state, recipe)
    else:
        tuned = prune_gradually(0.9, pruning.global_masks, 0, state, recipe)
    return report.measure_model(
        pruning.finalize(tuned),
        name="resnet14",
        technique="channel pruning" if channels else "weight pruning",
        seed=0,
        split=data.load("validation"),
        stage="screen",
        settings={"variant": variant, "epochs": recipe.epochs, "lr": recipe.lr},
        command="python scripts/screen_pruning.py",
    )


def runs() -> list[Run]:
    """The rates, for the usual fine-tuning and for the longer one."""
    found = []
    for base, length in ((FINE_TUNE, ""), (LONGER, " longer")):
        for channels, name in ((False, "gradual 90"), (True, "channels L1 50")):
            minutes = base.epochs * (0.6 if channels else 1.1)
            for lr in RATES:
                variant = f"{name}{length}, lr {lr}"
                work = partial(run, channels, replace(base, lr=lr), variant)
                found.append(Run(variant, 0, minutes, work))
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], ROOT / "results" / "pruning-screen.jsonl", runs())
