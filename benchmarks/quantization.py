"""Codebooks against scikit-learn, Huffman decoding against NumPy, calibration against ONNX Runtime.

    python benchmarks/quantization.py

Prints medians of interleaved runs on one thread and their ratios; below 1 slimcnn is faster.
Both k-means start from the same values and iterate until nothing changes. Both calibrations find
min-max ranges of ResNet-14 from the same 500 images and round the weights.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from onnxruntime import quantization as industrial
from sklearn.cluster import KMeans

from slimcnn import checkpoints, coding, data, export, quantization
from slimcnn.coding import huffman
from timing import compare


def codebooks(size: int, k: int) -> None:
    """Shared values for a layer of so many weights."""
    weights = torch.randn(size)
    first = coding.kmeans(weights, k, iterations=0).values[:, None].numpy()
    column = weights[:, None].numpy()

    def theirs() -> object:
        model = KMeans(k, init=first, n_init=1, max_iter=1000, tol=0, algorithm="lloyd")
        return model.fit(column)

    compare(
        f"k-means, {size:,} to {k}", lambda: coding.kmeans(weights, k, iterations=1000), theirs, 5
    )


def table_walk(data_: bytes, lengths: list[int], count: int) -> np.ndarray:
    """The plain way: look the next bits up in a table, go on behind the word."""
    words, longest = huffman.code_words(lengths), max(lengths)
    table = np.zeros((2**longest, 2), dtype=np.int64)
    for symbol, (word, length) in enumerate(zip(words, lengths, strict=True)):
        if length:
            first = word << (longest - length)
            table[first : first + 2 ** (longest - length)] = symbol, length
    bits = np.unpackbits(np.frombuffer(data_, dtype=np.uint8))
    bits = np.concatenate([bits, np.zeros(longest, dtype=np.uint8)])
    powers = 2 ** np.arange(longest - 1, -1, -1)
    found, place = np.empty(count, dtype=np.int64), 0
    for i in range(count):
        found[i], length = table[bits[place : place + longest] @ powers]
        place += length
    return found


def decoding(count: int) -> None:
    """Symbols of 16 values with the frequencies of a bell."""
    symbols = np.random.default_rng(0).normal(8, 2, count).round().clip(0, 15).astype(np.int64)
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=16).tolist())
    coded = huffman.encode(symbols, lengths)
    assert np.array_equal(table_walk(coded, lengths, count), symbols)
    print(f"{count:,} symbols in {len(coded):,} bytes")
    compare(
        "Huffman decoding",
        lambda: huffman.decode(coded, lengths, count),
        lambda: table_walk(coded, lengths, count),
        10,
    )


class Reader(industrial.CalibrationDataReader):
    """Hands out calibration images, a hundred at a time."""

    def __init__(self, images: torch.Tensor):
        self.batches = iter(data.normalize(images).split(100))

    def get_next(self) -> dict | None:
        """The next batch, None after the last one."""
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


def calibration() -> None:
    """Ranges of all activations, integers for all weights."""
    model = quantization.fold_batch_norm(checkpoints.load("resnet14"))
    images = data.load("train").subset(500).images
    kinds = {"activation_type": industrial.QuantType.QUInt8, "per_channel": True}
    with tempfile.TemporaryDirectory() as folder:
        example = data.normalize(images[:1])
        plain = export.to_onnx(model, example, Path(folder) / "plain.onnx", dynamic_batch=True)

        def theirs() -> None:
            industrial.quantize_static(plain, Path(folder) / "int8.onnx", Reader(images), **kinds)

        with export.silence():
            theirs()
        compare(
            "calibration, 500 images",
            lambda: quantization.quantize(model, quantization.Scheme(), images),
            theirs,
            5,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for number in (36_864, 1_000_000):
        codebooks(number, 16)
    decoding(200_000)
    calibration()
