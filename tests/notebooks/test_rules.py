"""The rules themselves: a good lesson breaks none, and each fault is found by its rule."""

import base64
import shutil

import pytest

import lesson
import lesson_rules
import mini
import notebooks


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A tree with one executed lesson; do not change it."""
    root = mini.tree(tmp_path_factory.mktemp("tree"))
    path = mini.write(root)
    text, _ = notebooks.build(path)
    lesson.write(path.with_suffix(".ipynb"), text)
    return root


@pytest.fixture
def path(executed, tmp_path):
    """The source of an executed lesson, in a copy of the tree that a test may change."""
    shutil.copytree(executed, tmp_path / "tree")
    return tmp_path / "tree" / "chapters" / "01-mini" / "mini.py"


def broken(path):
    """The names of the rules that a lesson breaks."""
    item = lesson_rules.load(path)
    return {rule.__name__ for rule in lesson_rules.RULES if list(rule(item))}


def regenerate(path):
    """Write the notebook for an edited source without executing it: outputs stay as they are."""
    source = lesson.read_source(path)
    stored = lesson.read_notebook(path.with_suffix(".ipynb"))
    for cell, old in zip(lesson.code_cells(source), lesson.code_cells(stored), strict=False):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    lesson.write(path.with_suffix(".ipynb"), lesson.render(lesson.with_outputs(source, source)))


def change_stored(path, change):
    """Change the stored notebook behind the pipeline's back."""
    stored = lesson.read_notebook(path.with_suffix(".ipynb"))
    change(stored)
    lesson.write(path.with_suffix(".ipynb"), lesson.render(stored))


def test_a_good_lesson_keeps_every_rule(path):
    assert broken(path) == set()


BELONGS = "notebook_belongs_to_source"
GENERATED = "is_stored_as_generated"

EDITS = {
    "code changed": ("twice = 2 * 2", "twice = 2 + 2", {BELONGS}),
    "prose changed": ("What is twice two?", "What is it?", {BELONGS, GENERATED}),
    "a tag added": ('# %% tags=["claims"]', '# %% tags=["claims", "hide-input"]', None),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_source_without_its_notebook_is_found(path, edit):
    old, new, rules = EDITS[edit]
    mini.edit(path, old, new)
    assert broken(path) == (rules or {BELONGS, GENERATED})


def test_a_missing_notebook_is_found(path):
    path.with_suffix(".ipynb").unlink()
    assert broken(path) == {BELONGS, "checked_outputs_exist"}


def test_an_edited_output_is_found(path):
    def change(stored):
        lesson.code_cells(stored)[2].outputs[0].text = "twice two is 5\n"

    change_stored(path, change)
    assert broken(path) == {BELONGS}


def test_metadata_of_a_machine_is_found(path):
    def change(stored):
        stored.metadata.language_info.version = "3.11.7"

    change_stored(path, change)
    assert broken(path) == {GENERATED}


SOURCES = {
    "second heading": ("# What is twice two?", "# # Again", "prose_has_its_length"),
    "too few words": (mini.PROSE, "# Short.", "prose_has_its_length"),
    "too many words": (mini.PROSE, "\n".join([mini.PROSE] * 3), "prose_has_its_length"),
    "no heading on top": ("# # A mini lesson\n", "# A mini lesson\n", "prose_has_its_length"),
    "a long cell": ("twice = 2 * 2\n", "twice = 2 * 2\n" * 30, "code_cells_are_short"),
    "a wide line": ("twice = 2 * 2", "twice = 2 * 2  # " + "x" * 72, "code_cells_are_short"),
    "code without prose": ("# %% [markdown]\n# What we claim:\n", "", "code_follows_prose"),
    "a later import": ("twice = 2 * 2", "import os", "imports_come_first"),
    "a star import": ("import slimcnn", "from slimcnn import *", "imports_come_first"),
    "sys.path": ("import slimcnn", "import slimcnn\nsys.path.append('.')", "imports_come_first"),
    "no imports cell": ('# %% tags=["imports"]', "# %%", "imports_come_first"),
    "an unknown tag": ('["claims"]', '["nbval-skip"]', "tags_are_known"),
    "another address": ("/slim-cnns", "/slim-cnn", "setup_cell_is_the_books"),
    "another version": ("@v0.1.0", "@v0.0.9", "setup_cell_is_the_books"),
    "no claims": ("assert twice == 4", "twice", "checked_outputs_exist"),
    "nothing to compare": ('["claims"]', '["nbval-check-output"]', "checked_outputs_exist"),
}


@pytest.mark.parametrize("fault", SOURCES)
def test_a_fault_in_the_source_is_found_by_its_rule_alone(path, fault):
    old, new, rule = SOURCES[fault]
    mini.edit(path, old, new)
    regenerate(path)
    # Without its tag the imports cell is a code cell that follows a code cell.
    also = {"code_follows_prose"} if fault == "no imports cell" else set()
    assert broken(path) == {rule} | also


def store_output(path, output):
    """Store an output of the third code cell as if the lesson had printed it."""

    def change(stored):
        lesson.code_cells(stored)[2].outputs = [lesson.NotebookNode(output)]
        stored.metadata.slimcnn.outputs = lesson.outputs_hash(stored)

    change_stored(path, change)


def stream(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def image(size):
    data = {"image/png": base64.b64encode(bytes(size)).decode()}
    return {"output_type": "display_data", "data": data, "metadata": {}}


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}

OUTPUTS = {
    "a path of the repository": (stream(f"{lesson.ROOT}/x"), GENERATED),
    "a path of the user": (stream(str(lesson.Path.home() / "x")), GENERATED),
    "a memory address": (stream("<object object at 0x7f3aa51b2810>"), GENERATED),
    "an error": (ERROR, "outputs_have_no_errors"),
    "a large figure": (image(60_001), "is_small"),
    "a large notebook": (stream("x" * 600_000), "is_small"),
}


@pytest.mark.parametrize("fault", OUTPUTS)
def test_a_fault_in_an_output_is_found_by_its_rule_alone(path, fault):
    output, rule = OUTPUTS[fault]
    store_output(path, output)
    assert broken(path) == {rule}


def test_a_figure_of_the_allowed_size_passes(path):
    store_output(path, image(60_000))
    assert broken(path) == set()
