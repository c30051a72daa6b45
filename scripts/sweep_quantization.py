"""The experiments of chapter 6: networks of few bits, with and without training.

    python scripts/sweep_quantization.py             run what is missing (hours)
    python scripts/sweep_quantization.py --list      say what is there and what is missing
    python scripts/sweep_quantization.py --only trained

Batch norms are folded first; ranges are found on training images. Every training starts from the
baseline of its seed and is as long as that of the dense control. Appends one record a run to
results/quantization.jsonl, predictions to results/quantization-predictions.safetensors, and keeps
the files of the finalists' seed 0.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from torch import Tensor, nn

from rivals import RIVALS
from slimcnn import checkpoints, data, quantization, report
from slimcnn.quantization import Scheme
from sweep_pruning import FINE_TUNE, fine_tune
from sweeps import ROOT, Run, final_record, sweep

RECORDS = ROOT / "results" / "quantization.jsonl"
# The rate of scripts/screen_quantization.py: no other one is better at two bits, and none by a
# tenth of a point at four.
TRAINING = replace(FINE_TUNE, epochs=3, lr=0.02)
ROUNDING_IMAGES, ROUNDING_STEPS = 1000, 1000
CANDIDATE_BITS = (8, 6, 5, 4, 3, 2)


def calibration(count: int = 500) -> Tensor:
    """Training images for ranges, means and rounding."""
    return data.load("train").subset(count).images


def folded(name: str, seed: int) -> nn.Module:
    """A baseline without batch norms."""
    return quantization.fold_batch_norm(checkpoints.load(name, seed))


def record(
    network: nn.Module,
    name: str,
    variant: str,
    seed: int,
    technique: str,
    finalist: bool,
    compute: Callable[[nn.Module], nn.Module] = lambda network: network,
    **settings: object,
) -> report.Record:
    """Measure on the test set what a file of packed integers gives back, computed in some way."""
    path = ROOT / "runs" / "quantized.safetensors"
    quantization.save_quantized(network, path)
    stored = quantization.load_quantized(folded(name, seed), path)
    path.unlink()
    return final_record(
        compute(stored),
        "quantization",
        variant,
        seed,
        technique,
        save=lambda _, file: quantization.save_quantized(stored, file),
        keep=finalist and seed == 0,
        name=name,
        **settings,
    )


def integers(name: str, variant: str, seed: int, state: Path) -> report.Record:
    """Eight bits, computed with integers alone."""
    model, images = folded(name, seed), calibration()

    def compute(network: nn.Module) -> nn.Module:
        return quantization.IntegerNetwork(quantization.place_quantizers(network, images))

    network = quantization.quantize(model, Scheme(), images)
    more = {"compute": compute, "epochs": 0, "arithmetic": "integers"}
    return record(network, name, variant, seed, "post-training quantization", True, **more)


def by_industry(package: str, name: str, variant: str, seed: int, state: Path) -> report.Record:
    """Eight bits by another library, from the same network and images."""
    model, path = folded(name, seed), ROOT / "runs" / "by-industry"
    path.parent.mkdir(exist_ok=True)
    answers = RIVALS[package](model, calibration(), path)
    found = final_record(
        model,
        "quantization",
        variant,
        seed,
        "post-training quantization",
        save=lambda _, file: shutil.copy(path, file),
        keep=False,
        name=name,
        answers=answers,
        epochs=0,
        quantizer=f"{package} {version(package)}",
    )
    path.unlink()
    return found


def rounded(
    name: str, scheme: Scheme, mend: Callable | None, variant: str, seed: int, state: Path
) -> report.Record:
    """Few bits without training, and what mends them."""
    model, images = folded(name, seed), calibration()
    network = quantization.quantize(model, scheme, images)
    if mend is not None:
        network = mend(network, model)
    return record(network, name, variant, seed, "post-training quantization", False, epochs=0)


def learned_rounding(network: nn.Module, model: nn.Module) -> nn.Module:
    """AdaRound, then the means."""
    images = calibration(ROUNDING_IMAGES)
    network = quantization.ada_round(network, model, images, iterations=ROUNDING_STEPS)
    return quantization.correct_bias(network, model, images)


def mixed(variant: str, seed: int, state: Path) -> report.Record:
    """As many bytes as 4 bits, ends 8, spent where they help most; rounding learned."""
    model, images = folded("resnet14", seed), calibration()
    damages = quantization.damages(model, data.load("train").subset(2000), CANDIDATE_BITS)
    ends = (next(iter(damages)), next(reversed(damages)))
    budget = sum(
        quantization.weight_bytes(model.get_submodule(name), 8 if name in ends else 4)
        for name in damages
    )
    bits = quantization.allocate_bits(model, damages, budget)
    network = quantization.quantize(model, Scheme(bits, 8), images)
    network = learned_rounding(network, model)
    more = {"epochs": 0, "bits": bits, "budget_bytes": budget}
    return record(network, "resnet14", variant, seed, "post-training quantization", True, **more)


def trained(
    name: str, scheme: Scheme | None, finalist: bool, variant: str, seed: int, state: Path
) -> report.Record:
    """Trained with rounding; without a scheme, the dense control.

    Where the variant says so, steps begin as those that learn and stay what they are.
    """
    if scheme is None:
        tuned = fine_tune(folded(name, seed), seed, state, TRAINING)
        return final_record(
            tuned,
            "quantization",
            variant,
            seed,
            "dense",
            save=checkpoints.save_weights,
            keep=False,
            name=name,
            epochs=TRAINING.epochs,
            lr=TRAINING.lr,
        )
    network = quantization.quantize(folded(name, seed), scheme, calibration())
    if variant.endswith("fixed steps"):
        for module in network.modules():
            if isinstance(module, quantization.LearnedStep):
                module.requires_grad_(False)
    tuned = fine_tune(network, seed, state, TRAINING)
    more = {"epochs": TRAINING.epochs, "lr": TRAINING.lr, "learned": scheme.learned}
    return record(tuned, name, variant, seed, "quantization-aware training", finalist, **more)


def runs() -> list[Run]:
    """The finalists on three seeds, then the rest on one."""
    nearest = Scheme(4, 8, weight_range="mse")
    # Of all ranges of four-bit activations, percentiles do best on validation images.
    both = Scheme(4, 4, range="percentile", weight_range="mse")
    three = [
        ("int8", 0.7, partial(integers, "resnet14"), "resnet14"),
        ("student int8", 0.7, partial(integers, "student"), "student"),
        ("weights 4", 0.3, partial(rounded, "resnet14", nearest, None), "resnet14"),
        (
            "weights 4, AdaRound",
            4.0,
            partial(rounded, "resnet14", nearest, learned_rounding),
            "resnet14",
        ),
        (
            "weights 4, activations 4, AdaRound",
            4.0,
            partial(rounded, "resnet14", both, learned_rounding),
            "resnet14",
        ),
        *(
            (f"{prefix}int8 by {package}", 0.7, partial(by_industry, package, name), name)
            for prefix, name in (("", "resnet14"), ("student ", "student"))
            for package in RIVALS
        ),
        ("dense, three epochs", 4.0, partial(trained, "resnet14", None, False), "resnet14"),
        (
            "trained, weights 4, activations 4",
            5.0,
            partial(trained, "resnet14", Scheme(4, 4), True),
            "resnet14",
        ),
        (
            "trained, weights 4, activations 4, learned steps",
            5.0,
            partial(trained, "resnet14", Scheme(4, 4, learned=True), False),
            "resnet14",
        ),
        (
            "trained, weights 2",
            5.0,
            partial(trained, "resnet14", Scheme(2, 8, learned=True), True),
            "resnet14",
        ),
    ]
    one = [("mixed, as 4 bits", 7.0, mixed, "resnet14")]
    # Two bits of both from min-max ranges are not here: at this rate their weights turn to NaN.
    for scheme in (
        *(Scheme(8, 8), Scheme(6, 6), Scheme(3, 3), Scheme(1, 8)),
        *(Scheme(bits, bits, learned=True) for bits in (3, 2)),
    ):
        steps = ", learned steps" if scheme.learned else ""
        variant = f"trained, weights {scheme.weight_bits}, activations {scheme.activation_bits}"
        one.append((variant + steps, 5.0, partial(trained, "resnet14", scheme, False), "resnet14"))
    for bits in (3, 2):
        variant = f"trained, weights {bits}, activations {bits}, fixed steps"
        work = partial(trained, "resnet14", Scheme(bits, bits, learned=True), False)
        one.append((variant, 5.0, work, "resnet14"))
    one.append(
        ("student dense, three epochs", 2.5, partial(trained, "student", None, False), "student")
    )
    for bits in (8, 4):
        variant = f"student trained, weights {bits}, activations {bits}"
        work = partial(trained, "student", Scheme(bits, bits), False)
        one.append((variant, 3.0, work, "student"))
    return [
        Run(variant, seed, minutes, partial(work, variant, seed), model)
        for chosen, seeds in ((three, (0, 1, 2)), (one, (0,)))
        for variant, minutes, work, model in chosen
        for seed in seeds
    ]


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
