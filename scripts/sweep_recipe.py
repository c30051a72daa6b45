"""The recipe of the page of all results, on a network that is not the book's: MobileNetV2.

    python scripts/sweep_recipe.py             run what is missing (about twenty minutes)
    python scripts/sweep_recipe.py --list      say what is there and what is missing

torchvision's MobileNetV2 with one input channel, trained from new weights on Fashion-MNIST; half
its multiplications by channels that are pruned and trained on; the dense network trained on for as
long, as the control; both in the int8 of ONNX Runtime's quantizer, past the gate. One seed, and
every choice taken over from the chapters: nothing was tuned. Trained weights stay in runs/.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torchvision
from torch import nn

from slimcnn import checkpoints, data, deploy, pruning, report, training
from slimcnn.training import Recipe
from sweep_pruning import FINE_TUNE, SHAPE, counts_for, fine_tune
from sweeps import ROOT, Run, final_record, sweep

RECORDS = ROOT / "results" / "recipe.jsonl"
FROM_NEW = Recipe(epochs=10)
BUDGET = 0.5
RUNTIME = deploy.RUNTIMES["ONNX Runtime"]


def network() -> nn.Module:
    """MobileNetV2 for gray images and ten classes, with new weights."""
    with training.seeded(0):
        model = torchvision.models.mobilenet_v2(num_classes=10)
        first = model.features[0][0]
        model.features[0][0] = nn.Conv2d(1, first.out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(model.features[0][0].weight, mode="fan_out")
    return model


def weights(variant: str) -> Path:
    """Where the trained weights of this machine are."""
    return ROOT / "runs" / f"recipe-{variant.replace(' ', '-')}.safetensors"


def dense() -> nn.Module:
    """The trained network; its run must have been done here."""
    path = weights("dense")
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: delete the line of 'dense' in {RECORDS.name}, run again"
        )
    model = network()
    checkpoints.load_weights_(model, path)
    return model.eval()


def trained(
    model: nn.Module, technique: str, recipe: Recipe, variant: str, seed: int, state: Path
) -> report.Record:
    """Train, keep the weights for what follows, measure."""
    tuned = fine_tune(model, seed, state, recipe)
    checkpoints.save_weights(tuned, weights(variant))
    return measured(tuned, technique, variant, seed, epochs=recipe.epochs, lr=recipe.lr)


def measured(
    model: nn.Module, technique: str, variant: str, seed: int, **settings: object
) -> report.Record:
    """The record, its bytes those of the file for ONNX Runtime, its answers that file's."""
    images = data.load("train").subset(500).images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{RUNTIME.suffix}"
        if technique == "post-training quantization":
            RUNTIME.quantize(model, data.normalize(images), path)
            gate = deploy.INT8
        else:
            RUNTIME.export(model, data.normalize(images[:1]), path)
            gate = deploy.FLOAT
        program = RUNTIME.load(path)
        validation = data.load("validation").subset(1000)
        inputs = data.normalize(validation.images)
        found = deploy.parity(model.eval(), program, inputs, validation.labels, gate).require()
        return final_record(
            model,
            "recipe",
            variant,
            seed,
            technique,
            save=lambda _, file: file.write_bytes(path.read_bytes()),
            keep=False,
            name="mobilenet_v2",
            answers=lambda images: program(data.normalize(images)),
            relative_error=found.error,
            agreement=found.agreement,
            **settings,
        )


def from_new(variant: str, seed: int, state: Path) -> report.Record:
    """Trained from new weights."""
    return trained(network(), "dense", FROM_NEW, variant, seed, state)


def trained_on(variant: str, seed: int, state: Path) -> report.Record:
    """The control: as many epochs as the pruned network has."""
    return trained(dense(), "dense", FINE_TUNE, variant, seed, state)


def half(variant: str, seed: int, state: Path) -> report.Record:
    """Half the multiplications, as in chapter 2."""
    model = dense()
    groups = pruning.find_groups(model, SHAPE)
    scores = pruning.group_scores(groups, pruning.filter_l1(model))
    counts = counts_for(model, groups, scores, BUDGET, 16)
    smaller = pruning.shrink(model, groups, pruning.keep_best(groups, scores, counts))
    return trained(smaller, "channel pruning", FINE_TUNE, variant, seed, state)


def int8(of: str, load: Callable, variant: str, seed: int, state: Path) -> report.Record:
    """Eight bits after training."""
    model = load(network(), weights(of)).eval()
    return measured(model, "post-training quantization", variant, seed, epochs=0)


def whole(model: nn.Module, path: Path) -> nn.Module:
    """Weights of a network that has all its channels."""
    checkpoints.load_weights_(model, path)
    return model


# The networks of the last step, and how their weights are read.
LOADED = {"dense, trained on": whole, "half the MACs": pruning.load_pruned}


def rounded(variant: str) -> str:
    """What the int8 of a network is called."""
    return f"{variant.removesuffix(', trained on')}, int8"


def runs() -> list[Run]:
    """The steps, in their order."""
    steps = (
        ("dense", 8.0, from_new),
        ("dense, trained on", 5.0, trained_on),
        ("half the MACs", 5.0, half),
        *((rounded(v), 0.5, partial(int8, v, load)) for v, load in LOADED.items()),
    )
    return [
        Run(variant, 0, minutes, partial(work, variant, 0), "mobilenet_v2")
        for variant, minutes, work in steps
    ]


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
