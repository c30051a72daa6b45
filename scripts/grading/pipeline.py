"""From a folder of submissions to grades: collect, inspect, run in parallel, score, report."""

import concurrent.futures
import fcntl
import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode
from tqdm import tqdm

from . import answers, canary, inspection, report, sandbox
from .assignment import Assignment, load
from .collect import Collected, collect
from .common import GradingError, Limits, Refused, write
from .execute import Broken, Execution, Stopped, execute
from .score import EXECUTED, Scorer, assembled


@dataclass
class Entry:
    """One student's submission on its way.

    Attributes:
        student: whose.
        status: `graded`, `to be read`, `refused`, `failed`; empty while it is under way.
        notes: for the instructor; where it was refused, also for the student.
        flags: names in the code to look at.
        limited: what was stopped while it ran.
        key: changes with the submission, the source and the limits.
        notebook: restored, then with outputs.
        points: task → points, None where a person must read.
    """

    student: str
    status: str = ""
    notes: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    limited: list[str] = field(default_factory=list)
    key: str = ""
    notebook: NotebookNode | None = None
    points: dict[str, float | None] = field(default_factory=dict)

    def refuse(self, why: str) -> None:
        """Nothing is graded; the note says why."""
        self.status, self.notebook, self.notes = "refused", None, [why]


def grade(
    course: Path,
    topic: str,
    submissions: Path,
    out: Path,
    *,
    pattern: str | None = None,
    jobs: int | None = None,
    limits: Limits | None = None,
    box: sandbox.Sandbox | None = None,
) -> list[Entry]:
    """Grade a class; what has been done before and has not changed is not done again.

    Args:
        course: folder with source/TOPIC/TOPIC.ipynb.
        topic: the assignment.
        submissions: folder or zip.
        out: where everything goes.
        pattern: regular expression for names of another form, with a group `student`.
        jobs: how many run at a time; as many as there are cores.
        limits: what each may use.
        box: the sandbox; the strongest that works here.

    Raises:
        GradingError: the class cannot be graded as things are.
        KeyboardInterrupt: it was interrupted; all sandboxes have been ended.
    """
    began = time.monotonic()
    limits = limits or Limits()
    assignment = load(course, topic)
    out, given = out.resolve(), submissions.resolve()
    if given.is_dir() and (out.is_relative_to(given) or given.is_relative_to(out)):
        raise GradingError(
            f"OUT={out} and SUBMISSIONS={given} lie within each other, so the grader would read"
            " what it has written; give OUT another folder"
        )
    if out.exists() and not out.is_dir():
        raise GradingError(f"OUT={out} is a file; give a folder")
    collected = collect(submissions, topic, pattern)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GradingError(f"{out} is in use by another `make grade`") from None
        box = box or sandbox.find()
        if box.warning:
            tqdm.write(box.warning)
        scorer = Scorer(out, assignment)
        entries = _entries(collected, assignment, limits, out)
        todo = [e for e in entries if not e.status and not _resume(e, out)]
        _run(todo, jobs or _jobs(limits), limits, box, scorer)
        _score([e for e in entries if not e.status], scorer)
        _read([e for e in entries if e.status == "graded"], scorer)
        report.grades(out / "grades.csv", entries, assignment)
        _feedback(entries, scorer)
        run = report.Run(len(todo), time.monotonic() - began, box, collected.unmatched)
        report.summary(out / "summary.md", entries, assignment, run)
        if collected.unmatched:
            tqdm.write(f"{len(collected.unmatched)} files are nobody's; summary.md lists them")
    return entries


def _entries(
    collected: Collected, assignment: Assignment, limits: Limits, out: Path
) -> list[Entry]:
    """Every student who handed in, inspected."""
    entries = []
    for student, why in collected.refused.items():
        entries.append(Entry(student))
        entries[-1].refuse(why)
    for student, content in collected.notebooks.items():
        entry = Entry(student, notes=list(collected.notes.get(student, ())))
        entries.append(entry)
        place = out / "submitted" / student / assignment.topic / f"{assignment.topic}.ipynb"
        if not place.is_file() or place.read_bytes() != content:
            write(place, content)
        settings = json.dumps([limits.as_dict(), canary.CANARIES], sort_keys=True)
        parts = (content, assignment.digest.encode(), settings.encode())
        entry.key = hashlib.sha256(b"\0".join(parts)).hexdigest()
        try:
            notebook = inspection.parse(content)
            inspection.inspect(notebook, assignment)
        except Refused as refusal:
            entry.refuse(str(refusal))
            continue
        entry.flags = inspection.flags(notebook, assignment)
        entry.notebook, notes = inspection.restore(notebook, assignment)
        entry.notes += notes
    return sorted(entries, key=lambda entry: entry.student.casefold())


def _jobs(limits: Limits) -> int:
    """As many as there are cores, and as memory holds when all use what they may."""
    cores = len(os.sched_getaffinity(0))
    fitting = int(psutil.virtual_memory().available // limits.memory)
    return max(1, min(cores, fitting))


def _run(entries: list[Entry], jobs: int, limits: Limits, box, scorer: Scorer) -> None:  # noqa: ANN001
    """Run what is missing; each result is stored as soon as it is there."""
    stop = threading.Event()

    def work(entry: Entry) -> Execution:
        if stop.is_set():
            raise Stopped
        return execute(entry.notebook, limits, box, stop)

    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(work, entry): entry for entry in entries}
        finished = concurrent.futures.as_completed(futures)
        for future in tqdm(finished, "running", len(futures), unit="submission"):
            entry = futures[future]
            try:
                execution = future.result()
            except (Broken, OSError, RuntimeError, ValueError) as error:
                entry.status, entry.notebook = "failed", None
                entry.notes = [f"the grader failed, not the student: {error}. Grade again."]
                continue
            _store(entry, execution, scorer)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _store(entry: Entry, execution: Execution, scorer: Scorer) -> None:
    notebook = assembled(entry.notebook, execution.outputs)
    write(_place(entry, scorer.out, scorer.assignment.topic), nbformat.writes(notebook))
    result = {"key": entry.key, "hides_errors": execution.hides_errors}
    result |= {"limited": execution.limited, "seconds": execution.seconds}
    write(scorer.out / EXECUTED / entry.student / "result.json", json.dumps(result))
    _use(entry, result)


def _resume(entry: Entry, out: Path) -> bool:
    """Take an earlier result of the same submission, source and limits, if there is one."""
    try:
        result = json.loads((out / EXECUTED / entry.student / "result.json").read_text())
        if result["key"] != entry.key:
            return False
        topic = next((out / EXECUTED / entry.student).glob("*/*.ipynb"))
        entry.notebook = nbformat.read(topic, as_version=4)
    except (OSError, ValueError, KeyError, StopIteration):
        return False
    _use(entry, result)
    return True


def _use(entry: Entry, result: dict) -> None:
    entry.limited = result["limited"]
    if result["hides_errors"]:
        entry.refuse(canary.HIDDEN)


def _place(entry: Entry, out: Path, topic: str) -> Path:
    return out / EXECUTED / entry.student / topic / f"{topic}.ipynb"


def _score(entries: list[Entry], scorer: Scorer) -> None:
    for entry in tqdm(entries, "scoring", unit="submission"):
        stamp = scorer.out / "autograded" / entry.student / "key"
        try:
            if not stamp.is_file() or stamp.read_text() != entry.key:
                stamp.unlink(missing_ok=True)
                scorer.autograde(entry.student)
                write(stamp, entry.key)
        except GradingError as error:
            entry.status, entry.notebook, entry.notes = "failed", None, [str(error)]
        else:
            entry.status = "graded"


def _read(entries: list[Entry], scorer: Scorer) -> None:
    """Open questions: what people gave, and what is still to be read."""
    assignment, found = scorer.assignment, []
    for entry in entries:
        texts = {inspection.mark(cell): cell.source for cell in entry.notebook.cells}
        for task in (task for task in assignment.tasks if task.is_open):
            answer = answers.Answer(entry.student, task.name, texts[task.name], task.points)
            if assignment.unanswered(task.name, answer.text):
                answer.points, answer.comment = 0.0, "no answer"
            found.append(answer)
    if found:
        given = answers.merge(scorer.out / "answers.csv", found)
        scorer.read(given, [entry.student for entry in entries])
    for entry in entries:
        entry.points = scorer.points(entry.student)
        if unread := [name for name, points in entry.points.items() if points is None]:
            entry.status = "to be read"
            entry.notes.append(f"to be read: {', '.join(unread)}")


def _feedback(entries: list[Entry], scorer: Scorer) -> None:
    for entry in tqdm(entries, "feedback", unit="submission"):
        page = scorer.out / "feedback" / f"{entry.student}.html"
        if entry.notebook is None:
            write(page, report.refusal(entry, scorer.assignment))
            continue
        stamp = scorer.out / "autograded" / entry.student / "feedback"
        key = entry.key + scorer.comments(entry.student) + json.dumps(entry.points)
        if not page.is_file() or not stamp.is_file() or stamp.read_text() != key:
            try:
                scorer.feedback(entry.student)
            except GradingError as error:
                entry.notes.append(f"no feedback page could be made: {error}")
                write(page, report.refusal(entry, scorer.assignment))
                continue
            write(stamp, key)
