"""What the wheel carries: all that a lesson reads where there is no checkout."""

import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

import colab
import lesson
import repository

PACKAGE = lesson.ROOT / "utils" / "slimcnn"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built without a network; it lacks what git ignores."""
    tree = colab.tagged(colab.copy_of_tree(tmp_path_factory.mktemp("tree")))
    (tree / "results" / "planted.json").write_text("[]")
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheels")
    subprocess.run(["git", "-C", tree, "add", "--all"], check=True)
    subprocess.run(["git", "-C", tree, "checkout-index", "-a", f"--prefix={clone}/"], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--wheel-dir", out, clone]
    subprocess.run(command, check=True)
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as archive:
        yield archive


def tracked(folder, pattern):
    """Files below a folder, as the wheel should name them."""
    found = (p for p in folder.rglob(pattern) if "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix() for p in found}


def test_every_module_and_data_file_of_the_package_is_there(wheel):
    inside = {name.removeprefix("slimcnn/") for name in wheel.namelist()}
    files = (
        tracked(PACKAGE, "*.py") | tracked(PACKAGE, "*.json") | tracked(PACKAGE, "*.safetensors")
    )
    assert {"data.py", "checkpoints/__init__.py", "checkpoints/manifest.json"} <= files
    assert files - inside == set()
    assert {"py.typed", "record.schema.json"} <= inside


def test_the_records_are_there(wheel):
    records = {path.name for path in (lesson.ROOT / "results").iterdir() if path.is_file()}
    records.add("weights/gradual-90-seed0.safetensors")  # chapter 6 goes on with it
    place = "slimcnn/records/"
    inside = {n.removeprefix(place) for n in wheel.namelist() if n.startswith(place)}
    assert inside == records | {"planted.json"}
    for name in records:
        content = wheel.read(f"slimcnn/records/{name}")
        assert content == (lesson.ROOT / "results" / name).read_bytes()


def test_nothing_else_is_there(wheel):
    info = f"slimcnn-{repository.version()}.dist-info"
    assert {name.split("/")[0] for name in wheel.namelist()} == {"slimcnn", info}
    endings = {name.rsplit(".", 1)[-1] for name in wheel.namelist() if "dist-info" not in name}
    assert endings <= {"py", "typed", "json", "jsonl", "safetensors"}


def test_its_metadata_names_licenses_and_asks_for_ranges(wheel):
    info = f"slimcnn-{repository.version()}.dist-info"
    lines = wheel.read(f"{info}/METADATA").decode().splitlines()
    assert "License-Expression: MIT" in lines
    assert f"Project-URL: Repository, {repository.address()}" in lines
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    needs = [Requirement(line[15:]) for line in lines if line.startswith("Requires-Dist: ")]
    core = {need.name for need in needs if need.marker is None}
    assert core == {"torch", "torchvision", "numpy", "matplotlib", "safetensors", "tqdm"}
    assert not [need for need in needs if "==" in str(need.specifier)]
    # No extra may bring a torch of its own (executorch pins one).
    extras = {need.name for need in needs if need.marker is not None}
    lessons = {"onnx", "onnxscript", "onnxruntime", "scipy", "tensorly", "slimcnn"}
    runtimes = {"litert-torch", "openvino", "nncf", "ncnn", "pnnx", "coremltools"}
    assert extras == lessons | runtimes
