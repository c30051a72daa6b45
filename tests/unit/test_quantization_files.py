"""slimcnn.quantization.files: bits by hand, networks back bit by bit, and what is refused."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from slimcnn import checkpoints, data, models
from slimcnn import quantization as q
from slimcnn.checkpoints import CheckpointError


def images(count=8, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)


def network():
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        shared,
        nn.ReLU(),
        nn.Sequential(shared),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()


def test_bits_by_hand():
    # −3 is 001, 2 is 110, 0 is 100 (4 is added), and a zero fills the second byte
    assert q.pack(torch.tensor([-3, 2, 0]), 3) == bytes([0b00111010, 0b00000000])
    assert q.pack(torch.tensor([1, -1, -1, 1]), 1) == bytes([0b10010000])
    assert q.unpack(bytes([0b00111010, 0]), 3, (3,)).tolist() == [-3, 2, 0]


@given(st.integers(1, 16), st.data())
def test_what_is_packed_comes_back_in_as_few_bytes_as_there_are_bits(bits, draw):
    one = st.sampled_from([-1, 1])
    if bits > 1:
        one = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    integers = torch.tensor(draw.draw(st.lists(one, max_size=40)), dtype=torch.int32)
    packed = q.pack(integers, bits)
    assert len(packed) == -(-len(integers) * bits // 8)
    assert torch.equal(q.unpack(packed, bits, tuple(integers.shape)), integers)


@pytest.mark.parametrize(
    "scheme",
    [
        q.Scheme(),
        q.Scheme(3, 4, ends=None, per_channel=False),
        q.Scheme(2, 4, learned=True),
        q.Scheme(1, 8),
        q.Scheme(5, None),
        q.Scheme(9, 12, ends=None),
    ],
    ids=str,
)
def test_networks_come_back_bit_by_bit(scheme, tmp_path):
    model, x = network(), data.normalize(images(4, seed=1))
    saved = q.quantize(model, scheme, images())
    q.save_quantized(saved, tmp_path / "q.safetensors")
    found = q.load_quantized(network(), tmp_path / "q.safetensors")
    with torch.no_grad():
        assert torch.equal(found(x), saved(x))
    assert found[2] is found[4][0]
    q.save_quantized(found, tmp_path / "again.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("q", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_network_of_integers_is_the_same_from_its_file(tmp_path):
    few = data.load("train").subset(50).images
    folded = q.fold_batch_norm(checkpoints.load("student"))
    saved = q.correct_bias(q.quantize(folded, q.Scheme(4, 8), few), folded, few)
    q.save_quantized(saved, tmp_path / "student.safetensors")
    fresh = q.fold_batch_norm(models.StudentNet())
    found = q.load_quantized(fresh, tmp_path / "student.safetensors")
    x = data.normalize(data.load("validation").subset(20).images)
    a, b = (q.IntegerNetwork(q.place_quantizers(n, few))(x) for n in (saved, found))
    assert torch.equal(a, b)
    layers = [m.layer for m in saved.modules() if isinstance(m, q.QuantizedLayer)]
    weights = sum(layer.weight.numel() for layer in layers)
    size = (tmp_path / "student.safetensors").stat().st_size
    assert weights / 2 < size < weights / 2 + 13_000  # four bits, scales, biases and names


def test_what_files_refuse(tmp_path):
    path = tmp_path / "q.safetensors"
    with pytest.raises(CheckpointError, match="is not there"):
        q.load_quantized(network(), path)
    with pytest.raises(ValueError, match="has no quantized layer; quantize it first"):
        q.save_quantized(network(), path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="holds no quantized network"):
        q.load_quantized(network(), path)
    path.write_bytes(b"12345678" * 4)
    with pytest.raises(CheckpointError, match="is damaged or no quantized network"):
        q.load_quantized(network(), path)
    q.save_quantized(q.quantize(network(), q.Scheme(), images()), path)
    other = models.StudentNet()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match="does not fit this network"):
        q.load_quantized(other, path)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit this network"):
        q.load_quantized(nn.Sequential(*network(), nn.Linear(3, 3)), path)
    saved = load_file(path)
    for number in (7, -1):
        layers = {"layers": {n: [8, number] for n in ("0", "2", "6")}, "inputs": []}
        save_file(saved, path, metadata={"slimcnn.quantization": json.dumps(layers)})
        with pytest.raises(CheckpointError, match="does not fit this network"):
            q.load_quantized(network(), path)
    for bits in (0, 17, 2.0, True):
        with pytest.raises(ValueError, match="bits is"):
            q.pack(torch.zeros(3), bits)
    with pytest.raises(ValueError, match="integers from -5 to 3 need over 3 bits"):
        q.pack(torch.tensor([3, -5]), 3)
    for wrong in ([1, 2], [0, 1], [-3, 1]):
        with pytest.raises(ValueError, match="need over 1 bits"):
            q.pack(torch.tensor(wrong), 1)
    placed = q.place_quantizers(q.quantize(network(), q.Scheme(), images()), images())
    with pytest.raises(ValueError, match="save it as `quantize` gave it"):
        q.save_quantized(placed, path)
    with pytest.raises(ValueError, match="2 bytes for 3 integers of 8 bits"):
        q.unpack(bytes(2), 8, (3,))
