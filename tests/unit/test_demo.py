"""scripts/demo.py: what the page in the browser is given, held against where it comes from."""

import base64
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

import demo
from slimcnn import checkpoints, data, deploy, quantization, report

CHECKED = 20  # images for which files and networks are compared


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """A folder with what the script writes, and a stand-in for the runtime."""
    static = tmp_path_factory.mktemp("static")
    copy = static / "vendor" / "onnxruntime-web"
    copy.mkdir(parents=True)
    for name, size in (("a.mjs", 3), ("b.wasm", 40), ("LICENSE", 500)):
        (copy / name).write_bytes(bytes(size))
    (static / "networks").mkdir()
    (static / "networks" / "stale.onnx").write_bytes(b"old")
    demo.write(static)
    return static


@pytest.fixture(scope="module")
def written(static):
    return json.loads((static / "networks" / "demo.json").read_text(encoding="utf-8"))


def test_files_are_those_that_it_names(static, written):
    files = {entry["file"] for entry in written["networks"]}
    assert files == {f"{network.file}.onnx" for network in demo.NETWORKS}
    assert {path.name for path in (static / "networks").iterdir()} == files | {"demo.json"}
    for entry in written["networks"]:
        content = (static / "networks" / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("id", "records", "model", "variant"),
    [
        ("resnet14", "baselines", "resnet14", None),
        ("pruned", "pruning", "resnet14", "channels L1 25 longer"),
        ("distilled", "distillation", "student", "soft targets"),
        ("resnet14-int8", "quantization", "resnet14", "int8"),
        ("student-int8", "quantization", "student", "student int8"),
    ],
)
def test_accuracies_and_macs_are_those_of_the_records(written, id, records, model, variant):
    found = [
        (round(record.accuracy, 2), record.macs)
        for record in report.load_records(records)
        if (record.model, record.seed, record.stage) == (model, 0, "final")
        and record.settings.get("variant") == variant
    ]
    entry = next(entry for entry in written["networks"] if entry["id"] == id)
    assert found == [(entry["accuracy"], entry["macs"])]


def test_epochs_in_notes_are_those_of_the_trainings(written):
    notes = {entry["id"]: entry["note"] for entry in written["networks"]}
    assert f"{checkpoints.entry('resnet14').recipe.epochs} epochs" in notes["resnet14"]
    assert "taught for 15 epochs" in notes["distilled"]
    assert not any("None" in note or "{" in note for note in notes.values())


def test_images_are_the_first_two_of_each_class(written):
    test = data.load("test")
    pixels = np.frombuffer(base64.b64decode(written["images"]["pixels"]), np.uint8)
    pixels = pixels.reshape(-1, 1, 28, 28)
    assert written["images"]["labels"] == [label for label in range(10) for _ in range(2)]
    for label in range(10):
        first = test.images[test.labels == label][:2].numpy()
        np.testing.assert_array_equal(pixels[2 * label : 2 * label + 2], first)


def test_classes_normalization_and_runtime(written):
    assert written["classes"] == list(data.CLASSES)
    assert (written["mean"], written["std"]) == (data.MEAN, data.STD)
    assert written["runtime"] == {"bytes": 43}


def test_a_site_without_npm_has_no_runtime(tmp_path):
    assert demo.runtime(tmp_path) is None


@pytest.mark.parametrize("network", demo.NETWORKS, ids=lambda network: network.file)
def test_files_compute_what_their_networks_do(static, network):
    images = data.normalize(data.load("test").images[:CHECKED])
    model = network.build().eval()
    if network.write is quantization.to_qdq_onnx:
        model = quantization.IntegerNetwork(model)
    with torch.no_grad():
        expected = model(images)
    path = static / "networks" / f"{network.file}.onnx"
    found = deploy.ONNXRuntime().load(path)(images)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_network_without_a_record_is_refused():
    fault = dataclasses.replace(demo.NETWORKS[1], variant="no such variant")
    with pytest.raises(LookupError, match="0 records of Pruned"):
        demo.record_of(fault)


def test_files_are_the_same_each_time(static, tmp_path):
    network = demo.NETWORKS[-1]  # calibrated, so it has most to differ in
    demo.write_network(network, tmp_path)
    name = f"{network.file}.onnx"
    assert (tmp_path / name).read_bytes() == (static / "networks" / name).read_bytes()
