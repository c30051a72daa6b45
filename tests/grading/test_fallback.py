"""Without bubblewrap: a clear warning, and the limits that are left."""

import os
from dataclasses import replace

import course
from course import FULL, TOPIC, hand_in, submission
from test_grade import bad, points, rows

from conftest import LIMITS, run
from grading import sandbox
from grading.pipeline import grade

PLAIN = sandbox.Sandbox("plain", "not protected")


def test_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = sandbox.find()
    assert found.mode == "plain"
    assert "WITHOUT a sandbox" in found.warning
    assert "bubblewrap is not installed" in found.warning
    assert "NOT protected: the network; your files" in found.warning


def test_not_starting_is_said(monkeypatch, tmp_path):
    false = tmp_path / "bwrap"
    false.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2; exit 1\n")
    false.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = sandbox.find()
    assert found.mode == "plain"
    assert "cannot start a sandbox here: setting up uid map: Permission denied" in found.warning


def test_class(place, tmp_path):
    mark = f"{os.getpid()}.25"
    stay = f"subprocess.Popen(['sleep', '{mark}'], start_new_session=True)\n    return words[1]"
    forks = (
        "for _ in range(100):\n        if not os.fork(): os.setsid(); time.sleep(60); os._exit(0)\n"
        "    time.sleep(60)"
    )
    hand_in(
        tmp_path / "class",
        ada=submission(),
        loop=bad("while True: pass"),
        exit=bad("os._exit(0)"),
        hog=bad("x = []\n    while True: x.append(bytearray(10**8))"),
        flood=bad("while True: print('x' * 1000)"),
        forks=bad(forks, "import os, time"),
        big=bad("open('x', 'wb').write(b'x' * 5_000_000)"),
        stays=bad(stay, "import subprocess"),
    )
    grade(place, TOPIC, tmp_path / "class", tmp_path / "out", limits=LIMITS, box=PLAIN)
    found = rows(tmp_path / "out")
    assert points(found["ada"]) == FULL
    assert points(found["stays"]) == FULL
    for student in ("loop", "exit", "hog", "flood", "forks", "big"):
        assert points(found[student]) == FULL | {"longest-check": 0}, student
    assert course.running(mark) == 0
    assert "not protected" in (tmp_path / "out" / "summary.md").read_text()


def test_many_files():
    write = "import os\nfor i in range(30): open(f'f{i}', 'wb').write(b'x' * 3_000_000)"
    result = run(PLAIN, f"{write}\nimport time\ntime.sleep(20)", limits=replace(LIMITS, cell=20))
    assert result.outputs[0][0]["evalue"] == "more than 16 MB of files"


def test_daemons_are_ended():
    mark = f"{os.getpid()}.125"
    result = run(
        PLAIN,
        "import os, time\nif not os.fork():\n    os.setsid()\n"
        f"    if not os.fork(): os.execvp('sleep', ['sleep', '{mark}'])\n    os._exit(0)",
        "time.sleep(0.5)",
        "names = [p for p in os.listdir('/proc') if p.isdigit()]\n"
        f"any('{mark}' in open(f'/proc/{{p}}/cmdline').read() for p in names)",
    )
    assert result.outputs[2][0]["data"]["text/plain"] == "True"
    assert course.running(mark) == 0
