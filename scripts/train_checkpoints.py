"""Train the networks that every chapter starts from (`make checkpoints`).

    python scripts/train_checkpoints.py            train what is missing, one after another
    python scripts/train_checkpoints.py --list     say what is there and what is missing

Writes the weights, their entry in the manifest, and one record a run to
results/baselines.jsonl. A run that was killed continues from its last epoch.
"""

import argparse
import signal
import sys
from pathlib import Path
from statistics import median

from slimcnn import checkpoints, data, models, report, training
from slimcnn.data import Augmentation
from slimcnn.training import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "baselines.jsonl"

# Everything here was decided on validation or beforehand; the test set chose nothing. The
# student's recipe is the best of scripts/screen_recipes.py: no erasing, and its last weights, since
# averaging them never helped. ResNet-14 has erasing, as Zhong et al. (2020) advise for long runs.
RESNET14 = Recipe(epochs=30, augmentation=Augmentation(erase=0.5))
STUDENT = Recipe(epochs=40, average=0.0)
UNSMOOTHED = Recipe(epochs=30, augmentation=Augmentation(erase=0.5), label_smoothing=0.0)

# (checkpoint, seed): network, recipe, minutes on two cores; the order is the order of need.
RUNS: dict[tuple[str, int], tuple[str, Recipe, int]] = {
    ("resnet14", 0): ("resnet14", RESNET14, 32),
    ("student", 0): ("student", STUDENT, 17),
    ("resnet14", 1): ("resnet14", RESNET14, 32),
    ("student", 1): ("student", STUDENT, 17),
    ("resnet14", 2): ("resnet14", RESNET14, 32),
    ("student", 2): ("student", STUDENT, 17),
    ("resnet14-unsmoothed", 0): ("resnet14", UNSMOOTHED, 32),
}


def run(name: str, seed: int) -> checkpoints.Entry:
    """Train one network; write its weights, its manifest entry and its record."""
    network, recipe, _ = RUNS[name, seed]
    with training.seeded(seed):
        model = models.build(network)
    validation, test = data.load("validation"), data.load("test")
    resume = ROOT / "runs" / f"{name}-{seed}.safetensors"
    trained, history = training.fit(
        model,
        data.load("train"),
        recipe,
        seed=seed,
        validation=validation,
        checkpoint=resume,
        progress=sys.stderr.isatty(),
    )
    command = "python scripts/train_checkpoints.py"
    provenance = report.provenance(command)
    folder = checkpoints.MANIFEST.parent if seed == 0 else checkpoints.weights_dir()
    path = folder / f"{name}-seed{seed}.safetensors"
    entry = checkpoints.Entry(
        name=name,
        seed=seed,
        file=path.name,
        sha256=checkpoints.save_weights(trained, path),
        model=network,
        recipe=recipe,
        validation_accuracy=training.evaluate(trained, validation),
        test_accuracy=training.evaluate(trained, test),
        # The median epoch, so that what else the machine did in between does not count.
        minutes=round(median(history.seconds) * recipe.epochs / 60, 1),
        command=command,
        commit=provenance["commit"],
        versions=provenance["versions"],
    )
    record = report.measure_model(
        trained,
        name=name,
        technique="dense",
        seed=seed,
        split=test,
        settings={"epochs": recipe.epochs},
        path=path,
        command=command,
    )
    report.append_record(RECORDS, record)
    checkpoints.record(entry, training.predict(trained, test.images).argmax(1))
    resume.unlink()
    return entry


def main() -> None:
    """Train the checkpoints that the manifest lacks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="only say what is missing")
    arguments = parser.parse_args()
    # A stopped training ends at once: the last finished epoch is on disk already.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report.provenance()  # the commit this process started from, whatever changes later
    there = {(e.name, e.seed): e for e in checkpoints.entries() if e.path.exists()}
    for (name, seed), (_, _, minutes) in RUNS.items():
        entry = there.get((name, seed))
        if entry is None and not arguments.list:
            entry = run(name, seed)
        if entry is None:
            print(f"{name} seed {seed}: missing, about {minutes} minutes", flush=True)
        else:
            found = f"{entry.test_accuracy:.2f} % on test, {entry.validation_accuracy:.2f} %"
            print(f"{name} seed {seed}: {found} on validation", flush=True)


if __name__ == "__main__":
    main()
