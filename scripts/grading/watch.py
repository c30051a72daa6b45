"""Processes of one sandbox, seen from outside: counted, measured, and all of them ended."""

import contextlib
import os
import shutil
import signal
import time

import psutil

from .common import MB, Limits
from .sandbox import Started


class Watch:
    """Keeps an eye on a sandbox and on everything that it started.

    Where there is no sandbox, a process may leave its parent; those that were ever seen, and those
    that carry the sandbox's mark in their environment, still belong to it.
    """

    def __init__(self, started: Started, limits: Limits) -> None:
        self.started, self.limits = started, limits
        self.seen: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            self.seen[started.process.pid] = psutil.Process(started.process.pid)

    def excess(self, share: float = 1) -> str:
        """What is used beyond this share of the limits, or an empty string."""
        processes = self.processes()
        most = int(share * self.limits.processes)
        threads = sum(self._measure(p, psutil.Process.num_threads) for p in processes)
        # bubblewrap's own two, and the runner's, are not the student's
        if threads > most + 16:
            return f"more than {most} processes and threads"
        most = int(share * self.limits.memory)
        memory = sum(self._measure(p, lambda p: p.memory_info().rss) for p in processes)
        if memory > most:  # shared pages count once
            memory = sum(self._measure(p, _proportional) for p in processes)
        if memory > most:
            return f"more than {most // MB} MB of memory"
        most = int(share * self.limits.disk)
        if self.started.folder and _size(self.started.folder) > most:
            return f"more than {most // MB} MB of files"
        return ""

    def processes(self) -> list[psutil.Process]:
        """All that run now."""
        children: dict[int, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                children.setdefault(process.ppid(), []).append(process)
        todo = [p for p in self.seen.values() if p.is_running()]
        self.seen = {}
        while todo:
            process = todo.pop()
            if process.pid not in self.seen:
                self.seen[process.pid] = process
                todo += children.get(process.pid, [])
        return list(self.seen.values())

    def end(self) -> None:
        """Kill all of it, until nothing is left, and remove its folder."""
        process = self.started.process
        end = time.monotonic() + 20
        while time.monotonic() < end:
            running = [*self.processes(), *self._marked()]
            # stopped first, so that none can start another while the others are killed
            for signum in (signal.SIGSTOP, signal.SIGKILL):
                for one in running:
                    with contextlib.suppress(psutil.Error):
                        one.send_signal(signum)
            process.poll()
            alive = [p for p in running if p.is_running() and _alive(p)]
            if not alive and process.poll() is not None:
                break
            time.sleep(0.02)
        for stream in (process.stdin, process.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        if self.started.folder:
            shutil.rmtree(self.started.folder, ignore_errors=True)

    def _marked(self) -> list[psutil.Process]:
        """Those that carry the mark, where no namespace ends them together."""
        if not self.started.folder:
            return []
        mark, found = f"GRADING={self.started.token}".encode(), []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
                if mark in file.read().split(b"\0") and process.pid != os.getpid():
                    found.append(process)
        return found

    @staticmethod
    def _measure(process: psutil.Process, what) -> int:  # noqa: ANN001
        try:
            return what(process)
        except (psutil.Error, OSError):
            return 0


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _proportional(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.AccessDenied:
        return process.memory_info().rss


def _size(folder: str) -> int:
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
    return total
