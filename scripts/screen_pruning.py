"""Try peak learning rates for the fine-tuning of chapter 2; chosen on validation, one seed.

    python scripts/screen_pruning.py            run what is missing
    python scripts/screen_pruning.py --list     say what is there and what is missing

Gradual pruning to 90 % zeros, as in scripts/sweep_pruning.py. Appends one record a run to
results/pruning-screen.jsonl.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from slimcnn import data, pruning, report
from sweep_pruning import FINE_TUNE, prune_gradually
from sweeps import ROOT, Run, sweep

RATES = (0.02, 0.1, 0.05, 0.01)


def run(lr: float, state: Path) -> report.Record:
    """Fine-tune at one peak rate, measure on validation."""
    recipe = replace(FINE_TUNE, lr=lr)
    tuned = prune_gradually(0.9, pruning.global_masks, 0, state, recipe)
    return report.measure_model(
        pruning.finalize(tuned),
        name="resnet14",
        technique="weight pruning",
        seed=0,
        split=data.load("validation"),
        stage="screen",
        settings={"variant": f"gradual 90, lr {lr}", "epochs": FINE_TUNE.epochs},
        command="python scripts/screen_pruning.py",
    )


if __name__ == "__main__":
    sweep(
        __doc__.split("\n")[0],
        ROOT / "results" / "pruning-screen.jsonl",
        [Run(f"gradual 90, lr {lr}", 0, 6.5, partial(run, lr)) for lr in RATES],
    )
