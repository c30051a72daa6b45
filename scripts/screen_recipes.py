"""Try training recipes for few epochs on one seed; what is chosen is chosen on validation.

    python scripts/screen_recipes.py            run what is missing
    python scripts/screen_recipes.py --list     say what is there and what is missing

Appends one record a run to results/recipe-screen.jsonl. A run that was killed continues
from its last epoch.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from slimcnn import data, models, report, training
from slimcnn.data import Augmentation
from slimcnn.training import Recipe
from sweeps import ROOT, Run, sweep

SEED = 0

# (network, variant): recipe, minutes on two cores.
VARIANTS: dict[tuple[str, str], tuple[Recipe, int]] = {
    ("resnet14", "flip and shift"): (Recipe(epochs=12, average=0.999), 13),
    ("student", "flip and shift"): (Recipe(epochs=12), 5),
    ("student", "with erasing"): (Recipe(epochs=12, augmentation=Augmentation(erase=0.5)), 5),
    ("student", "weight decay 1e-4"): (Recipe(epochs=12, weight_decay=1e-4), 5),
    ("student", "lr 0.5"): (Recipe(epochs=12, lr=0.5), 5),
}


def run(model_name: str, variant: str, checkpoint: Path) -> report.Record:
    """Train one variant; measure its averaged weights, and its last ones, on validation."""
    recipe, _ = VARIANTS[model_name, variant]
    with training.seeded(SEED):
        model = models.build(model_name)
    validation = data.load("validation")
    averaged, _ = training.fit(
        model,
        data.load("train"),
        recipe,
        seed=SEED,
        validation=validation,
        checkpoint=checkpoint,
        progress=sys.stderr.isatty(),
    )
    tensors = load_file(checkpoint)
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    return report.measure_model(
        averaged,
        name=model_name,
        technique="dense",
        seed=SEED,
        split=validation,
        stage="screen",
        settings={
            "variant": variant,
            "recipe": asdict(recipe),
            "accuracy_of_last_weights": training.evaluate(model, validation),
        },
        command="python scripts/screen_recipes.py",
    )


def found(record: report.Record) -> str:
    """What a record says, for the list."""
    last = record.settings["accuracy_of_last_weights"]
    return f"{record.accuracy:.2f} % averaged, {last:.2f} % last, on validation"


if __name__ == "__main__":
    sweep(
        __doc__.split("\n")[0],
        ROOT / "results" / "recipe-screen.jsonl",
        [
            Run(variant, SEED, minutes, partial(run, name, variant), model=name)
            for (name, variant), (_, minutes) in VARIANTS.items()
        ],
        found,
    )
