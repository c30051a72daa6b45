"""slimcnn.deploy.ship: what is written is verified, and what is not that is refused."""

import base64
import hashlib
import json
from importlib.metadata import version

import pytest
import torch
from torch import nn

from slimcnn import deploy
from slimcnn.data import Split
from slimcnn.deploy.runtime import Runtime, TensorInfo, UnsupportedError, one_by_one

LABELS = ("bag", "boot", "coat")


class Plain(Runtime):
    """A runtime whose file is the weights, and whose program a linear layer."""

    name, package, suffix = "Plain", "torch", ".plain"

    def __init__(self, factor=1.0):
        self.factor = factor

    def export(self, model, example, path):
        path = self._checked(path)
        weight = self.factor * model[1].weight.detach()
        path.write_text(json.dumps([weight.tolist(), model[1].bias.tolist()]))
        return path

    def quantize(self, model, inputs, path):
        assert inputs.abs().max() < 10  # normalized
        return self.export(model, inputs, path)

    def load(self, path, threads=1):
        weight, bias = (torch.tensor(v) for v in json.loads(self._there(path).read_text()))
        return one_by_one(lambda x: nn.functional.linear(x.flatten(1), weight, bias))

    def describe(self, path):
        return TensorInfo("x", (1, 2, 4, 4), "int8", 0.5, 3), TensorInfo(None, (1, 3), "float32")


class Elsewhere(Plain):
    """A runtime that does not compute here."""

    name, suffix, quantizes = "Elsewhere", ".elsewhere", False
    layout = "NHWC"

    def load(self, path, threads=1):
        raise UnsupportedError("not on this machine")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 3))


@pytest.fixture(scope="module")
def split(model):
    images = torch.randint(0, 256, (40, 2, 4, 4), dtype=torch.uint8)
    return Split("test", images, torch.arange(40) % 3)


OPTIONS = {"labels": LABELS, "mean": (0.4, 0.6), "std": (0.2, 0.5)}


def normalized(images):
    mean, std = (torch.tensor(OPTIONS[k]).view(2, 1, 1) for k in ("mean", "std"))
    return (images / 255 - mean) / std


@pytest.fixture
def shipped(model, split, tmp_path):
    directory = tmp_path / "shipped"
    deploy.ship(model, directory, split, [Plain(), Elsewhere()], split.images[:5], **OPTIONS)
    return directory


def changed(directory, change):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_the_manifest_says_how_to_feed_and_to_check(shipped, model, split):
    manifest = json.loads((shipped / "manifest.json").read_text())
    assert manifest["input"]["shape"] == [1, 2, 4, 4]
    assert [f["layout"] for f in manifest["files"]] == ["NCHW", "NCHW", "NHWC"]
    assert (manifest["input"]["mean"], manifest["input"]["std"]) == ([0.4, 0.6], [0.2, 0.5])
    assert tuple(manifest["labels"]) == LABELS
    assert "torch" in manifest["provenance"]["versions"]
    input = {"name": "x", "shape": [1, 2, 4, 4], "type": "int8", "scale": 0.5, "zero_point": 3}
    output = {"name": None, "shape": [1, 3], "type": "float32", "scale": None, "zero_point": None}
    for entry in manifest["files"]:
        assert (entry["input"], entry["output"]) == (input, output)
        assert entry["made_with"] == {"torch": version("torch")}
    known = torch.tensor(list(base64.b64decode(manifest["known_answers"]["images"])))
    assert torch.equal(known, split.images[:10].flatten().long())
    kinds = [(f["runtime"], f["kind"], f["checked"]) for f in manifest["files"]]
    assert kinds == [
        ("Plain", "float32", True),
        ("Plain", "int8", True),
        ("Elsewhere", "float32", False),
    ]
    right = model(normalized(split.images)).argmax(1) == split.labels
    assert manifest["files"][0]["accuracy"] == pytest.approx(100 * right.double().mean().item())
    for entry in manifest["files"]:
        for name, checksum in entry["sha256"].items():
            content = (shipped / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == checksum
            assert entry["bytes"] == len(content)
    assert {p.name for p in shipped.iterdir()} == {
        "manifest.json",
        *(name for f in manifest["files"] for name in f["sha256"]),
    }


def test_what_is_loaded_classifies_raw_images(shipped, model, split):
    loaded = deploy.load_shipped(shipped, Plain())
    expected = model(normalized(split.images))
    torch.testing.assert_close(loaded.logits(split.images), expected)
    best, places = expected.softmax(1).max(1)
    answers = loaded.classify(split.images)
    assert [label for label, _ in answers] == [LABELS[i] for i in places]
    assert [p for _, p in answers] == pytest.approx(best.tolist())
    assert deploy.load_shipped(shipped, Plain(), "int8").manifest == loaded.manifest


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4).byte(), torch.zeros(0, 2, 4, 4).byte()],
)
def test_images_of_another_kind_are_refused(images, shipped):
    with pytest.raises(ValueError, match=r"takes uint8 of shape \(N, 2, 4, 4\)"):
        deploy.load_shipped(shipped, Plain()).logits(images)


def test_a_wrong_file_does_not_ship(model, split, tmp_path):
    with pytest.raises(deploy.ParityError, match="outputs are off by"):
        deploy.ship(model, tmp_path / "a", split, [Plain(factor=1.1)], **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(shipped, model, split):
    before = {p.name: p.read_bytes() for p in shipped.iterdir()}
    with pytest.raises(FileExistsError, match="choose a folder"):
        deploy.ship(model, shipped, split, [Plain()], **OPTIONS)
    assert {p.name: p.read_bytes() for p in shipped.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "2 means and positive"),
        ({"std": (0.5, 0.0)}, "positive deviations"),
        ({"labels": ("a", "b")}, "3 outputs and there are 2 labels"),
    ],
)
def test_options_must_fit(options, message, model, split, tmp_path):
    with pytest.raises(ValueError, match=message):
        deploy.ship(model, tmp_path / "a", split, [Plain()], **OPTIONS | options)
    assert list(tmp_path.iterdir()) == []


def test_no_manifest_no_network(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"slimcnn\.deploy\.ship"):
        deploy.load_shipped(tmp_path, Plain())


@pytest.mark.parametrize("kind", ["float16", "int4"])
def test_what_was_not_shipped_is_named(kind, shipped):
    with pytest.raises(deploy.ShipmentError, match="it has Plain float32, Plain int8"):
        deploy.load_shipped(shipped, Plain(), kind)


def test_a_damaged_file_is_refused(shipped):
    file = shipped / "plain-float32.plain"
    file.write_text(file.read_text().replace("0", "1", 1))
    with pytest.raises(deploy.ShipmentError, match="checksum differs"):
        deploy.load_shipped(shipped, Plain())
    file.unlink()
    with pytest.raises(deploy.ShipmentError, match="is missing"):
        deploy.load_shipped(shipped, Plain())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "of format 2"),
        (lambda m: m.pop("labels"), "is no manifest"),
        (lambda m: m["input"].update(mean=[0.0, 0.0]), "known answers"),
        (lambda m: m["known_answers"]["logits"][-1].reverse(), "known answers"),
        (lambda m: m["known_answers"].update(logits=[[0.0, 1.0]] * 10), "known answers"),
        (lambda m: m["known_answers"].update(logits=[[0.0, 1.0]]), "320 known pixels for 1"),
        (lambda m: m["known_answers"].update(images="", logits=[]), "0 known pixels for 0"),
        (lambda m: m["files"][0].update(sha256={"../manifest.json": "0"}), "leads out of"),
    ],
    ids=["format", "incomplete", "normalization", "answer", "shape", "few", "none", "outside"],
)
def test_a_manifest_that_does_not_match_is_refused(change, message, shipped):
    changed(shipped, change)
    with pytest.raises(deploy.ShipmentError, match=message):
        deploy.load_shipped(shipped, Plain())


@pytest.mark.parametrize("content", ["no json", "[]", '"text"'])
def test_a_broken_manifest_is_refused(content, shipped):
    (shipped / "manifest.json").write_text(content)
    with pytest.raises(deploy.ShipmentError):
        deploy.load_shipped(shipped, Plain())
