"""Write the networks of the page demo/ into book/_static/networks/ (ignored by git).

    python scripts/demo.py

Each network is made from weights of the repository and written as an ONNX file; demo.json says
what each is, with its bytes and the accuracy of its record, and holds some test images. Run
scripts/vendor.py first: demo.json also says how large the runtime is, or that it is missing.
"""

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from slimcnn import checkpoints, data, export, models, pruning, quantization, stored
from slimcnn.record import Record, load_records

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = "onnxruntime-web"  # the folder in vendor/, and npm's name
EXAMPLE = torch.zeros(1, 1, 28, 28)
IMAGES = 20  # from the test set: the first two of each class
CALIBRATION_IMAGES = 500  # as in scripts/sweep_quantization.py

Write = Callable[[nn.Module, torch.Tensor, Path], Path]


@dataclass(frozen=True)
class Network:
    """A network of the page.

    Attributes:
        file: its name without suffix.
        name: as the page calls it.
        records: the file in results/ that has its accuracy.
        variant: as that file calls it; None for a network as it was trained.
        model: the name of its architecture.
        build: makes the network with its weights.
        write: makes the ONNX file.
        note: what was done to it; {epochs} are those of its last training.
    """

    file: str
    name: str
    records: str
    variant: str | None
    model: str
    build: Callable[[], nn.Module]
    note: str
    write: Write = export.to_onnx


def pruned() -> nn.Module:
    """ResNet-14 with filters removed."""
    path = stored.weights_path("channels L1 25 longer")
    return pruning.load_pruned(models.build("resnet14"), path)


def distilled() -> nn.Module:
    """The student that a teacher taught."""
    network = models.build("student")
    checkpoints.load_weights_(network, stored.weights_path("soft targets"))
    return network


def int8(model: str, variant: str) -> nn.Module:
    """A network of integers, its stored tensors calibrated as those of its record."""
    plain = quantization.fold_batch_norm(models.build(model))
    network = quantization.load_quantized(plain, stored.weights_path(variant))
    images = data.load("train").subset(CALIBRATION_IMAGES).images
    return quantization.place_quantizers(network, images)


NETWORKS = (
    Network(
        *("resnet14", "ResNet-14", "baselines", None, "resnet14"),
        build=partial(checkpoints.load, "resnet14"),
        note="float32, {epochs} epochs of training",
    ),
    Network(
        *("pruned", "Pruned", "pruning", "channels L1 25 longer", "resnet14"),
        build=pruned,
        note="ResNet-14 with fewer filters, {epochs} more epochs",
    ),
    Network(
        *("distilled", "Distilled", "distillation", "soft targets", "student"),
        build=distilled,
        note="the student, taught for {epochs} epochs",
    ),
    Network(
        *("resnet14-int8", "ResNet-14 int8", "quantization", "int8", "resnet14"),
        build=partial(int8, "resnet14", "int8"),
        note="integers of 8 bits, no more training",
        write=quantization.to_qdq_onnx,
    ),
    Network(
        *("student-int8", "Student int8", "quantization", "student int8", "student"),
        build=partial(int8, "student", "student int8"),
        note="the student, trained alone; integers of 8 bits",
        write=quantization.to_qdq_onnx,
    ),
)


def record_of(network: Network) -> Record:
    """The record of the very weights that the page runs.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = [
        record
        for record in load_records(network.records)
        if (record.model, record.seed, record.stage) == (network.model, 0, "final")
        and record.settings.get("variant") == network.variant
    ]
    if len(found) != 1:
        raise LookupError(f"{network.records} has {len(found)} records of {network.name}")
    return found[0]


def write_network(network: Network, folder: Path) -> dict:
    """Write one ONNX file, and say what the page has to know of it."""
    path = network.write(network.build(), EXAMPLE, folder / f"{network.file}.onnx")
    record, content = record_of(network), path.read_bytes()
    recipe = record.settings.get("recipe", {})
    epochs = recipe.get("epochs", record.settings.get("epochs"))
    return {
        "id": network.file,
        "name": network.name,
        "note": network.note.format(epochs=epochs),
        "file": path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "macs": record.macs,
        "accuracy": round(record.accuracy, 2),
    }


def images() -> dict:
    """Test images in the order of their classes: labels, and all pixels as base64."""
    chosen = data.load("test").subset(IMAGES)
    order = torch.argsort(chosen.labels, stable=True)
    pixels = chosen.images[order].numpy().tobytes()
    return {
        "labels": chosen.labels[order].tolist(),
        "pixels": base64.b64encode(pixels).decode("ascii"),
    }


def runtime(vendor: Path) -> dict | None:
    """Bytes of the runtime's code that a reader will fetch, or None if npm's copy is missing."""
    files = [file for kind in ("mjs", "wasm") for file in (vendor / RUNTIME).glob(f"*.{kind}")]
    return {"bytes": sum(file.stat().st_size for file in files)} if files else None


def write(static: Path) -> Path:
    """Write everything into `static`/networks, and give that folder back."""
    folder = static / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    content = {
        "classes": data.CLASSES,
        "mean": data.MEAN,
        "std": data.STD,
        "runtime": runtime(static / "vendor"),
        "networks": [write_network(network, folder) for network in NETWORKS],
        "images": images(),
    }
    (folder / "demo.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def main() -> int:
    """Write and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the root of the book")
    folder = write(parser.parse_args().root / "book" / "_static")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"demo: {len(NETWORKS)} networks and {IMAGES} images, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
