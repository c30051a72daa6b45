"""Few bits without training: where harm begins, and which range helps; on validation, one seed.

    python scripts/screen_quantization.py            run what is missing (minutes)
    python scripts/screen_quantization.py --list     say what is there and what is missing

Appends one record a run to results/quantization-screen.jsonl, for chapter 6.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from slimcnn import checkpoints, data, quantization, report
from slimcnn.quantization import Scheme
from sweeps import ROOT, Run, sweep

CALIBRATION_IMAGES = 500
BITS = (8, 6, 5, 4, 3, 2)
MENDS = ("equalized", "bias corrected")


def run(
    name: str, scheme: Scheme, mends: Sequence[str], variant: str, state: Path
) -> report.Record:
    """Fold, equalize, quantize, correct; measure on validation."""
    images = data.load("train").subset(CALIBRATION_IMAGES).images
    model = quantization.fold_batch_norm(checkpoints.load(name))
    if "equalized" in mends:
        model = quantization.equalize(model)
    network = quantization.quantize(model, scheme, images)
    if "bias corrected" in mends:
        network = quantization.correct_bias(network, model, images)
    file = ROOT / "runs" / "quantized.safetensors"
    quantization.save_quantized(network, file)
    settings = {
        "variant": variant,
        "weight_bits": scheme.weight_bits,
        "activation_bits": scheme.activation_bits,
        "per_channel": scheme.per_channel,
        "range": scheme.range,
        "weight_range": scheme.weight_range,
        "mends": list(mends),
    }
    record = report.measure_model(
        network,
        name=name,
        technique="post-training quantization",
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
    """All bits are those of every layer, the first and the last one too."""
    found = []
    for bits in BITS:
        for per_channel, scales in ((True, "channel"), (False, "tensor")):
            for weight_range in ("min-max", "mse"):
                scheme = Scheme(
                    bits, None, per_channel=per_channel, weight_range=weight_range, ends=None
                )
                found.append((f"weights {bits}, per {scales}, {weight_range}", scheme, ()))
        for mends in (MENDS[:1], MENDS[1:], MENDS):
            scheme = Scheme(bits, None, per_channel=False, ends=None)
            found.append((f"weights {bits}, per tensor, {' and '.join(mends)}", scheme, mends))
    for bits in (8, 6, 4):
        for method in ("min-max", "percentile", "mse", "kl"):
            found.append((f"activations {bits}, {method}", Scheme(8, bits, range=method), ()))
    return found


def runs() -> list[Run]:
    """All variants of both networks."""
    return [
        Run(variant, 0, 0.15, partial(run, name, scheme, mends, variant), name)
        for name in ("resnet14", "student")
        for variant, scheme, mends in variants()
    ]


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], ROOT / "results" / "quantization-screen.jsonl", runs())
