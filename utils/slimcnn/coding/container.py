"""The `.slim` file: a network in as few bytes as its numbers allow, and back bit by bit.

Nothing is rounded: what makes a file small was done to the weights before. Zeros are left out,
values that occur often become short words, and each tensor is written in the smallest of five ways.
One bit is lost on purpose: −0.0, which a mask makes of negative weights, comes back as 0.0.
Han et al., 2016 (Deep Compression), arXiv:1510.00149. Chapter 6 (Quantization: weight sharing).

Layout, little-endian: b"SLIM", version (1 byte), length of the header (4), the header (JSON),
one block for each tensor of the state dict, sorted by name, BLAKE2b of all before (16 bytes). A
block is a kind (1 byte) and its content:

    raw      the tensor's own bytes
    half     float32 numbers that are float16 numbers, too
    packed   whole numbers from 0 to 255 of a wider type
    shared   a codebook, a Huffman code, and a word for each number
    sparse   the same for the numbers that are not zero, and Huffman-coded gaps before them
"""

import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn import models
from slimcnn.coding import huffman

MAGIC, VERSION = b"SLIM", 1
LARGEST_CODEBOOK = 4096
# A file may not ask for more memory than this: 2²⁰ numbers, and a thousand for each of its bytes.
FREE_NUMBERS, NUMBERS_A_BYTE = 2**20, 1000
_RAW, _HALF, _PACKED, _SHARED, _SPARSE = range(5)
_CHECKSUM = 16
_GAP_BITS = (2, 3, 4, 5, 6, 7, 8)


class SlimError(ValueError):
    """A `.slim` file is damaged, foreign, or does not fit the network."""


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
        SlimError: nearly everything in a large network is zero, so that the file would ask for a
            thousand times its own size.

    Chapter 6, Quantization: weight sharing.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu() for name, tensor in _sorted_state(model).items()}
    header = {"names": _fingerprint(state)} | _architecture(model)
    text = json.dumps(header, separators=(",", ":")).encode()
    content = MAGIC + struct.pack("<BI", VERSION, len(text)) + text
    content += b"".join(_smallest_block(tensor) for tensor in state.values())
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
        reader = _Reader(_verified(content))
        header = _header(reader)
        target = model if model is not None else _built(header)
        state = _sorted_state(target)
        if header["names"] != _fingerprint(state):
            raise SlimError("its tensors have other names, shapes or types than the network's")
        _check_size(state, len(content))
        found = {name: _read_block(reader, tensor) for name, tensor in state.items()}
        if reader.rest():
            raise SlimError(f"{reader.rest()} bytes are left over")
    except (SlimError, struct.error, ValueError) as error:
        raise SlimError(f"{path} cannot be read: {error}") from error
    if model is None:
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


def _header(reader: "_Reader") -> dict:
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


def _architecture(model: nn.Module) -> dict:
    """The name and the arguments of a network of `slimcnn.models`, if it is one unchanged."""
    for name, kind in models.MODELS.items():
        if type(model) is not kind:
            continue
        stem, last = model.conv.weight, model.fc.weight
        reference = kind().conv.weight.shape[0]
        arguments = {
            "in_channels": stem.shape[1],
            "num_classes": last.shape[0],
            "width": stem.shape[0] / reference,
        }
        with torch.device("meta"):
            built = kind(**arguments)
        if _fingerprint(_sorted_state(built)) == _fingerprint(_sorted_state(model)):
            return {"model": name, "arguments": arguments}
    return {}


def _built(header: dict) -> nn.Module:
    """The architecture that a header names, without numbers: a file may ask for a giant."""
    name, arguments = header.get("model"), header.get("arguments")
    if name is None:
        raise SlimError("it does not say which network it holds; pass one as model")
    numbers = arguments.values() if isinstance(arguments, dict) else [None]
    if name not in models.MODELS or not all(type(n) in (int, float) for n in numbers):
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


# --- blocks -------------------------------------------------------------------------------------


def _smallest_block(tensor: Tensor) -> bytes:
    """A tensor in the smallest of the ways that give it back."""
    array = _as_numpy(tensor)
    blocks = [bytes([_RAW]) + array.tobytes()]
    if tensor.dtype is torch.float32:
        array = np.where(array == 0, np.float32(0), array)  # −0.0 is a zero
        blocks = [bytes([_RAW]) + array.tobytes()]
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if half.astype(np.float32).tobytes() == array.tobytes():
            blocks.append(bytes([_HALF]) + half.tobytes())
        if array.size:
            blocks += _coded_blocks(array)
    elif array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < 256:
        blocks.append(bytes([_PACKED]) + array.astype(np.uint8).tobytes())
    return min(blocks, key=len)


def _coded_blocks(array: np.ndarray) -> list[bytes]:
    """Float32 numbers by a codebook, if there are few different ones; bit patterns, not values."""
    flat = array.ravel().view(np.uint32)  # so that NaN come back as they were
    blocks = []
    book, indices = np.unique(flat, return_inverse=True)
    if len(book) <= LARGEST_CODEBOOK:
        blocks.append(bytes([_SHARED]) + _book(book) + _words(indices, len(book)))
    places = np.flatnonzero(flat)
    book, indices = np.unique(flat[places], return_inverse=True)
    if len(book) <= LARGEST_CODEBOOK:
        values = _book(book) + struct.pack("<I", len(places)) + _words(indices, len(book))
        gaps = np.diff(places, prepend=-1) - 1
        blocks += [bytes([_SPARSE]) + values + _gaps(gaps, bits) for bits in _GAP_BITS]
    return blocks


def _book(patterns: np.ndarray) -> bytes:
    """The codebook: how many values, whether as halves, and the values."""
    values = patterns.astype("<u4").view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    if half.astype(np.float32).tobytes() == values.tobytes():
        return struct.pack("<HB", len(values), 1) + half.tobytes()
    return struct.pack("<HB", len(values), 0) + values.tobytes()


def _words(symbols: np.ndarray, alphabet: int) -> bytes:
    """A Huffman code and the symbols in it: lengths as half bytes, bytes of data, data."""
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=alphabet).tolist())
    data = huffman.encode(symbols, lengths)
    padded = np.array([*lengths, 0][: alphabet + alphabet % 2], dtype=np.uint8)
    nibbles = (padded[::2] << 4) | padded[1::2]
    return nibbles.tobytes() + struct.pack("<I", len(data)) + data


def _gaps(gaps: np.ndarray, bits: int) -> bytes:
    """Zeros before each value; 2^bits − 1 of them at a time where there are more."""
    longest = 2**bits - 1
    jumps = gaps // longest
    symbols = np.full(int(jumps.sum()) + len(gaps), longest, dtype=np.int64)
    symbols[np.cumsum(jumps + 1) - 1] = gaps % longest
    return struct.pack("<BI", bits, len(symbols)) + _words(symbols, 2**bits)


class _Reader:
    """Bytes, taken from front to back and never beyond the end."""

    def __init__(self, content: bytes):
        self._content, self._place = content, 0

    def take(self, count: int) -> bytes:
        if count > self.rest():
            raise SlimError(f"it ends {count - self.rest()} bytes too early")
        part = self._content[self._place : self._place + count]
        self._place += count
        return part

    def unpack(self, layout: str) -> tuple:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def rest(self) -> int:
        return len(self._content) - self._place

    def words(self, alphabet: int, count: int) -> np.ndarray:
        nibbles = np.frombuffer(self.take((alphabet + 1) // 2), dtype=np.uint8)
        lengths = np.stack([nibbles >> 4, nibbles & 15], 1).ravel()[:alphabet]
        (size,) = self.unpack("<I")
        return huffman.decode(self.take(size), lengths.tolist(), count)

    def book(self) -> np.ndarray:
        count, halves = self.unpack("<HB")
        kind = np.float16 if halves else np.float32
        return np.frombuffer(self.take(count * np.dtype(kind).itemsize), kind).astype(np.float32)


def _read_block(reader: _Reader, like: Tensor) -> Tensor:
    """The next block as a tensor of the shape and type of `like`."""
    (kind,) = reader.unpack("<B")
    count = like.numel()
    if kind == _RAW:
        data = bytearray(reader.take(count * like.element_size()))
        flat = (
            torch.frombuffer(data, dtype=like.dtype) if count else torch.empty(0, dtype=like.dtype)
        )
        return flat.reshape(like.shape)
    if kind == _PACKED and not like.is_floating_point():
        array = np.frombuffer(reader.take(count), dtype=np.uint8)
        return torch.from_numpy(array.copy()).to(like.dtype).reshape(like.shape)
    if like.dtype is not torch.float32 or kind not in (_HALF, _SHARED, _SPARSE):
        raise SlimError(f"a tensor of {like.dtype} is written in the unknown way {kind}")
    if kind == _HALF:
        array = np.frombuffer(reader.take(2 * count), dtype=np.float16).astype(np.float32)
    elif kind == _SHARED:
        book = reader.book()
        array = book[reader.words(len(book), count)]
    else:
        array = _read_sparse(reader, count)
    return torch.from_numpy(array).reshape(like.shape)


def _read_sparse(reader: _Reader, count: int) -> np.ndarray:
    book = reader.book()
    (filled,) = reader.unpack("<I")
    if filled > count:
        raise SlimError(f"{filled} numbers are not zero, of {count}")
    values = book[reader.words(len(book), filled)]
    bits, symbols = reader.unpack("<BI")
    if bits not in _GAP_BITS or symbols > count + filled:
        raise SlimError(f"its gaps have {bits} bits and {symbols} entries for {count} numbers")
    gaps = reader.words(2**bits, symbols)
    longest = 2**bits - 1
    places = np.cumsum(gaps + (gaps < longest))[gaps < longest] - 1
    if len(places) != filled or (filled and places[-1] >= count) or (gaps[-1:] == longest).any():
        raise SlimError("its gaps do not lead to the numbers that are not zero")
    array = np.zeros(count, dtype=np.float32)
    array[places] = values
    return array


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """A contiguous array of the same bytes; bfloat16, which NumPy lacks, as whole numbers."""
    tensor = tensor.contiguous()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy()
