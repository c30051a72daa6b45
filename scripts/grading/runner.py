"""Inside the sandbox: run a notebook's cells in a kernel and report each as it ends.

Started as `python runner.py FD`, with the job as JSON on the standard input. Each report is one
line of JSON on the pipe FD, which student code cannot reach: the kernel does not inherit it, and
this process is not dumpable, so that no process of the same user can trace it or open its files.
It imports nothing from beside it, since it is alone in the sandbox.
"""

import contextlib
import ctypes
import json
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
# Address space that torch's libraries take without using memory for it.
LIBRARIES = 6 * 2**30
START, AFTER_INTERRUPT, CANARY = 60, 5, 10
# A cell that has printed this many times what is kept is stopped.
FLOOD = 200
IMAGES = 10


class Died(Exception):
    """The kernel is gone, or had to be killed; the message says which."""


class Kernel:
    """A kernel in its own session, spoken to over sockets in a private folder."""

    def __init__(self, limits: dict) -> None:
        self.limits = limits
        folder = tempfile.mkdtemp(prefix="kernel-")
        file, _ = write_connection_file(
            os.path.join(folder, "connection.json"), transport="ipc", ip=os.path.join(folder, "s")
        )
        # fmt: off
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", file,
                   "--HistoryManager.hist_file=:memory:", "--colors=NoColor"]
        # fmt: on
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
        )
        self.client = BlockingKernelClient(connection_file=file)
        self.client.load_connection_file()
        # no heartbeat: on a busy machine a kernel that lives misses beats
        self.client.start_channels(stdin=False, hb=False)
        self._wait()

    def _wait(self) -> None:
        """Until the kernel answers, and what it publishes arrives."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Died("The kernel did not start: it ended at once.")
            request = self.client.kernel_info()
            with contextlib.suppress(queue.Empty):
                self.client.get_shell_msg(timeout=1)
            if self._read(request, Outputs(0), 1):
                return
        raise Died(f"The kernel did not start within {START} s.")

    def run(self, source: str, seconds: float) -> tuple["Outputs", str]:
        """Run one cell; its outputs and how it ended: ok, error, timeout or output."""
        outputs = Outputs(self.limits["output"])
        request = self.client.execute(source, allow_stdin=False, stop_on_error=False)
        end, ended, interrupted, reply = time.monotonic() + seconds, "", False, None
        while True:
            idle = self._read(request, outputs, 0.1)
            reply = reply or self._reply(request)
            if idle and reply is not None:
                break
            if reply is not None and time.monotonic() > end:  # the message "idle" was lost
                break
            if reply is not None:
                end = min(end, time.monotonic() + 4)
            elif self.process.poll() is not None:
                raise Died("The kernel died while this cell ran.")
            elif interrupted and time.monotonic() > end:
                self.kill()
                raise Died(f"{ended}: the cell could not be stopped, so the kernel was killed.")
            elif not interrupted and (time.monotonic() > end or outputs.flooded):
                ended = "output" if outputs.flooded else "timeout"
                interrupted, end = True, time.monotonic() + AFTER_INTERRUPT
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGINT)
        content = reply["content"]
        if any(part.get("source") == "ask_exit" for part in content.get("payload") or ()):
            raise Died("This cell ended the notebook (quit or exit).")
        if content["status"] != "ok" and not outputs.has_error(content.get("ename")):
            outputs.error(content.get("ename"), content.get("evalue"), content.get("traceback"))
        return outputs, ended or ("ok" if content["status"] == "ok" else "error")

    def kill(self) -> None:
        """End the kernel and its process group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)

    def _read(self, request: str, outputs: "Outputs", seconds: float) -> bool:
        """Take what the kernel has published for at most `seconds`; True once it is idle."""
        end = time.monotonic() + seconds
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                return False
            except Exception:  # what a student's code forged is no message
                message = None
            if message and message.get("parent_header", {}).get("msg_id") == request:
                content = message["content"]
                if message["msg_type"] == "status" and content.get("execution_state") == "idle":
                    return True
                outputs.add(message["msg_type"], content)
            if time.monotonic() > end:
                return False

    def _reply(self, request: str) -> dict | None:
        with contextlib.suppress(queue.Empty):
            while True:
                message = self.client.get_shell_msg(timeout=0)
                if message.get("parent_header", {}).get("msg_id") == request:
                    return message
        return None


class Outputs:
    """A cell's outputs as a notebook stores them, bounded in size."""

    def __init__(self, limit: int) -> None:
        self.limit, self.items, self.seen, self.kept, self.cut = limit, [], 0, 0, False

    @property
    def flooded(self) -> bool:
        """Far too much was printed."""
        return self.seen > FLOOD * self.limit

    def add(self, kind: str, content: dict) -> None:
        """Keep a message of the kernel where there is room for it."""
        if kind == "stream":
            text = str(content.get("text", ""))
            self.seen += len(text) + 50
            room = max(self.limit - self.kept, 0)
            self.cut |= len(text) > room
            text = text[:room]
            if not text:
                return
            self.kept += len(text)
            last = self.items[-1] if self.items else {}
            if last.get("output_type") == "stream" and last["name"] == content.get("name"):
                last["text"] += text
            else:
                name = "stderr" if content.get("name") == "stderr" else "stdout"
                self.items.append({"output_type": "stream", "name": name, "text": text})
        elif kind in ("display_data", "execute_result"):
            data = {
                str(mime): value if isinstance(value, str) else json.dumps(value)
                for mime, value in content.get("data", {}).items()
                if "jupyter.widget" not in mime  # a widget lives in its kernel only
            }
            size = sum(map(len, data.values()))
            self.seen += size + 50
            picture = any(mime.startswith("image/") for mime in data)
            if self.kept + (size // IMAGES if picture else size) > self.limit:
                self.cut = True
                return
            self.kept += size // IMAGES if picture else size
            item = {"output_type": kind, "data": data, "metadata": {}}
            if kind == "execute_result":
                item["execution_count"] = None
            self.items.append(item)
        elif kind == "error":
            self.error(content.get("ename"), content.get("evalue"), content.get("traceback"))
        elif kind == "clear_output":
            self.items, self.kept = [], 0

    def error(self, name: object, value: object, traceback: object) -> None:
        """An error always has its place; only its length is bounded."""
        if self.count("error") >= 3:
            return
        lines = traceback if isinstance(traceback, list) else []
        lines = [str(line)[:5000] for line in lines[-12:]] or [f"{name}: {value}"[:5000]]
        self.items.append(
            {
                "output_type": "error",
                "ename": str(name)[:200],
                "evalue": str(value)[:5000],
                "traceback": lines,
            }
        )

    def count(self, kind: str) -> int:
        """How many outputs are of this kind."""
        return sum(item["output_type"] == kind for item in self.items)

    def has_error(self, name: object) -> bool:
        """Whether an error of this name came out."""
        return any(i["output_type"] == "error" and i["ename"] == str(name) for i in self.items)

    def closed(self, ended: str, seconds: float) -> list[dict]:
        """The outputs, with notes on what was cut."""
        if self.cut:
            note = f"\n[the output is longer; the first {self.limit:,} characters are kept]\n"
            self.items.append({"output_type": "stream", "name": "stdout", "text": note})
        if ended in ("timeout", "output"):
            why = f"more than {seconds:g} s" if ended == "timeout" else "far too much output"
            self.error("Stopped", f"this cell was stopped: {why}", None)
        return self.items


def hides_errors(kernel: Kernel, canaries: list[list[str]]) -> bool:
    """Whether a cell that must fail does not.

    Args:
        kernel: the student's.
        canaries: pairs of a source and the text that its error must contain.
    """
    for source, nonce in canaries:
        outputs, _ = kernel.run(source, CANARY)
        if not any(nonce in item.get("evalue", "") for item in outputs.items):
            return True
    return False


def files(limits: dict) -> int:
    """Bytes of all files in the folder in memory; 0 where the folder is on a real disk."""
    usage = shutil.disk_usage(os.environ["SCRATCH"])
    return usage.used if usage.total <= limits["disk"] else 0


def run(job: dict, report) -> None:  # noqa: ANN001
    """Run the cells of a job; those before `first` only bring the kernel back to its state."""
    limits = job["limits"]
    report({"event": "starting"})
    kernel = Kernel(limits)
    end = time.monotonic() + job["seconds"]
    try:
        for cell in job["cells"]:
            index, first = cell["index"], cell["index"] >= job["first"]
            left = end - time.monotonic()
            if left <= 0:
                report({"event": "late"})
                return
            report({"event": "start", "index": index})
            started, allowed = time.monotonic(), min(limits["cell"], left)
            outputs, ended = kernel.run(cell["source"], allowed)
            if not first:
                continue
            seconds = time.monotonic() - started
            report(
                {"event": "cell", "index": index, "ended": ended, "seconds": round(seconds, 3)}
                | {"outputs": outputs.closed(ended, allowed), "files": files(limits)}
            )
            if ended == "ok" and hides_errors(kernel, cell["canaries"]):
                report({"event": "hidden", "index": index})
        report({"event": "end"})
    except Died as death:
        report({"event": "died", "message": str(death)})
    finally:
        kernel.kill()


def lock_down(limits: dict, uid: int | None) -> None:
    """Give up every privilege and set the limits that the system keeps for us."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if uid is not None:
        for capability in range(64):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    else:
        # a change of user would undo this one; there bubblewrap itself sees to it
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    seconds = int(limits["notebook"]) + 60
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NOFILE, 1024),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_DATA, limits["memory"]),
        (resource.RLIMIT_AS, limits["memory"] + LIBRARIES),
        (resource.RLIMIT_CPU, seconds),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def main() -> None:
    """Take the job, lock down, run."""
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    job = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    lock_down(job["limits"], job["uid"])
    for name in ("home", "work"):
        Path(os.environ["SCRATCH"], name).mkdir(exist_ok=True)
    os.chdir(Path(os.environ["SCRATCH"], "work"))

    def report(event: dict) -> None:
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    run(job, report)
    os._exit(0)


if __name__ == "__main__":
    main()
