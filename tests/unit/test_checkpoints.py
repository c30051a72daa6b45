"""slimcnn.checkpoints: the shipped weights reproduce their records; bad files are refused."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from slimcnn import checkpoints, data, models, training
from slimcnn.checkpoints import CheckpointError

ENTRIES = checkpoints.entries()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.name}-{e.seed}")
def test_a_shipped_checkpoint_reproduces_its_accuracy(entry):
    model = checkpoints.load(entry.name, entry.seed)
    assert not model.training
    measured = training.evaluate(model, data.load("validation"))
    # Another CPU rounds differently: five images of 10,000 are allowed for.
    assert measured == pytest.approx(entry.validation_accuracy, abs=0.05)


@pytest.mark.parametrize("name", sorted({e.name for e in ENTRIES}))
def test_stored_predictions_reproduce_the_test_accuracy(name):
    seeds = [e for e in ENTRIES if e.name == name]
    right = checkpoints.predictions(name) == data.load("test").labels
    measured = 100 * right.double().mean(1)
    assert measured.tolist() == pytest.approx([e.test_accuracy for e in seeds], abs=1e-9)


def test_the_baselines_are_there():
    assert {"resnet14", "student"} <= {e.name for e in ENTRIES if e.seed == 0}
    for entry in ENTRIES:
        assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256
        assert entry.minutes > 0
        assert "torch" in entry.versions


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(CheckpointError, match=r"no checkpoint 'resnet15'.*make checkpoints"):
        checkpoints.load("resnet15")


@pytest.fixture
def saved(tmp_path):
    model = models.StudentNet(width=0.25)
    path = tmp_path / "weights.safetensors"
    return model, path, checkpoints.save_weights(model, path)


def unchanged(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_round_trip_is_exact(saved):
    model, path, sha256 = saved
    other = models.StudentNet(width=0.25)
    checkpoints.load_weights_(other, path, sha256=sha256)
    assert unchanged(other, model.state_dict())


def check_refused(path, match, sha256=None, width=0.25):
    model = models.StudentNet(width=width)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        checkpoints.load_weights_(model, path, sha256=sha256)
    assert unchanged(model, before)


def test_damaged_files_are_refused_and_the_model_stays_as_it_was(saved):
    _, path, sha256 = saved
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    check_refused(path, f"{sha256} expected", sha256)
    path.write_bytes(bytes(content[:100]))
    check_refused(path, "not a safetensors file")
    path.write_bytes(b"")
    check_refused(path, "not a safetensors file")
    path.unlink()
    check_refused(path, "make checkpoints")


def test_missing_unexpected_and_misshapen_tensors_are_named(saved):
    model, path, _ = saved
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    save_file({k: v for k, v in tensors.items() if k != "fc.bias"}, path)
    check_refused(path, r"fc\.bias is missing")
    save_file(tensors | {"extra": torch.zeros(1)}, path)
    check_refused(path, "extra is unexpected")
    save_file(tensors | {"fc.bias": torch.zeros(9)}, path)
    check_refused(path, r"fc\.bias is \(9,\) float32, the network has \(10,\) float32")
    save_file(tensors | {"fc.bias": torch.zeros(10, dtype=torch.float64)}, path)
    check_refused(path, r"fc\.bias is \(10,\) float64")
    save_file(tensors, path)
    check_refused(path, "and .* more", width=0.5)


def test_recording_replaces_the_same_name_and_seed(monkeypatch, tmp_path):
    from dataclasses import replace

    monkeypatch.setattr(checkpoints, "MANIFEST", tmp_path / "manifest.json")
    monkeypatch.setattr(checkpoints, "PREDICTIONS", tmp_path / "predictions.safetensors")
    entry = replace(ENTRIES[0], name="a", seed=1)
    checkpoints.record(entry, torch.tensor([9, 9]))
    checkpoints.record(replace(entry, seed=0), torch.tensor([3, 4]))
    checkpoints.record(replace(entry, minutes=2.0), torch.tensor([5, 6]))
    assert checkpoints.predictions("a").tolist() == [[3, 4], [5, 6]]
    with pytest.raises(CheckpointError, match="no stored predictions of 'b'"):
        checkpoints.predictions("b")
    assert [(e.seed, e.minutes) for e in checkpoints.entries()] == [(0, entry.minutes), (1, 2.0)]
    assert checkpoints.entry("a", 1) == replace(entry, minutes=2.0)
