"""What leaves the house: files, and a manifest that says how to feed and how to check them."""

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn import data
from slimcnn.data import Split
from slimcnn.deploy.parity import GATES, parity, relative_error
from slimcnn.deploy.runtime import Program, Runtime, UnsupportedError
from slimcnn.export import inference_copy
from slimcnn.provenance import provenance

MANIFEST = "manifest.json"
FORMAT = 1
# So many images go along with their logits.
KNOWN_ANSWERS = 10


class ShipmentError(RuntimeError):
    """A shipped folder is not what its manifest says."""


@dataclass(frozen=True)
class Shipped:
    """A shipped network, verified and loaded.

    Attributes:
        manifest: what was said about it.
        program: inputs (N, C, H, W), normalized, to logits (N, K).
    """

    manifest: dict
    program: Program

    def logits(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of uint8 to logits (N, K).

        Raises:
            ValueError: images of another type or shape.
        """
        given = self.manifest["input"]
        shape = tuple(given["shape"][1:])
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or len(images) == 0:
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; this network takes"
                f" uint8 of shape (N, {', '.join(map(str, shape))})"
            )
        mean, std = (torch.tensor(given[key]).view(-1, 1, 1) for key in ("mean", "std"))
        return self.program((images.float() / 255 - mean) / std)

    def classify(self, images: Tensor) -> list[tuple[str, float]]:
        """The label of each image, and its probability."""
        probabilities = self.logits(images).softmax(1)
        best, places = probabilities.max(1)
        names = self.manifest["labels"]
        return [(names[i], float(p)) for p, i in zip(best, places.tolist(), strict=True)]


def ship(
    model: nn.Module,
    directory: Path | str,
    test: Split,
    runtimes: Sequence[Runtime],
    calibration: Tensor | None = None,
    labels: Sequence[str] = data.CLASSES,
    mean: Sequence[float] = (data.MEAN,),
    std: Sequence[float] = (data.STD,),
) -> Path:
    """Write a network for some runtimes, each file past its gate, with one manifest.

    Args:
        model: takes normalized images, gives logits; it is not changed.
        directory: is made; nothing may be there yet.
        test: the images that the accuracies are measured on, and the gate is passed on.
        runtimes: in float32 for all of them, in int8 for those that can.
        calibration: training images (N, C, H, W) of uint8, for the ranges of int8; without them
            there are no int8 files.
        labels: names of the classes.
        mean, std: of the channels, for pixels from 0 to 1.

    Returns:
        The path of the manifest.

    Raises:
        FileExistsError: there is something at `directory`.
        ParityError: a file does not compute what the model computes; nothing is left behind.
        ValueError: means, deviations and labels do not fit the images and outputs.
    """
    directory = Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} is there already; choose a folder that is not")
    channels = test.images.shape[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(f"give {channels} means and positive deviations, one for each channel")
    inputs = _normalized(test.images, mean, std)
    model = inference_copy(model)
    with torch.no_grad():
        outputs = model(inputs[:1]).shape[1]
    if outputs != len(labels):
        raise ValueError(f"the network has {outputs} outputs and there are {len(labels)} labels")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        files = [
            _made(runtime, kind, model, inputs, test.labels, calibrated, staging)
            for runtime in runtimes
            for kind, calibrated in _kinds(runtime, calibration, mean, std)
        ]
        known = test.images[:KNOWN_ANSWERS]
        manifest = {
            "format": FORMAT,
            "network": type(model).__name__,
            "input": {
                "shape": [1, *test.images.shape[1:]],
                "pixels": "uint8, divided by 255, minus mean, divided by std",
                "mean": list(mean),
                "std": list(std),
            },
            "output": "logits",
            "labels": list(labels),
            "measured_on": {"split": test.name, "images": len(test)},
            "known_answers": {
                "images": base64.b64encode(known.contiguous().numpy().tobytes()).decode(),
                "logits": _answers(model, inputs[: len(known)]).tolist(),
            },
            "provenance": provenance(),
            "files": files,
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        staging.chmod(0o755)
        os.replace(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return directory / MANIFEST


def load_shipped(
    directory: Path | str, runtime: Runtime, kind: str = "float32", threads: int = 1
) -> Shipped:
    """Verify and load what `ship` wrote.

    Args:
        directory: with the manifest.
        runtime: the one to compute with.
        kind: "float32" or "int8".
        threads: of the runtime.

    Raises:
        FileNotFoundError: there is no manifest.
        ShipmentError: the manifest is of another format or broken; a file is missing, damaged or
            not listed for this runtime; the loaded network does not give the known answer.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).is_file():
        raise FileNotFoundError(f"{directory} has no {MANIFEST}; write it with slimcnn.deploy.ship")
    manifest = _read(directory / MANIFEST)
    entry = next(
        (f for f in manifest["files"] if (f["runtime"], f["kind"]) == (runtime.name, kind)), None
    )
    if entry is None:
        there = ", ".join(f"{f['runtime']} {f['kind']}" for f in manifest["files"])
        raise ShipmentError(f"{directory} has nothing for {runtime.name} {kind}; it has {there}")
    for name, expected in entry["sha256"].items():
        file = directory / name
        if directory.resolve() not in file.resolve().parents:
            raise ShipmentError(f"{name} in {MANIFEST} leads out of {directory}")
        if not file.is_file():
            raise ShipmentError(f"{name} is missing in {directory}; ship it anew")
        if _sha256(file) != expected:
            raise ShipmentError(f"{name} is not the file that was shipped: its checksum differs")
    shipped = Shipped(manifest, runtime.load(directory / entry["path"], threads))
    images, expected = _known_answers(manifest)
    found, allowed = shipped.logits(images), GATES[kind].error
    if found.shape != expected.shape or not relative_error(expected, found) <= allowed:
        raise ShipmentError(f"{runtime.name} does not give the known answers of {entry['path']}")
    return shipped


def _made(
    runtime: Runtime,
    kind: str,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    calibrated: Tensor | None,
    folder: Path,
) -> dict[str, Any]:
    """One file and what is known about it; past the gate, if the runtime computes here."""
    path = folder / f"{type(runtime).__name__.lower()}-{kind}{runtime.suffix}"
    if calibrated is None:
        runtime.export(model, inputs, path)
    else:
        runtime.quantize(model, calibrated, path)
    files = runtime.files(path)
    entry = {
        "runtime": runtime.name,
        "kind": kind,
        "path": path.name,
        "layout": runtime.layout,
        **dict(zip(("input", "output"), map(asdict, runtime.describe(path)), strict=True)),
        "made_with": {runtime.package: version(runtime.package.replace("_", "-"))},
        "bytes": runtime.size(path),
        "sha256": {str(file.relative_to(folder)): _sha256(file) for file in files},
    }
    try:
        program = runtime.load(path)
    except UnsupportedError:
        return entry | {"checked": False}  # the manifest says so
    found = parity(model, program, inputs, labels, GATES[kind]).require()
    return entry | {
        "checked": True,
        "accuracy": found.accuracy[1],
        "agreement": found.agreement,
        "largest_difference": found.difference,
        "relative_error": found.error,
    }


def _kinds(
    runtime: Runtime, calibration: Tensor | None, mean: Sequence[float], std: Sequence[float]
) -> list[tuple[str, Tensor | None]]:
    kinds: list[tuple[str, Tensor | None]] = [("float32", None)]
    if calibration is not None and runtime.quantizes:
        kinds.append(("int8", _normalized(calibration, mean, std)))
    return kinds


def _normalized(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    mean, std = (torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std


@torch.no_grad()
def _answers(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs)


def _read(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ShipmentError(f"{path} is no JSON: {error}") from error
    needed = {"format", "input", "labels", "known_answers", "files"}
    if not isinstance(manifest, Mapping) or not needed <= set(manifest):
        raise ShipmentError(f"{path} is no manifest; it must have {', '.join(sorted(needed))}")
    if manifest["format"] != FORMAT:
        raise ShipmentError(
            f"{path} is of format {manifest['format']}; this version of slimcnn reads {FORMAT}"
        )
    return dict(manifest)


def _known_answers(manifest: Mapping) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) of uint8 and the logits (N, K) that the network gave them."""
    known, shape = manifest["known_answers"], manifest["input"]["shape"][1:]
    pixels, logits = bytearray(base64.b64decode(known["images"])), torch.tensor(known["logits"])
    if len(logits) == 0 or len(pixels) != len(logits) * prod(shape):
        raise ShipmentError(f"{MANIFEST} has {len(pixels)} known pixels for {len(logits)} answers")
    return torch.frombuffer(pixels, dtype=torch.uint8).reshape(-1, *shape), logits


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
