"""Try teachers, temperatures and shares for chapter 4; chosen on validation, one seed.

    python scripts/screen_distillation.py            run what is missing
    python scripts/screen_distillation.py --list     say what is there and what is missing

Students of six epochs, as in scripts/sweep_distillation.py, taught by the ResNet-14 of chapter 1
or by one that was trained without label smoothing. Each teacher is asked once for all of its
students: the answers are kept in runs/. Appends one record a run to
results/distillation-screen.jsonl.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from slimcnn import checkpoints, data, distillation, report, training
from slimcnn.distillation import SoftTargets, TeacherCache
from sweep_distillation import RECIPE, new_student, options
from sweeps import ROOT, Run, sweep

SHORT = replace(RECIPE, epochs=6)
# (teacher, temperature, share): crosses, the temperatures at one share and the shares at one
# temperature.
GRID = (
    *(("resnet14-unsmoothed", temperature, 0.9) for temperature in (4.0, 2.0, 8.0)),
    *(("resnet14-unsmoothed", 4.0, alpha) for alpha in (0.5, 1.0)),
    *(("resnet14", temperature, 0.9) for temperature in (4.0, 2.0, 1.0)),
)


def run(name: str, temperature: float, alpha: float, variant: str, state: Path) -> report.Record:
    """One point of the grid, measured on validation; alpha 0 is the student alone."""
    student, train = new_student(0), data.load("train")
    if alpha == 0:
        trained, _ = training.fit(student, train, SHORT, **options(0, state))
    else:
        cache = TeacherCache(ROOT / "runs" / f"distillation-cache-{name}.safetensors")
        loss = SoftTargets(temperature, alpha)
        teacher = checkpoints.load(name)
        trained, _ = distillation.distill(
            student, teacher, train, SHORT, loss=loss, cache=cache, **options(0, state)
        )
        cache.save()
    return report.measure_model(
        trained,
        name="student",
        technique="distillation" if alpha else "dense",
        seed=0,
        split=data.load("validation"),
        stage="screen",
        settings={"variant": variant, "temperature": temperature, "alpha": alpha, "epochs": 6}
        | ({"teacher": name} if alpha else {}),
        command="python scripts/screen_distillation.py",
    )


def runs() -> list[Run]:
    """The student alone, then the grid."""
    found = [Run("alone", 0, 2.6, partial(run, "", 1.0, 0.0, "alone"), "student")]
    for name, temperature, alpha in GRID:
        variant = f"{name}, T {temperature:g}, alpha {alpha:g}"
        work = partial(run, name, temperature, alpha, variant)
        found.append(Run(variant, 0, 3.0, work, "student"))  # the first one asks the teacher
    return found


if __name__ == "__main__":
    records = ROOT / "results" / "distillation-screen.jsonl"
    sweep(__doc__.split("\n")[0], records, runs())
