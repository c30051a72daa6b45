"""How many bytes a sparse format takes, by formula, and from which sparsity it pays.

Chapter 3 (Sparsity: formats) derives both.
"""

from slimcnn.sparsity.codecs import checked_options, index_bits_for, matrix_shape


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
    rows, columns = matrix_shape(shape)
    if value_bits < 1:
        raise ValueError(f"value_bits is {value_bits}; it must be 1 or more")
    count = 32
    if format == "dense":
        return rows * columns * value_bits, 0, rows * columns
    if format == "coo":
        index = index_bits_for(rows - 1) + index_bits_for(columns - 1)
        return count, value_bits + index, rows * columns
    if format == "bitmask":
        return -(-rows * columns // 8) * 8, value_bits, rows * columns
    if format in ("csr", "bsr"):
        height, width = checked_options("bsr", block, 1) if format == "bsr" else (1, 1)
        rows, columns = -(-rows // height), -(-columns // width)
        pointers = (rows + 1) * index_bits_for(stored)
        each = value_bits * height * width + index_bits_for(columns - 1)
        return count + pointers, each, rows * columns
    raise ValueError(f"{format!r} has no formula; dense, coo, csr, bsr and bitmask have")
