"""Points by nbgrader: its gradebook, its autograder (on notebooks that have run), its feedback."""

import ast
import html
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import nbformat
from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import clean_html
from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    DeduplicateIds,
    GetGrades,
    LockCells,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
    SaveCells,
)
from sqlalchemy.exc import SAWarning
from traitlets.config import Config

from .answers import Answer
from .assignment import Assignment, public
from .common import GradingError, number, write

EXECUTED = "executed"
# characters of a text that is rendered; some texts take time that grows with the square of it
LONGEST = 20_000


class Scorer:
    """The gradebook of one assignment, in a folder of its own.

    Restored and executed notebooks lie in `executed/STUDENT/TOPIC/TOPIC.ipynb`; nbgrader restores
    once more, reads the outputs, and keeps the points.
    """

    def __init__(self, out: Path, assignment: Assignment) -> None:
        self.out, self.assignment = out, assignment
        self.database = out / "gradebook.db"
        self.url = f"sqlite:///{self.database}"
        # nbgrader asks for alembic by its name alone
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        stamp = out / "source" / "digest"
        if (
            not (stamp.is_file() and self.database.is_file())
            or stamp.read_text() != assignment.digest
        ):
            # points of another source mean nothing: what people gave is in answers.csv
            self.database.unlink(missing_ok=True)
            shutil.rmtree(out / "autograded", ignore_errors=True)
            source = out / "source" / assignment.topic / f"{assignment.topic}.ipynb"
            write(source, nbformat.writes(assignment.notebook))
            self._convert(GenerateAssignment, ".")
            write(stamp, assignment.digest)

    def autograde(self, student: str) -> None:
        """Let nbgrader compute the points of an executed notebook."""
        self._convert(Autograde, student)

    def read(self, answers: Mapping[tuple[str, str], Answer], students: list[str]) -> None:
        """Put the points that people gave into the gradebook."""
        topic, wanted = self.assignment.topic, set(students)
        with Gradebook(self.url) as gradebook:
            for (student, task), answer in answers.items():
                if student not in wanted:
                    continue
                grade = gradebook.find_grade(task, topic, topic, student)
                comment = gradebook.find_comment(task, topic, topic, student)
                grade.manual_score = answer.points
                grade.needs_manual_grade = answer.points is None
                comment.manual_comment = None if answer.points is None else answer.comment
            gradebook.db.commit()

    def points(self, student: str) -> dict[str, float | None]:
        """Task → points; None where a person has to read it."""
        topic = self.assignment.topic
        with Gradebook(self.url) as gradebook:
            grades = gradebook.find_submission_notebook(topic, topic, student).grades
            return {g.name: None if g.needs_manual_grade else g.score for g in grades}

    def comments(self, student: str) -> str:
        """What people wrote to this student, in one text."""
        topic = self.assignment.topic
        with Gradebook(self.url) as gradebook:
            comments = gradebook.find_submission_notebook(topic, topic, student).comments
            return "\0".join(sorted(f"{c.name}: {c.comment}" for c in comments))

    def feedback(self, student: str) -> None:
        """Write feedback/STUDENT.html."""
        self._convert(GenerateFeedback, student)
        topic, folder = self.assignment.topic, self.out / "feedback"
        page = folder / student / topic / f"{topic}.html"
        page.replace(folder / f"{student}.html")
        shutil.rmtree(folder / student)

    def _convert(self, converter: type, student: str) -> None:
        topic = self.assignment.topic
        config = Config()
        config.CourseDirectory = Config(
            root=str(self.out),
            db_url=self.url,
            assignment_id=topic,
            student_id=student,
            submitted_directory=EXECUTED,
        )
        config.GenerateAssignment.preprocessors = [
            LockCells,
            ClearSolutions,
            ClearOutput,
            CheckCellMetadata,
            ComputeChecksums,
            SaveCells,
        ]
        # nothing is executed here, and the outputs stay
        config.Autograde.sanitize_preprocessors = [
            DeduplicateIds,
            OverwriteKernelspec,
            OverwriteCells,
            CheckCellMetadata,
        ]
        config.Autograde.autograde_preprocessors = [SaveAutoGrades, CheckCellMetadata]
        config.GenerateFeedback.preprocessors = [GetGrades, Discreet, CSSHTMLHeaderPreprocessor]
        config.HTMLExporter.sanitize_html = True
        course = CourseDirectory(config=config)
        tool = converter(coursedir=course, config=config)
        tool.force = True
        if converter is GenerateFeedback:
            tool.export_class = tool.exporter_class = SafePage
        log = logging.Logger("nbgrader")
        log.addHandler(_Memory())
        tool.log = course.log = log
        try:
            with warnings.catch_warnings():
                # about an order of writing within nbgrader that does no harm
                warnings.simplefilter("ignore", SAWarning)
                tool.start()
        except Exception as error:
            said = " ".join(log.handlers[0].lines)[-2000:]
            raise GradingError(f"nbgrader failed on {student}: {error} {said}") from error


class SafePage(HTMLExporter):
    """A page in which nothing of a student's runs: nbgrader's template cleans no Markdown."""

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """Markdown as HTML, without what could run or lead away; a very long text as it is."""
        if len(source) > LONGEST:
            return f"<pre>{html.escape(source[:LONGEST])}\n[cut here]</pre>"
        return clean_html(super().markdown2html(context, source))


class Discreet(NbGraderPreprocessor):
    """Feedback without the hidden tests: neither their source nor their lines in a traceback."""

    def preprocess(self, notebook: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Show what graded cells were for everybody, and of their errors what they say."""
        for cell in notebook.cells:
            if cell.cell_type == "code" and utils.is_grade(cell):
                if (shown := public(cell.source)) != cell.source.strip():
                    cell.source = f"{shown}\n# (further tests ran here)"
                for output in cell.outputs:
                    if output.output_type == "error":
                        output.traceback = [f"{output.ename}: {output.evalue}"]
        return notebook, resources


class _Memory(logging.Handler):
    """Keeps nbgrader's warnings and errors, for the case that it fails."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines = [*self.lines[-20:], record.getMessage()]


def assembled(notebook: NotebookNode, outputs: Mapping[int, list]) -> NotebookNode:
    """The notebook with the outputs that came out of the sandbox.

    In graded cells an error comes first and the last value counts only where the test ends in an
    expression, so that what student code displays during a test is not taken for its result.
    A warning on stderr costs no points.
    """
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        items = [nbformat.from_dict(item) for item in outputs.get(index, [])]
        cell.execution_count = index + 1 if items else None
        for item in items:
            if item.output_type == "execute_result":
                item.execution_count = cell.execution_count
        cell.outputs = _graded(cell, items) if utils.is_grade(cell) else items
    return notebook


def _graded(cell: NotebookNode, items: list[NotebookNode]) -> list[NotebookNode]:
    most = float(cell.metadata.nbgrader.points)
    errors = [item for item in items if item.output_type == "error"]
    values = [item for item in items if item.output_type == "execute_result"]
    rest = [item for item in items if item.output_type not in ("error", "execute_result")]
    for item in rest:
        if item.output_type == "stream":
            item.name = "stdout"
    value = values[-1:] if _ends_in_value(cell.source) and not errors else []
    for item in value:
        points = None
        with suppress(ValueError):
            points = float(item.data.get("text/plain", ""))
        if points is None:
            value = []  # no number: nbgrader gives all points, with a warning
        elif math.isnan(points) or not 0 <= points <= most:
            text = f"the test's value is {points}, not from 0 to {number(most)}"
            errors = [nbformat.v4.new_output("error", ename="Value", evalue=text, traceback=[text])]
            value = []
    return [*errors, *value, *rest]


def _ends_in_value(source: str) -> bool:
    with suppress(SyntaxError, ValueError):
        body = ast.parse(source).body
        return bool(body) and isinstance(body[-1], ast.Expr)
    return True
