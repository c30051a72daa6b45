"""The source notebook of an assignment: what is graded, what is read-only, what it is worth."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader import utils

from .common import ROOT, GradingError

_HIDDEN = re.compile(r"(?ms)^[ \t]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?")
_UNANSWERED = {"", "YOUR ANSWER HERE"}


@dataclass(frozen=True)
class Task:
    """One graded cell.

    Attributes:
        name: its grade_id.
        points: what it is worth.
        is_open: an open question, read by a person.
    """

    name: str
    points: float
    is_open: bool


@dataclass(frozen=True)
class Assignment:
    """An assignment with its solutions and hidden tests.

    Attributes:
        topic: its name.
        path: the source notebook.
        notebook: its content.
        released: the notebook that students got, where there is one.
    """

    topic: str
    path: Path
    notebook: NotebookNode
    released: NotebookNode | None = None

    @cached_property
    def cells(self) -> dict[str, NotebookNode]:
        """The cells with a grade_id, in their order."""
        return _marked(self.notebook)

    @cached_property
    def tasks(self) -> list[Task]:
        """The graded cells, in their order."""
        return [
            Task(name, float(cell.metadata.nbgrader.points), utils.is_solution(cell))
            for name, cell in self.cells.items()
            if utils.is_grade(cell)
        ]

    @property
    def maximum(self) -> float:
        """All points together."""
        return sum(task.points for task in self.tasks)

    @cached_property
    def needed(self) -> list[str]:
        """The cells without which nothing can be graded: tests and answers."""
        return [n for n, c in self.cells.items() if utils.is_grade(c) or utils.is_solution(c)]

    def locked(self, name: str) -> bool:
        """Whether students must not change this cell."""
        return utils.is_locked(self.cells[name])

    def public(self, name: str) -> str:
        """A read-only cell's text as students got it: without hidden tests."""
        return public(self.cells[name].source)

    def unanswered(self, name: str, answer: str) -> bool:
        """Whether an open question's cell still holds what the release held."""
        released = _marked(self.released) if self.released else {}
        blank = {released[name].source.strip()} if name in released else set()
        return answer.strip() in _UNANSWERED | blank

    @cached_property
    def digest(self) -> str:
        """Changes with every change of the source or of the checks that it calls."""
        checks = sorted((ROOT / "utils" / "slimcnn" / "checks").rglob("*.py"))
        content = [self.path.read_bytes(), *(path.read_bytes() for path in checks)]
        return hashlib.sha256(b"\0".join(content)).hexdigest()


def public(source: str) -> str:
    """A cell's source without its hidden tests."""
    return _HIDDEN.sub("", source).strip()


def load(course: Path, topic: str) -> Assignment:
    """Read an assignment of a course folder.

    Raises:
        GradingError: there is none of that name, or its source cannot be graded by.
    """
    path = course / "source" / topic / f"{topic}.ipynb"
    if not re.fullmatch(r"[\w.-]+", topic) or not path.is_file():
        known = sorted(p.parent.name for p in (course / "source").glob("*/*.ipynb"))
        raise GradingError(
            f"ASSIGNMENT={topic!r}: {path} does not exist;"
            f" {course} has {', '.join(known) or 'no assignments'}"
        )
    assignment = Assignment(topic, path, _read(path))
    release = course / "release" / topic / f"{topic}.ipynb"
    if release.is_file():
        assignment = Assignment(topic, path, assignment.notebook, _read(release))
    names = [c.metadata.nbgrader.grade_id for c in assignment.notebook.cells if _name(c)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GradingError(f"{path}: more than one cell is called {', '.join(twice)}")
    if not assignment.tasks:
        raise GradingError(f"{path}: no cell is graded (nbgrader's grade and points)")
    return assignment


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat has no common error
        raise GradingError(f"{path} is no notebook: {error}") from error


def _name(cell: NotebookNode) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _marked(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {name: cell for cell in notebook.cells if (name := _name(cell))}
