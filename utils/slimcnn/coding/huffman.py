"""Huffman codes: short bit patterns for frequent symbols, from their lengths alone.

A *canonical* code is determined by the lengths of its words: of equal lengths, words count up in
the order of their symbols. So a file needs one small number for each symbol. Chapter 6
(Quantization: weight sharing).
"""

from collections.abc import Sequence

import numpy as np

USUAL_LENGTH = 15  # bits of the longest word in files, whose tables hold lengths in four bits
MAX_LENGTH = 20  # decoding looks up tables of 2^20 entries then


def code_lengths(counts: Sequence[int], longest: int | None = None) -> list[int]:
    """Lengths of the best prefix code with no word longer than `longest`; 0 for unused symbols.

    By package-merge: buy, for every symbol, one coin of each value 2⁻¹ … 2⁻ᴸ at the price of its
    count, for a total value of n − 1, at the least price; a symbol's length is the number of its
    coins bought (Larmore & Hirschberg, 1990, doi:10.1145/79147.79150). Without the limit this is
    Huffman's code (1952). A single symbol gets a word of one bit.

    Args:
        counts: how often each symbol occurs, 0 or more.
        longest: L, 1 to 20, and long enough for so many symbols; if None 15, or two bits more
            than so many symbols need if all are equally frequent.

    Raises:
        ValueError: a count is negative; so many symbols have no code of such words.

    Chapter 6, Quantization: weight sharing.
    """
    counts = [int(count) for count in counts]  # NumPy's numbers may overflow when added
    if any(count < 0 for count in counts):
        raise ValueError("a count is negative; symbols occur 0 times or more")
    used = [symbol for symbol, count in enumerate(counts) if count > 0]
    if longest is None:
        longest = min(max(USUAL_LENGTH, (len(used) - 1).bit_length() + 2), MAX_LENGTH)
    if not 1 <= longest <= MAX_LENGTH or len(used) > 2**longest:
        raise ValueError(
            f"{len(used)} symbols cannot have words of at most {longest} bits; allowed are 1 to"
            f" {MAX_LENGTH} bits, and 2^bits symbols"
        )
    lengths = [0] * len(counts)
    if len(used) == 1:
        lengths[used[0]] = 1
    if len(used) < 2:
        return lengths
    used.sort(key=lambda symbol: counts[symbol])
    exact = np.int64 if sum(counts) * longest < 2**62 else object
    leaves = np.array([counts[symbol] for symbol in used], dtype=exact)
    # Forwards: of each value, coins and packages by price. Only which of them are coins is kept.
    packages, are_coins = leaves[:0], []
    for _ in range(longest):
        merged = np.concatenate([leaves, packages])
        order = np.argsort(merged, kind="stable")
        are_coins.append(order < len(leaves))
        merged = merged[order][: len(merged) // 2 * 2]
        packages = merged[::2] + merged[1::2]
    # Backwards: what is bought of a value says how many packages, so what is bought of the next.
    bought, coins_of = 2 * (len(used) - 1), np.zeros(len(used), dtype=np.int64)
    for is_coin in reversed(are_coins):
        coins = int(is_coin[:bought].sum())
        coins_of[:coins] += 1
        bought = 2 * (bought - coins)
    for symbol, length in zip(used, coins_of.tolist(), strict=True):
        lengths[symbol] = length
    return lengths


def code_words(lengths: Sequence[int]) -> list[int]:
    """The canonical words, as numbers of `lengths[symbol]` bits; 0 for unused symbols.

    Raises:
        ValueError: no prefix code has these lengths, or it would leave words unused.

    Chapter 6, Quantization: weight sharing.
    """
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if any(not 0 <= length <= MAX_LENGTH for length in lengths):
        raise ValueError(f"a word has a length outside 0 to {MAX_LENGTH}")
    share = sum(2 ** (MAX_LENGTH - length) for length, _ in used)  # Kraft, in units of 2^-20
    complete = share == 2**MAX_LENGTH or [length for length, _ in used] in ([], [1])
    if not complete:
        problem = "too many short words" if share > 2**MAX_LENGTH else "words that mean nothing"
        raise ValueError(f"the lengths of the code leave {problem}")
    words, word, before = [0] * len(lengths), 0, 0
    for length, symbol in used:
        word <<= length - before
        words[symbol], before = word, length
        word += 1
    return words


def encode(symbols: np.ndarray, lengths: Sequence[int]) -> bytes:
    """The words of all symbols, one after the other, first bit first; zeros fill the last byte.

    Args:
        symbols: integers, indices into `lengths`.
        lengths: of the words, from `code_lengths`.

    Raises:
        ValueError: a symbol has no word, or the lengths are no code's.

    Chapter 6, Quantization: weight sharing.
    """
    symbols = np.asarray(symbols).ravel()
    words, length = np.array([0, *code_words(lengths)])[1:], np.array([0, *lengths])[1:]
    if len(symbols) == 0:
        return b""
    if symbols.min() < 0 or symbols.max() >= len(length) or (length[symbols] == 0).any():
        raise ValueError("a symbol has no word in this code")
    each = length[symbols]
    bits = np.zeros(each.sum(), dtype=np.uint8)
    starts = np.cumsum(each) - each
    for place in range(each.max()):
        inside = each > place
        shift = each[inside] - 1 - place
        bits[starts[inside] + place] = (words[symbols[inside]] >> shift) & 1
    return np.packbits(bits).tobytes()


def decode(data: bytes, lengths: Sequence[int], count: int) -> np.ndarray:
    """The first `count` symbols: what `encode` was given.

    At every bit a table says which word would begin there; then one jump from word to word.

    Args:
        data: from `encode`.
        lengths: of the words.
        count: how many symbols there are.

    Returns:
        int64, shape (count,).

    Raises:
        ValueError: the data are too short or too long, or the lengths are no code's.

    Chapter 6, Quantization: weight sharing.
    """
    words = code_words(lengths)
    if count == 0:
        if data:
            raise ValueError("there are no symbols, and yet there are data")
        return np.zeros(0, dtype=np.int64)
    longest = max(lengths, default=0)
    if longest == 0 or 8 * len(data) < count:
        raise ValueError(f"{len(data)} bytes cannot hold {count} symbols of this code")
    symbol_at = np.zeros(2**longest, dtype=np.int64)
    length_at = np.full(2**longest, 8 * len(data) + 1, dtype=np.int64)  # no word: past the end
    for symbol, (word, length) in enumerate(zip(words, lengths, strict=True)):
        if length:
            first = word << (longest - length)
            symbol_at[first : first + 2 ** (longest - length)] = symbol
            length_at[first : first + 2 ** (longest - length)] = length
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    padded = np.concatenate([bits, np.zeros(longest, dtype=np.uint8)])
    window = np.zeros(len(bits), dtype=np.int32)
    for place in range(longest):
        window = (window << 1) | padded[place : place + len(bits)]
    jumps, end = length_at[window].tolist(), len(bits)
    places, place = [], 0
    for _ in range(count):
        if place >= end:
            raise ValueError(f"the data end after {len(places)} of {count} symbols")
        places.append(place)
        place += jumps[place]
    if not end - 8 < place <= end or bits[place:].any():
        raise ValueError("the data do not end with the last symbol")
    return symbol_at[window[places]]
