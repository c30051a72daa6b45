"""A factorized network as one file: its weights, and the plan that says what they are.

Chapter 5 (Low-rank: tensors).
"""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from slimcnn.checkpoints import CheckpointError, load_weights_
from slimcnn.lowrank.layers import skeleton
from slimcnn.lowrank.methods import Choice
from slimcnn.lowrank.network import Plan, plan_of, replaced

_KEY = "slimcnn.lowrank"


def save_factorized(model: nn.Module, path: Path | str) -> str:
    """Write a network that `factorize` made to a safetensors file and return its SHA-256.

    The plan is in the file's metadata, as JSON: the method and rank of each factorized layer.

    Chapter 5, Low-rank: tensors.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Clones, since a layer with two names is refused as shared memory.
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, path, metadata={_KEY: json.dumps(plan_of(model))})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_factorized(model: nn.Module, path: Path | str, *, sha256: str | None = None) -> nn.Module:
    """A copy of `model`, factorized as a file says, with its weights, in eval mode.

    Args:
        model: the network before factorization, any weights; it is not changed.
        path: a file of `save_factorized`.
        sha256: its expected checksum; not checked if None.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no factorized version of `model`.

    Chapter 5, Low-rank: tensors.
    """
    path = Path(path)
    plan = _stored_plan(path) if path.is_file() else {}
    try:
        empty = replaced(model, plan, lambda _, layer, choice: skeleton(layer, *choice))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this network: {error.args[0]}") from error
    load_weights_(empty, path, sha256=sha256)
    return empty.eval()


def _stored_plan(path: Path) -> Plan:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    if text is None:
        raise CheckpointError(f"{path} holds no factorized network; save_factorized writes them")
    try:
        stored = {name: (method, rank) for name, (method, rank) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the plan in {path} cannot be read: {error}") from error
    return {
        name: Choice(method, tuple(rank) if isinstance(rank, list) else rank)
        for name, (method, rank) in stored.items()
    }
