"""The experiments of chapter 4: students with and without teachers.

    python scripts/sweep_distillation.py             run what is missing (hours)
    python scripts/sweep_distillation.py --list      say what is there and what is missing
    python scripts/sweep_distillation.py --only soft

Every student sees the same images, the same augmentation, as many steps. Teacher, temperature and
share were chosen on validation by scripts/screen_distillation.py. Appends one record a run to
results/distillation.jsonl, predictions to results/distillation-predictions.safetensors, and
keeps the weights of the finalists' seed 0.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from slimcnn import (
    checkpoints,
    data,
    distillation,
    models,
    pruning,
    quantization,
    report,
    sparsity,
    training,
)
from slimcnn.distillation import AttentionTransfer, Decoupled, Hints, Relations, SoftTargets
from slimcnn.training import Recipe
from sweep_pruning import FINE_TUNE
from sweeps import ROOT, Run, final_record, sweep, weights_file

RECORDS = ROOT / "results" / "distillation.jsonl"
WIDE = ROOT / "runs" / "distillation-wide-teacher.safetensors"
# The student's own recipe, in fewer epochs.
RECIPE = replace(checkpoints.entry("student").recipe, epochs=15, average=0.0)
# The best points of the screen: for each teacher, and the better teacher.
SOFT = {
    "resnet14": SoftTargets(temperature=1.0, alpha=0.9),
    "resnet14-unsmoothed": SoftTargets(temperature=4.0, alpha=0.9),
}
TEACHER, OTHER = "resnet14-unsmoothed", "resnet14"
# (student, teacher): maps at the same depth, by thirds; embeddings after the pooling.
MAPS = [("blocks.1", "stage1"), ("blocks.2", "stage2"), ("blocks.4", "stage3")]
EMBEDDINGS = [("flatten", "flatten")]
TWO_BITS = "2-bit weights"


def new_student(seed: int) -> nn.Module:
    """The student with the initial weights of a seed."""
    with training.seeded(seed):
        return models.build("student")


def record(model: nn.Module, variant: str, seed: int, keep: bool, **settings) -> report.Record:
    """Measure a student on the test set."""
    return final_record(
        model,
        "distillation",
        variant,
        seed,
        "distillation" if "teacher" in settings else "dense",
        save=checkpoints.save_weights,
        keep=keep and seed == 0,
        name="student",
        **settings,
    )


def options(seed: int, state: Path) -> dict:
    """What every training is told alike."""
    return {
        "seed": seed,
        "validation": data.load("validation"),
        "checkpoint": state,
        "progress": sys.stderr.isatty(),
    }


# --- students -----------------------------------------------------------------------------------


def alone(recipe: Recipe, variant: str, seed: int, state: Path) -> report.Record:
    """The student by itself, on labels."""
    trained, _ = training.fit(new_student(seed), data.load("train"), recipe, **options(seed, state))
    keep = variant in ("alone", "no smoothing")  # the second is the teacher of `itself`
    return record(trained, variant, seed, keep, epochs=recipe.epochs)


def trained_teacher(name: str, seed: int) -> nn.Module:
    """The teacher of a student's seed; there is only one that had no label smoothing."""
    return checkpoints.load(name, seed if name == "resnet14" else 0)


def taught(
    teacher: Callable[[int], nn.Module],
    teacher_name: str,
    variant: str,
    seed: int,
    state: Path,
    **how: object,
) -> report.Record:
    """The student with a teacher."""
    master = teacher(seed)
    trained, _ = distillation.distill(
        new_student(seed), master, data.load("train"), RECIPE, **how, **options(seed, state)
    )
    more = {"epochs": RECIPE.epochs, "teacher": teacher_name, **asdict(how["loss"])}
    more["teacher_on_validation"] = training.evaluate(master, data.load("validation"))
    if features := how.get("features"):
        pairs = [" - ".join(pair) for pair in features.pairs]
        more |= {"feature_weight": features.weight, "pairs": pairs}
    return record(trained, variant, seed, variant == "soft targets", **more)


def wide_teacher(seed: int) -> nn.Module:
    """ResNet-14 of width 1.5; trained once, by the teacher's recipe in twelve epochs."""
    with training.seeded(seed):
        network = models.build("resnet14", width=1.5)
    if not WIDE.exists():
        recipe = replace(checkpoints.entry(TEACHER).recipe, epochs=12, average=0.0)
        state = WIDE.with_name("distillation-wide-teacher-state.safetensors")
        network, _ = training.fit(network, data.load("train"), recipe, **options(seed, state))
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, WIDE)
        state.unlink()
    network.load_state_dict(load_file(WIDE))
    return network.eval()


def itself(seed: int) -> nn.Module:
    """The student that was trained alone, without smoothing (a born-again teacher)."""
    network = models.build("student")
    checkpoints.load_weights_(network, weights_file("no smoothing", seed))
    return network.eval()


# --- recovery of compressed networks -------------------------------------------------------------


def compressed(start: str, seed: int) -> tuple[nn.Module, Recipe, Callable]:
    """A network of another chapter, what trains it on, and what saves it."""
    path = weights_file(start, seed)
    if start == TWO_BITS:
        network = quantization.fold_batch_norm(checkpoints.load("resnet14", seed))
        images = data.load("train").subset(500).images
        network = quantization.quantize(network, quantization.Scheme(2, 8, learned=True), images)
        return network, replace(FINE_TUNE, epochs=3), quantization.save_quantized
    if start.startswith("gradual"):
        network = sparsity.load_encoded(models.build("resnet14"), path)
        masks = {
            name: weight != 0 for name, weight in network.named_parameters() if weight.ndim > 1
        }
        return pruning.apply_masks(network, masks), FINE_TUNE, sparsity.save_encoded
    network = pruning.load_pruned(models.build("resnet14"), path)
    return network, FINE_TUNE, checkpoints.save_weights


def recovered(
    start: str, teacher: str | None, variant: str, seed: int, state: Path
) -> report.Record:
    """A network that was made smaller, trained on with a teacher or on labels alone."""
    network, recipe, save = compressed(start, seed)
    train, more = data.load("train"), {"epochs": recipe.epochs, "lr": recipe.lr, "start": start}
    if teacher is not None:
        master, loss = trained_teacher(teacher, seed), SOFT[teacher]
        tuned, _ = distillation.distill(
            network, master, train, recipe, loss=loss, **options(seed, state)
        )
        more |= {"teacher": teacher, **asdict(loss)}
    else:
        tuned, _ = training.fit(network, train, recipe, **options(seed, state))
    return final_record(
        tuned, "distillation", variant, seed, "recovery", save=save, keep=False, **more
    )


def runs() -> list[Run]:
    """Everything, in the order of need."""
    found = []

    def add(
        variant: str, seeds: tuple[int, ...], minutes: float, work: Callable, model: str = "student"
    ):
        found.extend(Run(variant, s, minutes, partial(work, variant, s), model) for s in seeds)

    three, one = (0, 1, 2), (0,)
    soft = SOFT[TEACHER]
    ours = partial(taught, partial(trained_teacher, TEACHER), TEACHER)
    add("alone", three, 6.5, partial(alone, RECIPE))
    add("soft targets", three, 11, partial(ours, loss=soft))
    attention = AttentionTransfer(MAPS, 10.0)
    add("attention", three, 11.5, partial(ours, loss=soft, features=attention))
    add("no smoothing", three, 6.5, partial(alone, replace(RECIPE, label_smoothing=0.0)))
    add("twice as long", three, 13, partial(alone, replace(RECIPE, epochs=2 * RECIPE.epochs)))
    add("hints", one, 11.5, partial(ours, loss=soft, features=Hints(MAPS, 1.0)))
    relations = Relations(EMBEDDINGS, 25.0)  # the weight of the paper's distances
    add("relations", one, 14, partial(ours, loss=soft, features=relations))
    decoupled = Decoupled(temperature=soft.temperature, beta=2.0)
    add("decoupled", one, 11, partial(ours, loss=decoupled))
    add("itself", one, 9, partial(taught, itself, "student, no smoothing", loss=soft))
    other = partial(taught, partial(trained_teacher, OTHER), OTHER, loss=SOFT[OTHER])
    add("other teacher", three, 11, other)
    add("wide teacher", one, 40, partial(taught, wide_teacher, "resnet14, width 1.5", loss=soft))
    for start, minutes in (("channels L1 25", 2), ("gradual 90", 6.5), (TWO_BITS, 5)):
        ways = {"with teacher": TEACHER, "without teacher": None, "with its ancestor": OTHER}
        for way, teacher in ways.items():
            work = partial(recovered, start, teacher)
            add(f"{start}, {way}", one, minutes + 2 * bool(teacher), work, "resnet14")
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
