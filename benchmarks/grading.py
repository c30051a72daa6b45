"""Grade a made-up class, interrupted once: are the points right, is the machine unharmed, how long?

    python benchmarks/grading.py                        200 submissions on measuring
    python benchmarks/grading.py --topic low-rank --count 40

A tenth of the class is hostile or has to be refused (tests/grading/classroom.py). Exits with 1 if
any student got other points than expected, or anything was left running.
"""

import argparse
import csv
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests"), str(ROOT / "tests" / "grading")]

import classroom  # noqa: E402

import assignments  # noqa: E402


def main() -> int:
    """Make the class, grade it, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topic", default="measuring")
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    source = assignments.ASSIGNMENTS / "source" / given.topic / f"{given.topic}.py"
    students = classroom.classroom(source, given.count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        classroom.hand_in(students, given.topic, folder / "in")
        before = {p.pid for p in psutil.process_iter()}
        script = [sys.executable, str(ROOT / "scripts" / "grade.py"), given.topic]
        command = [*script, str(folder / "in"), "--out", str(folder / "out")]
        began = time.monotonic()
        process = subprocess.Popen(command)
        time.sleep(60)
        process.send_signal(signal.SIGINT)
        print(f"interrupted: exit status {process.wait(timeout=60)}")
        subprocess.run(command, check=True)
        seconds = time.monotonic() - began
        wrong = compare(students, folder / "out" / "grades.csv")
        print((folder / "out" / "summary.md").read_text()[:3000])
    left = [
        p for p in psutil.process_iter() if p.pid not in before and "runner" in str(p.cmdline())
    ]
    for line in (*wrong, *(f"still running: {p}" for p in left)):
        print(line)
    each = seconds / given.count
    print(f"{given.count} submissions in {seconds / 60:.1f} minutes, {each:.1f} s each")
    print(f"{len(wrong)} wrong, {len(left)} processes left")
    return int(bool(wrong or left))


def compare(students: list, grades: Path) -> list[str]:
    """Students whose points are not those that were expected."""
    with open(grades, encoding="utf-8-sig") as file:
        found = {row["student"]: row for row in csv.DictReader(file)}
    wrong = []
    for student, _, expected in students:
        row = found[student]
        if expected is None:
            right = row["status"] == "refused" and row["total"] == ""
        else:
            right = all(
                row[task] and float(row[task]) == points for task, points in expected.items()
            )
        if not right:
            wrong.append(f"wrong: {student}: {row} instead of {expected}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
