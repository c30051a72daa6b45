"""Trained weights: safetensors files beside a manifest that says what each one is.

The manifest (`manifest.json` in this folder) names every file with its SHA-256, the
command, commit, versions, recipe and seed behind it, and the accuracies it reached.
Seed 0 of each network lies in this folder and travels with the package; the other seeds
lie in the repository's `results/weights/`. Nothing is ever unpickled. Every chapter
starts from these networks.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimcnn import models
from slimcnn.data import Augmentation
from slimcnn.training import Recipe

_HERE = Path(__file__).resolve().parent
MANIFEST = _HERE / "manifest.json"
PREDICTIONS = _HERE / "predictions.safetensors"


class CheckpointError(RuntimeError):
    """A weights file is missing, damaged, or does not fit the network."""


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one weights file.

    Attributes:
        name: "resnet14", "student" or "resnet14-unsmoothed".
        seed: of the initial weights, the shuffling and the augmentation.
        file: the file's name, in this folder or in `results/weights/`.
        sha256: of the file's bytes.
        model: the network's name in `models.MODELS`.
        arguments: what the network's class is called with.
        recipe: how it was trained.
        validation_accuracy, test_accuracy: percent.
        minutes: how long the training takes: the median epoch's wall time, times the epochs.
        command, commit, versions: what made the file.
    """

    name: str
    seed: int
    file: str
    sha256: str
    model: str
    recipe: Recipe
    validation_accuracy: float
    test_accuracy: float
    minutes: float
    command: str
    commit: str
    versions: dict[str, str]
    arguments: dict = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the file is, or would be."""
        packaged = _HERE / self.file
        return packaged if self.seed == 0 else weights_dir() / self.file


def weights_dir() -> Path:
    """`results/weights/` of the checkout (it need not exist: an installed wheel has none)."""
    return _HERE.parents[2] / "results" / "weights"


def entries() -> list[Entry]:
    """Everything in the manifest, in order."""
    if not MANIFEST.exists():
        return []
    listed = json.loads(MANIFEST.read_text())["checkpoints"]
    return [Entry(**{**item, "recipe": _recipe(item["recipe"])}) for item in listed]


def entry(name: str, seed: int = 0) -> Entry:
    """The manifest's entry for one network and seed.

    Raises:
        CheckpointError: there is none; the message lists those that there are.
    """
    listed = entries()
    for found in listed:
        if (found.name, found.seed) == (name, seed):
            return found
    known = ", ".join(f"{e.name} (seed {e.seed})" for e in listed) or "none yet"
    raise CheckpointError(
        f"there is no checkpoint {name!r} with seed {seed}; there are: {known}."
        " `make checkpoints` trains what is missing."
    )


def load(name: str = "resnet14", seed: int = 0) -> nn.Module:
    """Build a network of the book with its trained weights, in eval mode.

    Args:
        name: "resnet14", "student" or "resnet14-unsmoothed" (trained without label
            smoothing, a teacher for chapter 4).
        seed: 0 is in the package; 1 and 2 need a checkout of the repository.

    Raises:
        CheckpointError: unknown name or seed, or the file is missing or damaged.
    """
    found = entry(name, seed)
    model = models.build(found.model, **found.arguments)
    load_weights_(model, found.path, sha256=found.sha256)
    return model.eval()


def predictions(name: str) -> Tensor:
    """Stored predictions on the test set: classes as uint8, shape (seeds, 10,000).

    They let a lesson compare all seeds where only seed 0's weights are installed.

    Raises:
        CheckpointError: there are none of that name.
    """
    stored = load_file(PREDICTIONS) if PREDICTIONS.exists() else {}
    rows = [stored[key] for key in sorted(stored) if key.rpartition("-seed")[0] == name]
    if not rows:
        raise CheckpointError(f"there are no stored predictions of {name!r}; `make checkpoints`")
    return torch.stack(rows)


def load_weights_(model: nn.Module, path: Path | str, *, sha256: str | None = None) -> None:
    """Fill `model` with the tensors of a safetensors file; on any error it is unchanged.

    Args:
        model: its state dict must have exactly the file's names, shapes and types.
        path: the file.
        sha256: its expected checksum; not checked if None.

    Raises:
        CheckpointError: the file is missing, damaged, has another checksum, or a tensor is
            missing, unexpected, or of another shape or type.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there. Seed 0 comes with the package, other seeds with a clone of the"
            " repository; `make checkpoints` trains what is missing."
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise CheckpointError(
            f"{path} is damaged or altered: SHA-256 {sha256} expected, {found} found."
            " Restore it with `git checkout`, or reinstall the package."
        )
    try:
        tensors = load_bytes(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)


def save_weights(model: nn.Module, path: Path | str) -> str:
    """Write the state dict of `model` to a safetensors file and return its SHA-256."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # clones, since modules that are shared have several names, and safetensors wants one each
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(new: Entry, predictions: Tensor) -> None:
    """Put an entry into the manifest, in place of an older one of that name and seed.

    Args:
        new: the entry.
        predictions: its predicted classes on the test set, shape (10,000,).
    """
    stored = load_file(PREDICTIONS) if PREDICTIONS.exists() else {}
    stored[f"{new.name}-seed{new.seed}"] = predictions.to(torch.uint8)
    save_file(stored, PREDICTIONS)
    kept = [e for e in entries() if (e.name, e.seed) != (new.name, new.seed)]
    listed = [asdict(e) for e in sorted([*kept, new], key=lambda e: (e.name, e.seed))]
    MANIFEST.write_text(json.dumps({"checkpoints": listed}, indent=2) + "\n")


def _check_fit(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    def describe(tensor: Tensor) -> str:
        return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"

    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in expected]
    problems += [
        f"{name} is {describe(found[name])}, the network has {describe(tensor)}"
        for name, tensor in expected.items()
        if name in found and describe(found[name]) != describe(tensor)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" * (len(problems) > 5))
        raise CheckpointError(f"{path} does not fit this network: {shown}")


def _recipe(stored: dict) -> Recipe:
    augmentation = stored["augmentation"]
    if augmentation is not None:
        augmentation = Augmentation(**augmentation)
    return Recipe(**{**stored, "augmentation": augmentation})
