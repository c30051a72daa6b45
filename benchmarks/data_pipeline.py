"""Images per second: slimcnn.data.batches against torchvision's Dataset and DataLoader.

    python benchmarks/data_pipeline.py

Both deliver shuffled, flipped, shifted, normalised batches of 256 float images. The rival
is what the tutorials use: `torchvision.datasets.FashionMNIST` with transforms v2 in a
`DataLoader`, here with as many workers as there are cores (and with none). Rounds are
interleaved; the median over the rounds counts.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import v2

from slimcnn import data

ROUNDS, BATCH_SIZE, IMAGES = 5, 256, 20_000


def ours(train: data.Split, epoch: int) -> Iterator[torch.Tensor]:
    """Batches of `slimcnn.data`."""
    augmentation = data.Augmentation(flip=True, shift=2)
    for batch in data.batches(train, BATCH_SIZE, seed=0, epoch=epoch, augmentation=augmentation):
        yield batch.images


def torchvision_loader(root: Path, workers: int) -> DataLoader:
    """The same augmentation, one image at a time, in worker processes."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(28, padding=2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([data.MEAN], [data.STD]),
        ]
    )
    dataset = FashionMNIST(root, train=True, transform=transform)
    return DataLoader(
        dataset,
        BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def images_per_second(batches: Iterator) -> float:
    """Speed over the first `IMAGES` images."""
    start, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch[0] if isinstance(batch, list) else batch)
        if seen >= IMAGES:
            break
    return seen / (time.perf_counter() - start)


def main() -> None:
    """Print images per second of each, and the ratio to ours."""
    train = data.load("train")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for name in data.CHECKSUMS:
            (raw / name).symlink_to(data.repository_dir() / "FashionMNIST" / "raw" / name)
        FashionMNIST(folder, download=True)  # unpacks the four files; nothing is fetched
        cores = os.cpu_count() or 1
        loaders = {f"DataLoader, {n} workers": torchvision_loader(folder, n) for n in (0, cores)}
        for loader in loaders.values():
            next(iter(loader))  # start the workers outside the clock
        speeds: dict[str, list[float]] = {name: [] for name in ("slimcnn", *loaders)}
        for epoch in range(ROUNDS):
            speeds["slimcnn"].append(images_per_second(ours(train, epoch)))
            for name, loader in loaders.items():
                speeds[name].append(images_per_second(iter(loader)))
    reference = statistics.median(speeds["slimcnn"])
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:24}{median:10,.0f} images/s   slimcnn is {reference / median:5.1f} x")


if __name__ == "__main__":
    main()
