"""A class, a part of it hostile, graded end to end."""

import csv
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time

import course
import pytest
from course import BLANK, FULL, TOPIC, hand_in, submission

from conftest import LIMITS
from grading import execute
from grading.common import ROOT, GradingError
from grading.pipeline import grade

HIDE = """\
import ast
class Hide(ast.NodeTransformer):
    def visit_Module(self, module):
        module.body = [ast.Try(module.body, [ast.ExceptHandler(None, None, [ast.Pass()])], [], [])]
        return ast.fix_missing_locations(module)
get_ipython().ast_transformers.append(Hide())
"""


def bad(body, before="import os"):
    """A submission that does this where its function `longest` is called."""
    return submission({"longest": f"{before}\ndef longest(words):\n    {body}"})


def hostile(outside):
    return {
        "loop": bad("while True: pass"),
        "bomb": bad("while True:\n        try: os.fork()\n        except OSError: pass"),
        "hog": bad("x = []\n    while True: x.append(bytearray(10**8))"),
        "exit": bad("os._exit(0)"),
        "kill": bad("os.kill(-1, 9)"),
        "flood": bad("while True: print('x' * 1000)"),
        "writer": bad(f"open({str(outside)!r}, 'w').write('x')"),
        "caller": bad("socket.create_connection(('1.1.1.1', 53), 2)", "import socket"),
    }


def rows(out):
    """student → row of grades.csv."""
    text = (out / "grades.csv").read_text("utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def points(row):
    return {task: float(row[task]) if row[task] else None for task in FULL}


@pytest.fixture(scope="module")
def graded(box, tmp_path_factory):
    """The class, and where it was graded."""
    place = tmp_path_factory.mktemp("class")
    course.write_course(place / "course")
    stripped = submission()
    for cell in stripped.cells:
        cell.metadata = {}
    edited = submission({"triple": "def triple(x): return 0"})
    for cell in edited.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "triple-check":
            cell.source = "pass"
    hand_in(
        place / "class",
        ada=submission(),
        bob=submission({"digits": "def digits(n): return 1"}),
        zoe=submission({"triple": "import sys\ndef triple(x): return 3"}),
        blank=submission(BLANK),
        edited=edited,
        stripped=stripped,
        hidden=submission({"triple": HIDE + "def triple(x): return 0"}),
        warns=submission(
            {"triple": "import sys\ndef triple(x):\n    print(0, file=sys.stderr)\n    return 3*x"}
        ),
        forger=submission(
            {"triple": "import sys\ndef triple(x):\n    sys.displayhook(2)\n    return 0"}
        ),
        junk="{",
        **hostile(place / "outside"),
    )
    entries = grade(place / "course", TOPIC, place / "class", place / "out", limits=LIMITS, box=box)
    return place, {entry.student: entry for entry in entries}


def test_neighbours_are_unharmed(graded):
    place, _ = graded
    found = rows(place / "out")
    assert points(found["ada"]) == FULL
    assert points(found["bob"]) == FULL | {"digits-check": 2}
    assert points(found["zoe"]) == FULL | {"triple-check": 0}
    assert points(found["blank"]) == dict.fromkeys(FULL, 0)
    assert [found[s]["status"] for s in ("ada", "blank")] == ["to be read", "graded"]
    assert [found[s]["total"] for s in ("ada", "blank")] == ["", "0"]


@pytest.mark.parametrize("student", hostile(""))
def test_hostile_costs_its_own_task(graded, student):
    place, _ = graded
    assert points(rows(place / "out")[student]) == FULL | {"longest-check": 0}
    assert not (place / "outside").exists()


def test_edited_test_is_restored(graded):
    row = rows(graded[0] / "out")["edited"]
    assert points(row) == FULL | {"triple-check": 0}
    assert "edited cells were put back: triple-check" in row["note"]


@pytest.mark.parametrize(
    ("student", "why"),
    [
        ("stripped", "have lost the marks"),
        ("junk", "this is no notebook"),
        ("hidden", "errors do not come out of this notebook"),
    ],
)
def test_refused_never_zero(graded, student, why):
    place, _ = graded
    row = rows(place / "out")[student]
    assert row["status"] == "refused"
    assert (points(row), row["total"]) == (dict.fromkeys(FULL), "")
    assert why in row["note"]
    page = (place / "out" / "feedback" / f"{student}.html").read_text()
    assert why[1:] in page
    assert why in (place / "out" / "summary.md").read_text()


def test_warnings_cost_nothing_and_display_brings_nothing(graded):
    found = rows(graded[0] / "out")
    assert points(found["warns"]) == FULL
    assert points(found["forger"]) == FULL | {"triple-check": 0}


def test_feedback(graded):
    page = (graded[0] / "out" / "feedback" / "zoe.html").read_text()
    assert "negative numbers" not in page.split("AssertionError")[0]
    assert "(further tests ran here)" in page
    assert "HIDDEN TESTS" not in page
    assert "triple(-2)" not in page


def test_summary(graded):
    text = (graded[0] / "out" / "summary.md").read_text()
    assert f"# {TOPIC}: 18 submissions" in text
    assert "1 graded, 3 refused, 14 to be read" in text
    assert "- hidden: uses ast\\_transformers" in text
    missed = [line.split(" | ")[0] for line in text.splitlines() if "% |" in line]
    assert missed[0] == "| longest-check"


def test_only_what_changed_runs_again(graded, box, monkeypatch):
    place, _ = graded
    ran, real = [], execute.execute

    def counting(notebook, *rest):
        ran.append(notebook)
        return real(notebook, *rest)

    monkeypatch.setattr("grading.pipeline.execute", counting)
    before = (place / "out" / "grades.csv").read_bytes()
    call = (place / "course", TOPIC, place / "class", place / "out")
    grade(*call, limits=LIMITS, box=box)
    assert ran == []
    assert (place / "out" / "grades.csv").read_bytes() == before
    hand_in(place / "class", bob=submission())
    grade(*call, limits=LIMITS, box=box)
    assert len(ran) == 1
    assert points(rows(place / "out")["bob"]) == FULL

    # the instructor reads an answer; nothing runs
    answers = place / "out" / "answers.csv"
    text = answers.read_text("utf-8-sig")
    answers.write_text(
        text.replace("ada,why,Since three is.,3,,", "ada,why,Since three is.,3,2.5,Fine!")
    )
    grade(*call, limits=LIMITS, box=box)
    assert len(ran) == 1
    row = rows(place / "out")["ada"]
    assert (row["status"], row["why"], row["total"]) == ("graded", "2.5", "11.5")
    assert "Fine!" in (place / "out" / "feedback" / "ada.html").read_text()
    assert rows(place / "out")["bob"]["why"] == ""


def test_what_the_grader_breaks_is_no_zero(place, tmp_path, box):
    hand_in(tmp_path / "class", ada=submission())
    broken = dataclasses.replace(box, mode="none")
    broken = type("Broken", (type(box),), {"_bubblewrap": lambda *_: ["false"]})(box.mode)
    call = (place, TOPIC, tmp_path / "class", tmp_path / "out")
    grade(*call, limits=LIMITS, box=broken)
    row = rows(tmp_path / "out")["ada"]
    assert (row["status"], row["total"]) == ("failed", "")
    assert points(row) == dict.fromkeys(FULL)
    grade(*call, limits=LIMITS, box=box)
    assert points(rows(tmp_path / "out")["ada"]) == FULL


def command(place, tmp_path, *more):
    script = [sys.executable, str(ROOT / "scripts" / "grade.py"), TOPIC, str(tmp_path / "class")]
    return [*script, "--course", str(place), "--out", str(tmp_path / "out"), *more]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_continued(place, tmp_path, signum, box):
    mark = f"{os.getpid()}.{signum:d}"
    wait = f"import subprocess\nsubprocess.run(['sleep', '{mark}'])"
    hand_in(tmp_path / "class", ada=submission(), bob=submission(), eve=submission(before=wait))
    process = subprocess.Popen(
        command(place, tmp_path, "--jobs", "1"), stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not course.running(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert course.running(mark) == 1
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == (-9 if signum == signal.SIGKILL else 130)
    time.sleep(0.5)
    assert course.running(mark) == 0
    assert not (tmp_path / "out" / "grades.csv").exists()
    stored = sorted(p.parent.name for p in (tmp_path / "out").glob("executed/*/result.json"))
    assert stored == ["ada", "bob"]
    times = [p.stat().st_mtime_ns for p in (tmp_path / "out").glob("executed/*/*/*.ipynb")]

    hand_in(tmp_path / "class", eve=submission())
    done = subprocess.run(command(place, tmp_path), capture_output=True, text=True, check=True)
    assert "3 to be read" in done.stdout
    found = rows(tmp_path / "out")
    assert [points(found[s]) for s in ("ada", "bob", "eve")] == [FULL] * 3
    now = [p.stat().st_mtime_ns for p in (tmp_path / "out").glob("executed/*/*/*.ipynb")]
    assert set(times) <= set(now)


def test_one_at_a_time_in_a_folder(place, tmp_path, box, monkeypatch):
    hand_in(tmp_path / "class", ada=submission())
    call = (place, TOPIC, tmp_path / "class", tmp_path / "out")

    def again(*_):
        with pytest.raises(GradingError, match="in use by another"):
            grade(*call, limits=LIMITS, box=box)
        raise GradingError("enough")

    monkeypatch.setattr("grading.pipeline.Scorer", again)
    with pytest.raises(GradingError, match="enough"):
        grade(*call, limits=LIMITS, box=box)


def test_a_new_source_grades_anew(place, tmp_path, box):
    hand_in(tmp_path / "class", ada=submission())
    call = (place, TOPIC, tmp_path / "class", tmp_path / "out")
    grade(*call, limits=LIMITS, box=box)
    path = place / "source" / TOPIC / f"{TOPIC}.ipynb"
    path.write_text(path.read_text().replace("(100, 3)", "(100, 30)"))
    grade(*call, limits=LIMITS, box=box)
    assert points(rows(tmp_path / "out")["ada"]) == FULL | {"digits-check": 3}


# What a page must not hold, in an answer: a script, a handler, a way to another page, a style.
ATTACK = (
    "<script>x</script><img src=x onerror=y><meta http-equiv=refresh content='0;url=//e'>"
    "<base href=//e><iframe srcdoc=a></iframe><style>body{display:none}</style>"
    "[a](javascript:alert)"
)


def test_pages_hold_no_scripts_and_one_strange_output_stops_nobody(place, tmp_path, box):
    bar = "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3)): pass"
    hand_in(
        tmp_path / "class",
        ann=submission(before=bar),
        ben=submission({"why": ATTACK}, extra=[("markdown", ATTACK, {})]),
        cid=submission({"why": "[" * 100_000}),
    )
    entries = grade(place, TOPIC, tmp_path / "class", tmp_path / "out", limits=LIMITS, box=box)
    assert [entry.points for entry in entries] == [FULL] * 3
    pages = {e.student: (tmp_path / "out/feedback" / f"{e.student}.html") for e in entries}
    page = pages["ben"].read_text()
    for part in (
        *("<script>x", ' onerror="', "<meta http-equiv=refresh", "<base", "<iframe"),
        *("<style>body{", 'href="javascript'),
    ):
        assert part not in page, part
    assert "cut here" in pages["cid"].read_text()


def test_a_page_that_cannot_be_made_stops_nobody(place, tmp_path, box, monkeypatch):
    hand_in(tmp_path / "class", ann=submission(), ben=submission())

    def fails(self, student):
        raise GradingError("a page that nobody expected")

    monkeypatch.setattr("grading.score.Scorer.feedback", fails)
    grade(place, TOPIC, tmp_path / "class", tmp_path / "out", limits=LIMITS, box=box)
    assert points(rows(tmp_path / "out")["ben"]) == FULL
    page = (tmp_path / "out" / "feedback" / "ann.html").read_text()
    assert "its page cannot be shown" in page and "a page that nobody expected" in page


def test_names_that_are_no_text(place, tmp_path, box):
    hand_in(tmp_path / "class", ann=submission())
    with open(os.fsencode(tmp_path / "class") + b"/M\xfcller.txt", "w"):
        pass
    grade(place, TOPIC, tmp_path / "class", tmp_path / "out", limits=LIMITS, box=box)
    assert "M\\udcfcller.txt" in (tmp_path / "out" / "summary.md").read_text().replace("\\\\", "\\")


def test_one_students_folder(place, tmp_path, box):
    grade(place, TOPIC, place / "source", tmp_path / "out", limits=LIMITS, box=box)
    assert points(rows(tmp_path / "out")["source"])["triple-check"] == 2


@pytest.mark.parametrize("out", ["class", "class/out", "."])
def test_out_and_submissions_lie_apart(place, tmp_path, out):
    hand_in(tmp_path / "class", ann=submission())
    with pytest.raises(GradingError, match="lie within each other"):
        grade(place, TOPIC, tmp_path / "class", tmp_path / out, limits=LIMITS)


def test_no_submissions_are_not_this_folder(place, tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "grade.py"), TOPIC, ""]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "SUBMISSIONS is empty" in done.stderr


def test_messages(place, tmp_path, capfd):
    (tmp_path / "class").mkdir()
    done = subprocess.run(command(place, tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no file is named like a submission" in done.stderr
    assert not (tmp_path / "out").exists()
