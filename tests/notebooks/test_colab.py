"""Every lesson as Colab would run it; for a lesson this is the one run of `make test`.

nbval executes it, so cells tagged nbval-check-output must print what is stored. Lessons that
measure times are marked `alone`.
"""

import importlib.metadata
import importlib.util
import json
import resource
import sys
import sysconfig

import pytest

import colab
import lesson
import repository
import setup_cell

LESSONS = lesson.sources([lesson.ROOT / "chapters"])
MEMORY = 2_000_000_000  # bytes
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of getrusage, in bytes

TORCH = lesson.Path(importlib.util.find_spec("torch").origin).resolve()

# Runs as the last cell of each lesson, in its kernel.
CHECKS = f"""\
import importlib.metadata as _metadata
import pathlib as _pathlib
import sys as _sys

import slimcnn as _slimcnn
import torch as _torch

_own = _pathlib.Path(_sys.prefix)
assert _pathlib.Path(_slimcnn.__file__).is_relative_to(_own), _slimcnn.__file__
assert _pathlib.Path(_torch.__file__).resolve() == _pathlib.Path({str(TORCH)!r}), _torch.__file__
assert _metadata.version("torch") == {importlib.metadata.version("torch")!r}
for _name in {colab.LACKS!r}:
    assert _name not in _sys.modules, _name
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return colab.tagged(colab.copy_of_tree(tmp_path_factory.mktemp("clone")))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return colab.dependencies(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def machine(tmp_path, clone, installed):
    return colab.Machine(tmp_path, clone, installed, lesson.ROOT / "data")


def marked(path):
    """A lesson as a test parameter; those that measure times run alone."""
    times = lesson.read_source(path).metadata.slimcnn.get("timing", False)
    marks = [pytest.mark.alone] if times else []
    return pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=marks)


@pytest.mark.parametrize("path", [marked(path) for path in LESSONS])
def test_lesson_runs_in_colab(path, machine):
    version = repository.version()
    installed_before = sorted(p.name for p in machine.site.iterdir())
    assert installed_before == ["dependencies.pth"]

    notebook = machine.put(path.with_suffix(".ipynb"), colab.ADDRESS, CHECKS)
    result = machine.nbval(notebook)

    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    cells = len(lesson.code_cells(lesson.read_notebook(notebook)))
    assert f"{cells} passed" in result.stdout.splitlines()[-1], result.stdout[-500:]
    assert machine.own_packages() == {"slimcnn", f"slimcnn-{version}.dist-info"}
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_UNIT <= MEMORY


def test_placeholder_stops_in_colab_and_says_what_to_set(machine):
    path = machine.folder / "placeholder.ipynb"
    source = setup_cell.source(setup_cell.PLACEHOLDER, repository.version())
    path.write_text(notebook_of(source))

    result = machine.nbval(path)

    assert result.returncode == 1
    assert f"RuntimeError: {setup_cell.PLACEHOLDER} is a placeholder" in result.stdout
    assert "make repository URL=" in result.stdout
    assert machine.own_packages() == set()


def test_setup_cell_does_nothing_outside_colab(machine):
    path = machine.folder / "elsewhere.ipynb"
    path.write_text(notebook_of(setup_cell.source(setup_cell.PLACEHOLDER, "0.0.0")))
    del machine.environment["PYTHONPATH"]

    result = machine.nbval(path)

    assert result.returncode == 0, result.stdout
    assert machine.own_packages() == set()


def test_setup_cell_keeps_the_installed_torch(machine, tmp_path):
    """A package that asks for another torch makes the cell fail; torch is not replaced."""
    clone = tmp_path / "greedy"
    clone.mkdir()
    project = colab.copy_of_tree(clone) / "pyproject.toml"
    project.write_text(project.read_text().replace('"torch>=2.6"', '"torch>=99"'))
    machine.environment["GIT_CONFIG_KEY_0"] = f"url.file://{colab.tagged(clone)}.insteadOf"
    machine.environment["PIP_LOG"] = str(tmp_path / "pip.log")
    path = machine.folder / "greedy.ipynb"
    path.write_text(notebook_of(setup_cell.source(colab.ADDRESS, repository.version())))

    result = machine.nbval(path)

    assert result.returncode == 1
    assert "CalledProcessError" in result.stdout
    log = (tmp_path / "pip.log").read_text()
    assert f"The user requested torch=={importlib.metadata.version('torch')}" in log
    assert "depends on torch>=99" in log
    assert machine.own_packages() == set()


def test_imitation_has_no_checkout_and_lacks_what_colab_lacks(installed):
    names = {path.name for path in installed.iterdir()}
    assert {"torch", "numpy", "pip", "nbval"} <= names
    assert not {"slimcnn", *colab.LACKS} & names
    assert not [name for name in names if name.startswith("__editable__")]
    assert sysconfig.get_path("purelib").startswith(sys.prefix)


def notebook_of(source):
    """A notebook with one code cell, as JSON."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": source}
    metadata = {"kernelspec": lesson.KERNELSPEC, "language_info": lesson.LANGUAGE}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": metadata}
    return json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5})
