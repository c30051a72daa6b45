"""What a submission may see and do: bubblewrap where it works, plain limits where it does not.

Inside there is no network, no other process, and no file but the system, Python, the book's
package with its data and records (all read-only), and one small folder in memory. As root, every
worker becomes a user of its own that nobody else is, since root's processes are never counted; as
an ordinary user the processes are counted by the new user namespace.
"""

import contextlib
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import seccomp
from .common import MB, ROOT, Limits

RUNNER = Path(__file__).with_name("runner.py")
INSIDE = "/run/runner.py"
SCRATCH = "/tmp"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime")
BOOK = ("utils", "data", "results")
# Users that no system has: each sandbox of a grading process has one of its own, so that none
# waits for what another has left to be cleared away.
FIRST_UID, USERS = 1_000_000, 512

_NUMBERS = itertools.count()

# Since Linux 5.14 a user namespace counts its own processes.
_KERNEL = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))

_DROP = "import os; os.setresgid(*[{uid}] * 3); os.setresuid(*[{uid}] * 3)"
_TRIAL = """\
import os
import torch
assert not os.path.exists("/proc/1/root/etc/passwd")
assert {uid} is None or os.getuid() == {uid}
"""


@dataclass(frozen=True)
class Sandbox:
    """A way to run the runner.

    Attributes:
        mode: `root` (bubblewrap, a user of its own), `user` (bubblewrap, user namespace), or
            `plain` (limits only).
        warning: what is missing and what is not protected; empty where all is well.
    """

    mode: str
    warning: str = ""

    def uid(self) -> int | None:
        """The user that the next sandbox becomes inside; None: stays who it is."""
        if self.mode != "root":
            return None
        return FIRST_UID + os.getpid() * USERS + next(_NUMBERS) % USERS

    def processes(self, limits: Limits) -> int:
        """The system's limit on processes: where it counts all of a user's, those are added."""
        if self.mode == "root" or (self.mode == "user" and _KERNEL >= (5, 14)):
            return limits.processes
        own = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                own += process.num_threads() if process.uids().real == os.getuid() else 0
        return limits.processes + own

    def start(self, limits: Limits, pipe: int, token: str) -> "Started":
        """Start the runner, which reads its job from the standard input and reports to `pipe`."""
        folder = None
        if self.mode == "plain":
            folder = tempfile.mkdtemp(prefix="grading-")
            command, files = [sys.executable, str(RUNNER), str(pipe)], []
            environment = _environment(folder, token)
        else:
            files = [seccomp.as_file(f)] if (f := seccomp.program()) else []
            command = [*self._bubblewrap(limits, files), sys.executable, INSIDE, str(pipe)]
            environment = _environment(SCRATCH, token)
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=(pipe, *files),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        finally:
            for file in files:
                os.close(file)
        return Started(process, token, folder)

    def _bubblewrap(self, limits: Limits, files: list[int]) -> list[str]:
        command = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session"]
        command += ["--unshare-pid", "--unshare-net"]
        command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        if self.mode == "user":
            command += ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
        for file in files:
            command += ["--seccomp", str(file)]
        for path in SYSTEM:
            if os.path.islink(path):
                command += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                command += ["--ro-bind", path, path]
        for name in ETC:
            command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        command += ["--dev", "/dev", "--proc", "/proc"]
        command += ["--perms", "1777", "--size", str(64 * MB), "--tmpfs", "/dev/shm"]
        command += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", SCRATCH]
        # after the folder in memory, since a repository or an environment may lie below /tmp
        book = [str(ROOT / name) for name in BOOK if (ROOT / name).is_dir()]
        binds = {path: path for path in (*_python(), *book)} | {INSIDE: str(RUNNER)}
        # the way there is open to everybody; bubblewrap would make folders for its own user only
        for folder in sorted(
            {str(f) for path in binds for f in Path(path).parents} - {"/", "/tmp"}
        ):
            command += ["--perms", "0755", "--dir", folder]
        for inside, path in binds.items():
            command += ["--ro-bind", path, inside]
        command += ["--remount-ro", "/dev", "--remount-ro", "/"]
        return [*command, "--chdir", SCRATCH, "--"]


@dataclass
class Started:
    """A running sandbox: its process, the mark in its environment, its folder if it has one."""

    process: subprocess.Popen
    token: str
    folder: str | None


def find() -> Sandbox:
    """The strongest way that works on this machine, tried once with all that runs inside."""
    missing = "bubblewrap is not installed (apt install bubblewrap)"
    if shutil.which("bwrap"):
        for mode in ("root", "user") if os.geteuid() == 0 else ("user",):
            missing = _failure(Sandbox(mode))
            if not missing:
                weak = mode == "user" and os.geteuid() == 0
                return Sandbox(mode, _AS_ROOT if weak else "")
            missing = f"bubblewrap cannot start a sandbox here: {missing}"
    return Sandbox("plain", _WARNING.format(missing=missing))


_AS_ROOT = """\
WARNING: the sandbox runs as root in a user namespace; the number of processes is only watched.
Grade as an ordinary user."""

_WARNING = """\
WARNING: submissions run WITHOUT a sandbox.
  missing: {missing}
  still limited: time, memory, number of processes, file size, output
  NOT protected: the network; your files (a submission may read, change and delete what you may,
  the other submissions, the solutions and the hidden tests too); your other processes
Grade only what you trust, or on a machine that holds nothing else."""


def _failure(sandbox: Sandbox) -> str:
    """Why this sandbox does not work; empty where it does."""
    uid = sandbox.uid()
    drop = "" if uid is None else _DROP.format(uid=uid)
    files = [seccomp.as_file(f)] if (f := seccomp.program()) else []
    trial = _TRIAL.format(uid=uid)
    command = [*sandbox._bubblewrap(Limits(), files), sys.executable, "-c", f"{drop}\n{trial}"]
    try:
        done = subprocess.run(
            command,
            env=_environment(SCRATCH, "trial"),
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        for file in files:
            os.close(file)
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return (words[-1] if words else f"exit status {done.returncode}") if done.returncode else ""


def _python() -> list[str]:
    """Where this Python lives: its environment and the installation that it was made from."""
    places = {Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    places |= {
        Path(sys.executable).absolute().parents[1],
        Path(sys.executable).resolve().parents[1],
    }
    system = {Path("/"), *map(Path, SYSTEM)}
    return sorted(str(p) for p in places if p not in system and Path("/usr") not in p.parents)


def _environment(scratch: str, token: str) -> dict[str, str]:
    """Nothing of the instructor's environment: no keys, no tokens."""
    home = f"{scratch}/home"
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "utils"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
        "HOME": home,
        "TMPDIR": scratch,
        "SCRATCH": scratch,
        "IPYTHONDIR": f"{home}/.ipython",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "USER": "student",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "GRADING": token,
    }
