"""A sparse network as one file: every tensor in the format that is smallest for it.

The file is a safetensors file whose tensors are the bytes of `encode`; tensors without a
dimension (counters) are stored as they are. Chapter 3 (Sparsity: formats).
"""

import copy
import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimcnn.checkpoints import CheckpointError
from slimcnn.masking import finalize
from slimcnn.sparsity.codecs import FormatError
from slimcnn.sparsity.formats import decode, encode

_CANDIDATES = ("dense", "coo", "csr", "bitmask")


def save_encoded(model: nn.Module, path: Path | str, format: str | None = None) -> str:
    """Write the state of a network, each tensor encoded, and return the file's SHA-256.

    Args:
        model: masks are written in first (`finalize`), so names are those of the plain network.
        path: the file; its folder must exist.
        format: one for all tensors, or None for the smallest of each.
    """
    stored = {}
    for name, tensor in finalize(model).state_dict().items():
        if tensor.ndim == 0:
            stored[name] = tensor.detach().cpu().clone()
            continue
        formats = _CANDIDATES if format is None else (format,)
        data = min((encode(tensor, candidate) for candidate in formats), key=len)
        stored[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    path = Path(path)
    save_file(stored, path, metadata={"slimcnn": "encoded"})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_encoded(model: nn.Module, path: Path | str) -> nn.Module:
    """A copy of `model` with the weights of a file that `save_encoded` wrote, in eval mode.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the network.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; it comes with a clone of the repository")
    try:
        stored = load_file(path)
        state = {name: _decoded(tensor) for name, tensor in stored.items()}
    except (SafetensorError, FormatError) as error:
        raise CheckpointError(f"{path} is damaged or no encoded network: {error}") from error
    filled = copy.deepcopy(model)
    try:
        filled.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit this network: {error}") from error
    return filled.eval()


def _decoded(tensor: Tensor) -> Tensor:
    if tensor.ndim == 0:
        return tensor
    if tensor.dtype != torch.uint8:
        raise FormatError(f"a {tensor.dtype} tensor holds numbers, not the bytes of a format")
    return decode(tensor.numpy().tobytes())
