"""One address, in `_config.yml`; whatever is derived from it follows, and nothing else."""

import json
import re
import shutil

import pytest

import lesson
import mini
import notebooks
import repository
import setup_cell
from repository import RepositoryError, validate

MINE = "https://github.com/ada-l/my.book"
PLACEHOLDER = setup_cell.PLACEHOLDER

README = f"""\
[![tests]({PLACEHOLDER}/actions/workflows/ci.yml/badge.svg)]({PLACEHOLDER}/actions)

    git clone {PLACEHOLDER}.git
    pip install git+{PLACEHOLDER}@v0.1.0

Read it at https://slim_cnns.github.io/slim-cnns/ or [in Colab]
(https://colab.research.google.com/github/slim_cnns/slim-cnns/blob/main/x.ipynb), see {PLACEHOLDER}.
Another book: https://github.com/other/slim-cnns-two, https://example.org/slim-cnns.

<!-- lessons -->
<!-- /lessons -->
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tree with every kind of page, and one executed lesson; do not change it."""
    root = mini.tree(tmp_path_factory.mktemp("tree"))
    (root / "_config.yml").write_text(
        f"title: x\nrepository:\n  # a remark\n  url: {PLACEHOLDER}\n  branch: main\nhtml: {{}}\n"
    )
    (root / "README.md").write_text(README)
    (root / "CITATION.cff").write_text(f"version: 0.1.0\nrepository-code: {PLACEHOLDER}\n")
    (root / "book").mkdir()
    (root / "book" / "setup.md").write_text(f"See [the code]({PLACEHOLDER}/issues).\n")
    (root / "utils" / "slimcnn").mkdir(parents=True)
    (root / "utils" / "slimcnn" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    path = mini.write(root)
    lesson.write(path.with_suffix(".ipynb"), notebooks.build(path)[0])
    repository.apply(root, PLACEHOLDER, "0.1.0")  # the README's table
    return root


@pytest.fixture
def root(original, tmp_path):
    """A copy of the tree that a test may change."""
    return shutil.copytree(original, tmp_path / "tree")


def texts(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def stored(root):
    return (root / "chapters" / "01-mini" / "mini.ipynb").read_text()


def test_a_new_address_reaches_every_page_and_executes_nothing(root, monkeypatch):
    before = texts(root)
    monkeypatch.setattr(notebooks, "execute", None)  # calling it would fail

    written = repository.apply(root, MINE, "0.1.0")

    assert {str(path.relative_to(root)) for path in written} == {
        *("README.md", "CITATION.cff", "_config.yml", "book/setup.md"),
        *("chapters/01-mini/mini.py", "chapters/01-mini/mini.ipynb"),
    }
    after = "".join(p.read_text() for p in root.rglob("*") if p.is_file())
    assert "slim_cnns/slim" not in after
    assert repository.address(root) == MINE
    assert repository.disagreements(root) == []
    readme = (root / "README.md").read_text()
    assert f"[![tests]({MINE}/actions/workflows/ci.yml/badge.svg)]({MINE}/actions)" in readme
    assert f"git clone {MINE}.git" in readme
    assert "https://ada-l.github.io/my.book/" in readme
    assert f"see {MINE}." in readme
    colab = "https://colab.research.google.com/github/ada-l/my.book/blob/main/"
    assert f"{colab}x.ipynb)" in readme
    assert f"{colab}chapters/01-mini/mini.ipynb)" in readme
    assert "| 1 Mini | [A mini lesson](chapters/01-mini/mini.ipynb) |" in readme
    assert "https://github.com/other/slim-cnns-two, https://example.org/slim-cnns." in readme

    source = root / "chapters" / "01-mini" / "mini.py"
    assert notebooks.check(source) is None
    old, new = (json.loads(t) for t in (before["chapters/01-mini/mini.ipynb"], stored(root)))
    assert [c.get("outputs") for c in old["cells"]] == [c.get("outputs") for c in new["cells"]]
    assert f'REPOSITORY = "{MINE}"' in "".join(new["cells"][1]["source"])


def test_the_notebooks_of_assignments_follow(root):
    source = root / "assignments/source/tiny/tiny.py"
    source.parent.mkdir(parents=True)
    cell = setup_cell.percent_cell(PLACEHOLDER, "0.1.0")
    source.write_text(f'{cell}\n# %% tags=["parameters"]\nSIZE = 3\n')
    repository.apply(root, MINE, "0.2.0")
    assert f'REPOSITORY = "{MINE}"' in source.read_text()
    for kind in ("source", "release"):
        notebook = json.loads((root / f"assignments/{kind}/tiny/tiny.ipynb").read_text())
        text = "".join(notebook["cells"][0]["source"])
        assert f'REPOSITORY = "{MINE}"' in text and "@v0.2.0" in text
    assert repository.apply(root, MINE, "0.2.0") == []


def test_setting_it_again_changes_nothing_and_setting_it_back_restores(root):
    before = texts(root)
    repository.apply(root, MINE, "0.1.0")
    once = texts(root)
    assert repository.apply(root, MINE, "0.1.0") == []
    assert texts(root) == once
    repository.apply(root, PLACEHOLDER, "0.1.0")
    assert texts(root) == before


def test_on_another_host_the_readme_links_without_colab_buttons(root):
    repository.apply(root, "https://git.example.edu/cs/slim", "0.1.0")
    table = (root / "README.md").read_text().split("<!-- lessons -->")[1]
    assert "| 1 Mini | [A mini lesson](chapters/01-mini/mini.ipynb) |  |" in table
    assert repository.disagreements(root) == []


def test_the_readme_lists_what_the_table_of_contents_lists_in_its_order(root):
    mini.write(root, "another", "Another lesson")
    mini.write(root, "draft", "A draft")
    files = [f"      - file: chapters/01-mini/{name}\n" for name in ("mini", "another")]
    (root / "_toc.yml").write_text("".join(files))
    titles = re.findall(r"\| \[([^!]+?)\]", repository.lesson_table(root, MINE))
    assert titles == ["A mini lesson", "Another lesson"]


def test_a_new_version_reaches_every_page(root):
    repository.apply(root, PLACEHOLDER, "1.2.3")
    assert repository.version(root) == "1.2.3"
    assert (root / "CITATION.cff").read_text().startswith("version: 1.2.3\n")
    assert '__version__ = "1.2.3"' in (root / "utils" / "slimcnn" / "__init__.py").read_text()
    assert "@v1.2.3" in stored(root)
    assert f"pip install git+{PLACEHOLDER}@v1.2.3\n" in (root / "README.md").read_text()
    assert repository.disagreements(root) == []


@pytest.mark.parametrize(
    ("page", "old", "new"),
    [
        ("README.md", "slim_cnns/slim-cnns/actions", "someone/slim-cnns/actions"),
        ("README.md", "github/slim_cnns/slim-cnns/blob", "github/someone/slim-cnns/blob"),
        ("README.md", "A mini lesson", "An older title"),
        ("CITATION.cff", "0.1.0", "0.0.9"),
        ("book/setup.md", "slim_cnns", "someone"),
        ("chapters/01-mini/mini.py", "slim_cnns/slim-cnns", "someone/slim-cnns"),
        ("chapters/01-mini/mini.py", "@v0.1.0", "@v0.0.9"),
        ("chapters/01-mini/mini.py", "--quiet", "--upgrade"),
        ("utils/slimcnn/__init__.py", "0.1.0", "0.0.9"),
    ],
)
def test_a_page_that_disagrees_is_found(root, page, old, new):
    assert repository.disagreements(root) == []
    mini.edit(root / page, old, new)
    assert repository.disagreements(root) == [page]


def test_a_stale_notebook_is_refused_before_anything_is_written(root):
    mini.edit(root / "chapters" / "01-mini" / "mini.py", "2 * 2", "2 + 2")
    before = texts(root)
    with pytest.raises(lesson.LessonError, match="run `make notebooks` first"):
        repository.apply(root, MINE, "0.1.0")
    assert texts(root) == before


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        (MINE, MINE),
        (f"{MINE}/", MINE),
        (f"{MINE}.git", MINE),
        (PLACEHOLDER, PLACEHOLDER),
        ("https://gitlab.com/group/sub/book", "https://gitlab.com/group/sub/book"),
        ("https://git.sr.ht/~ada/book", "https://git.sr.ht/~ada/book"),
        ("https://git.example.edu:8443/cs/book", "https://git.example.edu:8443/cs/book"),
    ],
)
def test_an_address_that_git_can_clone_is_taken(given, clean):
    assert validate(given) == clean


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ada/book",
        "github.com/ada/book",
        "http://github.com/ada/book",
        "git@github.com:ada/book.git",
        "https://github.com/ada",
        "https://github.com/ada/book/tree/main",
        "https://github.com/ada_l/book",
        "https://github.com/-ada/book",
        "https://github.com/ada/..",
        "https://user:secret@github.com/ada/book",
        "https://github.com/ada/book?x=1",
        "https://gitlab.com/ada/book#x",
        "https://gitlab.com/slim_cnns/slim-cnns",
        'https://github.com/ada/b"; import os; "',
        "https://localhost/ada/book",
        "https://git.example.org/" + "a" * 40 + "/book-of-slim-networks",
    ],
)
def test_another_address_is_refused_with_what_is_allowed(url):
    with pytest.raises(RepositoryError, match=r"Nothing was changed"):
        validate(url)


def test_the_setup_cell_fits_a_lesson():
    lines = setup_cell.source("https://github.com/" + "a" * 54, "10.10.10").splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 88
