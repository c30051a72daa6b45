"""Each sparse format: a matrix of unsigned integers to bytes, and back.

`formats` adds the header. An encoder gets (matrix, options), a decoder (reader, rows, columns,
unsigned type, options). Chapter 3 (Sparsity: formats) writes them by hand.
"""

import struct
from collections.abc import Callable
from math import prod

import numpy as np

RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
LIMIT = 1 << 32  # of numbers: each has a place that 32 bits can name


class FormatError(ValueError):
    """Bytes that are no encoded tensor, or a damaged one."""


def _encode_dense(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    return matrix.tobytes()


def _decode_dense(reader: "Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    return reader.take(raw, rows * columns).copy()


def _encode_coo(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    rows, columns = matrix.shape
    where = np.flatnonzero(matrix)
    row, column = np.divmod(where, max(columns, 1))
    return (
        struct.pack("<I", len(where))
        + row.astype(_index_type(rows - 1)).tobytes()
        + column.astype(_index_type(columns - 1)).tobytes()
        + matrix.ravel()[where].tobytes()
    )


def _decode_coo(reader: "Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    count = reader.count()
    row = reader.take(_index_type(rows - 1), count).astype(np.int64)
    column = reader.take(_index_type(columns - 1), count).astype(np.int64)
    values = reader.take(raw, count)
    result = np.zeros((rows, columns), raw)
    result[row, column] = values
    return result


def _encode_csr(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    rows, columns = matrix.shape
    where = np.flatnonzero(matrix)
    starts = np.searchsorted(where, np.arange(rows + 1) * columns)
    column = where - np.repeat(np.arange(rows) * columns, np.diff(starts))
    return (
        struct.pack("<I", len(where))
        + starts.astype(_index_type(len(where))).tobytes()
        + column.astype(_index_type(columns - 1)).tobytes()
        + matrix.ravel()[where].tobytes()
    )


def _decode_csr(reader: "Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    count = reader.count()
    row = _rows_from(reader.take(_index_type(count), rows + 1), count)
    column = reader.take(_index_type(columns - 1), count).astype(np.int64)
    values = reader.take(raw, count)
    result = np.zeros((rows, columns), raw)
    result[row, column] = values
    return result


def _encode_bsr(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    blocks = _blocks(matrix, *options)  # (block rows, block columns, height, width)
    filled = np.bitwise_or.reduce(np.bitwise_or.reduce(blocks, axis=3), axis=2) != 0
    counts = filled.sum(1, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    where = np.flatnonzero(filled)
    column = where % max(filled.shape[1], 1)
    return (
        struct.pack("<I", len(where))
        + starts.astype(_index_type(len(where))).tobytes()
        + column.astype(_index_type(filled.shape[1] - 1)).tobytes()
        + blocks[filled].tobytes()
    )


def _decode_bsr(
    reader: "Reader", rows: int, columns: int, raw: type, options: tuple[int, int]
) -> np.ndarray:
    height, width = options
    high, wide = -(-rows // height), -(-columns // width)
    count = reader.count()
    row = _rows_from(reader.take(_index_type(count), high + 1), count)
    column = reader.take(_index_type(wide - 1), count).astype(np.int64)
    if (column >= wide).any():
        raise FormatError(f"a block is in column {column.max()} of {wide}")
    blocks = reader.take(raw, count * height * width).reshape(-1, height, width)
    # Number by number, without the padding: a matrix of zeros then takes no memory.
    down = (row * height)[:, None, None] + np.arange(height)[:, None]
    right = (column * width)[:, None, None] + np.arange(width)
    inside = (down < rows) & (right < columns)
    result = np.zeros(rows * columns, raw)
    result[(down * columns + right)[inside]] = blocks[inside]
    return result


def _encode_bitmask(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    filled = matrix.ravel() != 0
    return np.packbits(filled).tobytes() + matrix.ravel()[filled].tobytes()


def _decode_bitmask(reader: "Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    size = rows * columns
    filled = np.unpackbits(reader.take(np.uint8, -(-size // 8)), count=size).astype(bool)
    result = np.zeros(size, raw)
    result[filled] = reader.take(raw, int(filled.sum()))
    return result


def _encode_relative(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    bits, _ = options
    span = 1 << bits  # an index of 0 .. span − 1 zeros, then a value
    where = np.flatnonzero(matrix)
    gaps = np.diff(where, prepend=-1) - 1
    fillers = gaps // span  # values of zero, each after span − 1 zeros
    ends = np.cumsum(fillers + 1)
    count = int(ends[-1]) if len(ends) else 0
    indices = np.full(count, span - 1, np.uint16)
    values = np.zeros(count, matrix.dtype)
    indices[ends - 1] = gaps - fillers * span
    values[ends - 1] = matrix.ravel()[where]
    return struct.pack("<I", count) + _pack(indices, bits) + values.tobytes()


def _decode_relative(
    reader: "Reader", rows: int, columns: int, raw: type, options: tuple[int, int]
) -> np.ndarray:
    bits, _ = options
    count = reader.count()
    indices = _unpack(reader.take(np.uint8, -(-count * bits // 8)), bits, count)
    where = np.cumsum(indices + 1) - 1
    values = reader.take(raw, count)
    result = np.zeros(rows * columns, raw)
    result[where] = values
    return result


CODECS: dict[str, tuple[Callable, Callable]] = {
    "dense": (_encode_dense, _decode_dense),
    "coo": (_encode_coo, _decode_coo),
    "csr": (_encode_csr, _decode_csr),
    "bsr": (_encode_bsr, _decode_bsr),
    "bitmask": (_encode_bitmask, _decode_bitmask),
    "relative": (_encode_relative, _decode_relative),
}


class Reader:
    """Takes arrays from bytes, one after another, and knows when they do not suffice."""

    def __init__(self, data: bytes, offset: int):
        self._data, self._offset = data, offset

    def count(self) -> int:
        return int(self.take(np.uint32, 1)[0])

    def take(self, dtype: type, count: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize * count
        if self._offset + size > len(self._data):
            raise FormatError(
                f"the encoded tensor ends too early: {len(self._data)} bytes, at least"
                f" {self._offset + size} needed"
            )
        taken = np.frombuffer(self._data, dtype, count, self._offset)
        self._offset += size
        return taken

    def finish(self) -> None:
        if self._offset != len(self._data):
            raise FormatError(f"{len(self._data) - self._offset} bytes follow the encoded tensor")


def checked_options(format: str, block: tuple[int, int], index_bits: int) -> tuple[int, int]:
    """The two numbers that a format's bytes depend on, as the header stores them."""
    if format == "bsr":
        if len(block) != 2 or not all(side in range(1, 65536) for side in block):
            raise ValueError(f"block is {block}; it must be two numbers from 1 to 65,535")
        return block[0], block[1]
    if format == "relative":
        if index_bits not in range(1, 17):
            raise ValueError(f"index_bits is {index_bits}; it must be from 1 to 16")
        return index_bits, 0
    return 0, 0


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns: a vector is one row."""
    if not shape or min(shape) < 0:
        raise ValueError(f"shape is {shape}; it needs a dimension, and sizes of 0 or more")
    return (1, shape[0]) if len(shape) == 1 else (shape[0], prod(shape[1:]))


def _blocks(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = matrix.shape
    missing = (0, -rows % height), (0, -columns % width)
    padded = np.pad(matrix, missing) if rows % height or columns % width else matrix
    high, wide = padded.shape[0] // height, padded.shape[1] // width
    return padded.reshape(high, height, wide, width).transpose(0, 2, 1, 3)


def _rows_from(starts: np.ndarray, count: int) -> np.ndarray:
    """The row of each of `count` stored values, from where each row starts."""
    if starts[0] != 0 or starts[-1] != count:
        raise FormatError(f"rows start from {starts[0]} to {starts[-1]}; {count} values are stored")
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts.astype(np.int64)))


def index_bits_for(largest: int) -> int:
    """The fewest of 8, 16 and 32 bits that hold `largest`."""
    return 8 if largest < 1 << 8 else 16 if largest < 1 << 16 else 32


def _index_type(largest: int) -> type:
    return RAW[index_bits_for(largest) // 8]


def _pack(indices: np.ndarray, bits: int) -> bytes:
    places = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits((indices[:, None] >> places & 1).astype(np.uint8)).tobytes()


def _unpack(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    digits = np.unpackbits(data, count=count * bits).reshape(count, bits)
    return digits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
