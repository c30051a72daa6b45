"""Sparse tensors as bytes: COO, CSR, BSR, bitmask and relative index, and when each pays.

`encode` gives the bytes, `decode` the same tensor: every value exactly, NaN with its bits. A
mask times a negative weight makes −0.0. That is a zero here, as everywhere in the book, and
comes back as 0.0 ("dense" alone keeps its sign). A tensor of two or more dimensions is stored
as a matrix, its first dimension the rows (the filters of a layer). Every index has the
smallest of 8, 16 and 32 bits that can hold its largest value. Chapter 3 (Sparsity: formats)
derives the sizes and break-even points.
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
_UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_LIMIT = 1 << 32  # of numbers: each has a place that 32 bits can name


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
        ValueError: unknown format, block or bits out of range, a type that is not one of
            the usual floats and integers, or 2³² numbers and more.

    Chapter 3, Sparsity: formats.
    """
    if format not in _FORMATS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(_FORMATS)}")
    fits = 0 < tensor.ndim < 256 and max(*tensor.shape, tensor.numel()) < _LIMIT
    if tensor.dtype not in _DTYPES or not fits:
        raise ValueError(
            f"a {tensor.dtype} tensor of shape {tuple(tensor.shape)} cannot be encoded; give"
            " one with a dimension and fewer than 2³² numbers, of a float or integer type"
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
    bits = _bits(tensor)
    if format != "dense" and tensor.is_floating_point():
        sign = 1 << (8 * bits.dtype.itemsize - 1)
        bits = np.where(bits == sign, bits.dtype.type(0), bits)  # −0.0 is a zero
    return header + _CODECS[format][0](bits, options)


def decode(data: bytes) -> Tensor:
    """The tensor that `encode` was given: shape, type and values.

    Raises:
        FormatError: these are not bytes of `encode`, or not all of them.
    """
    try:
        if data[:4] != _MAGIC:
            raise FormatError("these bytes do not begin as an encoded tensor does")
        code, dtype_code, ndim = struct.unpack_from("<BBB", data, 4)
        *shape, first, second = struct.unpack_from(f"<{ndim}IHH", data, 7)
        format, dtype, options = _FORMATS[code], _DTYPES[dtype_code], (first, second)
        rows, columns = _matrix_shape(tuple(shape))
        if rows * columns >= _LIMIT or _options(format, options, first) != options:
            raise FormatError(f"no encoded tensor has shape {tuple(shape)}, options {options}")
        reader = _Reader(data, header_bytes(ndim))
        values = _CODECS[format][1](reader, rows, columns, _RAW[dtype.itemsize], options)
        reader.finish()
        return torch.from_numpy(values).view(dtype).reshape(shape)
    except FormatError:
        raise
    except (struct.error, IndexError, ValueError, MemoryError, ArithmeticError) as error:
        raise FormatError(f"the encoded tensor is damaged: {error}") from error


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

    The sum is rounded up to whole bytes.

    Args:
        format: one of these; the size of "relative" depends on where the zeros are.
        shape: of the tensor.
        stored: non-zeros; for "bsr" blocks with any non-zero.
        value_bits: bits of a number.
        block: for "bsr".

    Raises:
        ValueError: the format has no formula, more is stored than there is, or the shape, the
            block or the number of bits is out of range.

    Chapter 3, Sparsity: formats.
    """
    fixed, each, units = _size_in_bits(format, shape, stored, value_bits, block)
    if not 0 <= stored <= units:
        raise ValueError(f"{stored} values are to be stored; a tensor {shape} has {units}")
    return header_bytes(len(shape)) + -(-(fixed + each * stored) // 8)


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
    0 the format is always smaller, at 1 or above never. Where one more value makes every pointer
    wider, and only that makes the format too large, the point is there.

    Args, errors: as for `encoded_bytes`.

    Chapter 3, Sparsity: formats.
    """
    dense, _, _ = _size_in_bits("dense", shape, 0, value_bits, block)
    stored = []
    for largest in (0xFF, 0xFFFF, 0xFFFFFFFF):  # that a pointer of 8, 16, 32 bits can reach
        fixed, each, units = _size_in_bits(format, shape, largest, value_bits, block)
        stored.append(min((dense - fixed) / each, largest) if each else 0.0)
    return 1 - max(stored) / units if units else 1.0


def _size_in_bits(
    format: str, shape: tuple[int, ...], stored: int, value_bits: int, block: tuple[int, int]
) -> tuple[int, int, int]:
    """Bits whatever is stored, bits for each stored unit, and the number of units."""
    rows, columns = _matrix_shape(shape)
    if value_bits < 1:
        raise ValueError(f"value_bits is {value_bits}; it must be 1 or more")
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


def _decode_coo(reader: "_Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
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


def _decode_csr(reader: "_Reader", rows: int, columns: int, raw: type, _: tuple) -> np.ndarray:
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
    reader: "_Reader", rows: int, columns: int, raw: type, options: tuple[int, int]
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
    where = np.cumsum(indices + 1) - 1
    values = reader.take(raw, count)
    result = np.zeros(rows * columns, raw)
    result[where] = values
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
        if len(block) != 2 or not all(side in range(1, 65536) for side in block):
            raise ValueError(f"block is {block}; it must be two numbers from 1 to 65,535")
        return block[0], block[1]
    if format == "relative":
        if index_bits not in range(1, 17):
            raise ValueError(f"index_bits is {index_bits}; it must be from 1 to 16")
        return index_bits, 0
    return 0, 0


def _bits(tensor: Tensor) -> np.ndarray:
    """The tensor's bits as a matrix of unsigned integers, shape (rows, columns)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(_UNSIGNED[tensor.itemsize])
    return flat.numpy().reshape(_matrix_shape(tuple(tensor.shape)))


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
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
