"""slimcnn.lowrank.files: a factorized network comes back from its file, and nothing else does."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from slimcnn import lowrank
from slimcnn.checkpoints import CheckpointError, save_weights
from slimcnn.lowrank import Choice
from slimcnn.models import ResNet14

PLAN = {
    "conv": Choice("input", 1),
    "stage1.0.conv1": Choice("channel", 7),
    "stage1.1.conv1": Choice("spatial", 9),
    "stage2.0.conv2": Choice("tucker2", (5, 4)),
    "stage3.0.conv1": Choice("cp", 3),
    "fc": Choice("svd", 2),
}


def network(seed=0):
    torch.manual_seed(seed)
    return ResNet14(width=0.25)


@pytest.fixture(scope="module")
def made():
    return lowrank.factorize(network(), {n: (m, r) for n, (m, r) in PLAN.items()})


@pytest.fixture
def path(made, tmp_path):
    path = tmp_path / "deep" / "file.safetensors"
    lowrank.save_factorized(made, path)
    return path


def test_a_network_comes_back(made, path):
    digest = lowrank.save_factorized(made, str(path))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == lowrank.save_factorized(made, path)  # the same bytes every time
    other = network(seed=1).train()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    loaded = lowrank.load_factorized(other, str(path), sha256=digest)
    assert repr(loaded) == repr(made)
    assert lowrank.plan_of(loaded) == PLAN
    expected = made.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(t, expected[n]) for n, t in loaded.state_dict().items())
    assert not any(m.training for m in loaded.modules())
    assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())
    assert all(m.training for m in other.modules())
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded(x), made.eval()(x))


def test_a_layer_with_two_names_and_a_whole_network_come_back(tmp_path):
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    made = lowrank.factorize(model, {"0": Choice("svd", 2)})
    lowrank.save_factorized(made, tmp_path / "file")
    loaded = lowrank.load_factorized(model, tmp_path / "file")
    assert loaded[0] is loaded[2]
    assert torch.equal(loaded[2].composed(), made[0].composed())
    lowrank.save_factorized(model, tmp_path / "whole")
    assert torch.equal(lowrank.load_factorized(model, tmp_path / "whole")[0].weight, layer.weight)


def test_files_that_are_damaged_or_foreign_are_refused(path, tmp_path):
    with pytest.raises(CheckpointError, match="is not there"):
        lowrank.load_factorized(network(), tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="SHA-256 00 expected"):
        lowrank.load_factorized(network(), path, sha256="00")
    save_weights(network(), tmp_path / "plain")
    with pytest.raises(CheckpointError, match="holds no factorized network; save_factorized"):
        lowrank.load_factorized(network(), tmp_path / "plain")
    save_file({"x": torch.ones(1)}, tmp_path / "nested", {"slimcnn.lowrank": "[" * 200_000})
    with pytest.raises(CheckpointError, match="cannot be read"):
        lowrank.load_factorized(network(), tmp_path / "nested")
    content = path.read_bytes()
    for damaged in (content[:-3], content[:20], b"", b"text", b"\0" + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is not a safetensors file"):
            lowrank.load_factorized(network(), path)


def test_files_of_another_network_are_refused(made, path):
    for model, message in (
        (ResNet14(width=0.5), "does not fit this network: .*bn.weight is"),
        (network().double(), "does not fit this network: .*float32, the network has .*float64"),
        (nn.Sequential(nn.Linear(3, 3)), "does not fit this network: Sequential has no layer"),
        (ResNet14(width=0.01), "does not fit this network: layer '.*rank is"),
        (made, "does not fit this network: layer '.*' is factorized already"),
    ):
        with pytest.raises(CheckpointError, match=message):
            lowrank.load_factorized(model, path)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("{", "the plan in .* cannot be read"),
        ("[]", "cannot be read"),
        ("3", "cannot be read"),
        ('{"fc": "svd"}', "cannot be read"),
        ('{"fc": ["svd"]}', "cannot be read"),
        ('{"fc": null}', "cannot be read"),
        ('{"fc": ["svd", "2"]}', "does not fit this network: layer 'fc': rank is '2'"),
        ('{"fc": ["svd", [[2]]]}', "does not fit this network: layer 'fc': rank is"),
        ('{"fc": [{}, 2]}', "does not fit this network: layer 'fc': there is no method"),
        (
            json.dumps(PLAN | {"fc": ["svd", 3]}),
            r"does not fit this network: .*fc\.0\.weight is \(2, 32\)",
        ),
        ('{"bn": ["svd", 3]}', "does not fit this network: layer 'bn': this BatchNorm2d"),
        ("{}", "does not fit this network: .* is missing"),
    ],
)
def test_plans_that_are_no_plans_are_refused(path, plan, message):
    (key,) = json.loads(path.read_bytes()[8:].split(b"}}", 1)[0] + b"}}")["__metadata__"]
    save_file(load_file(path), path, metadata={key: plan})
    with pytest.raises(CheckpointError, match=message):
        lowrank.load_factorized(network(), path)
