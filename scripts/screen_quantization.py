"""Few bits: where harm begins, which range and which rate help; on validation, one seed.

    python scripts/screen_quantization.py            run what is missing (an hour)
    python scripts/screen_quantization.py --list     say what is there and what is missing

Appends one record a run to results/quantization-screen.jsonl, for chapter 6.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from slimcnn import data, quantization, report
from slimcnn.quantization import Scheme
from sweep_pruning import fine_tune
from sweep_quantization import TRAINING, calibration, folded
from sweeps import ROOT, Run, sweep

BITS = (8, 6, 5, 4, 3, 2)
MENDS = ("equalized", "bias corrected")
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


def run(
    name: str, scheme: Scheme, mends: Sequence[str], variant: str, state: Path
) -> report.Record:
    """Fold, equalize, quantize, correct; measure on validation."""
    images, model = calibration(), folded(name, 0)
    if "equalized" in mends:
        model = quantization.equalize(model)
    network = quantization.quantize(model, scheme, images)
    if "bias corrected" in mends:
        network = quantization.correct_bias(network, model, images)
    settings = {
        "variant": variant,
        "weight_bits": scheme.weight_bits,
        "activation_bits": scheme.activation_bits,
        "per_channel": scheme.per_channel,
        "range": scheme.range,
        "weight_range": scheme.weight_range,
        "mends": list(mends),
    }
    return record(network, name, "post-training quantization", settings)


def train(scheme: Scheme, lr: float, variant: str, state: Path) -> report.Record:
    """Train with rounding at one peak rate."""
    network = quantization.quantize(folded("resnet14", 0), scheme, calibration())
    tuned = fine_tune(network, 0, state, replace(TRAINING, lr=lr))
    settings = {"variant": variant, "lr": lr, "epochs": TRAINING.epochs}
    return record(tuned, "resnet14", "quantization-aware training", settings)


def record(network: nn.Module, name: str, technique: str, settings: dict) -> report.Record:
    """Measure on validation; the bytes are those of the packed file."""
    file = ROOT / "runs" / "quantized.safetensors"
    quantization.save_quantized(network, file)
    record = report.measure_model(
        network,
        name=name,
        technique=technique,
        seed=0,
        split=data.load("validation"),
        stage="screen",
        settings=settings,
        path=file,
        command="python scripts/screen_quantization.py",
    )
    file.unlink()
    return record


def variants() -> list[tuple[str, Scheme, tuple[str, ...]]]:
    """Few bits in every layer, then with eight in the first and the last one; activations."""
    found = []
    for ends, bits in (*((None, b) for b in BITS), *((8, b) for b in BITS[2:])):
        at_ends = f", ends {ends}" if ends else ""
        for per_channel, scales in ((True, "channel"), (False, "tensor")):
            place = f"weights {bits}, per {scales}"
            for weight_range in ("min-max", "mse"):
                scheme = Scheme(
                    bits, None, per_channel=per_channel, weight_range=weight_range, ends=ends
                )
                found.append((f"{place}, {weight_range}{at_ends}", scheme, ()))
            scheme = Scheme(bits, None, per_channel=per_channel, ends=ends)
            for mends in (MENDS[:1], MENDS[1:], MENDS):
                if not per_channel or mends == MENDS[1:]:
                    found.append((f"{place}, {' and '.join(mends)}{at_ends}", scheme, mends))
    for bits in (8, 6, 4):
        for method in ("min-max", "percentile", "mse", "kl"):
            found.append((f"activations {bits}, {method}", Scheme(8, bits, range=method), ()))
    return found


def runs() -> list[Run]:
    """All variants of both networks, then rates for the trainings."""
    found = [
        Run(variant, 0, 0.15, partial(run, name, scheme, mends, variant), name)
        for name in ("resnet14", "student")
        for variant, scheme, mends in variants()
    ]
    for scheme in (Scheme(4, 4), Scheme(2, 8, learned=True)):
        for lr in RATES:
            variant = f"trained, weights {scheme.weight_bits}, lr {lr}"
            found.append(Run(variant, 0, 5.0, partial(train, scheme, lr, variant)))
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], ROOT / "results" / "quantization-screen.jsonl", runs())
