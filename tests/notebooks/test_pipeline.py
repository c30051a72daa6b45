"""From `name.py` to `name.ipynb`: what is executed, what is kept, how it fails."""

import json
import subprocess
import sys

import pytest

import lesson
import mini
import notebooks

SCRIPT = lesson.ROOT / "scripts" / "notebooks.py"


@pytest.fixture
def path(tmp_path):
    return mini.write(mini.tree(tmp_path))


@pytest.fixture
def executions(monkeypatch):
    """The sources that were executed, in order; the execution itself is real."""
    seen = []
    execute = notebooks.execute

    def count(notebook, source):
        seen.append(source.name)
        execute(notebook, source)

    monkeypatch.setattr(notebooks, "execute", count)
    return seen


def run(monkeypatch, *arguments):
    """The command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["notebooks.py", *map(str, arguments)])
    return notebooks.main()


def make(path, monkeypatch, *options):
    """Generate one notebook; its text afterwards."""
    assert run(monkeypatch, path, *options) == 0
    return path.with_suffix(".ipynb").read_text("utf-8")


def outputs(text):
    """The outputs of the code cells of a notebook's text."""
    return [cell["outputs"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def test_life_of_a_notebook(path, executions, monkeypatch):
    first = make(path, monkeypatch)
    assert executions == ["mini.py"]
    assert outputs(first)[2] == [
        {"name": "stdout", "output_type": "stream", "text": ["twice two is 4\n"]}
    ]

    # Nothing changed: nothing is executed, and the file is the same byte for byte.
    assert make(path, monkeypatch) == first
    assert executions == ["mini.py"]

    # Prose changed: the text is new, the outputs are kept, nothing is executed.
    mini.edit(path, "# What is twice two?", "# What is two and two?\n#\n# %% [markdown]\n# More.")
    assert run(monkeypatch, "--check", path) == 1
    prose = make(path, monkeypatch)
    assert "two and two" in prose
    assert outputs(prose) == outputs(first)
    assert executions == ["mini.py"]
    ids = [{c["id"] for c in json.loads(text)["cells"]} for text in (first, prose)]
    assert len(ids[0] - ids[1]) == 1  # a new paragraph renames no other cell

    # Code changed: executed again.
    mini.edit(path, "2 * 2", "3 + 1")
    assert run(monkeypatch, "--check", path) == 1
    assert executions == ["mini.py"]
    code = make(path, monkeypatch)
    assert executions == ["mini.py"] * 2
    assert run(monkeypatch, "--check", path) == 0

    # An output edited by hand, or lost: executed again, and as it was.
    target = path.with_suffix(".ipynb")
    mini.edit(target, "twice two is 4", "twice two is 5")
    assert make(path, monkeypatch) == code
    target.write_text("not a notebook")
    assert make(path, monkeypatch) == code
    target.unlink()
    assert make(path, monkeypatch) == code
    assert executions == ["mini.py"] * 5

    # Forced: executed, and the same again, since nothing in the file depends on the run.
    assert make(path, monkeypatch, "--force") == code
    assert executions == ["mini.py"] * 6


def test_the_file_says_nothing_about_the_machine(path, monkeypatch):
    notebook = json.loads(make(path, monkeypatch))
    assert notebook["metadata"]["kernelspec"] == lesson.KERNELSPEC
    assert notebook["metadata"]["language_info"] == lesson.LANGUAGE
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "slimcnn"}
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
    tags = [cell["metadata"].get("tags") for cell in notebook["cells"]]
    assert ["nbval-check-output"] in tags


def test_settings_in_the_sources_header_enter_the_notebook(path):
    header = "# ---\n# jupyter:\n#   slimcnn:\n#     timing: true\n# ---\n\n"
    plain = lesson.read_source(path)
    lines = lesson.cell_lines(path)
    path.write_text(header + path.read_text())
    timed = lesson.read_source(path)
    assert timed.metadata.slimcnn == {"timing": True}
    assert timed.cells == plain.cells
    assert lesson.cell_lines(path) == [line + 6 for line in lines]


FAILING = """\
# %% [markdown]
# # Fails

# %%
fine = 1

# %% [markdown]
# Here.

# %%

def divide(a):
    return a / 0


{call}
"""


@pytest.mark.parametrize(
    ("call", "line", "message"),
    [
        ("fine = 2\ndivide(fine)", 17, "ZeroDivisionError: division by zero"),
        ("import os\nos._exit(1)", 12, "DeadKernelError"),
        ("def broken(:", 16, "SyntaxError"),
    ],
)
def test_a_failing_cell_stops_and_leaves_the_stored_notebook(
    tmp_path, monkeypatch, capsys, call, line, message
):
    path = tmp_path / "fails.py"
    path.with_suffix(".ipynb").write_text("as it was")
    path.write_text(FAILING.format(call=call))

    assert run(monkeypatch, path) == 1

    error = capsys.readouterr().err
    assert f"fails.ipynb: code cell 2 ({path}:{line}) failed" in error
    assert message in error
    assert "\x1b" not in error
    assert path.with_suffix(".ipynb").read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fails.ipynb", "fails.py"]


def test_a_cell_that_never_ends_is_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "CELL_TIMEOUT", 1)
    path = tmp_path / "endless.py"
    path.write_text("# %%\nimport time\ntime.sleep(60)\n")
    assert run(monkeypatch, path) == 1
    assert "CellTimeoutError" in capsys.readouterr().err
    assert not path.with_suffix(".ipynb").exists()


def test_the_first_failure_stops_the_command(tmp_path, monkeypatch, executions):
    (tmp_path / "a.py").write_text("# %%\n1 / 0\n")
    (tmp_path / "b.py").write_text("# %%\n1\n")
    assert run(monkeypatch, tmp_path) == 1
    assert executions == ["a.py"]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import os\nprint(os.path.expanduser('~/x'))", "a path of this machine"),
        ("object()", "a memory address"),
        ("import warnings\nwarnings.warn('x')", "a path of this machine"),
    ],
)
def test_an_output_that_holds_here_only_is_refused(tmp_path, monkeypatch, capsys, code, what):
    path = tmp_path / "local.py"
    path.write_text(f"# %%\n{code}\n")
    assert run(monkeypatch, path) == 1
    assert f"code cell 1 prints {what}" in capsys.readouterr().err
    assert not path.with_suffix(".ipynb").exists()


def test_progress_bars_leave_no_trace_and_figures_are_png(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # what a shell may have set must not hide figures
    path = tmp_path / "loop.py"
    path.write_text(
        "# %%\nimport sys\nimport matplotlib.pyplot as plt\nfrom tqdm.auto import tqdm\n\n"
        "# %%\nfor _ in tqdm(range(3)):\n    pass\nprint('kept', file=sys.stderr)\n\n"
        "# %%\nplt.plot([1, 2]);\n"
    )
    loop, figure = outputs(make(path, monkeypatch))[1:]
    assert loop == [{"name": "stderr", "output_type": "stream", "text": ["kept\n"]}]
    assert [set(output["data"]) for output in figure] == [{"image/png", "text/plain"}]


def test_what_a_cell_prints_is_one_output_whatever_the_kernels_timing(tmp_path, monkeypatch):
    path = tmp_path / "slow.py"
    path.write_text(
        "# %%\nimport sys, time\n\n# %%\nprint('first', end=', ', flush=True)\ntime.sleep(1)\n"
        "print('second')\nprint('aside', file=sys.stderr, flush=True)\nprint('third')\n"
    )
    texts = [(o["name"], "".join(o["text"])) for o in outputs(make(path, monkeypatch))[1]]
    assert sorted(texts) == [("stderr", "aside\n"), ("stdout", "first, second\nthird\n")]


def test_the_folder_of_the_notebook_is_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "beside.txt").write_text("beside")
    path = tmp_path / "reads.py"
    path.write_text("# %%\nprint(open('beside.txt').read())\n")
    assert outputs(make(path, monkeypatch))[0][0]["text"] == ["beside\n"]


def test_what_cannot_be_a_lesson_is_refused(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path / "nowhere") == 1
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "orphan.ipynb").write_text("{}")
    assert run(monkeypatch, tmp_path) == 1
    assert "write orphan.py beside it" in capsys.readouterr().err
    (tmp_path / "orphan.py").write_text("print(1)\n# %%\n1\n")
    assert run(monkeypatch, tmp_path) == 1
    assert "orphan.py:1: every line of a lesson belongs to a cell" in capsys.readouterr().err


def test_the_command_line_exits_with_the_status(path):
    command = [sys.executable, SCRIPT, "--check", path]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert "there is no stored notebook; run `make notebooks`" in done.stderr
