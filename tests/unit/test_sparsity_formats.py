"""slimcnn.sparsity, formats: every bit back, every byte predicted, no damage unnoticed."""

import math
import resource
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra
from scipy import sparse
from torch import nn

from slimcnn import sparsity
from slimcnn.sparsity import FormatError, decode, encode

FORMATS = ("dense", "coo", "csr", "bsr", "bitmask", "relative")
FORMULAS = FORMATS[:-1]
# In the order of their codes in the header.
DTYPES = (
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
RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
INFINITY = {
    torch.float16: 0x7C00,
    torch.bfloat16: 0x7F80,
    torch.float32: 0x7F800000,
    torch.float64: 0x7FF0000000000000,
}


def of_raw(raw, dtype):
    """The tensor whose numbers have these bits."""
    array = np.ascontiguousarray(np.asarray(raw, RAW[dtype.itemsize]))
    return torch.from_numpy(array.copy()).view(dtype)


def raw_of(tensor):
    return (
        tensor.detach()
        .clone(memory_format=torch.contiguous_format)
        .view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[tensor.itemsize])
    )


def assert_same(found, expected):
    """Equal shape, type and bits: NaN equals the same NaN, −0.0 does not equal 0.0."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert bytes(raw_of(found).flatten().numpy()) == bytes(raw_of(expected).flatten().numpy())


def plain_zeros(tensor):
    """The same numbers, each −0.0 turned into 0.0."""
    return tensor.detach().clone().masked_fill_(tensor.detach() == 0, 0)


def odd_bits(dtype):
    """Zeros, extremes, and for floats both infinities, both zeros, NaNs with a payload."""
    sign = 1 << (8 * dtype.itemsize - 1)
    bits = [0, 1, 0, sign + 1, sign - 1, 2 * sign - 1, 0, sign]
    if dtype in INFINITY:
        inf = INFINITY[dtype]
        bits += [inf, sign + inf, inf + 1, sign + inf + 5, inf + (inf & -inf) // 2 + 3]
    return bits


def sparse_tensor(shape, density, dtype=torch.float32, seed=0):
    """Numbers that are no zeros, at a fraction of the places; some exact zeros elsewhere."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(1, 100, shape) * (generator.random(shape) < density)
    return torch.from_numpy(numbers).to(dtype)


def matrix_of(tensor):
    return tensor.reshape(1, -1) if tensor.ndim == 1 else tensor.flatten(1)


def take(body, kind, count):
    """`count` numbers from the start of the bytes, and the bytes after them."""
    size = np.dtype(kind).itemsize * count
    assert len(body) >= size
    return np.frombuffer(body[:size], kind), body[size:]


def width(largest):
    return np.uint8 if largest <= 255 else np.uint16 if largest <= 65535 else np.uint32


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    raw = RAW[dtype.itemsize]
    shape = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple))
    numbers = st.one_of(st.sampled_from(odd_bits(dtype)), extra.from_dtype(np.dtype(raw)))
    return of_raw(draw(extra.arrays(raw, shape, elements=numbers, fill=st.just(0))), dtype)


options = st.fixed_dictionaries(
    {"block": st.tuples(st.integers(1, 5), st.integers(1, 5)), "index_bits": st.integers(1, 16)}
)


# ---------------------------------------------------------------- there and back


@settings(max_examples=150, deadline=None)
@given(tensors(), options)
def test_every_format_gives_back_every_bit(tensor, options):
    before = tensor.clone()
    assert_same(decode(encode(tensor, "dense", **options)), tensor)
    for name in FORMATS[1:]:
        assert_same(decode(encode(tensor, name, **options)), plain_zeros(tensor))
    assert_same(tensor, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_odd_numbers_of_every_type_survive(name, dtype):
    tensor = of_raw(odd_bits(dtype), dtype)
    expected = tensor if name == "dense" else plain_zeros(tensor)
    assert_same(decode(encode(tensor, name)), expected)
    nans = int(tensor.isnan().sum())
    assert nans == (5 if dtype in INFINITY else 0)  # two with every bit set or all but the sign
    assert int(decode(encode(tensor, name)).isnan().sum()) == nans


@pytest.mark.parametrize("name", FORMATS[1:])
@pytest.mark.parametrize("dtype", INFINITY)
def test_a_negative_zero_is_a_zero_and_takes_no_room(name, dtype):
    negative = -torch.zeros(3, 5, dtype=dtype)
    assert negative.signbit().all()
    assert encode(negative, name) == encode(torch.zeros(3, 5, dtype=dtype), name)
    smallest = torch.full((1, 1), -1, dtype=torch.int16)
    assert decode(encode(smallest << 15, name)).item() == -32768  # an integer's sign bit is no −0


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize(
    "shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (1,), (1, 1), (1, 1, 1, 1), (1,) * 70]
)
def test_nothing_and_a_single_number(name, dtype, shape):
    for tensor in (torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)):
        assert_same(decode(encode(tensor, name)), tensor)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(300,), (7, 41), (3, 300), (300, 3), (6, 5, 3, 3), (1, 70_000)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_indices_of_every_width_and_every_density(name, shape, density):
    tensor = sparse_tensor(shape, density, torch.float16)
    assert_same(decode(encode(tensor, name)), tensor)


def strided(tensor):
    complex_numbers = torch.view_as_complex(torch.stack([tensor, tensor], -1))
    filters = tensor[:, :12].reshape(8, 3, 2, 2)
    parameter = nn.Parameter(tensor.clone())
    return {
        "transposed": tensor.T,
        "every second": tensor[1::2, ::3],
        "a window": tensor[2:5, 3:7],
        "a column": tensor[:, 3],
        "flipped": tensor.flip(0)[:, 1:],
        "expanded": tensor[:, :1].expand(8, 5),
        "one number expanded": tensor[0, 1].expand(4, 3),
        "channels last": filters.contiguous(memory_format=torch.channels_last),
        "permuted": filters.permute(3, 1, 0, 2),
        "diagonal": tensor.diagonal(),
        "conjugate": complex_numbers.conj().imag,
        "parameter": parameter,
        "computed": parameter * 2,
    }


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("layout", strided(torch.zeros(8, 12)))
def test_strides_do_not_matter(name, layout):
    tensor = strided(sparse_tensor((8, 12), 0.5))[layout]
    copy = torch.tensor(tensor.tolist())
    assert encode(tensor, name) == encode(copy, name)
    assert_same(decode(encode(tensor, name)), plain_zeros(copy) if name != "dense" else copy)


@pytest.mark.parametrize("name", FORMATS)
def test_what_comes_back_can_be_written_to_and_owns_its_memory(name):
    data = encode(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), name)
    first, second = decode(data), decode(bytearray(data))
    first.fill_(7)
    assert torch.equal(second, torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    assert torch.equal(decode(memoryview(data)), second)
    assert first.is_contiguous()
    assert not first.requires_grad


# ---------------------------------------------------------------- the bytes, by pencil

PENCIL = torch.tensor([[0.0, 1.5, 0.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 3.0]])
VALUES = struct.pack("<fff", 1.5, -2.0, 3.0)


@pytest.mark.parametrize(
    ("name", "code", "numbers", "body"),
    [
        ("dense", 0, (0, 0), struct.pack("<9f", 0, 1.5, 0, 0, 0, 0, -2, 0, 3)),
        # how many; rows; columns; values
        ("coo", 1, (0, 0), struct.pack("<I6B", 3, 0, 2, 2, 1, 0, 2) + VALUES),
        # how many; where rows start; columns; values
        ("csr", 2, (0, 0), struct.pack("<I7B", 3, 0, 1, 1, 3, 1, 0, 2) + VALUES),
        # 2 × 2 blocks of the matrix padded to 4 × 4: all but the right upper one have something
        (
            "bsr",
            3,
            (2, 2),
            struct.pack("<I6B", 3, 0, 1, 3, 0, 0, 1)
            + struct.pack("<12f", 0, 1.5, 0, 0, -2, 0, 0, 0, 3, 0, 0, 0),
        ),
        # places 1, 6 and 8, the first in the highest bit
        ("bitmask", 4, (0, 0), bytes([0b01000010, 0b10000000]) + VALUES),
        # 1, 4 and 1 zeros before them in two bits: the 4 need a filler, (3 zeros, then a zero)
        (
            "relative",
            5,
            (2, 0),
            struct.pack("<IB4f", 4, 0b01_11_00_01, 1.5, 0.0, -2.0, 3.0),
        ),
    ],
)
def test_bytes_by_pencil(name, code, numbers, body):
    header = b"SLIM" + bytes([code, 0, 2]) + struct.pack("<IIHH", 3, 3, *numbers)
    assert encode(PENCIL, name, block=(2, 2), index_bits=2) == header + body
    assert sparsity.header_bytes(2) == len(header)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_header_names_type_and_shape(dtype):
    data = encode(torch.zeros(2, 3, 4, 5, dtype=dtype), "bitmask")
    assert data[:7] == b"SLIM" + bytes([4, DTYPES.index(dtype), 4])
    assert struct.unpack("<IIIIHH", data[7:27]) == (2, 3, 4, 5, 0, 0)
    assert sparsity.header_bytes(4) == 27


@pytest.mark.parametrize(
    ("shape", "density"),
    [
        ((20, 30), 0.2),  # 8 bits everywhere
        ((20, 300), 0.1),  # 16 bits for columns and pointers
        ((300, 20), 0.01),  # 16 bits for rows
        ((16, 8, 3, 3), 0.3),
        ((2, 70_000), 0.003),  # 32 bits for columns
        ((70_000, 2), 0.5),  # 32 bits for rows and pointers
        ((255, 255), 0.05),
        ((256, 256), 0.05),  # the largest of each 8-bit index
        ((257, 257), 0.05),  # one more
        ((1, 65_536), 0.01),  # the same of 16 bits
        ((1, 65_537), 0.01),
        ((65_536, 1), 0.01),
        ((65_537, 1), 0.01),
        ((500,), 0.1),
        ((6, 9), 0.0),
        ((6, 9), 1.0),
    ],
)
def test_coo_and_csr_have_scipys_arrays(shape, density):
    tensor = sparse_tensor(shape, density, torch.int16)
    matrix = matrix_of(tensor).numpy()
    rows, columns = matrix.shape
    start = sparsity.header_bytes(tensor.ndim)
    for name in FORMATS:
        assert_same(decode(encode(tensor, name)), tensor)

    theirs = sparse.coo_array(matrix)
    (count,), body = take(encode(tensor, "coo")[start:], np.uint32, 1)
    row, body = take(body, width(rows - 1), count)
    column, body = take(body, width(columns - 1), count)
    values, body = take(body, np.int16, count)
    assert (count, body) == (theirs.nnz, b"")
    for ours, scipys in ((row, theirs.row), (column, theirs.col), (values, theirs.data)):
        np.testing.assert_array_equal(ours, scipys)

    theirs = sparse.csr_array(matrix)
    (count,), body = take(encode(tensor, "csr")[start:], np.uint32, 1)
    starts, body = take(body, width(count), rows + 1)
    column, body = take(body, width(columns - 1), count)
    values, body = take(body, np.int16, count)
    assert (count, body) == (theirs.nnz, b"")
    for ours, scipys in ((starts, theirs.indptr), (column, theirs.indices), (values, theirs.data)):
        np.testing.assert_array_equal(ours, scipys)


@pytest.mark.parametrize(
    ("shape", "block", "density"),
    [
        ((12, 20), (4, 4), 0.1),
        ((13, 22), (4, 4), 0.1),  # edges
        ((30, 40), (3, 5), 0.02),
        ((5, 6), (1, 1), 0.5),
        ((5, 6), (8, 9), 0.5),  # one block, larger than the matrix
        ((40, 600), (1, 2), 0.05),  # 16-bit columns and pointers
        ((8, 4, 3, 3), (2, 9), 0.05),
        ((9, 9), (2, 2), 0.0),
        ((3, 255), (2, 1), 0.05),
        ((3, 256), (2, 1), 0.05),  # the last column that 8 bits can say
        ((3, 257), (2, 1), 0.05),
    ],
)
def test_bsr_has_scipys_arrays(shape, block, density):
    tensor = sparse_tensor(shape, density, torch.int32)
    matrix = matrix_of(tensor).numpy()
    rows, columns = (-(-n // side) * side for n, side in zip(matrix.shape, block, strict=True))
    padded = np.zeros((rows, columns), np.int32)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    theirs = sparse.bsr_array(padded, blocksize=block)
    theirs.sort_indices()
    high, wide = padded.shape[0] // block[0], padded.shape[1] // block[1]
    assert_same(decode(encode(tensor, "bsr", block=block)), tensor)
    body = encode(tensor, "bsr", block=block)[sparsity.header_bytes(tensor.ndim) :]
    (count,), body = take(body, np.uint32, 1)
    starts, body = take(body, width(count), high + 1)
    column, body = take(body, width(wide - 1), count)
    blocks, body = take(body, np.int32, count * block[0] * block[1])
    assert body == b""
    np.testing.assert_array_equal(starts, theirs.indptr)
    np.testing.assert_array_equal(column, theirs.indices)
    np.testing.assert_array_equal(blocks.reshape(-1, *block), theirs.data)


@settings(max_examples=50, deadline=None)
@given(tensors())
def test_bitmask_has_numpys_bits(tensor):
    body = encode(tensor, "bitmask")[sparsity.header_bytes(tensor.ndim) :]
    numbers = raw_of(plain_zeros(tensor)).numpy().ravel()
    filled = np.packbits(numbers != 0).tobytes()
    assert body == filled + numbers[numbers != 0].tobytes()


# ---------------------------------------------------------------- relative index


def relative_pairs(tensor, bits):
    """(zeros before it, value) of every entry, read digit by digit."""
    body = encode(tensor, "relative", index_bits=bits)[sparsity.header_bytes(tensor.ndim) :]
    (count,), body = take(body, np.uint32, 1)
    size = -(-int(count) * bits // 8)
    digits = "".join(f"{byte:08b}" for byte in body[:size])
    assert set(digits[count * bits :]) <= {"0"}
    gaps = [int(digits[i * bits : (i + 1) * bits], 2) for i in range(count)]
    values = np.frombuffer(body[size:], np.int16).tolist()
    return list(zip(gaps, values, strict=True))


@pytest.mark.parametrize(
    ("gap", "pairs"),
    [
        (0, [(0, 9)]),
        (2, [(2, 9)]),
        (3, [(3, 9)]),  # 2² − 1: just fits
        (4, [(3, 0), (0, 9)]),  # 2²: the filler stands for all four zeros
        (5, [(3, 0), (1, 9)]),
        (7, [(3, 0), (3, 9)]),
        (8, [(3, 0), (3, 0), (0, 9)]),
        (14, [(3, 0), (3, 0), (3, 0), (2, 9)]),
    ],
)
def test_gaps_around_the_longest_that_two_bits_can_say(gap, pairs):
    gap_first = torch.tensor([0] * gap + [9], dtype=torch.int16)
    assert relative_pairs(gap_first, 2) == pairs
    gap_between = torch.tensor([5] + [0] * gap + [9] + [0] * 20, dtype=torch.int16)
    assert relative_pairs(gap_between, 2) == [(0, 5), *pairs]  # zeros at the end need nothing
    for tensor in (gap_first, gap_between):
        assert torch.equal(decode(encode(tensor, "relative", index_bits=2)), tensor)


@settings(max_examples=80, deadline=None)
@given(
    extra.arrays(np.int16, st.integers(0, 200), elements=st.integers(-3, 3), fill=st.just(0)),
    st.integers(1, 7),
)
def test_pairs_spell_out_the_tensor(array, bits):
    pairs = relative_pairs(torch.from_numpy(array.copy()), bits)
    numbers = [number for gap, value in pairs for number in [0] * gap + [value]]
    assert numbers == np.trim_zeros(array, "b").tolist()
    # Fillers are as few as can be: one for each 2^bits zeros in a row before a value.
    where = np.flatnonzero(array)
    gaps = np.diff(where, prepend=-1) - 1
    assert len(pairs) == len(where) + int((gaps // 2**bits).sum())


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_number_of_index_bits(bits):
    tensor = torch.zeros(70_000, dtype=torch.int16)
    tensor[[0, 1, 3, 10, 300, 4_400, 69_998]] = torch.arange(1, 8, dtype=torch.int16)
    data = encode(tensor, "relative", index_bits=bits)
    assert_same(decode(data), tensor)
    entries = 7 + sum(gap // 2**bits for gap in (0, 0, 1, 6, 289, 4_099, 65_597))
    assert len(data) == sparsity.header_bytes(1) + 4 + -(-entries * bits // 8) + 2 * entries


# ---------------------------------------------------------------- sizes


def stored_units(tensor, name, block):
    """What a format stores, counted place by place."""
    matrix = (matrix_of(tensor) != 0).numpy()
    if name != "bsr":
        return np.count_nonzero(matrix) if name != "dense" else 0
    return sum(
        bool(np.any(matrix[top : top + block[0], left : left + block[1]]))
        for top in range(0, matrix.shape[0], block[0])
        for left in range(0, matrix.shape[1], block[1])
    )


@pytest.mark.parametrize(
    ("shape", "density"),
    [
        ((64, 9), 0.1),
        ((16, 8, 3, 3), 0.4),
        ((257, 3), 0.3),
        ((3, 257), 0.34),  # about where pointers get a second byte
        ((5, 51), 1.0),  # 255 values: the last that 8 bits can count to
        ((4, 64), 1.0),  # 256
        ((1000,), 0.05),
        ((256, 1), 1.0),
        ((257, 1), 1.0),
        ((1, 65_536), 0.001),
        ((1, 65_537), 0.001),
        ((3, 3), 0.0),
        ((0, 3), 0.0),
        ((3, 0), 0.0),
        ((1,), 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float64])
@pytest.mark.parametrize("block", [(4, 4), (1, 7)])
def test_sizes_are_those_of_the_formula(shape, density, dtype, block):
    tensor = sparse_tensor(shape, density, dtype)
    for name in FORMULAS:
        stored = stored_units(tensor, name, block)
        formula = sparsity.encoded_bytes(name, shape, stored, 8 * dtype.itemsize, block=block)
        assert len(encode(tensor, name, block=block)) == formula


@settings(max_examples=100, deadline=None)
@given(tensors(), options)
def test_sizes_of_any_tensor_are_those_of_the_formula(tensor, options):
    block = options["block"]
    for name in FORMULAS:
        stored = stored_units(plain_zeros(tensor), name, block)
        size = sparsity.encoded_bytes(
            name, tuple(tensor.shape), stored, 8 * tensor.itemsize, block=block
        )
        assert len(encode(tensor, name, block=block)) == size


def test_sizes_of_a_layer_by_pencil():
    # 64 filters of 32 · 3 · 3 = 288 numbers, a tenth stored: 1,843. Row numbers have 8 bits,
    # column numbers 16, pointers 16. Of 16 · 72 blocks of 4 × 4, 500 are stored.
    shape, header = (64, 32, 3, 3), 4 + 3 + 16 + 4
    assert sparsity.encoded_bytes("dense", shape, 0) == header + 64 * 288 * 4
    assert sparsity.encoded_bytes("coo", shape, 1843) == header + 4 + 1843 * (4 + 1 + 2)
    assert sparsity.encoded_bytes("csr", shape, 1843) == header + 4 + 65 * 2 + 1843 * (4 + 2)
    assert sparsity.encoded_bytes("bitmask", shape, 1843) == header + 64 * 288 // 8 + 1843 * 4
    assert sparsity.encoded_bytes("bsr", shape, 500) == header + 4 + 17 * 2 + 500 * (16 * 4 + 1)
    assert sparsity.encoded_bytes("bitmask", (9,), 3, 8) == sparsity.header_bytes(1) + 2 + 3
    # Numbers of less than a byte: 9 bits, then 9 · 4 = 36 bits, in whole bytes.
    assert sparsity.encoded_bytes("dense", (9,), 0, 1) == sparsity.header_bytes(1) + 2
    assert sparsity.encoded_bytes("dense", (9,), 0, 4) == sparsity.header_bytes(1) + 5


# ---------------------------------------------------------------- break-even


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMULAS[1:]),
    st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    st.sampled_from([8, 16, 32, 64]),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_break_even_is_where_the_format_begins_to_be_smaller(name, shape, bits, block):
    rows, columns = (1, shape[0]) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))
    units = rows * columns
    if name == "bsr":
        units = -(-rows // block[0]) * -(-columns // block[1])
    at = (1 - sparsity.break_even(name, shape, bits, block=block)) * units
    dense = sparsity.encoded_bytes("dense", shape, 0, bits)
    below, above = math.ceil(at - 1e-6) - 1, math.floor(at + 1e-6) + 1
    for stored in {0, below - 1, below, above, above + 1, units}:
        if 0 <= stored <= units:
            size = sparsity.encoded_bytes(name, shape, stored, bits, block=block)
            assert (size < dense) == (stored <= below)
            assert (size > dense) == (stored >= above) or size == dense


@pytest.mark.parametrize("name", ["coo", "csr", "bitmask"])
@pytest.mark.parametrize("shape", [(300,), (30, 31), (70, 90), (16, 10, 3, 3), (300, 2)])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32, torch.float64])
def test_encoded_tensors_on_both_sides_of_break_even(name, shape, dtype):
    size = math.prod(shape)
    at = (1 - sparsity.break_even(name, shape, 8 * dtype.itemsize)) * size
    places = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    below, above = math.ceil(at - 1e-6) - 1, math.floor(at + 1e-6) + 1
    assert 0 < below < above <= size
    for stored, smaller in ((below, True), (above, False)):
        tensor = torch.zeros(size, dtype=dtype)
        tensor[places[:stored]] = 1
        encoded, dense = encode(tensor.view(shape), name), encode(tensor.view(shape), "dense")
        assert (len(encoded) < len(dense)) is smaller


def test_break_even_where_a_wider_pointer_decides():
    # 33 × 10 float32 are 10,560 bits. Of 32 + 34 · 8 + 40 n, the most is n = 256.4; but from
    # 256 values on, pointers have 16 bits, and 32 + 34 · 16 + 40 n allows 249.6 only.
    assert sparsity.break_even("csr", (33, 10)) == 1 - 255 / 330
    for stored, smaller in ((255, True), (256, False)):
        tensor = torch.zeros(330)
        tensor[:stored] = 1
        assert (len(encode(tensor.view(33, 10), "csr")) < 27 - 8 + 1320) is smaller


def test_break_even_of_large_matrices_is_the_formula_of_the_lesson():
    # v = 32 bits, r = c = 16.
    shape = (4096, 4096)
    assert sparsity.break_even("coo", shape) == pytest.approx(32 / 64, abs=1e-5)
    assert sparsity.break_even("csr", shape) == pytest.approx(16 / 48, abs=1e-3)
    assert sparsity.break_even("bitmask", shape) == pytest.approx(1 / 32, abs=1e-9)
    assert sparsity.break_even("coo", shape, 8) == pytest.approx(32 / 40, abs=1e-5)
    assert sparsity.break_even("bitmask", shape, 8) == pytest.approx(1 / 8, abs=1e-9)
    # 16 · 32 bits a block and 16 for its column; 1024 block rows.
    assert sparsity.break_even("bsr", shape) == pytest.approx(16 / (16 * 32 + 16), abs=1e-4)
    assert sparsity.break_even("bsr", shape, block=(1, 1)) == sparsity.break_even("csr", shape)


def test_break_even_that_never_comes():
    assert sparsity.break_even("dense", (3, 3)) == 1
    assert sparsity.break_even("coo", (1, 1)) == 1  # the count alone is as long as the number
    assert sparsity.break_even("csr", (1, 1)) > 1
    for name in FORMULAS:
        assert sparsity.break_even(name, (0, 3)) == sparsity.break_even(name, (3, 0)) == 1


# ---------------------------------------------------------------- damage

# A few numbers with a gap, so that every part of every format is there.
SAMPLES = {
    "two non-zeros": torch.tensor([[0, 0, 0, 1.0, 0], [0, 0, 0, 0, 0], [0, -2.5, 0, 0, 0]]),
    "all zeros": torch.zeros(5, 7, dtype=torch.int8),
    "all dense": torch.arange(1, 13, dtype=torch.int16).view(2, 3, 2),
    "a vector": torch.tensor([0, 0, 0, 0, 0, 0, 7], dtype=torch.int64),
    "nothing": torch.zeros(3, 0),
}


def survives(data):
    """A tensor or a FormatError; anything else fails the test."""
    try:
        assert decode(data).dtype in DTYPES
    except FormatError as error:
        assert str(error)


def by_hand(name, shape, body, numbers=(0, 0), dtype=4):
    """An int8 tensor in a format, written by the test."""
    header = bytes([FORMATS.index(name), dtype, len(shape)])
    return b"SLIM" + header + struct.pack(f"<{len(shape)}I2H", *shape, *numbers) + body


def test_zeros_that_are_only_claimed_take_no_memory():
    """A shape may be damaged where no byte of the body contradicts it."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, shape, numbers, body in [
        ("relative", (2**31,), (4, 0), bytes(4)),
        ("coo", (1, 2**31), (0, 0), bytes(4)),
        ("csr", (1, 2**31), (0, 0), bytes(6)),
        ("bsr", (2, 2**30), (3, 65535), bytes(6)),
    ]:
        zeros = decode(by_hand(name, shape, body, numbers))
        assert zeros.shape == shape
        assert zeros.flatten()[:: 2**28].tolist() == [0] * 8
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * unit < 2**30  # half of one of them


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_missing_or_additional_bytes_are_noticed(name, sample):
    data = encode(SAMPLES[sample], name)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:length])
    for more in (b"\0", b"\1", data):
        with pytest.raises(FormatError, match=rf"^{len(more)} bytes follow"):
            decode(data + more)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_changed_byte_is_a_format_error_or_another_tensor(name, sample):
    data = encode(SAMPLES[sample], name, block=(2, 2))
    for place in range(len(data)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed = bytearray(data)
            changed[place] ^= change
            if place < 4:
                with pytest.raises(FormatError, match="do not begin"):
                    decode(bytes(changed))
            else:
                survives(bytes(changed))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.integers(4, 10_000), st.integers(0, 255)), min_size=2, max_size=6),
)
def test_many_changed_bytes_do_not_crash(name, sample, changes):
    changed = bytearray(encode(SAMPLES[sample], name))
    for place, value in changes:
        changed[4 + place % (len(changed) - 4)] = value
    survives(bytes(changed))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 6), st.integers(0, 9), st.integers(0, 4))
def test_noise_does_not_crash(noise, code, dtype, ndim):
    survives(noise)
    survives(b"SLIM" + noise)
    survives(b"SLIM" + bytes([code, dtype, ndim]) + noise)


@pytest.mark.parametrize(
    ("name", "shape", "numbers", "body"),
    [
        ("coo", (2, 2), (0, 0), [1, 0, 0, 0, 2, 0, 5]),  # row 2 of 2
        ("coo", (2, 2), (0, 0), [1, 0, 0, 0, 0, 2, 5]),  # column 2 of 2
        ("csr", (2, 2), (0, 0), [1, 0, 0, 0, 0, 1, 1, 2, 5]),  # column 2 of 2
        ("csr", (2, 3), (0, 0), [2, 0, 0, 0, 1, 1, 2, 0, 1, 5, 6]),  # begins at 1
        ("csr", (1, 3), (0, 0), [3, 0, 0, 0, 0, 1, 0, 1, 2, 5, 6, 7]),  # ends at 1 of 3
        ("csr", (2, 3), (0, 0), [1, 0, 0, 0, 0, 2, 1, 0, 5]),  # goes back
        ("bsr", (2, 2), (1, 2), [1, 0, 0, 0, 0, 1, 1, 1, 5, 6]),  # block column 1 of 1
        ("bsr", (2, 2), (1, 2), [2, 0, 0, 0, 0, 1, 1, 0, 0, 5, 6, 7, 8]),  # ends at 1 of 2
        ("bsr", (2, 2), (0, 2), [0, 0, 0, 0, 0, 0, 0]),  # blocks of no height
        ("bsr", (2, 2), (2, 0), [0, 0, 0, 0, 0, 0]),
        ("relative", (3,), (2, 0), [1, 0, 0, 0, 0b11000000, 5]),  # place 3 of 3
        ("relative", (3,), (0, 0), [0, 0, 0, 0]),  # indices of no bits
        ("relative", (3,), (17, 0), [0, 0, 0, 0]),
        ("relative", (3,), (4, 1), [0, 0, 0, 0]),
        ("coo", (2, 2), (4, 4), [0, 0, 0, 0]),  # a block where there is none
        ("dense", (), (0, 0), [5]),  # no dimension
    ],
)
def test_bytes_that_contradict_themselves_are_refused(name, shape, numbers, body):
    with pytest.raises(FormatError):
        decode(by_hand(name, shape, bytes(body), numbers))


def test_bytes_of_the_same_kind_without_the_contradiction_are_not():
    def numbers(name, shape, body, options=(0, 0)):
        return decode(by_hand(name, shape, bytes(body), options)).tolist()

    assert numbers("coo", (2, 2), [1, 0, 0, 0, 1, 0, 5]) == [[0, 0], [5, 0]]
    csr = [2, 0, 0, 0, 0, 1, 2, 0, 1, 5, 6]
    assert numbers("csr", (2, 3), csr) == [[5, 0, 0], [0, 6, 0]]
    bsr = [1, 0, 0, 0, 0, 0, 1, 0, 5, 6]
    assert numbers("bsr", (2, 2), bsr, (1, 2)) == [[0, 0], [5, 6]]
    assert numbers("relative", (3,), [1, 0, 0, 0, 0b10000000, 5], (2, 0)) == [0, 0, 5]


@pytest.mark.parametrize(("code", "dtype"), [(6, 0), (255, 0), (0, 9), (0, 255)])
def test_formats_and_types_that_do_not_exist_are_refused(code, dtype):
    data = bytearray(encode(torch.ones(2), "dense"))
    data[4:6] = [code, dtype]
    with pytest.raises(FormatError, match="damaged"):
        decode(bytes(data))


@pytest.mark.parametrize("name", ["coo", "csr", "bsr", "relative"])
@pytest.mark.parametrize("shape", [(2**16, 2**16), (2**32 - 1, 2**32 - 1), (1, 2**31, 2)])
def test_a_shape_that_no_encoded_tensor_has_is_refused(name, shape):
    numbers = {"bsr": (4, 4), "relative": (4, 0)}.get(name, (0, 0))
    with pytest.raises(FormatError, match="no encoded tensor has shape"):
        decode(by_hand(name, shape, bytes(4), numbers))


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("tensor", "name", "options", "message"),
    [
        (torch.ones(2), "CSR", {}, "format is 'CSR'; it must be one of dense, coo"),
        (torch.ones(2, dtype=torch.bool), "coo", {}, "bool tensor of shape .* cannot be encoded"),
        (torch.ones(2, dtype=torch.complex64), "coo", {}, "complex64 tensor"),
        (
            torch.tensor(1.0),
            "dense",
            {},
            r"shape \(\) cannot be encoded; give one with",
        ),
        (torch.empty(2**32, 0), "dense", {}, "fewer than 2³² numbers"),
        (torch.ones(1, dtype=torch.int8).expand(2**16, 2**16), "csr", {}, "fewer than 2³² numbers"),
        (torch.ones(1).view([1] * 256), "dense", {}, "cannot be encoded"),
        (torch.ones(2, 2), "bsr", {"block": (0, 4)}, r"block is \(0, 4\); it must be two numbers"),
        (torch.ones(2, 2), "bsr", {"block": (4, -1)}, "block is"),
        (torch.ones(2, 2), "bsr", {"block": (4,)}, "block is"),
        (torch.ones(2, 2), "bsr", {"block": (1, 2, 3)}, "block is"),
        (torch.ones(2, 2), "bsr", {"block": (65536, 1)}, "from 1 to 65,535"),
        (torch.ones(2, 2), "bsr", {"block": (1.5, 2)}, "block is"),
        (torch.ones(2, 2), "relative", {"index_bits": 0}, "index_bits is 0; it must be from 1 to"),
        (torch.ones(2, 2), "relative", {"index_bits": 17}, "index_bits is 17"),
        (torch.ones(2, 2), "relative", {"index_bits": 2.5}, "index_bits is 2.5"),
    ],
)
def test_what_cannot_be_encoded_is_refused(tensor, name, options, message):
    with pytest.raises(ValueError, match=message):
        encode(tensor, name, **options)


@pytest.mark.parametrize(
    ("name", "shape", "stored", "options", "message"),
    [
        ("relative", (3, 3), 1, {}, "'relative' has no formula; dense, coo"),
        ("zip", (3, 3), 1, {}, "'zip' has no formula"),
        ("csr", (3, 3), 10, {}, r"10 values are to be stored; a tensor \(3, 3\) has 9"),
        ("csr", (3, 3), -1, {}, "-1 values"),
        ("bsr", (8, 8), 5, {}, "5 values are to be stored; .* has 4"),
        ("bsr", (8, 8), 1, {"block": (0, 1)}, "block is"),
        ("coo", (), 0, {}, r"shape is \(\); it needs a dimension"),
        ("coo", (3, -1), 0, {}, "sizes of 0 or more"),
        ("coo", (3, 3), 0, {"value_bits": 0}, "value_bits is 0; it must be 1 or more"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(name, shape, stored, options, message):
    with pytest.raises(ValueError, match=message):
        sparsity.encoded_bytes(name, shape, stored, **options)
    if "are to be stored" not in message and "values" not in message:
        with pytest.raises(ValueError, match=message):
            sparsity.break_even(name, shape, **options)


def test_what_is_missing_is_named():
    data = encode(torch.ones(3), "dense")  # 15 bytes before the numbers
    with pytest.raises(FormatError, match="ends too early: 26 bytes, at least 27 needed"):
        decode(data[:-1])


def test_a_format_error_is_a_value_error():
    with pytest.raises(ValueError, match="do not begin"):
        decode(b"")
