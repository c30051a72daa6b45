"""Where a number comes from: command, commit, date, versions and hardware."""

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch

import slimcnn

# What decides a number: if one of these differs from the commit, the record says "+dirty".
_CODE = ("utils", "scripts", "data", "requirements.txt")


def provenance(command: str | None = None) -> dict:
    """Command, commit, date (UTC), versions and hardware of this process.

    Args:
        command: how to make the record again; by default the command line of this
            process, its paths relative to the checkout.

    Returns:
        A dictionary as the schema wants it. `commit` is None outside a git checkout, and
        ends in "+dirty" if code or data differ from the commit. It is looked up once a
        process: what is edited, or written by the run itself, afterwards did not run.
        The hardware names the accelerator that trainings use, if there is one.
    """
    accelerator = _accelerator()
    return {
        "command": command or _command_line(),
        "commit": _commit_of_process(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "slimcnn": slimcnn.__version__,
        },
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
            **({"accelerator": accelerator} if accelerator else {}),
        },
    }


@cache
def cpu_name() -> str:
    """The processor's name as the system gives it, or what `platform` knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name[ \t]*:[ \t]*(\S.*)$", text, re.MULTILINE)
    if found:
        return " ".join(found[1].split())
    return platform.processor() or platform.machine() or "unknown"


def _accelerator() -> str | None:
    """The GPU that `training.best_device` finds."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "Apple MPS" if torch.backends.mps.is_available() else None


def checkout() -> Path:
    """The root of the checkout that the package runs from; elsewhere, some other folder."""
    return Path(__file__).resolve().parents[2]


@cache
def _commit_of_process() -> str | None:
    return _commit(checkout())


def _commit(root: Path) -> str | None:
    """HEAD of the repository at `root`, "+dirty" if code or data differ; None without git."""
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        # A caller's GIT_DIR would point to another repository; no lock for a mere look.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        environment["GIT_OPTIONAL_LOCKS"] = "0"
        run = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            env=environment,
        )
        return run.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+dirty" if git("status", "--porcelain", "--", *_CODE) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _command_line() -> str:
    """This process's command, without paths that only this machine has."""
    program = sys.argv[0] if sys.argv else ""
    if "ipykernel" in program or program in ("", "-c", "-"):
        return "notebook" if "ipykernel" in program else "python (interactive)"
    words = [_shorten(word) for word in sys.argv]
    return shlex.join((["python"] if program.endswith(".py") else []) + words)


def _shorten(word: str) -> str:
    """An absolute path, also in --option=path: relative to the checkout, or only its name."""
    option, equals, value = word.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return word
    root = checkout()
    inside = path.is_relative_to(root)
    return option + equals + (path.relative_to(root).as_posix() if inside else path.name)
