"""Sparse tensors as bytes: COO, CSR, BSR, bitmask and relative index, and when each pays.

`encode` gives the bytes, `decode` the same tensor bit by bit. A tensor of two or more
dimensions is stored as a matrix, its first dimension the rows (the filters of a layer). Every
index has the smallest of 8, 16 and 32 bits that can hold its largest value. A number is left
out only if all its bits are zero: −0.0 is kept. Chapter 3 (Sparsity: formats) derives the
sizes and break-even points.
"""

import struct
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import Tensor

_MAGIC = b"SLIM"
_FORMATS = ("dense", "coo", "csr", "bsr", "bitmask", "relative")
_DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
)
_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class FormatError(ValueError):
    """Bytes that are no encoded tensor, or a damaged one."""


def encode(
    tensor: Tensor,
    format: str,
    *,
    block: tuple[int, int] = (4, 4),
    index_bits: int = 4,
) -> bytes:
    """The bytes of a tensor in one format, header included.

    - "dense": all numbers.
    - "coo": row, column and value of each non-zero.
    - "csr": columns and values of the non-zeros, row by row, and where each row starts.
    - "bsr": the same of blocks with any non-zero, their numbers dense.
    - "bitmask": one bit a number, and the non-zeros.
    - "relative": for each non-zero how many zeros come before it, in `index_bits` bits; where
      they do not suffice, a zero is stored as a value (Han et al., 2016, arXiv:1510.00149).

    Args:
        tensor: any shape, at least one dimension; strides do not matter.
        format: as above.
        block: rows and columns of a block, for "bsr"; the matrix is padded with zeros.
        index_bits: 1 to 16, for "relative".

    Raises:
        ValueError: unknown format, block or bits out of range, or a type that is not one of
            the usual floats and integers.

    Chapter 3, Sparsity: formats.
    """
    if format not in _FORMATS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(_FORMATS)}")
    if tensor.dtype not in _DTYPES or tensor.ndim == 0 or tensor.ndim > 255:
        raise ValueError(
            f"a {tensor.dtype} tensor of shape {tuple(tensor.shape)} cannot be encoded; give"
            " one with a dimension, of a float or integer type"
        )
    options = _options(format, block, index_bits)
    header = _MAGIC + struct.pack(
        f"<BBB{tensor.ndim}IHH",
        _FORMATS.index(format),
        _DTYPES.index(tensor.dtype),
        tensor.ndim,
        *tensor.shape,
        *options,
    )
    return header + _CODECS[format][0](_bits(tensor), options)


def decode(data: bytes) -> Tensor:
    """The tensor that `encode` was given: shape, type and every bit.

    Raises:
        FormatError: these are not bytes of `encode`, or not all of them.
    """
    try:
        if data[:4] != _MAGIC:
            raise FormatError("these bytes do not begin as an encoded tensor does")
        code, dtype_code, ndim = struct.unpack_from("<BBB", data, 4)
        *shape, first, second = struct.unpack_from(f"<{ndim}IHH", data, 7)
        format, dtype = _FORMATS[code], _DTYPES[dtype_code]
        reader = _Reader(data, 7 + 4 * ndim + 4)
        raw = _RAW[torch.empty(0, dtype=dtype).element_size()]
        rows, columns = _matrix_shape(tuple(shape))
        values = _CODECS[format][1](reader, rows, columns, raw, (first, second))
        reader.finish()
    except (struct.error, IndexError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"the encoded tensor is damaged: {error}") from error
    content = torch.from_numpy(values.reshape(-1).view(np.uint8).copy())
    return content.view(dtype).reshape(shape)


def header_bytes(ndim: int) -> int:
    """Bytes of the header that every format has: magic, format, type, shape, options."""
    return 4 + 3 + 4 * ndim + 4


def encoded_bytes(
    format: str,
    shape: tuple[int, ...],
    stored: int,
    value_bits: int = 32,
    *,
    block: tuple[int, int] = (4, 4),
) -> int:
    """How many bytes `encode` needs, by formula.

    With an R × C matrix, n stored values of v bits, indices of r and c bits for rows and
    columns, pointers of p bits, and blocks of B values of which n are stored, in bits, without
    the header:

    - dense: R C v
    - coo: 32 + n (v + r + c)
    - csr: 32 + n (v + c) + (R + 1) p
    - bsr: as csr, with block rows, block columns, and B v bits a block
    - bitmask: R C (rounded up to whole bytes) + n v

    Args:
        format: one of these; the size of "relative" depends on where the zeros are.
        shape: of the tensor.
        stored: non-zeros; for "bsr" blocks with any non-zero.
        value_bits: bits of a number.
        block: for "bsr".

    Raises:
        ValueError: the format has no formula, or more is stored than there is.

    Chapter 3, Sparsity: formats.
    """
    fixed, each, units = _size_in_bits(format, shape, stored, value_bits, block)
    if not 0 <= stored <= units:
        raise ValueError(f"{stored} values are to be stored; a tensor {shape} has {units}")
    return header_bytes(len(shape)) + (fixed + each * stored) // 8


def break_even(
    format: str,
    shape: tuple[int, ...],
    value_bits: int = 32,
    *,
    block: tuple[int, int] = (4, 4),
) -> float:
    """The sparsity beyond which a format needs fewer bytes than the dense tensor.

    From `encoded_bytes`, for large tensors: (r + c) / (v + r + c) for coo, about c / (v + c)
    for csr and 1 / v for bitmask. For "bsr" it is the fraction of blocks that are zero. Below
    0 the format is always smaller, at 1 or above never.

    Args, errors: as for `encoded_bytes`.

    Chapter 3, Sparsity: formats.
    """
    dense, _, _ = _size_in_bits("dense", shape, 0, value_bits, block)
    stored = 0.0
    for _ in range(3):  # the width of a pointer depends on the count that it must reach
        fixed, each, units = _size_in_bits(format, shape, int(stored), value_bits, block)
        stored = (dense - fixed) / each if each else 0.0
    return 1 - stored / units if units else 0.0


def _size_in_bits(
    format: str, shape: tuple[int, ...], stored: int, value_bits: int, block: tuple[int, int]
) -> tuple[int, int, int]:
    """Bits whatever is stored, bits for each stored unit, and the number of units."""
    rows, columns = _matrix_shape(shape)
    count = 32
    if format == "dense":
        return rows * columns * value_bits, 0, rows * columns
    if format == "coo":
        index = _index_bits(rows - 1) + _index_bits(columns - 1)
        return count, value_bits + index, rows * columns
    if format == "bitmask":
        return -(-rows * columns // 8) * 8, value_bits, rows * columns
    if format in ("csr", "bsr"):
        height, width = _options("bsr", block, 1) if format == "bsr" else (1, 1)
        rows, columns = -(-rows // height), -(-columns // width)
        pointers = (rows + 1) * _index_bits(stored)
        each = value_bits * height * width + _index_bits(columns - 1)
        return count + pointers, each, rows * columns
    raise ValueError(f"{format!r} has no formula; dense, coo, csr, bsr and bitmask have")


# --- the formats: (matrix, options) -> bytes, (reader, rows, columns, type, options) -> matrix ---


def _encode_dense(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    return matrix.tobytes()


def _decode_dense(reader: "_Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    return reader.take(raw, rows * columns)


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


def _decode_coo(reader: "_Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    count = reader.count()
    row = reader.take(_index_type(rows - 1), count).astype(np.int64)
    column = reader.take(_index_type(columns - 1), count).astype(np.int64)
    result = np.zeros((rows, columns), raw)
    result[row, column] = reader.take(raw, count)
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


def _decode_csr(reader: "_Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
    count = reader.count()
    starts = reader.take(_index_type(count), rows + 1).astype(np.int64)
    column = reader.take(_index_type(columns - 1), count).astype(np.int64)
    result = np.zeros((rows, columns), raw)
    result[np.repeat(np.arange(rows), np.diff(starts)), column] = reader.take(raw, count)
    return result


def _encode_bsr(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    blocks = _blocks(matrix, *options)  # (block rows, block columns, height, width)
    filled = blocks.any(axis=(2, 3)).astype(np.uint8)
    counts = filled.sum(1, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    where = np.flatnonzero(filled)
    column = where % max(filled.shape[1], 1)
    return (
        struct.pack("<I", len(where))
        + starts.astype(_index_type(len(where))).tobytes()
        + column.astype(_index_type(filled.shape[1] - 1)).tobytes()
        + blocks[filled.astype(bool)].tobytes()
    )


def _decode_bsr(
    reader: "_Reader", rows: int, columns: int, raw: type, options: tuple[int, int]
) -> np.ndarray:
    height, width = options
    high, wide = -(-rows // height), -(-columns // width)
    count = reader.count()
    starts = reader.take(_index_type(count), high + 1).astype(np.int64)
    column = reader.take(_index_type(wide - 1), count).astype(np.int64)
    blocks = np.zeros((high, wide, height, width), raw)
    row = np.repeat(np.arange(high), np.diff(starts))
    blocks[row, column] = reader.take(raw, count * height * width).reshape(-1, height, width)
    matrix = blocks.transpose(0, 2, 1, 3).reshape(high * height, wide * width)
    return np.ascontiguousarray(matrix[:rows, :columns])


def _encode_bitmask(matrix: np.ndarray, options: tuple[int, int]) -> bytes:
    filled = matrix.ravel() != 0
    return np.packbits(filled).tobytes() + matrix.ravel()[filled].tobytes()


def _decode_bitmask(reader: "_Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
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
    reader: "_Reader", rows: int, columns: int, raw: type, options: tuple[int, int]
) -> np.ndarray:
    bits, _ = options
    count = reader.count()
    indices = _unpack(reader.take(np.uint8, -(-count * bits // 8)), bits, count)
    where = np.cumsum(indices.astype(np.int64) + 1) - 1
    result = np.zeros(rows * columns, raw)
    result[where] = reader.take(raw, count)
    return result


_CODECS: dict[str, tuple[Callable, Callable]] = {
    "dense": (_encode_dense, _decode_dense),
    "coo": (_encode_coo, _decode_coo),
    "csr": (_encode_csr, _decode_csr),
    "bsr": (_encode_bsr, _decode_bsr),
    "bitmask": (_encode_bitmask, _decode_bitmask),
    "relative": (_encode_relative, _decode_relative),
}


class _Reader:
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


def _options(format: str, block: tuple[int, int], index_bits: int) -> tuple[int, int]:
    if format == "bsr":
        if len(block) != 2 or not all(1 <= side <= 65535 for side in block):
            raise ValueError(f"block is {block}; it must be two numbers of 1 or more")
        return block[0], block[1]
    if format == "relative":
        if not 1 <= index_bits <= 16:
            raise ValueError(f"index_bits is {index_bits}; it must be from 1 to 16")
        return index_bits, 0
    return 0, 0


def _bits(tensor: Tensor) -> np.ndarray:
    """The tensor's bits as a matrix of unsigned integers, shape (rows, columns)."""
    array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array.view(_RAW[tensor.element_size()]).reshape(_matrix_shape(tuple(tensor.shape)))


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns: a vector is one row."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], prod(shape[1:]))


def _blocks(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = matrix.shape
    padded = np.pad(matrix, ((0, -rows % height), (0, -columns % width)))
    high, wide = padded.shape[0] // height, padded.shape[1] // width
    return padded.reshape(high, height, wide, width).transpose(0, 2, 1, 3)


def _index_bits(largest: int) -> int:
    return 8 if largest < 1 << 8 else 16 if largest < 1 << 16 else 32


def _index_type(largest: int) -> type:
    return _RAW[_index_bits(largest) // 8]


def _pack(indices: np.ndarray, bits: int) -> bytes:
    places = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits((indices[:, None] >> places & 1).astype(np.uint8)).tobytes()


def _unpack(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    digits = np.unpackbits(data, count=count * bits).reshape(count, bits)
    return digits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
