"""slimcnn.coding.huffman: optimal, limited, canonical, and exact there and back."""

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimcnn.coding import huffman


def huffman_cost(counts):
    """Total bits of Huffman's own tree: the sum of all inner nodes."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


def cost(counts, lengths):
    return sum(c * n for c, n in zip(counts, lengths, strict=True))


COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(
    lambda c: sum(x > 0 for x in c) >= 2
)


@settings(deadline=None)
@given(COUNTS)
def test_as_short_as_huffmans_tree(counts):
    lengths = huffman.code_lengths(counts)
    assert [n > 0 for n in lengths] == [c > 0 for c in counts]
    if max(lengths) < huffman.MAX_LENGTH:  # the limit did not matter
        assert cost(counts, lengths) == huffman_cost(counts)
    total = sum(counts)
    entropy = -sum(c * math.log2(c / total) for c in counts if c)
    assert entropy - 1e-6 <= cost(counts, lengths) <= entropy + total


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 200), min_size=2, max_size=6), st.integers(3, 5))
def test_best_of_all_codes_within_the_limit(counts, longest):
    found = huffman.code_lengths(counts, longest)
    assert max(found) <= longest
    best = min(
        cost(counts, lengths)
        for lengths in itertools.product(range(1, longest + 1), repeat=len(counts))
        if sum(2.0**-n for n in lengths) <= 1
    )
    assert cost(counts, found) == best


def test_a_code_by_hand():
    # 4 2 1 1: one bit, two, three, three; words count up
    assert huffman.code_lengths([4, 2, 1, 1]) == [1, 2, 3, 3]
    assert huffman.code_words([1, 2, 3, 3]) == [0b0, 0b10, 0b110, 0b111]
    # by symbol within a length, whatever the order of the lengths
    assert huffman.code_words([3, 1, 3, 2]) == [0b110, 0b0, 0b111, 0b10]
    # 0 10 110 111 | 0 -> 01011011 1 0 and six zeros
    assert huffman.encode([0, 1, 2, 3, 0], [1, 2, 3, 3]) == bytes([0b01011011, 0b10000000])


def test_fibonacci_counts_meet_the_limit():
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    lengths = huffman.code_lengths(counts)
    assert max(lengths) == huffman.USUAL_LENGTH
    assert sum(2.0**-n for n in lengths) == 1
    symbols = np.repeat(np.arange(30), [min(c, 50) for c in counts])
    np.testing.assert_array_equal(
        huffman.decode(huffman.encode(symbols, lengths), lengths, len(symbols)), symbols
    )


def test_an_alphabet_of_two_to_the_sixteen():
    even = huffman.code_lengths([1] * 2**16)
    assert set(even) == {16}
    skewed = huffman.code_lengths(list(range(1, 2**16 + 1)))
    assert sum(2.0**-n for n in skewed) == 1 and skewed == sorted(skewed, reverse=True)
    total = sum(range(1, 2**16 + 1))
    entropy = -sum(c / total * math.log2(c / total) for c in range(1, 2**16 + 1))
    mean = sum(c * n for c, n in zip(range(1, 2**16 + 1), skewed, strict=True)) / total
    assert entropy <= mean < entropy + 0.05
    symbols = np.random.default_rng(0).integers(0, 2**16, 5000)
    coded = huffman.encode(symbols, skewed)
    np.testing.assert_array_equal(huffman.decode(coded, skewed, 5000), symbols)


def test_counts_of_any_type_and_size():
    assert huffman.code_lengths(np.array([200, 100, 100, 90, 80], dtype=np.uint8)) == [
        *(2, 2, 2, 3, 3)
    ]
    giant = [2**70, 2**69, 2**68, 2**68]
    assert huffman.code_lengths(giant) == [1, 2, 3, 3]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=300))
def test_there_and_back(symbols):
    counts = np.bincount(symbols, minlength=31) if symbols else np.zeros(31, dtype=int)
    lengths = huffman.code_lengths(counts.tolist())
    data = huffman.encode(np.array(symbols, dtype=int), lengths)
    assert len(data) == -(-cost(counts.tolist(), lengths) // 8)
    np.testing.assert_array_equal(huffman.decode(data, lengths, len(symbols)), symbols)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_single_symbol_has_one_bit(count):
    lengths = huffman.code_lengths([0, 5, 0])
    assert lengths == [0, 1, 0]
    data = huffman.encode(np.full(count, 1), lengths)
    assert data == bytes(-(-count // 8))
    np.testing.assert_array_equal(huffman.decode(data, lengths, count), np.full(count, 1))


def test_no_symbols_at_all():
    assert huffman.code_lengths([]) == []
    assert huffman.code_lengths([0, 0]) == [0, 0]
    assert huffman.encode(np.zeros(0, dtype=int), []) == b""
    assert len(huffman.decode(b"", [], 0)) == 0


def test_what_code_lengths_refuses():
    with pytest.raises(ValueError, match="count is negative"):
        huffman.code_lengths([1, -1])
    with pytest.raises(ValueError, match="5 symbols cannot have words of at most 2 bits"):
        huffman.code_lengths([1] * 5, 2)
    for longest in (0, 21):
        with pytest.raises(ValueError, match="allowed are 1 to 20"):
            huffman.code_lengths([1, 1], longest)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 1, 1], "too many short words"),
        ([1, 2], "words that mean nothing"),
        ([2], "words that mean nothing"),
        ([21, 1], "outside 0 to 20"),
        ([-1, 1, 1], "outside 0 to 20"),
    ],
)
def test_lengths_that_are_no_code_are_refused(lengths, message):
    for call in (
        lambda: huffman.code_words(lengths),
        lambda: huffman.encode(np.array([0]), lengths),
        lambda: huffman.decode(b"\0", lengths, 1),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_symbols_without_a_word_are_refused():
    for symbol in (-1, 1, 3):
        with pytest.raises(ValueError, match="a symbol has no word"):
            huffman.encode(np.array([0, symbol]), [1, 0, 1])


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"", 1, "0 bytes cannot hold 1 symbols"),
        (b"\0", 9, "1 bytes cannot hold 9"),
        (b"\xff", 3, "end after 2 of 3|do not end"),
        (b"\0\0", 8, "do not end with the last symbol"),
        (b"\x01", 5, "do not end with the last symbol"),
        (b"\0", 0, "there are no symbols"),
    ],
)
def test_data_of_the_wrong_length_are_refused(data, count, message):
    with pytest.raises(ValueError, match=message):
        huffman.decode(data, [1, 2, 3, 3], count)
