"""One process that loads files of runtimes and times them: see scripts/measure_runtimes.py.

    python scripts/runtime_worker.py SPECIFICATION     a JSON object; the answer is one, too

Times of several files are interleaved. Asked for the first answer, it takes one file, and says how
long that took and how far memory grew.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

from slimcnn import deploy, latency, sessions
from slimcnn.export import import_runtime, silence

# What each runtime imports to compute: a first answer does not pay for Python's imports.
MODULES = {
    "ExecuTorch": "executorch.runtime",
    "LiteRT": "ai_edge_litert.interpreter",
}


def timed(files: list[list[str]], shape: list[int], threads: int, rounds: int) -> list[dict]:
    """Latencies of all files, in their order."""
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    callables = {
        (name, path): partial(deploy.RUNTIMES[name].load(path, threads), example)
        for name, path in files
    }
    found = latency.measure(callables, rounds=rounds, threads=threads)
    return [
        {
            "median_ms": t.median,
            "q1_ms": t.q1,
            "q3_ms": t.q3,
            "cpu_wall": t.cpu_wall,
            "disturbed": t.disturbed,
            "rounds": rounds,
            "threads": threads,
        }
        for t in found.values()
    ]


def first(files: list[list[str]], shape: list[int]) -> dict:
    """Milliseconds from the file to its first answer, and bytes by which memory grew at most."""
    ((name, path),) = files
    runtime = deploy.RUNTIMES[name]
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with silence():
        import_runtime(MODULES.get(name, runtime.package))
    if name == "ONNX Runtime":
        sessions.sums_saturate()  # our own question about the processor, not the runtime's work
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before, start = _memory("VmRSS"), time.perf_counter()
    program = runtime.load(path)
    program(example)
    elapsed = time.perf_counter() - start
    for _ in range(10):
        program(example)
    return {"first_ms": 1000 * elapsed, "peak_bytes": _memory("VmHWM") - before}


def _memory(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}; measure on Linux")


if __name__ == "__main__":
    specification = json.loads(sys.argv[1])
    print(json.dumps({"timed": timed, "first": first}[specification.pop("what")](**specification)))
