import json

import course
import pytest

from grading import inspection
from grading.assignment import load
from grading.common import GradingError, Refused


@pytest.fixture
def small(place):
    return load(place, course.TOPIC)


def refused(notebook, assignment):
    content = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
    with pytest.raises(Refused) as error:
        inspection.inspect(inspection.parse(content), assignment)
    return str(error.value)


def cell(notebook, name):
    return next(c for c in notebook.cells if inspection.mark(c) == name)


def test_tasks(small):
    assert [(t.name, t.points, t.is_open) for t in small.tasks] == [
        ("triple-check", 2, False),
        ("longest-check", 3, False),
        ("digits-check", 4, False),
        ("why", 3, True),
    ]
    assert small.maximum == 12


def test_unknown_assignment(place):
    with pytest.raises(GradingError, match="has small"):
        load(place, "large")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"nbformat": 4}'),
        *(b'{"cells": 3}', b'{"cells": [3]}', b'{"cells": [{"cell_type": "magic"}]}'),
    ],
)
def test_no_notebook(content, small):
    assert refused(content, small).startswith("this is no notebook")


def test_stripped_metadata_is_recognized(small):
    notebook = course.submission()
    for one in notebook.cells:
        one.metadata = {}
    message = refused(notebook, small)
    assert "triple, triple-check, longest, longest-check, digits, digits-check, why" in message
    assert "have lost the marks" in message
    assert "download the assignment's notebook anew" in message


def test_missing_and_stripped(small):
    notebook = course.submission()
    notebook.cells = [c for c in notebook.cells if inspection.mark(c) != "longest-check"]
    lost = cell(notebook, "triple")
    lost.metadata, lost["id"] = {}, "other"
    message = refused(notebook, small)
    assert "the cells triple are there but have lost the marks" in message
    assert "missing: longest-check." in message


def test_doubled(small):
    notebook = course.submission()
    notebook.cells.append(cell(notebook, "triple"))
    assert "the cells triple are there more than once" in refused(notebook, small)


def test_another_assignment(small):
    notebook = course.submission()
    for one in notebook.cells:
        if name := inspection.mark(one):
            one.metadata.nbgrader.grade_id = f"other-{name}"
    assert "another assignment's notebook" in refused(notebook, small)


def test_edited_and_deleted_cells_are_put_back(small):
    notebook = course.submission()
    cell(notebook, "triple-check").source = "pass"
    cell(notebook, "longest-check").metadata.nbgrader.points = 100
    cell(notebook, "digits-check")["cell_type"] = "markdown"
    notebook.cells = [c for c in notebook.cells if inspection.mark(c) != "parameters"]
    restored, notes = inspection.restore(notebook, small)
    for name in ("triple-check", "longest-check", "digits-check", "parameters"):
        found = cell(restored, name)
        assert found.source == small.cells[name].source
        assert found.cell_type == "code"
        assert found.metadata == small.cells[name].metadata
    assert cell(restored, "triple").source == course.RIGHT["triple"]
    order = [inspection.mark(c) for c in restored.cells if inspection.mark(c)]
    assert order == list(small.cells)
    assert notes == [
        "edited cells were put back: triple-check",
        "deleted read-only cells were put back: parameters",
    ]


def test_untouched_release_has_no_notes(small):
    assert inspection.restore(course.submission(), small)[1] == []


def test_forged_marks_vanish(small):
    forged = ("code", "1", course._marks("bonus", grade=True, points=50, locked=True))
    restored, _ = inspection.restore(course.submission(extra=[forged]), small)
    assert restored.cells[-1].metadata == {}


def test_flags(small):
    notebook = course.submission(before="import sys\nsys._getframe(1)\nctypes_like = 1")
    assert inspection.flags(notebook, small) == ["_getframe"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("training.evaluate = lambda *a: 99", ["training.evaluate ="]),
        ("  torch.Tensor.scatter_=f", ["torch.Tensor.scatter_="]),
        ("data.load('test')", ["load('test'"]),
        ("torch.manual_seed(0); x = torch.zeros(2) == 1; model.weight = w", []),
        ("np.random.seed = 3", ["np.random.seed ="]),
        ("assert torch.float32 == x.dtype", []),
    ],
)
def test_replaced_functions_and_test_images_are_flagged(small, code, found):
    assert inspection.flags(course.submission(before=code), small) == found


def test_another_assignments_notebook_that_shares_a_task(small):
    notebook = course.submission()
    notebook.metadata["slimcnn"] = {"assignment": "other"}
    del notebook.cells[2]
    with pytest.raises(Refused, match="notebook of the assignment 'other', not of 'small'"):
        inspection.inspect(notebook, small)
    notebook.metadata["slimcnn"] = ["no dictionary"]
    with pytest.raises(Refused, match="missing"):
        inspection.inspect(notebook, small)
