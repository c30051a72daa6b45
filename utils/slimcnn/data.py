"""Fashion-MNIST as tensors in memory: verified files, a fixed split, batch augmentation.

The four original files (Xiao et al., 2017, arXiv:1708.07747) are small enough to live in
memory, so that an epoch is a permutation and a few vectorised tensor operations instead
of a worker pool. Chapter 1 uses the test split; every later chapter trains with `batches`.
"""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# Mean and standard deviation of the pixels of the 60,000 training images, scaled to 0–1.
MEAN, STD = 0.2860, 0.3530

CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}

SplitName = Literal["train", "validation", "test"]

# In each class, every twelfth training image (the 1st, 13th, 25th, …) is a validation image:
# 500 of 6,000. The rule needs no random generator, so no library version can change it.
_VALIDATION_STRIDE = 12


class DataError(RuntimeError):
    """A data file is missing or is not the file that it should be."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        name: "train", "validation" or "test" (or what a subset was called).
        images: uint8, shape (N, 1, 28, 28), values 0–255.
        labels: int64, shape (N,), values 0–9, indices into `CLASSES`.
    """

    name: str
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, size: int, name: str | None = None) -> "Split":
        """A stratified subset: the first `size` / 10 images of each class, in file order.

        Raises:
            ValueError: if `size` is not a multiple of the number of classes, or too large.
        """
        classes = len(CLASSES)
        counts = torch.bincount(self.labels, minlength=classes)
        if size <= 0 or size % classes or size // classes > int(counts.min()):
            raise ValueError(
                f"a stratified subset of {size} images was asked for; allowed are multiples of"
                f" {classes} from {classes} to {int(counts.min()) * classes}"
            )
        rank = _rank_in_class(self.labels)
        keep = torch.nonzero(rank < size // classes).squeeze(1)
        return Split(name or f"{self.name}[{size}]", self.images[keep], self.labels[keep])


class Batch(NamedTuple):
    """One training batch: normalised images, labels, and where they came from."""

    images: Tensor  # float32 (B, C, H, W)
    labels: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,), positions in the split, always on the CPU


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image before the network sees it.

    Attributes:
        flip: mirror left–right with probability ½.
        shift: move by up to this many pixels in each direction; zeros come in at the edge.
        erase: probability of painting one random rectangle with the mean grey
            (random erasing, Zhong et al., 2020, arXiv:1708.04896).
    """

    flip: bool = True
    shift: int = 2
    erase: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift} pixels; it must be 0 or more")
        if not 0 <= self.erase <= 1:
            raise ValueError(f"erase is {self.erase}; a probability from 0 to 1 is needed")


def repository_dir() -> Path:
    """The checkout's own `data/` folder (it need not exist: an installed wheel has none)."""
    return Path(__file__).resolve().parents[2] / "data"


def cache_dir() -> Path:
    """The user's cache folder: `$SLIMCNN_CACHE`, else `$XDG_CACHE_HOME/slimcnn`, else ~/.cache."""
    if override := os.environ.get("SLIMCNN_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimcnn"


def load(split: SplitName, root: Path | str | None = None) -> Split:
    """Load one split of Fashion-MNIST as uint8 tensors.

    The files come from `root` if it is given, else from the repository's `data/`, else
    from the user's cache, else by torchvision's download into that cache. Each folder is
    searched for `FashionMNIST/raw/*.gz`. Every file's SHA-256 is checked before use.

    Args:
        split: "train" (55,000 images), "validation" (5,000) or "test" (10,000).
        root: a folder to use instead of the three places.

    Raises:
        ValueError: the split's name is not one of the three.
        DataError: a file is missing from `root`, altered, or cannot be downloaded.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split is {split!r}; allowed are 'train', 'validation' and 'test'")
    raw = _locate(Path(root) if root is not None else None)
    prefix = "t10k" if split == "test" else "train"
    image_bytes = _read(raw / f"{prefix}-images-idx3-ubyte.gz")
    label_bytes = _read(raw / f"{prefix}-labels-idx1-ubyte.gz")
    # IDX format: a 16-byte header before the images, 8 bytes before the labels.
    images = torch.from_numpy(np.frombuffer(image_bytes, np.uint8, offset=16).copy())
    labels = torch.from_numpy(np.frombuffer(label_bytes, np.uint8, offset=8).astype(np.int64))
    images = images.reshape(-1, 1, 28, 28)
    if split != "test":
        in_validation = _rank_in_class(labels) % _VALIDATION_STRIDE == 0
        keep = torch.nonzero(in_validation == (split == "validation")).squeeze(1)
        images, labels = images[keep], labels[keep]
    return Split(split, images, labels)


def normalize(images: Tensor) -> Tensor:
    """uint8 images of any shape to float32 with mean 0 and deviation 1: (x/255 − MEAN) / STD."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}; normalize takes torch.uint8, values 0–255")
    return images.float().div_(255).sub_(MEAN).div_(STD)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Augment a whole batch at once; the given tensor is not changed.

    Args:
        images: uint8, shape (B, C, H, W).
        augmentation: what to do.
        generator: a CPU generator; its state decides everything, on every device.

    Returns:
        uint8 images of the same shape, on the same device.
    """
    count, _, height, width = images.shape
    device = images.device

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator).to(device)

    # One gather does flip and shift: the source row and column of every output pixel.
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if augmentation.shift:
        rows = rows + draw(-augmentation.shift, augmentation.shift + 1)[:, None]
        columns = columns + draw(-augmentation.shift, augmentation.shift + 1)[:, None]
    if augmentation.flip:
        mirrored = draw(0, 2).bool()[:, None]
        columns = torch.where(mirrored, width - 1 - columns, columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]  # (B, H, W)
    source = rows.clamp(0, height - 1)[:, :, None] * width
    source = (source + columns.clamp(0, width - 1)[:, None, :]).reshape(count, 1, -1)
    flat = images.reshape(count, images.shape[1], -1)
    moved = flat.gather(2, source.expand_as(flat)).reshape(images.shape)
    moved = moved * inside[:, None]
    if augmentation.erase:
        moved = _erase(moved, augmentation.erase, generator)
    return moved


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augmentation: Augmentation | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The batches of one training epoch: shuffled, augmented, normalised.

    What comes out is a function of `seed` and `epoch` alone, so an epoch can be replayed
    (to resume a run) or cached (a teacher's answers). The last, smaller batch is included.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
    generator = epoch_generator(seed, epoch)
    order = torch.randperm(len(split), generator=generator)
    for index in order.split(batch_size):
        images = split.images[index].to(device)
        if augmentation is not None:
            images = augment(images, augmentation, generator)
        yield Batch(normalize(images), split.labels[index].to(device), index)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator whose state depends on the pair (seed, epoch) and nothing else."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Paint a rectangle of 1/7 to 1/2 of each side with the mean grey on some images."""
    count, _, height, width = images.shape

    def spans(size: int) -> Tensor:  # (B, size), True inside a random interval
        length = torch.randint(size // 7, size // 2 + 1, (count, 1), generator=generator)
        start = (torch.rand(count, 1, generator=generator) * (size - length + 1)).long()
        position = torch.arange(size)
        return (position >= start) & (position < start + length)

    chosen = torch.rand(count, 1, 1, generator=generator) < probability
    hole = spans(height)[:, :, None] & spans(width)[:, None, :] & chosen
    return images.masked_fill(hole[:, None].to(images.device), round(MEAN * 255))


def _rank_in_class(labels: Tensor) -> Tensor:
    """For each image, how many images of its class come before it."""
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = labels == label
        rank[members] = torch.arange(int(members.sum()))
    return rank


def _locate(root: Path | None) -> Path:
    """The folder that holds all four files; downloads into the cache as the last resort."""
    if root is not None:
        raw = root / "FashionMNIST" / "raw"
        missing = [name for name in CHECKSUMS if not (raw / name).is_file()]
        if missing:
            raise DataError(f"{raw} lacks {', '.join(missing)}; copy the original files there")
        return raw
    for place in (repository_dir(), cache_dir()):
        raw = place / "FashionMNIST" / "raw"
        if all((raw / name).is_file() for name in CHECKSUMS):
            return raw
    return _download(cache_dir() / "FashionMNIST" / "raw")


def _download(raw: Path) -> Path:
    """Fetch what is missing with torchvision; a file enters the cache only when verified."""
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=raw) as scratch:
        for name, md5 in FashionMNIST.resources:
            if (raw / name).exists():
                continue
            for mirror in FashionMNIST.mirrors:
                try:
                    download_url(f"{mirror}{name}", scratch, filename=name, md5=md5)
                    break
                except (OSError, RuntimeError) as error:
                    reason = error
            else:
                raise DataError(
                    f"{name} is in neither {repository_dir()} nor {raw}, and downloading it"
                    f" failed ({reason}). Connect to the network and try again, or copy the four"
                    f" original Fashion-MNIST files into {raw}, or set SLIMCNN_CACHE to a folder"
                    " that has them under FashionMNIST/raw."
                )
            os.replace(Path(scratch) / name, raw / name)
    return raw


def _read(path: Path) -> bytes:
    """The decompressed file, after its checksum has been verified."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    expected = CHECKSUMS[path.name]
    if found != expected:
        raise DataError(
            f"{path} is damaged or altered: SHA-256 {expected} expected, {found} found"
            f" ({len(content):,} bytes). Nothing was overwritten; delete the file, then restore it"
            " (`git checkout -- data` in a clone, a new download otherwise)."
        )
    return gzip.decompress(content)
