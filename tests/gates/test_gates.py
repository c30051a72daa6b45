"""Each step of `make test` is green on a small book, and red once its kind of fault is planted."""

import re

import pytest

import mini

LESSON = "chapters/01-mini/mini.py"
NOTEBOOK = "chapters/01-mini/mini.ipynb"

# Of the Colab-like tests, only the one that runs the lessons.
LESSONS_ONLY = {"PYTEST_ADDOPTS": "-k lesson_runs"}


def test_without_a_fault_the_quick_steps_are_green(make):
    for target in ("lint", "test-unit", "test-notebooks", "notebooks"):
        green, said = make(target, CI="true")
        assert green, said


def test_without_a_fault_the_lesson_runs(make):
    green, said = make("test-lessons", CI="true", **LESSONS_ONLY)
    assert green, said
    assert "1 passed" in said


def test_without_a_fault_the_site_builds(tree, make):
    green, said = make("site")
    assert green, said
    assert (tree / "_build" / "html" / "chapters" / "01-mini" / "mini.html").is_file()


def test_a_failing_cell_stops_the_generation_of_notebooks(tree, make):
    before = (tree / NOTEBOOK).read_bytes()
    mini.edit(tree / LESSON, "twice = 2 * 2", "twice = 2 / 0")
    green, said = make("notebooks")
    assert not green
    assert "ZeroDivisionError" in said
    assert "code cell 3 (chapters/01-mini/mini.py:" in said
    assert (tree / NOTEBOOK).read_bytes() == before


def test_a_cell_that_fails_when_it_runs_again_is_found(tree, make):
    mini.edit(tree / "utils" / "slimcnn" / "__init__.py", "__version__ =", "version =")
    green, said = make("test-lessons", **LESSONS_ONLY)
    assert not green
    assert "has no attribute '__version__'" in said


def test_an_output_that_differs_from_the_checked_one_is_found(tree, make):
    mini.edit(tree / NOTEBOOK, "twice two is 4", "twice two is 5")
    green, said = make("test-lessons", **LESSONS_ONLY)
    assert not green
    assert "Cell outputs differ" in said


@pytest.mark.parametrize(
    ("old", "new"), [("twice = 2 * 2", "twice = 2 + 2"), ("What is twice two?", "What is it?")]
)
def test_a_stale_notebook_is_found(tree, make, old, new):
    mini.edit(tree / LESSON, old, new)
    green, said = make("test-notebooks")
    assert not green
    assert "notebook_belongs_to_source" in said


def test_a_broken_reference_stops_the_site(tree, make):
    mini.edit(tree / "book" / "index.md", "mini.ipynb)", "mini.ipynb), see [](#nowhere)")
    green, said = make("site")
    assert not green
    assert "nowhere" in said
    assert "WARNING" in said


def test_a_dead_internal_link_stops_the_site(tree, make):
    mini.edit(tree / "book" / "index.md", "lesson:", 'lesson, <a href="gone.html">gone</a>:')
    green, said = make("site")
    assert not green
    assert "book/index.html: gone.html does not exist" in said


SKIPS = {
    "mark": "import pytest\n\n\n@pytest.mark.skip(reason='x')\ndef test_x():\n    assert True\n",
    "body": "import pytest\n\n\ndef test_x():\n    pytest.skip('x')\n",
    "module": "import pytest\n\npytest.importorskip('no_such_module')\n",
}


def test_a_skipped_test_is_a_failure_in_ci_and_only_there(tree, make):
    for name, text in SKIPS.items():
        (tree / "tests" / "unit" / f"test_{name}.py").write_text(text)
    green, said = make("test-unit")
    assert green, said
    assert "1 passed, 3 skipped" in said
    all_of_them = {"PYTEST_ADDOPTS": "--continue-on-collection-errors"}
    green, said = make("test-unit", CI="true", **all_of_them)
    assert not green
    for name in SKIPS:
        assert re.search(rf"test_{name}\.py\S* was skipped, and CI allows no skip", said)


def test_a_fault_in_style_is_found(tree, make):
    mini.edit(tree / LESSON, "import slimcnn", "import os\nimport slimcnn")
    green, said = make("lint")
    assert not green
    assert "F401" in said


def test_steps_stop_at_the_first_that_fails(tree, make):
    (tree / "tests" / "unit" / "test_planted.py").write_text("def test_x():\n    assert 1 == 2\n")
    mini.edit(tree / LESSON, "import slimcnn", "import os\nimport slimcnn")
    green, said = make("test")
    assert not green
    assert "F401" in said
    assert "test_planted" not in said
