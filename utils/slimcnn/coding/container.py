"""The `.slim` file: a network in as few bytes as its numbers allow, and back bit by bit.

Nothing is rounded: what makes a file small was done to the weights before. Zeros are left out,
values that occur often become short words, and each tensor is written in the smallest of six ways.
One bit is lost on purpose: −0.0, which a mask makes of negative weights, comes back as 0.0.
Han et al., 2016 (Deep Compression), arXiv:1510.00149. Chapter 6 (Quantization: weight sharing).

Layout, little-endian: b"SLIM", version (1 byte), length of the header (4), the header (JSON),
one block for each tensor of the state dict, sorted by name, BLAKE2b of all before (16 bytes). The
blocks are in `slimcnn.coding.blocks`.
"""

import hashlib
import json
import os
import struct
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn import models
from slimcnn.coding.blocks import Reader, SlimError, read_block, smallest_block

MAGIC, VERSION = b"SLIM", 1
# A file may not ask for more memory than this: 2²⁰ numbers, and a thousand for each of its bytes.
FREE_NUMBERS, NUMBERS_A_BYTE = 2**20, 1000
_CHECKSUM = 16


def save_slim(model: nn.Module, path: Path | str) -> int:
    """Write the state dict of a network; `load_slim` gives back every bit of it.

    Sparse and shared weights make it small: see `slimcnn.pruning`, `kmeans`. Networks of
    `slimcnn.models` are named in the file, so that it can be loaded without them.

    Args:
        model: masks must be written into the weights (`slimcnn.masking.finalize`).
        path: an existing file is replaced at once or, on an error, left as it was.

    Returns:
        The size of the file in bytes.

    Raises:
        SlimError: a tensor has no numbers in memory (meta) or is sparse, or has numbers of a type
            that NumPy does not know, such as float8; or nearly everything in a large network is
            zero, so that the file would ask for a thousand times its own size.

    Chapter 6, Quantization: weight sharing.
    """
    path = Path(path)
    state = _sorted_state(model)
    header = {"names": _fingerprint(state)} | _architecture(model)
    text = json.dumps(header, separators=(",", ":")).encode()
    content = MAGIC + struct.pack("<BI", VERSION, len(text)) + text
    content += b"".join(_block(name, tensor) for name, tensor in state.items())
    content += hashlib.blake2b(content, digest_size=_CHECKSUM).digest()
    _check_size(state, len(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return len(content)


def _block(name: str, tensor: Tensor) -> bytes:
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise SlimError(f"{name} is no plain tensor with its numbers in memory")
    try:
        return smallest_block(tensor.detach().cpu())
    except TypeError as error:  # of NumPy
        raise SlimError(f"{name} has numbers of {tensor.dtype}, which no file takes") from error


def load_slim(path: Path | str, model: nn.Module | None = None) -> nn.Module:
    """The network in a file, in eval mode.

    Args:
        path: written by `save_slim`.
        model: the architecture, any weights; it is filled. Needed for networks that are not in
            `slimcnn.models`, or have fewer channels (`pruning.load_pruned`).

    Raises:
        FileNotFoundError: no such file.
        SlimError: it is no such file, is damaged, or has another network; `model` is unchanged.

    Chapter 6, Quantization: weight sharing.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        reader = Reader(_verified(content))
        header = _header(reader)
        target = model if model is not None else _built(header)
        state = _sorted_state(target)
        if header["names"] != _fingerprint(state):
            raise SlimError("its tensors have other names, shapes or types than the network's")
        _check_size(state, len(content))
        found = {name: read_block(reader, tensor) for name, tensor in state.items()}
        if reader.rest():
            raise SlimError(f"{reader.rest()} bytes are left over")
    except (SlimError, struct.error, ValueError) as error:
        raise SlimError(f"{path} cannot be read: {error}") from error
    if model is None:
        with torch.random.fork_rng(devices=[]):  # nothing random of it stays
            target = models.build(header["model"], **header["arguments"])
    target.load_state_dict(found)
    return target.eval()


# --- header -------------------------------------------------------------------------------------


def _verified(content: bytes) -> bytes:
    """Everything between magic number and checksum, after both were found right."""
    if content[: len(MAGIC)] != MAGIC:
        raise SlimError("it is no .slim file")
    body, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if hashlib.blake2b(body, digest_size=_CHECKSUM).digest() != checksum:
        raise SlimError("it is damaged (its checksum is another)")
    return body[len(MAGIC) :]


def _header(reader: Reader) -> dict:
    version, length = reader.unpack("<BI")
    if version != VERSION:
        raise SlimError(f"it has version {version}; this program reads version {VERSION}")
    try:
        header = json.loads(reader.take(length))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SlimError(f"its header is no JSON ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get("names"), str):
        raise SlimError("its header does not name the tensors")
    return header


def _modules(model: nn.Module) -> list[tuple]:
    """Names, types and options (strides, ε, …) of all parts."""
    return [(name, type(m), m.extra_repr()) for name, m in model.named_modules()]


def _architecture(model: nn.Module) -> dict:
    """The name and the arguments of a network of `slimcnn.models`, if it is one unchanged."""
    for name, kind in models.MODELS.items():
        if type(model) is not kind:
            continue
        state = model.state_dict()
        stem, last = state.get("conv.weight"), state.get("fc.weight")
        if stem is None or last is None:
            continue  # its layers were replaced by others
        with torch.device("meta"):  # draws no random numbers
            reference = kind().conv.weight.shape[0]
        arguments = {
            "in_channels": stem.shape[1],
            "num_classes": last.shape[0],
            "width": stem.shape[0] / reference,
        }
        with torch.device("meta"):
            built = kind(**arguments)
        same_state = _fingerprint(_sorted_state(built)) == _fingerprint(_sorted_state(model))
        if same_state and _modules(built) == _modules(model):
            return {"model": name, "arguments": arguments}
    return {}


def _built(header: dict) -> nn.Module:
    """The architecture that a header names, without numbers: a file may ask for a giant."""
    name, arguments = header.get("model"), header.get("arguments")
    if name is None:
        raise SlimError("it does not say which network it holds; pass one as model")
    numbers = arguments.values() if isinstance(arguments, dict) else [None]
    known = isinstance(name, str) and name in models.MODELS
    if not known or not all(type(n) in (int, float) for n in numbers):
        raise SlimError(f"it holds a network {name!r} with {arguments!r}, which is not known")
    try:
        with torch.device("meta"):
            return models.build(name, **arguments)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise SlimError(f"it holds a network {name!r} that cannot be built ({error})") from error


def _sorted_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict by name: taking masks off changes its order, and nothing else."""
    return dict(sorted(model.state_dict().items()))


def _fingerprint(state: dict[str, Tensor]) -> str:
    """A hash of names, shapes and types."""
    text = ";".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in state.items())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _check_size(state: dict[str, Tensor], size: int) -> None:
    numbers, most = sum(t.numel() for t in state.values()), FREE_NUMBERS + NUMBERS_A_BYTE * size
    if numbers > most:
        raise SlimError(f"{size:,} bytes for {numbers:,} numbers; at most {most:,} are allowed")
