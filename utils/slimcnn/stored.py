"""What sweeps leave beside their records: predictions on the test set, and finalists' weights.

They are in results/, and the wheel carries those that lessons read.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from slimcnn.record import RecordError, places

KINDS = ("safetensors", "slim")  # the second: `slimcnn.coding.save_slim`


def load_predictions(name: str, variant: str) -> Tensor:
    """Predicted classes on the test set of one variant of a sweep, for paired comparisons.

    Args:
        name: of the records, such as "pruning"; the file is NAME-predictions.safetensors,
            looked for where `load_records` looks.
        variant: what the records call it in settings["variant"].

    Returns:
        uint8, shape (seeds, images), in the order of the seeds.

    Raises:
        FileNotFoundError: no such file.
        RecordError: the file has no such variant; the message lists those it has.
    """
    path = _found(Path(f"{name}-predictions.safetensors"))
    stored = load_file(path)
    keys = [key for key in stored if key.rpartition("-seed")[0] == variant]
    rows = [stored[k] for k in sorted(keys, key=lambda key: int(key.rpartition("-seed")[2]))]
    if not rows:
        known = ", ".join(sorted({key.rpartition("-seed")[0] for key in stored}))
        raise RecordError(f"{path} has no predictions of {variant!r}; it has those of {known}")
    return torch.stack(rows)


def weights_path(variant: str, seed: int = 0) -> Path:
    """The file of a finalist's weights; how it is loaded depends on what was done to them.

    Args:
        variant: what the records call it in settings["variant"].
        seed: of the training.

    Raises:
        FileNotFoundError: no such file.
    """
    return _found(*(Path("weights", weights_name(variant, seed, kind)) for kind in KINDS))


def weights_name(variant: str, seed: int, kind: str = "safetensors") -> str:
    """What the file of a finalist's weights is called; its kind is one of `KINDS`."""
    return f"{variant.replace(' ', '-').replace(':', '-')}-seed{seed}.{kind}"


def _found(*names: Path) -> Path:
    for place in places():
        for name in names:
            if (place / name).is_file():
                return place / name
    raise FileNotFoundError(
        f"there is no file {names[0]} in results/; `make results` lists the runs"
    )
