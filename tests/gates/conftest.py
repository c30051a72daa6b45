"""A small copy of the book, on which the steps of `make test` run as they do on the real one."""

import os
import shutil
import subprocess
import sys

import pytest

import lesson
import mini
import notebooks
import repository
from lesson import ROOT

FILES = (
    *("Makefile", "pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", ".gitignore"),
    *("README.md", "LICENSE", "LICENSE-TEXT", "CITATION.cff", "_config.yml"),
    *("chapters/ruff.toml", "tests/conftest.py", "tests/mini.py"),
    *(
        "tests/notebooks/colab.py",
        "tests/notebooks/test_colab.py",
        "tests/notebooks/test_lessons.py",
    ),
)
FOLDERS = ("scripts", "utils", "book/_ext", "book/_static", "tests/notebooks/fake_colab")

INDEX = """\
# A small book

It has one lesson: [a mini lesson](../chapters/01-mini/mini.ipynb).
"""

TOC = """\
format: jb-book
root: book/index
parts:
  - caption: One
    chapters:
      - file: chapters/01-mini/mini
"""

UNIT_TEST = "def test_sum():\n    assert 1 + 1 == 2\n"


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """The small book, complete and without fault; do not change it."""
    root = tmp_path_factory.mktemp("book") / "tree"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    ignored = shutil.ignore_patterns(
        "__pycache__", "*.egg-info", "vendor", "networks", "train_*", "screen_*"
    )
    for name in FOLDERS:
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    (root / "scripts" / "demo.py").write_text('"""The small book runs no networks."""\n')
    for name in ("results", "chapters/01-mini", "tests/unit", "tests/gates"):
        (root / name).mkdir()
    (root / "book" / "index.md").write_text(INDEX)
    (root / "book" / "references.bib").write_text("")
    (root / "_toc.yml").write_text(TOC)
    (root / "tests" / "unit" / "test_sum.py").write_text(UNIT_TEST)
    path = mini.write(root)
    lesson.write(path.with_suffix(".ipynb"), notebooks.build(path)[0])
    repository.apply(root, repository.address(root), repository.version(root))
    return root


@pytest.fixture
def tree(original, tmp_path):
    """A copy of the small book, for planting a fault in."""
    return shutil.copytree(original, tmp_path / "tree")


@pytest.fixture
def make(tree):
    """`make(target, **environment)` in the small book: whether it was green, and what it said."""

    def run(target, **variables):
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "MAKE"))
        }
        kept.pop("CI", None)
        command = ["make", target, f"PY={sys.executable}", "INSTALL=true", "JOBS=0"]
        done = subprocess.run(
            command,
            cwd=tree,
            env=kept | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode == 0, done.stdout

    return run
