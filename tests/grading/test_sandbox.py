"""Every limit of the sandbox bites, and ends with it."""

import os
import threading
import time
from dataclasses import replace

import course
import pytest

from conftest import LIMITS, run
from grading import seccomp
from grading.common import MB, ROOT, Limits
from grading.execute import Stopped, execute

SECRET = "do-not-tell"


def values(result):
    """What each cell ended in: its value, or its error's name."""
    ends = {}
    for index, items in result.outputs.items():
        errors = [i["ename"] for i in items if i["output_type"] == "error"]
        shown = [i["data"]["text/plain"] for i in items if i["output_type"] == "execute_result"]
        ends[index] = (errors or shown or [None])[0]
    return ends


def test_what_it_sees(box, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    (tmp_path / "solution").write_text("x")
    result = run(
        box,
        f"open({str(tmp_path / 'solution')!r})",
        "import os\nos.environ.get('SECRET_TOKEN', 'none')",
        "'do-not-tell' in open('/proc/1/environ').read() if os.access('/proc/1/environ', 4) else 0",
        "sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[-1] < 100",
        f"[os.path.exists(os.path.join({str(ROOT)!r}, p)) for p in ('utils', 'tests', 'scripts')]",
        "os.path.exists('/etc/passwd') or os.path.exists('/root/.ssh')",
        "len([l for l in open('/proc/self/status') if l[:3] == 'Cap' and int(l.split()[1], 16)])",
        "os.getuid() != 0 and os.geteuid() != 0",
        "os.getgroups() in ([], [os.getgid()], [65534])",
    )
    assert values(result) == {
        0: "FileNotFoundError",
        1: "'none'",
        2: result.outputs[2][0]["data"]["text/plain"],
        3: "True",
        4: "[True, False, False]",
        5: "False",
        6: "0",
        7: "True",
        8: result.outputs[8][0]["data"]["text/plain"],
    }
    assert values(result)[2] in ("0", "False")


def test_what_it_cannot_do(box, tmp_path):
    outside = tmp_path / "outside"
    result = run(
        box,
        "import os, socket, ctypes\nsocket.create_connection(('1.1.1.1', 53), 2)",
        f"open({str(outside)!r}, 'w')",
        f"open({str(ROOT / 'utils' / 'planted')!r}, 'w')",
        "open('/usr/planted', 'w')",
        "open('/planted', 'w')",
        "open('/dev/planted', 'w')",
        f"os.kill({os.getpid()}, 0)",
        "open(f'/proc/{os.getppid()}/mem', 'rb')",
        "os.listdir(f'/proc/{os.getppid()}/fd')",
        "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.open('/proc/none', 0)",
        "libc = ctypes.CDLL(None, use_errno=True)\nlibc.unshare(0x10000000), ctypes.get_errno()",
        "libc.syscall(319, b'x', 0), ctypes.get_errno()"
        if os.uname().machine == "x86_64"
        else "(-1, 38)",
        "libc.ptrace(16, os.getppid(), 0, 0), ctypes.get_errno()",
        "os.setuid(0)",
    )
    assert values(result) == {
        0: "OSError",
        1: "FileNotFoundError",
        2: "OSError",
        3: "OSError",
        4: "OSError",
        5: "OSError",
        6: "ProcessLookupError",
        7: "PermissionError",
        8: "PermissionError",
        9: values(result)[9],
        10: "(-1, 38)",
        11: "(-1, 38)",
        12: "(-1, 38)",
        13: "PermissionError",
    }
    assert not outside.exists()
    assert not (ROOT / "utils" / "planted").exists()


def test_how_much(box):
    result = run(
        box,
        "import os, time\nopen('big', 'wb').write(b'x' * 5_000_000)",
        "for i in range(8):\n    open(f'part{i}', 'wb').write(b'x' * 3_000_000)",
        "for i in range(8): os.path.exists(f'part{i}') and os.remove(f'part{i}')\n"
        "open('/dev/shm/big', 'wb').write(b'x' * 5_000_000)",
        "bytearray(800_000_000)",
        "children = []\ntry:\n"
        "    while len(children) < 300:\n"
        "        pid = os.fork()\n        if not pid: time.sleep(30); os._exit(0)\n"
        "        children.append(pid)\nexcept BlockingIOError: pass\n"
        "for pid in children: os.kill(pid, 9)\n20 < len(children) < 60",
        "open('small', 'w').write('still here')",
    )
    assert values(result) == {
        0: "OSError",
        1: "OSError",
        2: "OSError",
        3: "MemoryError",
        4: "True",
        5: "10",
    }


def test_time_and_output(box):
    begin = time.monotonic()
    result = run(
        box,
        "while True: pass",
        "while True: print('x' * 1000)",
        "'alive'",
        "import time\nfor _ in range(9):\n    try: time.sleep(60)\n    except BaseException: pass",
        "'alive again'",
        limits=replace(LIMITS, cell=2),
    )
    assert time.monotonic() - begin < 35
    assert [i["ename"] for i in result.outputs[0]] == ["KeyboardInterrupt", "Stopped"]
    printed = sum(len(i["text"]) for i in result.outputs[1] if i["output_type"] == "stream")
    assert LIMITS.output <= printed < LIMITS.output + 200
    assert values(result)[2] == "'alive'"
    assert values(result)[3] == "Killed"
    assert values(result)[4] == "'alive again'"
    assert len(result.limited) == 3


def test_memory_of_many_processes(box):
    """Each below the limit, together above it."""
    result = run(
        box,
        "import os, time\nfor _ in range(6):\n    if not os.fork():\n"
        "        x = bytearray(b'x') * 300_000_000; time.sleep(60)\ntime.sleep(60)",
        "'next'",
        limits=replace(LIMITS, cell=20),
    )
    assert result.outputs[0][0]["evalue"] == "more than 700 MB of memory"
    assert values(result)[1] == "'next'"


def test_whole_notebook(box):
    sleep = "import time\ntime.sleep(3)"
    result = run(box, *[sleep] * 4, limits=replace(LIMITS, notebook=5))
    assert values(result)[0] is None
    assert values(result)[3] == "NotRun"
    assert "whole notebook (5 s)" in result.outputs[3][0]["evalue"]


def test_what_dies_costs_its_own_cell(box):
    result = run(
        box,
        "import os\nx = 1",
        "os._exit(0)",
        "x + 1",
        "os.kill(-1, 9)",
        "x + 2",
        "os.kill(os.getppid(), 9)",
        "x + 3",
    )
    assert values(result) == {
        0: None,
        1: "Killed",
        2: "2",
        3: "Killed",
        4: "3",
        5: "Killed",
        6: "4",
    }


@pytest.mark.parametrize(
    "source",
    [
        "import os, time\nwhile True: os.fork() or time.sleep(60)",
        "hoard = []\nwhile True: hoard.append(b'x' * 10**7)",
        "for i in range(99): open(f'part{i}', 'wb').write(b'x' * 3_000_000)",
    ],
    ids=["processes", "memory", "files"],
)
def test_what_a_failed_cell_leaves_behind_costs_no_other(box, source):
    needs = (
        "import threading\nopen('mine', 'wb').write(bytes(3_000_000))\n"
        "threads = [threading.Thread(target=x.append, args=[1]) for _ in range(20)]\n"
        "for t in threads: t.start()\nlen(bytearray(400_000_000))"
    )
    result = run(box, "x = []", source, needs, limits=replace(LIMITS, memory=1400 * MB))
    ended = values(result)
    assert ended[0] is None and ended[1] in ("BlockingIOError", "MemoryError", "OSError")
    assert ended[2] == "400000000"
    (why,) = result.limited
    assert "failed and left more than" in why


def test_who_quits_loses_that_cell_only(box):
    result = run(box, "x = 1", "quit()", "x + 1", "exit()", "x + 2")
    assert values(result) == {0: None, 1: "Killed", 2: "2", 3: "Killed", 4: "3"}
    assert "This cell ended the notebook" in result.outputs[1][0]["evalue"]


def test_nothing_is_left(box):
    mark = "77.125"
    start = f"subprocess.Popen(['sleep', '{mark}'], start_new_session=True)"
    result = run(box, "import subprocess", f"for _ in range(5): {start}", "'done'")
    assert values(result)[2] == "'done'"
    assert course.running(mark) == 0


def test_stop_ends_it(box):
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(Stopped):
        execute(course.graded(["import time\ntime.sleep(50)"]), replace(LIMITS, cell=60), box, stop)
    assert time.monotonic() - begin < 8


def test_hidden_errors_are_noticed(box):
    hide = (
        "import ast\nclass Hide(ast.NodeTransformer):\n    def visit_Module(self, module):\n"
        "        handler = ast.ExceptHandler(None, None, [ast.Pass()])\n"
        "        module.body = [ast.Try(module.body, [handler], [], [])]\n"
        "        return ast.fix_missing_locations(module)\n"
        "get_ipython().ast_transformers.append(Hide())"
    )
    assert run(box, hide, "assert False").hides_errors
    for replaced in (
        "import builtins\nbuiltins.divmod = lambda *a: (0, 0)",
        "import pathlib\npathlib.Path.stat = lambda self: None",
        "from slimcnn import training\ntraining.evaluate = lambda *a, **k: 99.0",
        "from slimcnn import report\nreport.load_records = lambda *a: []",
        "from slimcnn import metrics\nmetrics.accuracy = max",
        "import torch\ntorch.Tensor.scatter_ = lambda self, *a: self",
        "get_ipython().input_transformers_post.append(lambda lines: lines)",
    ):
        assert run(box, replaced, limits=Limits()).hides_errors, replaced
    honest = "min, exec, vars, sys = 1, 2, 3, 4\nfrom slimcnn import training, lowrank, deploy"
    assert not run(box, honest, limits=Limits()).hides_errors
    assert not run(box, "1", "assert False", "2").hides_errors


def test_filter_is_for_known_machines():
    assert len(seccomp.program("x86_64")) == len(seccomp.program("aarch64")) == 33 * 8
    assert seccomp.program("sparc") is None
