"""slimcnn.sparsity, files: a sparse network comes back from a file that is as small as can be."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from slimcnn import sparsity
from slimcnn.checkpoints import CheckpointError
from slimcnn.masking import apply_masks, finalize
from slimcnn.training import seeded


def network(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(40, 30))


def sparse_network(density=0.1):
    model, generator = network(), torch.Generator().manual_seed(0)
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return apply_masks(
        model, {n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()}
    )


@pytest.mark.parametrize("format", [None, "dense", "coo", "csr", "bsr", "bitmask", "relative"])
def test_a_network_comes_back(tmp_path, format):
    model = sparse_network()
    model[1].num_batches_tracked.fill_(7)
    digest = sparsity.save_encoded(model, tmp_path / "file", format)
    assert digest == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    empty = network(seed=1).train()
    loaded = sparsity.load_encoded(empty, str(tmp_path / "file"))
    expected = finalize(model).state_dict()
    assert set(loaded.state_dict()) == set(expected)
    assert all(torch.equal(t, expected[name]) for name, t in loaded.state_dict().items())
    assert not any(module.training for module in loaded.modules())
    assert empty.training
    assert not torch.equal(empty[3].weight, loaded[3].weight)


def test_each_tensor_has_its_smallest_format(tmp_path):
    model = sparse_network(density=0.05)
    sparsity.save_encoded(model, tmp_path / "file")
    stored, chosen = load_file(tmp_path / "file"), set()
    for name, tensor in finalize(model).state_dict().items():
        if tensor.ndim == 0:
            assert torch.equal(stored[name], tensor)
            continue
        sizes = {
            format: len(sparsity.encode(tensor, format))
            for format in ("dense", "coo", "csr", "bitmask")
        }
        data = stored[name].numpy().tobytes()
        assert len(data) == min(sizes.values())
        chosen.add(next(f for f in sizes if sparsity.encode(tensor, f) == data))
    assert len(chosen) >= 2  # a dense bias, a sparse weight


def test_a_file_that_is_not_there_or_damaged_or_of_another_network(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(CheckpointError, match="is not there"):
        sparsity.load_encoded(network(), path)
    sparsity.save_encoded(sparse_network(), path)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        sparsity.load_encoded(nn.Sequential(nn.Linear(3, 3)), path)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(CheckpointError, match="is damaged or no encoded network"):
        sparsity.load_encoded(network(), path)
    at = data.index(b"SLIM")
    path.write_bytes(data[:at] + b"slim" + data[at + 4 :])
    with pytest.raises(CheckpointError, match="do not begin"):
        sparsity.load_encoded(network(), path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
def test_an_ordinary_file_of_weights_is_no_encoded_network(tmp_path, dtype):
    save_file({"weight": torch.ones(3, 3).to(dtype)}, tmp_path / "file")
    with pytest.raises(CheckpointError, match="no encoded network"):
        sparsity.load_encoded(nn.Linear(3, 3), tmp_path / "file")
