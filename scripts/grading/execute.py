"""Run one submission in its sandbox, from outside: results cell by cell, limits, restarts.

Nothing here runs a student's code. A cell that ends its kernel, or all processes that it can
reach, or fails and leaves memory or processes in use, loses its own points only: the notebook is
started again without it, and goes on after it.
"""

import json
import os
import secrets
import select
import threading
import time
from dataclasses import dataclass, field

from nbformat import NotebookNode
from nbgrader import utils

from . import canary
from .common import MB, Limits
from .sandbox import Sandbox
from .watch import Watch

RESTARTS = 4
PERIOD = 0.2
# beyond a cell's limit: the time to interrupt it, and the canaries
SLACK = 40
# A cell that failed may leave this share of a limit in use; the next cells need the rest.
LEFT_BEHIND = 0.5
MOST_BYTES = 64 * MB


class Stopped(RuntimeError):
    """The grader is ending; nothing of this submission counts."""


class Broken(RuntimeError):
    """The sandbox or the kernel does not start: no fault of the student's."""


@dataclass
class Execution:
    """What came of running a notebook.

    Attributes:
        outputs: index of a cell → its outputs.
        hides_errors: the kernel does not show errors, so nothing can be believed.
        limited: what was stopped, and why.
        seconds: how long it took.
    """

    outputs: dict[int, list] = field(default_factory=dict)
    hides_errors: bool = False
    limited: list[str] = field(default_factory=list)
    seconds: float = 0.0


def execute(
    notebook: NotebookNode, limits: Limits, sandbox: Sandbox, stop: threading.Event
) -> Execution:
    """Run all code cells.

    Args:
        notebook: restored; it is not changed.
        limits: what it may use.
        sandbox: where it runs.
        stop: ends it at once.

    Raises:
        Stopped: `stop` was set.
        Broken: it could not be started.
    """
    cells = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.source.strip()]
    result, skip, started, failures = Execution(), set(), time.monotonic(), 0
    left = limits.notebook
    for attempt in range(RESTARTS + 1):
        todo = [i for i in cells if i not in result.outputs]
        if not todo:
            break
        if left <= 0:
            _fill(result, todo, f"the time for the whole notebook ({limits.notebook:g} s) is over")
            break
        if attempt == RESTARTS:
            _fill(result, todo, f"the notebook ended its kernel {RESTARTS} times before this cell")
            break
        job = {
            "cells": [
                {
                    "index": i,
                    "source": notebook.cells[i].source,
                    "canaries": canary.planted() if utils.is_grade(notebook.cells[i]) else [],
                }
                for i in cells
                if i not in skip
            ],
            "first": todo[0],
            "seconds": left,
            "uid": sandbox.uid(),
            "limits": limits.as_dict() | {"processes": sandbox.processes(limits)},
        }
        run = _Attempt(job, limits, sandbox, stop)
        run.watch_until_end(result, skip)
        left = 0 if run.late else left - run.seconds
        if run.culprit is None and run.why and not run.finished and not run.littered:
            failures += 1
            if failures == 2 or "output" in run.why:
                raise Broken(run.why)
            continue
        if run.culprit is not None:
            skip.add(run.culprit)
            if run.culprit not in result.outputs:
                result.outputs[run.culprit] = [_error("Killed", run.why)]
                result.limited.append((run.culprit, run.why))
    result.seconds = round(time.monotonic() - started, 2)
    for at, (index, why) in enumerate(result.limited):
        result.limited[at] = f"{_name(notebook, index)}: {why}"
    return result


class _Attempt:
    """One sandbox from its start to its end."""

    def __init__(self, job: dict, limits: Limits, sandbox: Sandbox, stop) -> None:  # noqa: ANN001
        self.job, self.limits, self.stop = job, limits, stop
        self.culprit: int | None = None
        self.why, self.finished, self.late, self.seconds = "", False, False, 0.0
        self.littered = False
        self.first_start = self.cell_start = 0.0
        self.pipe, end = os.pipe()
        try:
            self.started = sandbox.start(limits, end, secrets.token_hex(8))
        except BaseException:
            os.close(self.pipe)
            raise
        finally:
            os.close(end)
        self.watch = Watch(self.started, limits)

    def watch_until_end(self, result: Execution, skip: set[int]) -> None:
        """Take reports and enforce limits until the sandbox has ended or must end."""
        begin = time.monotonic()
        try:
            self._send()
            self._loop(result, skip, begin)
        finally:
            words = b""
            if self.started.process.poll() is not None:
                words = self.started.process.stderr.read1(4000)
            self.watch.end()
            os.close(self.pipe)
            if self.first_start:
                self.seconds = time.monotonic() - self.first_start
            if not self.why and not self.finished:
                said = words.decode(errors="replace").strip().splitlines()
                self.why = "all processes of the notebook were killed"
                if self.culprit is None or said:
                    self.why = f"the sandbox ended: {said[-1] if said else 'no message'}"

    def _send(self) -> None:
        try:
            self.started.process.stdin.write(json.dumps(self.job).encode())
            self.started.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended; why is on its stderr

    def _loop(self, result: Execution, skip: set[int], begin: float) -> None:
        buffer, total = b"", 0
        looked = 0.0
        while True:
            if self.stop.is_set():
                raise Stopped
            if select.select([self.pipe], [], [], PERIOD)[0]:
                data = os.read(self.pipe, MB)
                if not data:
                    return
                buffer, total = buffer + data, total + len(data)
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    self._take(json.loads(line), result, skip)
                    if self.littered:
                        return
                if total > MOST_BYTES:
                    self.why = f"more than {MOST_BYTES // MB} MB of output"
                    return
            now = time.monotonic()
            if now - looked > PERIOD:
                looked = now
                if excess := self.watch.excess():
                    self.why = excess
                    return
            if self.cell_start and now > self.cell_start + self.limits.cell + SLACK:
                self.why = f"more than {self.limits.cell:g} s, and the cell could not be stopped"
                return
            if not self.cell_start and now > begin + 150:
                self.why = "the kernel did not start within 150 s"
                return

    def _take(self, event: dict, result: Execution, skip: set[int]) -> None:
        kind, index = event["event"], event.get("index")
        if kind == "start":
            self.culprit, self.cell_start = index, time.monotonic()
            self.first_start = self.first_start or self.cell_start
        elif kind == "cell":
            result.outputs[index] = event["outputs"]
            if event["ended"] in ("timeout", "output"):
                # run again, it would take as long again
                skip.add(index)
                why = "time" if event["ended"] == "timeout" else "output"
                result.limited.append((index, f"too much {why} ({event['seconds']:.0f} s)"))
            left = event["ended"] != "ok" and self._left_behind(event)
            if left:
                skip.add(index)
                result.limited.append((index, f"failed and left {left} behind"))
                self.littered, self.why, self.culprit = True, left, None
        elif kind == "hidden":
            result.hides_errors = True
        elif kind == "died":
            self.why = event["message"]
        elif kind in ("late", "end"):
            self.finished, self.late, self.culprit = True, kind == "late", None

    def _left_behind(self, event: dict) -> str:
        if event["files"] > LEFT_BEHIND * self.limits.disk:
            return f"more than {LEFT_BEHIND * self.limits.disk / MB:.0f} MB of files"
        return self.watch.excess(LEFT_BEHIND)


def _fill(result: Execution, todo: list[int], why: str) -> None:
    for index in todo:
        result.outputs[index] = [_error("NotRun", f"not run: {why}")]
    result.limited.append((todo[0], why))


def _error(name: str, why: str) -> dict:
    text = f"{name}: {why}"
    return {"output_type": "error", "ename": name, "evalue": why, "traceback": [text]}


def _name(notebook: NotebookNode, index: int) -> str:
    return notebook.cells[index].metadata.get("nbgrader", {}).get("grade_id") or f"cell {index}"
