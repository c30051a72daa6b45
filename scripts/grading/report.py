"""What the instructor gets: grades.csv, summary.md, and a page for those that were refused."""

import html
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbformat import NotebookNode

from .assignment import Assignment, Task
from .common import csv_text, number, write
from .inspection import mark
from .sandbox import Sandbox

if TYPE_CHECKING:
    from .pipeline import Entry

BAR = 40


@dataclass(frozen=True)
class Run:
    """One call.

    Attributes:
        executed: how many submissions ran now.
        seconds: how long everything took.
        box: where they ran.
        unmatched: files that are nobody's.
    """

    executed: int
    seconds: float
    box: Sandbox
    unmatched: list[str]


def grades(path: Path, entries: "Iterable[Entry]", assignment: Assignment) -> None:
    """One row for each student; what is not known is empty, never 0."""
    names = [task.name for task in assignment.tasks]
    header = ["student", "status", *names, "total", "maximum", "note"]
    rows = []
    for entry in entries:
        points = [_shown(entry.points.get(name)) for name in names]
        total = _shown(_total(entry))
        note = "; ".join([*entry.notes, *(f"stopped: {line}" for line in entry.limited)])
        maximum = number(assignment.maximum)
        rows.append([entry.student, entry.status, *points, total, maximum, note])
    write(path, csv_text(header, rows))


def summary(path: Path, entries: "list[Entry]", assignment: Assignment, run: Run) -> None:
    """The class at a glance, as Markdown."""
    count = Counter(entry.status for entry in entries)
    states = ", ".join(f"{n} {status}" for status, n in sorted(count.items()))
    lines = [
        f"# {assignment.topic}: {len(entries)} submissions",
        "",
        f"{states}. {run.executed} ran in this call, which took {run.seconds / 60:.1f} minutes.",
    ]
    if run.box.warning:
        lines += ["", "```", run.box.warning, "```"]
    known = [entry for entry in entries if entry.points]
    lines += _distribution(known, assignment) + _missed(known, assignment)
    lines += _section("Not graded", ((e, e.notes) for e in entries if not e.points))
    lines += _section("Notes", ((e, e.notes) for e in known))
    lines += _section("Stopped while running", ((e, e.limited) for e in entries))
    lines += _section(
        "To look at (no points were lost)",
        ((e, [f"uses {', '.join(e.flags)}"] if e.flags else []) for e in entries),
    )
    if run.unmatched:
        lines += ["", "## Files that are nobody's", ""]
        lines += [f"- {_line(name)}" for name in run.unmatched]
    write(path, "\n".join(lines) + "\n")


def refusal(entry: "Entry", assignment: Assignment) -> str:
    """The feedback page of a submission without points, or one that cannot be shown."""
    state = "This submission was not graded, so it has no points yet."
    if entry.points:
        state = "This submission was graded, and its page cannot be shown."
    notes = "".join(f"<p>{html.escape(note[:1].upper() + note[1:])}</p>" for note in entry.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(assignment.topic)}</title></head><body>\n"
        f"<h1>{html.escape(assignment.topic)}: {html.escape(entry.student)}</h1>\n"
        f"<p>{state}</p>\n{notes}\n"
        "</body></html>\n"
    )


def _total(entry: "Entry") -> float | None:
    """All points, or None as long as one task is to be read."""
    values = list(entry.points.values())
    return sum(values) if values and None not in values else None


def _shown(points: float | None) -> str:
    return "" if points is None else number(points)


def _distribution(entries: "list[Entry]", assignment: Assignment) -> list[str]:
    if not entries:
        return []
    so_far = [sum(p for p in e.points.values() if p is not None) for e in entries]
    unread = any(_total(e) is None for e in entries)
    step = max(1, -(-int(assignment.maximum) // 20))
    bins = Counter(int(total // step) for total in so_far)
    most = max(bins.values())
    lines = ["", "## Points", ""]
    if unread:
        lines += ["Open questions that are still to be read count nothing here.", ""]
    lines += [
        f"mean {statistics.mean(so_far):.1f}, median {statistics.median(so_far):.1f},"
        f" of {number(assignment.maximum)}",
        "",
        "```",
    ]
    for at in range(int(assignment.maximum // step), -1, -1):
        label = f"{at * step}" if step == 1 else f"{at * step}–{at * step + step - 1}"
        bar = "#" * round(BAR * bins[at] / most)
        lines.append(f"{label:>7} {bins[at]:4d} {bar}".rstrip())
    return [*lines, "```"]


def _missed(entries: "list[Entry]", assignment: Assignment) -> list[str]:
    if not entries:
        return []
    rows = []
    for task in assignment.tasks:
        read = [e for e in entries if e.points.get(task.name) is not None]
        missed = [e for e in read if e.points[task.name] < task.points]
        messages = Counter(m for e in missed if (m := _message(e.notebook, task)))
        share = len(missed) / len(read) if read else 0
        often = messages.most_common(1)
        said = f"{_line(often[0][0])} ({often[0][1]}×)" if often else ""
        mean = statistics.mean(e.points[task.name] for e in read) if read else None
        shown = "to be read" if mean is None else f"{mean:.1f}"
        # a task that is still to be read says little; it comes last
        order = share if len(read) == len(entries) else -1
        rows.append(
            (order, f"| {task.name} | {share:.0%} | {shown} of {number(task.points)} | {said} |")
        )
    rows.sort(key=lambda row: -row[0])
    header = ["", "## Tasks, the most missed first", "", "| task | without full points | mean |"]
    header[-1] += " most frequent message |"
    return [*header, "|---|---|---|---|", *(row for *_, row in rows)]


def _message(notebook: NotebookNode, task: Task) -> str:
    cell = next(c for c in notebook.cells if mark(c) == task.name)
    errors = [o for o in cell.get("outputs", ()) if o.output_type == "error"]
    if not errors:
        return ""
    text = f"{errors[0].ename}: {errors[0].evalue}".strip().splitlines()
    return text[0][:160]


def _section(title: str, items: "Iterable[tuple[Entry, list[str]]]") -> list[str]:
    lines = [f"- {_line(e.student)}: {_line('; '.join(said))}" for e, said in items if said]
    return ["", f"## {title}", "", *lines] if lines else []


def _line(text: str) -> str:
    """Text of a student's on one line of Markdown, shown as it is."""
    flat = " ".join(text.split())
    for mark_up in "\\`*_{}[]<>|#":
        flat = flat.replace(mark_up, f"\\{mark_up}")
    return flat
