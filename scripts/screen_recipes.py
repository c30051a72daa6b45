"""Try training recipes for few epochs on one seed; what is chosen is chosen on validation.

    python scripts/screen_recipes.py            run what is missing
    python scripts/screen_recipes.py --list     say what is there and what is missing

Appends one line a run to results/recipe-screen.jsonl. A run that was killed continues
from its last epoch.
"""

import argparse
import json
import platform
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from slimcnn import data, models, training
from slimcnn.data import Augmentation
from slimcnn.training import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "recipe-screen.jsonl"
SEED = 0

ERASING = Augmentation(erase=0.5)
VARIANTS = {
    ("resnet14", "flip and shift"): Recipe(epochs=12, average=0.999),
    ("resnet14", "with erasing"): Recipe(epochs=12, augmentation=ERASING),
    ("student", "flip and shift"): Recipe(epochs=12),
    ("student", "with erasing"): Recipe(epochs=12, augmentation=ERASING),
    ("student", "weight decay 1e-4"): Recipe(epochs=12, weight_decay=1e-4),
    ("student", "lr 0.5"): Recipe(epochs=12, lr=0.5),
    ("resnet14", "with erasing, lr 0.4"): Recipe(epochs=12, lr=0.4, augmentation=ERASING),
}


def run(model_name: str, variant: str, recipe: Recipe) -> dict:
    """Train one variant and measure its averaged and its last weights on validation."""
    with training.seeded(SEED):
        model = models.build(model_name)
    validation = data.load("validation")
    checkpoint = ROOT / "runs" / f"screen-{model_name}-{variant.replace(' ', '_')}.safetensors"
    averaged, history = training.fit(
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
    checkpoint.unlink()
    return {
        "stage": "screen",
        "model": model_name,
        "variant": variant,
        "seed": SEED,
        "recipe": asdict(recipe),
        "validation_accuracy": training.evaluate(averaged, validation),
        "validation_accuracy_last_weights": training.evaluate(model, validation),
        "train_loss": history.loss[-1],
        "minutes": round(sum(history.seconds) / 60, 2),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def main() -> None:
    """Run the variants that have no record yet, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="only say what is missing")
    arguments = parser.parse_args()
    # A stopped sweep ends at once: the last finished epoch is on disk already.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    done = {(r["model"], r["variant"]): r for r in map(json.loads, lines)}
    for (model_name, variant), recipe in VARIANTS.items():
        record = done.get((model_name, variant))
        if record is None and not arguments.list:
            record = run(model_name, variant, recipe)
            with RECORDS.open("a") as file:
                file.write(json.dumps(record) + "\n")
        found = f"{record['validation_accuracy']:.2f} %" if record else "missing"
        print(f"{model_name:10} {variant:22} {found}", flush=True)


if __name__ == "__main__":
    main()
