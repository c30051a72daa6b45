"""Open questions: answers.csv, which the instructor fills in and nobody overwrites."""

import csv
import hashlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .common import GradingError, csv_text, harmless, number, write

COLUMNS = ("student", "task", "answer", "maximum", "points", "comment", "version")
# a spreadsheet cuts a cell at 32,767 characters
LONGEST = 30_000


@dataclass
class Answer:
    """One answer to an open question.

    Attributes:
        student: whose.
        task: the question's grade_id.
        text: what was answered.
        maximum: points that can be had.
        points: points given; None until somebody has read it.
        comment: for the student.
    """

    student: str
    task: str
    text: str
    maximum: float
    points: float | None = None
    comment: str = ""

    @property
    def version(self) -> str:
        """Changes with the text, so that points given to an older answer are noticed."""
        return "v" + hashlib.sha256(self.text.encode()).hexdigest()[:10]

    def row(self) -> list:
        """The row of answers.csv."""
        text = self.text
        if len(text) > LONGEST:
            text = text[:LONGEST] + " [cut here; the whole answer is in the notebook]"
        given = "" if self.points is None else number(self.points)
        maximum = number(self.maximum)
        return [self.student, self.task, text, maximum, given, self.comment, self.version]


def merge(path: Path, answers: Iterable[Answer]) -> dict[tuple[str, str], Answer]:
    """Take the points and comments of the file, and write it anew where something is new.

    Rows of students who are not in this call stay as they are. Where an answer has changed since
    it got points, it is to be read again, and the comment says what was given.

    Raises:
        GradingError: the file is not understood; it is left as it is.
    """
    known = _read(path)
    rows = [answer.row() for answer in known.values()]
    merged = {}
    for answer in answers:
        key = answer.student, answer.task
        old = known.get(key)
        if old is not None and old.seen == answer.version:
            answer.points, answer.comment = old.points, old.comment
        elif old is not None and old.points is not None:
            answer.comment = (
                f"[the answer changed; the one before got {number(old.points)}] {old.comment}"
            ).strip()
        elif old is not None:
            answer.points = answer.points if answer.points is not None else old.points
            answer.comment = answer.comment or old.comment
        merged[key] = answer
    table = known | merged
    new = [answer.row() for answer in table.values()]
    if not path.exists() or _shown(new) != _shown(rows) or len(new) != len(rows):
        write(path, csv_text(COLUMNS, new))
    return merged


@dataclass
class _Known(Answer):
    seen: str = ""

    def row(self) -> list:
        return [*super().row()[:-1], self.seen]


def _shown(rows: list[list]) -> list[tuple]:
    """Rows without their texts, which spreadsheets change on the way."""
    return sorted((row[0], row[1], *map(str, row[3:])) for row in rows)


def _read(path: Path) -> dict[tuple[str, str], _Known]:
    if not path.exists():
        return {}
    try:
        wide = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")  # "Unicode text"
        content = path.read_text("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        content = path.read_text("cp1252", errors="replace")  # an older spreadsheet saved it
    first = content.split("\n", 1)[0]
    comma = max((",", ";", "\t"), key=first.count)
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=comma)
    needed = {"student", "task", "maximum", "points", "comment", "version"}
    if lacking := sorted(needed - set(reader.fieldnames or ())):
        raise GradingError(
            f"{path} lacks the column(s) {', '.join(lacking)}, so points in it cannot be told; its"
            f" first line must be {','.join(COLUMNS)}. Nothing was changed."
        )
    known, wrong = {}, []
    for line, row in enumerate(reader, 2):
        values = {key: (row.get(key) or "").strip() for key in (*needed, "answer")}
        student, task = (_plain(values[key]) for key in ("student", "task"))
        maximum, points = _number(values["maximum"]), _number(values["points"])
        if not student and not task:
            continue
        if maximum is None or math.isnan(maximum):
            wrong.append(f"row {line} ({student}, {task}): maximum is {values['maximum']!r}")
        elif points is not None and not 0 <= points <= maximum:
            wrong.append(
                f"row {line} ({student}, {task}): points are {values['points']!r}, which is not a"
                f" number from 0 to {number(maximum)}"
            )
        elif (student, task) in known:
            wrong.append(f"row {line} ({student}, {task}): there is a row for this already")
        else:
            text, comment = _plain(values["answer"]), _plain(values["comment"])
            known[student, task] = _Known(
                student, task, text, maximum, points, comment, values["version"]
            )
    if wrong:
        shown = "\n  ".join(wrong[:10])
        raise GradingError(f"{path}:\n  {shown}\nMend these rows; nothing was changed.")
    return known


def _number(text: str) -> float | None:
    """A number with a point or a comma; None for an empty cell, NaN for anything else."""
    if not text:
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _plain(text: str) -> str:
    """Undo `harmless`."""
    return text[1:] if text[:1] == "'" and harmless(text[1:]) == text else text
