"""What the sweeps share: named runs, each of which leaves one record, in a list to work off.

A sweep is resumable: a run that has its record is done, a training that was killed goes on from
its last epoch, and `--list` says what is missing and how long it takes.
"""

import argparse
import copy
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimcnn import data, masking, report, training
from slimcnn.stored import weights_name

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        variant, seed: what the record's settings["variant"] and seed will say; its identity.
        model: the network's name, as in the record.
        minutes: about how long it takes on two quiet cores.
        work: does it: (file for the training's state) → record.
    """

    variant: str
    seed: int
    minutes: float
    work: Callable[[Path], report.Record]
    model: str = "resnet14"

    @property
    def key(self) -> tuple[str, str, int]:
        return self.model, self.variant, self.seed


def sweep(
    description: str,
    records: Path,
    runs: Sequence[Run],
    found: Callable[[report.Record], str] = lambda r: f"{r.accuracy:.2f} % on {r.split}",
) -> None:
    """The command line of a sweep: do the runs that have no record yet, one after another."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--list", action="store_true", help="only say what is missing")
    parser.add_argument("--only", default="", help="only variants that begin with this")
    arguments = parser.parse_args()
    # A stopped sweep ends at once: the last finished epoch is on disk already.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report.provenance()  # the commit this process started from, whatever changes later
    there = report.load_records(records) if records.exists() else []
    done = {(r.model, r.settings["variant"], r.seed): r for r in there}
    missing = 0.0
    for run in runs:
        if not run.variant.startswith(arguments.only):
            continue
        record = done.get(run.key)
        if record is None and not arguments.list:
            state = ROOT / "runs" / f"{records.stem}-{'-'.join(map(str, run.key))}.safetensors"
            state = state.with_name(state.name.replace(" ", "_").replace("/", "_"))
            record = run.work(state)
            report.append_record(records, record)
            state.unlink(missing_ok=True)
        text = found(record) if record else f"missing, about {run.minutes:g} minutes"
        missing += 0 if record else run.minutes
        print(f"{run.model:9} {run.variant:32} seed {run.seed}  {text}", flush=True)
    print(f"{records.relative_to(ROOT)}: {missing:g} minutes missing", flush=True)


def final_record(
    model: nn.Module,
    sweep_name: str,
    variant: str,
    seed: int,
    technique: str,
    *,
    save: Callable[[nn.Module, Path], object],
    keep: bool,
    name: str = "resnet14",
    answers: Callable[[Tensor], Tensor] | None = None,
    kind: str = "safetensors",
    **settings: object,
) -> report.Record:
    """Measure a finished network on the test set; keep its predictions, for paired comparisons.

    Args:
        model: masks are written in first.
        sweep_name: results/NAME.jsonl is made by scripts/sweep_NAME.py.
        variant, seed, technique, settings: for the record.
        save: writes the file whose bytes count.
        keep: leave that file in results/weights/.
        name: of the network, as in the record.
        answers: images of uint8 to logits, where something else computes the network.
        kind: of that file, one of `slimcnn.stored.KINDS`.
    """
    model, test = masking.finalize(model).cpu(), data.load("test")
    there = on_best_device(model)
    # In trainings GPUs may shorten float32 to TF32; answers are to be those of any machine.
    torch.backends.cudnn.allow_tf32 = False
    path = ROOT / "results" / f"{sweep_name}-predictions.safetensors"
    stored = load_file(path) if path.exists() else {}
    answers = answers or partial(training.predict, there)
    predicted = answers(test.images).argmax(1).to(torch.uint8)
    stored[f"{variant}-seed{seed}"] = predicted
    save_file(dict(sorted(stored.items())), path)
    weights = weights_file(variant, seed, kind)
    weights.parent.mkdir(parents=True, exist_ok=True)
    save(model, weights)
    validation = data.load("validation")
    record = report.measure_model(
        there,
        name=name,
        technique=technique,
        seed=seed,
        split=test,
        settings={
            "variant": variant,
            "validation_accuracy": percent(answers(validation.images).argmax(1), validation),
            **settings,
        },
        path=weights,
        command=f"python scripts/sweep_{sweep_name}.py",
    )
    torch.backends.cudnn.allow_tf32 = True
    if not keep:
        weights.unlink()
    return replace(record, accuracy=percent(predicted, test))


def percent(predicted: Tensor, split: data.Split) -> float:
    """Accuracy of these classes, in percent."""
    return 100 * (predicted == split.labels).double().mean().item()


def on_best_device(model: nn.Module) -> nn.Module:
    """A copy where trainings run, for what looks at many images."""
    return copy.deepcopy(model).to(training.best_device())


def weights_file(variant: str, seed: int, kind: str = "safetensors") -> Path:
    """Where the weights of a finalist are."""
    return ROOT / "results" / "weights" / weights_name(variant, seed, kind)
