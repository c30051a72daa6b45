"""A small course to grade, in plain Python, and what students might hand in."""

import contextlib
import copy
import json
from pathlib import Path

import nbformat
import psutil
from nbformat import v4

TOPIC = "small"


def _marks(name: str, **more) -> dict:
    marks = {"grade": False, "solution": False, "locked": False, "task": False}
    return {"nbgrader": {"grade_id": name, "schema_version": 3, **marks, **more}}


SOURCE = [
    ("markdown", "# Small\nThree tasks and a question.", {}),
    ("code", "FACTOR = 3", _marks("parameters", locked=True)),
    (
        "code",
        "def triple(x):\n    ### BEGIN SOLUTION\n    return FACTOR * x\n    ### END SOLUTION",
        _marks("triple", solution=True),
    ),
    (
        "code",
        "assert triple(1) == 3, f'triple(1) is {triple(1)}; 3 was asked'\n"
        "### BEGIN HIDDEN TESTS\nassert triple(-2) == -6, 'negative numbers'\n### END HIDDEN TESTS",
        _marks("triple-check", grade=True, locked=True, points=2),
    ),
    (
        "code",
        "def longest(words):\n    ### BEGIN SOLUTION\n    return max(words, key=len)\n"
        "    ### END SOLUTION",
        _marks("longest", solution=True),
    ),
    (
        "code",
        "assert longest(['a', 'bcd', 'ef']) == 'bcd', 'the longest of a, bcd, ef'",
        _marks("longest-check", grade=True, locked=True, points=3),
    ),
    (
        "code",
        "def digits(n):\n    ### BEGIN SOLUTION\n    return len(str(abs(n)))\n    ### END SOLUTION",
        _marks("digits", solution=True),
    ),
    (
        "code",
        "sum(digits(n) == d for n, d in [(7, 1), (-42, 2), (100, 3), (0, 1)])",
        _marks("digits-check", grade=True, locked=True, points=4),
    ),
    ("markdown", "Because it is odd.", _marks("why", grade=True, solution=True, points=3)),
]
RIGHT = {
    "triple": "def triple(x):\n    return x + x + x",
    "longest": "def longest(words):\n    return sorted(words, key=len)[-1]",
    "digits": "def digits(n):\n    return len(str(n).lstrip('-'))",
    "why": "Since three is.",
}
# what the release holds
BLANK = {
    "triple": "def triple(x):\n    raise NotImplementedError('your turn')",
    "longest": "def longest(words):\n    raise NotImplementedError('your turn')",
    "digits": "def digits(n):\n    raise NotImplementedError('your turn')",
    "why": "*Your answer.*",
}
FULL = {"triple-check": 2.0, "longest-check": 3.0, "digits-check": 4.0, "why": None}


def _notebook(cells) -> nbformat.NotebookNode:
    made = []
    for kind, source, metadata in cells:
        new = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
        made.append(new(source, metadata=copy.deepcopy(metadata)))
        made[-1]["id"] = f"id-{len(made)}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=made, metadata={"kernelspec": kernel})


def write_course(folder: Path, topic: str = TOPIC) -> Path:
    """source/ and release/ of the small assignment."""
    for kind, notebook in (("source", _notebook(SOURCE)), ("release", submission(BLANK))):
        path = folder / kind / topic / f"{topic}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    return folder


def submission(answers=(), *, before="", extra=()) -> nbformat.NotebookNode:
    """What a student hands in: right answers, but for those given.

    Args:
        answers: grade_id → source of that cell instead of the right one.
        before: code in a cell of the student's own, at the start.
        extra: more cells of the student's own, (kind, source, metadata).
    """
    hidden = "\n### BEGIN HIDDEN TESTS"
    given = {**RIGHT, **dict(answers)}
    cells = [
        (
            kind,
            given.get(metadata.get("nbgrader", {}).get("grade_id"), source.split(hidden)[0]),
            metadata,
        )
        for kind, source, metadata in SOURCE
    ]
    if before:
        cells.insert(0, ("code", before, {}))
    return _notebook([*cells, *extra])


def hand_in(folder: Path, **notebooks) -> Path:
    """STUDENT/TOPIC/TOPIC.ipynb for each."""
    for student, notebook in notebooks.items():
        path = folder / student / TOPIC / f"{TOPIC}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = notebook if isinstance(notebook, str) else json.dumps(notebook)
        path.write_text(content)
    return folder


def graded(sources) -> nbformat.NotebookNode:
    """A notebook in which each cell is graded."""
    cells = [
        ("code", source, _marks(f"cell-{i}", grade=True, locked=True, points=1))
        for i, source in enumerate(sources)
    ]
    return _notebook(cells)


def running(mark: str) -> int:
    """How many processes have this word on their command line."""
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            count += mark in process.cmdline()
    return count
