r"""Grade a class (`make grade ASSIGNMENT=pruning SUBMISSIONS=folder-or.zip`).

    python scripts/grade.py pruning submissions.zip
    python scripts/grade.py pruning folder --course assignments/course --out grades/autumn
    python scripts/grade.py pruning folder --pattern '(?P<student>[a-z]+)_hw2\.ipynb'

Each submission runs alone in a sandbox. Out come grades.csv, feedback/STUDENT.html, summary.md and,
for open questions, answers.csv: fill in its points and call the same again. When it was
interrupted, the same call goes on where it stopped.
"""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path

from grading.common import ROOT, GradingError, Limits
from grading.pipeline import grade


def main() -> int:
    """Grade; the exit status is 1 where nothing could be graded, 2 where the grader failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("assignment", help="the topic, as in pruning")
    parser.add_argument("submissions", help="a folder, or a zip of a learning platform")
    parser.add_argument("--course", type=Path, default=ROOT / "assignments", help="has source/")
    parser.add_argument("--out", type=Path, help="where grades go (default grades/ASSIGNMENT)")
    parser.add_argument("--pattern", help="regular expression with a group (?P<student>...)")
    parser.add_argument("--jobs", type=int, help="how many run at a time (default: cores)")
    parser.add_argument("--cell-seconds", type=float, default=Limits.cell)
    parser.add_argument("--notebook-seconds", type=float, default=Limits.notebook)
    given = parser.parse_args()
    if given.jobs is not None and not 1 <= given.jobs <= 32:
        parser.error(f"--jobs is {given.jobs}; 1 to 32 can run at a time")
    if not given.submissions.strip():
        parser.error("SUBMISSIONS is empty; give the folder or zip with the class's notebooks")
    out = given.out or ROOT / "grades" / given.assignment
    limits = dataclasses.replace(Limits(), cell=given.cell_seconds, notebook=given.notebook_seconds)
    # SIGINT too: a shell starts its background jobs with that one ignored
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    try:
        entries = grade(
            given.course,
            given.assignment,
            Path(given.submissions).expanduser(),
            out,
            pattern=given.pattern,
            jobs=given.jobs,
            limits=limits,
        )
    except GradingError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same call goes on where it stopped", file=sys.stderr)
        return 130
    for status in ("graded", "to be read", "refused", "failed"):
        if some := [entry.student for entry in entries if entry.status == status]:
            shown = f": {', '.join(some)}" if status in ("refused", "failed") else ""
            print(f"{len(some)} {status}{shown}")
    print(f"{out}/grades.csv, summary.md, feedback/")
    if any(entry.status == "to be read" for entry in entries):
        print(f"open questions: fill in points in {out}/answers.csv and call the same again")
    return 2 if any(entry.status == "failed" for entry in entries) else 0


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
