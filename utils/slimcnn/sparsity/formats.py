"""Sparse tensors as bytes: COO, CSR, BSR, bitmask and relative index, and when each pays.

`encode` gives the bytes, `decode` the same tensor: every value exactly, NaN with its bits. A
mask times a negative weight makes −0.0. That is a zero here, as everywhere in the book, and
comes back as 0.0 ("dense" alone keeps its sign). A tensor of two or more dimensions is stored
as a matrix, its first dimension the rows (the filters of a layer). Every index has the
smallest of 8, 16 and 32 bits that can hold its largest value. Chapter 3 (Sparsity: formats)
derives the sizes and break-even points.
"""

import struct

import numpy as np
import torch
from torch import Tensor

from slimcnn.sparsity.codecs import (
    CODECS,
    LIMIT,
    RAW,
    FormatError,
    Reader,
    checked_options,
    matrix_shape,
)
from slimcnn.sparsity.sizes import header_bytes

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
    fits = 0 < tensor.ndim < 256 and max(*tensor.shape, tensor.numel()) < LIMIT
    if tensor.dtype not in _DTYPES or not fits:
        raise ValueError(
            f"a {tensor.dtype} tensor of shape {tuple(tensor.shape)} cannot be encoded; give"
            " one with a dimension and fewer than 2³² numbers, of a float or integer type"
        )
    options = checked_options(format, block, index_bits)
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
        negative_zeros = bits == 1 << (8 * bits.dtype.itemsize - 1)
        if negative_zeros.any():
            bits = np.where(negative_zeros, bits.dtype.type(0), bits)
    return header + CODECS[format][0](bits, options)


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
        rows, columns = matrix_shape(tuple(shape))
        if rows * columns >= LIMIT or checked_options(format, options, first) != options:
            raise FormatError(f"no encoded tensor has shape {tuple(shape)}, options {options}")
        reader = Reader(data, header_bytes(ndim))
        values = CODECS[format][1](reader, rows, columns, RAW[dtype.itemsize], options)
        reader.finish()
        return torch.from_numpy(values).view(dtype).reshape(shape)
    except FormatError:
        raise
    except (struct.error, IndexError, ValueError, MemoryError, ArithmeticError) as error:
        raise FormatError(f"the encoded tensor is damaged: {error}") from error


def _bits(tensor: Tensor) -> np.ndarray:
    """The tensor's bits as a matrix of unsigned integers, shape (rows, columns)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(_UNSIGNED[tensor.itemsize])
    return flat.numpy().reshape(matrix_shape(tuple(tensor.shape)))
