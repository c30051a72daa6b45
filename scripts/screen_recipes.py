"""Try training recipes for few epochs on one seed; what is chosen is chosen on validation.

    python scripts/screen_recipes.py            run what is missing
    python scripts/screen_recipes.py --list     say what is there and what is missing

Appends one record a run to results/recipe-screen.jsonl. A run that was killed continues
from its last epoch.
"""

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from slimcnn import data, models, report, training
from slimcnn.data import Augmentation
from slimcnn.training import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "recipe-screen.jsonl"
SEED = 0

ERASING = Augmentation(erase=0.5)
# (network, variant): recipe, minutes on two cores.
VARIANTS: dict[tuple[str, str], tuple[Recipe, int]] = {
    ("resnet14", "flip and shift"): (Recipe(epochs=12, average=0.999), 13),
    ("student", "flip and shift"): (Recipe(epochs=12), 5),
    ("student", "with erasing"): (Recipe(epochs=12, augmentation=ERASING), 5),
    ("student", "weight decay 1e-4"): (Recipe(epochs=12, weight_decay=1e-4), 5),
    ("student", "lr 0.5"): (Recipe(epochs=12, lr=0.5), 5),
}


def run(model_name: str, variant: str) -> report.Record:
    """Train one variant; measure its averaged weights, and its last ones, on validation."""
    recipe, _ = VARIANTS[model_name, variant]
    with training.seeded(SEED):
        model = models.build(model_name)
    validation = data.load("validation")
    checkpoint = ROOT / "runs" / f"screen-{model_name}-{variant.replace(' ', '_')}.safetensors"
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
    record = report.measure_model(
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
    checkpoint.unlink()
    return record


def main() -> None:
    """Run the variants that have no record yet, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="only say what is missing")
    arguments = parser.parse_args()
    # A stopped sweep ends at once: the last finished epoch is on disk already.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report.provenance()  # the commit this process started from, whatever changes later
    records = report.load_records(RECORDS) if RECORDS.exists() else []
    done = {(r.model, r.settings["variant"]): r for r in records}
    for (model_name, variant), (_, minutes) in VARIANTS.items():
        record = done.get((model_name, variant))
        if record is None and not arguments.list:
            record = run(model_name, variant)
            report.append_record(RECORDS, record)
        found = f"missing, about {minutes} minutes"
        if record is not None:
            last = record.settings["accuracy_of_last_weights"]
            found = f"{record.accuracy:.2f} % averaged, {last:.2f} % last, on validation"
        print(f"{model_name:10} {variant:22} {found}", flush=True)


if __name__ == "__main__":
    main()
