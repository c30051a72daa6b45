"""slimcnn.data: verified files, the split, augmentation, batches."""

import gzip
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as tv

from slimcnn import data
from slimcnn.data import Augmentation


@pytest.fixture(scope="module")
def splits():
    return {name: data.load(name) for name in ("train", "validation", "test")}


def test_sizes_and_types(splits):
    assert {k: len(v) for k, v in splits.items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    for split in splits.values():
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (1, 28, 28)
        assert split.labels.dtype == torch.int64


def test_split_is_stratified_and_follows_the_documented_rule(splits):
    assert torch.bincount(splits["train"].labels).tolist() == [5500] * 10
    assert torch.bincount(splits["validation"].labels).tolist() == [500] * 10
    with gzip.open(data.repository_dir() / "FashionMNIST/raw/train-labels-idx1-ubyte.gz") as file:
        labels = list(file.read()[8:])
    seen = [0] * 10
    expected = []
    for label in labels:
        if seen[label] % 12 == 0:
            expected.append(label)
        seen[label] += 1
    assert splits["validation"].labels.tolist() == expected


def test_train_and_validation_are_the_60000_without_overlap(splits):
    with gzip.open(data.repository_dir() / "FashionMNIST/raw/train-images-idx3-ubyte.gz") as file:
        pixels = sum(file.read()[16:])
    assert sum(int(splits[k].images.sum(dtype=torch.int64)) for k in ("train", "validation")) == (
        pixels
    )


def test_mean_and_std_are_those_of_the_training_files(splits):
    pixels = torch.cat([splits["train"].images, splits["validation"].images]).double() / 255
    assert pixels.mean().item() == pytest.approx(data.MEAN, abs=5e-5)
    assert pixels.std().item() == pytest.approx(data.STD, abs=5e-5)


def test_normalize_values():
    x = torch.tensor([0, 128, 255], dtype=torch.uint8)
    expected = (torch.tensor([0.0, 128 / 255, 1.0]) - 0.2860) / 0.3530
    torch.testing.assert_close(data.normalize(x), expected)
    with pytest.raises(TypeError, match=r"torch\.float32"):
        data.normalize(torch.zeros(3))


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train', 'validation' and 'test'"):
        data.load("dev")


def test_subset_is_stratified_and_in_file_order(splits):
    subset = splits["test"].subset(100)
    assert torch.bincount(subset.labels).tolist() == [10] * 10
    first_sandal = int((splits["test"].labels == 5).nonzero()[0])
    assert torch.equal(
        subset.images[(subset.labels == 5).nonzero()[0]], splits["test"].images[[first_sandal]]
    )
    for size in (0, 15, 10_010):
        with pytest.raises(ValueError, match="multiples of 10"):
            splits["test"].subset(size)


@pytest.fixture
def copied(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    shutil.copytree(data.repository_dir() / "FashionMNIST" / "raw", raw)
    return tmp_path


def test_a_truncated_file_is_named_and_not_overwritten(copied):
    path = copied / "FashionMNIST/raw/t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(data.DataError, match=r"t10k-images.*346e55b9.*expected.*found"):
        data.load("test", copied)
    assert path.stat().st_size == 1000


def test_one_altered_byte_is_found(copied):
    path = copied / "FashionMNIST/raw/train-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(data.DataError, match="train-labels"):
        data.load("train", copied)
    assert len(data.load("test", copied)) == 10_000  # its own files are whole


def test_a_missing_file_in_a_given_folder_is_named(copied):
    (copied / "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(data.DataError, match="lacks t10k-labels"):
        data.load("test", copied)


def test_the_cache_is_used_when_there_is_no_checkout(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "repository_dir", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("SLIMCNN_CACHE", str(copied))
    assert len(data.load("validation")) == 5_000


def test_without_files_and_network_the_error_says_what_to_do(monkeypatch, tmp_path):
    from torchvision.datasets import utils

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(utils, "download_url", refuse)
    monkeypatch.setattr(data, "repository_dir", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("SLIMCNN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(data.DataError, match=r"no route to host.*SLIMCNN_CACHE"):
        data.load("test")


def test_a_download_fills_the_cache_only_with_verified_files(monkeypatch, tmp_path):
    from torchvision.datasets import utils

    source = data.repository_dir() / "FashionMNIST/raw"

    def fake(url, root, filename, md5):
        assert utils.check_integrity(str(source / filename), md5)
        shutil.copy(source / filename, root)

    monkeypatch.setattr(utils, "download_url", fake)
    monkeypatch.setattr(data, "repository_dir", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("SLIMCNN_CACHE", str(tmp_path / "cache"))
    assert len(data.load("test")) == 10_000
    stored = sorted(p.name for p in (tmp_path / "cache/FashionMNIST/raw").iterdir())
    assert stored == sorted(data.CHECKSUMS)


def random_images(count=64, channels=1, size=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return torch.randint(1, 256, shape, generator=generator).to(torch.uint8)


def test_augmentation_off_changes_nothing():
    x = random_images()
    off = Augmentation(flip=False, shift=0)
    assert torch.equal(data.augment(x, off, torch.Generator().manual_seed(0)), x)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(1, 3),
    shift=st.integers(0, 4),
    flip=st.booleans(),
)
def test_every_image_is_one_of_torchvisions_shifts_and_flips(seed, channels, shift, flip):
    x = random_images(4, channels, 9, seed)
    before = x.clone()
    y = data.augment(x, Augmentation(flip, shift), torch.Generator().manual_seed(seed))
    assert torch.equal(x, before)
    assert y.dtype == torch.uint8
    assert y.shape == x.shape
    for image, result in zip(x, y, strict=True):
        padded = tv.pad(image, [shift] * 4)
        candidates = [
            view
            for dy in range(2 * shift + 1)
            for dx in range(2 * shift + 1)
            for crop in [tv.crop(padded, dy, dx, 9, 9)]
            for view in ([crop, tv.hflip(crop)] if flip else [crop])
        ]
        assert any(torch.equal(result, c) for c in candidates)


def test_flips_and_shifts_are_uniform():
    x = torch.zeros(5000, 1, 28, 28, dtype=torch.uint8)
    x[:, :, 10, 6] = 255
    y = data.augment(x, Augmentation(flip=True, shift=2), torch.Generator().manual_seed(0))
    rows, columns = y[:, 0].nonzero()[:, 1], y[:, 0].nonzero()[:, 2]
    assert torch.bincount(rows)[8:13].sub(1000).abs().max() < 150
    flipped = columns > 14
    assert abs(int(flipped.sum()) - 2500) < 180
    assert set(columns[~flipped].tolist()) == {4, 5, 6, 7, 8}
    assert set(columns[flipped].tolist()) == {19, 20, 21, 22, 23}


def test_erasing_paints_one_rectangle_of_mean_grey_at_the_asked_rate():
    x = torch.full((4000, 1, 28, 28), 200, dtype=torch.uint8)
    erasing = Augmentation(flip=False, shift=0, erase=0.3)
    y = data.augment(x, erasing, torch.Generator().manual_seed(0))
    hole = y[:, 0] == round(data.MEAN * 255)
    assert torch.equal(hole | (y[:, 0] == 200), torch.ones_like(hole))
    erased = hole.any(2).any(1)
    assert abs(float(erased.float().mean()) - 0.3) < 0.03
    height, width = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(height * width, hole.sum((1, 2)))  # a full rectangle
    assert height[erased].min() == 4
    assert height[erased].max() == 14


def test_augmentation_rejects_impossible_values():
    with pytest.raises(ValueError, match="shift is -1"):
        Augmentation(shift=-1)
    with pytest.raises(ValueError, match=r"erase is 1\.5"):
        Augmentation(erase=1.5)


def test_batches_visit_every_image_once_and_replay(splits):
    split = splits["validation"].subset(70)
    options = {"seed": 3, "epoch": 2, "augmentation": Augmentation(erase=0.5)}
    first = list(data.batches(split, 32, **options))
    again = list(data.batches(split, 32, **options))
    other = list(data.batches(split, 32, **{**options, "epoch": 3}))
    assert [len(b.labels) for b in first] == [32, 32, 6]
    order = torch.cat([b.index for b in first])
    assert order.sort().values.tolist() == list(range(70))
    assert torch.equal(split.labels[order], torch.cat([b.labels for b in first]))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(order, torch.cat([b.index for b in other]))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(data.batches(split, 0, seed=0, epoch=0))


def test_unaugmented_batches_are_the_normalized_images(splits):
    split = splits["validation"].subset(20)
    for batch in data.batches(split, 8, seed=0, epoch=0):
        torch.testing.assert_close(batch.images, data.normalize(split.images[batch.index]))


def test_seeds_and_epochs_do_not_collide():
    states = {
        data.epoch_generator(seed, epoch).initial_seed()
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(states) == 400
