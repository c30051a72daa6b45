"""slimcnn.stored: predictions and weights, found by name."""

import pytest
import torch
from safetensors.torch import save_file

from slimcnn import report, stored
from slimcnn.record import RecordError


def test_predictions_by_name_and_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "places", lambda: [tmp_path / "empty", tmp_path])
    rows = {f"half-seed{seed}": torch.full((5,), seed, dtype=torch.uint8) for seed in (1, 0)}
    save_file(
        {**rows, "half of it-seed0": rows["half-seed1"].clone()},
        tmp_path / "a-predictions.safetensors",
    )
    assert stored.load_predictions("a", "half").tolist() == [[0] * 5, [1] * 5]
    with pytest.raises(RecordError, match=r"no predictions of 'third'.*half, half of it"):
        stored.load_predictions("a", "third")
    with pytest.raises(FileNotFoundError, match="there is no file b-predictions"):
        stored.load_predictions("b", "half")


def test_predictions_are_in_the_order_of_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "places", lambda: [tmp_path])
    rows = {f"a-seed{seed}": torch.full((2,), seed, dtype=torch.uint8) for seed in (10, 2, 0)}
    save_file(rows, tmp_path / "x-predictions.safetensors")
    assert stored.load_predictions("x", "a")[:, 0].tolist() == [0, 2, 10]


def test_weights_by_variant_and_seed(tmp_path, monkeypatch):
    assert report.weights_path("gradual 90").name == "gradual-90-seed0.safetensors"
    monkeypatch.setattr(stored, "places", lambda: [tmp_path / "empty", tmp_path])
    file = tmp_path / "weights" / "2-4-permuted-seed1.safetensors"
    file.parent.mkdir()
    file.touch()
    assert report.weights_path("2:4 permuted", 1) == file
    with pytest.raises(FileNotFoundError, match=r"no file weights/2-4-permuted-seed0\.safetensors"):
        report.weights_path("2:4 permuted")
