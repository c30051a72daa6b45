"""One tensor in as few bytes as its numbers allow, and back bit by bit.

A block is a kind (1 byte) and its content:

    raw      the tensor's own bytes
    half     float32 numbers that are float16 numbers, too
    packed   whole numbers from 0 to 255 of a wider type
    shared   a codebook, a Huffman code, and a word for each number
    sparse   the same for the numbers that are not zero, and Huffman-coded gaps before them
    thin     the numbers that are not zero as they are, and gaps

Han et al., 2016 (Deep Compression), arXiv:1510.00149. Chapter 6 (Quantization: weight sharing).
"""

import struct

import numpy as np
import torch
from torch import Tensor

from slimcnn.coding import huffman

LARGEST_CODEBOOK = 4096
_RAW, _HALF, _PACKED, _SHARED, _SPARSE, _THIN = range(6)
_GAP_BITS = (2, 3, 4, 5, 6, 7, 8)


class SlimError(ValueError):
    """A `.slim` file is damaged, foreign, or does not fit the network."""


def smallest_block(tensor: Tensor) -> bytes:
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
    coded = [_gaps(np.diff(places, prepend=-1) - 1, bits) for bits in _GAP_BITS]
    gaps, count = min(coded, key=len), struct.pack("<I", len(places))
    blocks.append(bytes([_THIN]) + count + flat[places].tobytes() + gaps)
    book, indices = np.unique(flat[places], return_inverse=True)
    if len(book) <= LARGEST_CODEBOOK:
        words = _words(indices, len(book))
        blocks.append(bytes([_SPARSE]) + _book(book) + count + words + gaps)
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
    lengths = huffman.code_lengths(
        np.bincount(symbols, minlength=alphabet).tolist(), huffman.USUAL_LENGTH
    )
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


class Reader:
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


def read_block(reader: Reader, like: Tensor) -> Tensor:
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
    if like.dtype is not torch.float32 or kind not in (_HALF, _SHARED, _SPARSE, _THIN):
        raise SlimError(f"a tensor of {like.dtype} is written in the unknown way {kind}")
    if kind == _HALF:
        array = np.frombuffer(reader.take(2 * count), dtype=np.float16).astype(np.float32)
    elif kind == _SHARED:
        book = reader.book()
        array = book[reader.words(len(book), count)]
    else:
        array = _read_sparse(reader, count, shared=kind == _SPARSE)
    return torch.from_numpy(array).reshape(like.shape)


def _read_sparse(reader: Reader, count: int, shared: bool) -> np.ndarray:
    book = reader.book() if shared else None
    (filled,) = reader.unpack("<I")
    if filled > count:
        raise SlimError(f"{filled} numbers are not zero, of {count}")
    if book is not None:
        values = book[reader.words(len(book), filled)]
    else:
        values = np.frombuffer(reader.take(4 * filled), dtype=np.float32)
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
