"""Write every lesson's notebook from its source (`make notebooks`).

    python scripts/notebooks.py                   chapters/, only what changed is executed
    python scripts/notebooks.py --check           say what would change; exit 1 if anything would
    python scripts/notebooks.py --force PATH      execute again, changed or not

An edit of prose rewrites the text and keeps the outputs. A failing cell stops with the
notebook, the cell and the traceback, and leaves the stored notebook as it was.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

import lesson
from lesson import ROOT, LessonError, shown

CELL_TIMEOUT = 300  # seconds
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Kernel(AsyncKernelManager):
    """A kernel in the Python that runs this script, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The running interpreter's own kernel."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv.append("--IPKernelApp.log_level=ERROR")
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def execute(notebook: NotebookNode, source: Path) -> None:
    """Run the code cells in the source's folder and put their clean outputs into the notebook.

    Raises:
        LessonError: a cell failed, ran out of time or killed the kernel, or an output holds
            something that is true on this machine only.
    """
    running = 0

    def remember(cell: NotebookNode, cell_index: int) -> None:
        nonlocal running
        running = cell_index

    with tempfile.TemporaryDirectory() as profile:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            kernel_manager_class=Kernel,
            record_timing=False,
            resources={"metadata": {"path": str(source.parent.resolve())}},
            on_cell_execute=remember,
        )
        try:
            client.execute(env=kernel_environment(profile))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise LessonError(_failure(notebook, source, running, error)) from None
    lesson.clean_outputs(notebook)
    if problems := lesson.unportable(notebook):
        raise LessonError(
            f"{shown(source)}: the notebook was left as it was, since an output would differ on"
            " another machine:\n  " + "\n  ".join(problems)
        )


def kernel_environment(profile: str) -> dict[str, str]:
    """The environment of a kernel: this one's, less what would show in the outputs."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "PYTHONPATH")}
    return environment | {
        "IPYTHONDIR": profile,  # no start-up files of the user's
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }


def build(source: Path, *, force: bool = False) -> tuple[str, bool]:
    """The text of a source's notebook, and whether it had to be executed for that."""
    notebook = lesson.read_source(source)
    stored = lesson.read_notebook(source.with_suffix(".ipynb"))
    if not force and lesson.stale(notebook, stored) is None:
        return lesson.render(lesson.with_outputs(notebook, stored)), False
    execute(notebook, source)
    notebook.metadata["language_info"] = lesson.LANGUAGE  # the kernel put its version there
    return lesson.render(lesson.with_outputs(notebook, notebook)), True


def check(source: Path) -> str | None:
    """What `build` would change, without executing; None if nothing."""
    notebook = lesson.read_source(source)
    target = source.with_suffix(".ipynb")
    stored = lesson.read_notebook(target)
    if reason := lesson.stale(notebook, stored):
        return reason
    if lesson.render(lesson.with_outputs(notebook, stored)) != target.read_text("utf-8"):
        return "its text differs from its source"
    return None


def main() -> int:
    """Parse the arguments and go through the lessons; the exit status is 1 on any problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "chapters"])
    parser.add_argument("--check", action="store_true", help="only say what would change")
    parser.add_argument("--force", action="store_true", help="execute even what did not change")
    arguments = parser.parse_args()
    try:
        found = lesson.sources(arguments.paths)
        if arguments.check:
            reasons = [(source, check(source)) for source in found]
            for source, reason in reasons:
                if reason:
                    print(f"{shown(source)}: {reason}; run `make notebooks`", file=sys.stderr)
            return int(any(reason for _, reason in reasons))
        for source in found:
            _write(source, force=arguments.force)
    except LessonError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write(source: Path, *, force: bool) -> None:
    """Bring one notebook up to date and say what was done."""
    target = source.with_suffix(".ipynb")
    start = time.perf_counter()
    text, executed = build(source, force=force)
    old = target.read_text("utf-8") if target.exists() else None
    if text != old:
        lesson.write(target, text)
    done = "unchanged" if text == old else "written"
    if executed:
        done = f"executed in {time.perf_counter() - start:.0f} s, {done}"
    print(f"{shown(target)}: {done}", flush=True)


def _failure(notebook: NotebookNode, source: Path, index: int, error: Exception) -> str:
    """Where and how a cell failed, with the traceback that it gave."""
    line = lesson.cell_lines(source)[index]
    number = lesson.code_cells(notebook).index(notebook.cells[index]) + 1
    if isinstance(error, CellExecutionError):
        detail = _ANSI.sub("", error.traceback)
        inside = re.search(r"Cell In\[\d+\], line (\d+)", detail)
        line += int(inside[1]) - 1 if inside else 0
    else:
        detail = f"{type(error).__name__}: {error}"
    return (
        f"{shown(source.with_suffix('.ipynb'))}: code cell {number} ({shown(source)}:{line})"
        f" failed, and the stored notebook was left as it was.\n{detail}"
    )


if __name__ == "__main__":
    sys.exit(main())
