"""Honest timing: warm-up, a fixed number of threads, interleaved rounds, median and spread.

One timing lies: the first calls are slow, other work takes the core, a runtime uses more
threads than its rival. `measure` times any set of callables against these; the adapters
make comparable callables of one network in eager PyTorch, ONNX Runtime and ExecuTorch.
Chapter 1 derives the procedure; every latency in the book is measured by it.
"""

import gc
import random
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.export import import_runtime, inference_copy, silence, to_executorch, to_onnx
from slimcnn.sessions import executorch_program, onnx_session, require_count

# CPU seconds per wall second of an undisturbed callable: at least 0.9 (one thread works
# all the time) and at most 1.1 for each declared thread. The room of a tenth is for the
# clocks' own cost and resolution.
LOWEST_CPU_WALL = 0.9
HIGHEST_CPU_WALL = 1.1

Name = TypeVar("Name", bound=Hashable)

# The clocks, in nanoseconds; tests put their own here.
_wall_ns = time.perf_counter_ns
_cpu_ns = time.process_time_ns


@dataclass(frozen=True)
class Latency:
    """How long one callable took.

    Attributes:
        median, q1, q3: of the samples, milliseconds; quartiles as in `numpy.percentile`.
        samples: one wall time a round, milliseconds, in the order of the rounds.
        cpu_wall: CPU time of the process ÷ wall time, summed over the callable's rounds.
        disturbed: `cpu_wall` is below 0.9 (other work took the core, or the callable
            waited) or above 1.1 × threads (it used more threads than were declared):
            these times do not describe the callable.
        threads: the number of threads that was declared.
    """

    median: float
    q1: float
    q3: float
    samples: tuple[float, ...]
    cpu_wall: float
    disturbed: bool
    threads: int

    def __str__(self) -> str:
        mark = f", disturbed: CPU/wall {self.cpu_wall:.2f}" if self.disturbed else ""
        quartiles = f"{format_ms(self.q1)} to {format_ms(self.q3)}"
        return f"{format_ms(self.median)} ms ({quartiles}{mark})"


def format_ms(value: float) -> str:
    """Milliseconds with as many decimals as a median deserves: 0.571, 5.71, 57.1."""
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1}f}"


def measure(
    callables: Mapping[Name, Callable[[], object]],
    *,
    rounds: int = 50,
    warmup: int = 10,
    threads: int = 1,
) -> dict[Name, Latency]:
    """Time each callable once a round, all callables in every round.

    First each callable runs `warmup` times untimed. Then each round calls all of them in a
    new random order (the same orders every time: the seed is fixed), so that a slow minute
    of the machine hits all alike and none always runs on the caches that one neighbour
    left. PyTorch is held to `threads` threads and the garbage collector is off meanwhile;
    both are restored, on errors too. ONNX Runtime and ExecuTorch fix their threads when a
    model is loaded: give their adapters the same number.

    Args:
        callables: what to time, by name; each is called without arguments.
        rounds: timed calls of each callable, 1 or more.
        warmup: untimed calls of each callable, 0 or more.
        threads: how many threads the callables are meant to use.

    Returns:
        A `Latency` for each name, in the order given.

    Raises:
        ValueError: there is nothing to call, or a number is out of range.
        Exception: whatever a callable raises, with a note that names the callable.
    """
    if not callables:
        raise ValueError("there is nothing to measure; give at least one name and callable")
    for name, function in callables.items():
        if not callable(function):
            raise ValueError(
                f"{name!r} is a {type(function).__name__}; a function without arguments is needed"
            )
    require_count("rounds", rounds, 1)
    require_count("warmup", warmup, 0)
    wall: dict[Name, list[int]] = {name: [] for name in callables}
    cpu = dict.fromkeys(callables, 0)
    order = list(callables)
    shuffle = random.Random(0).shuffle
    with thread_limit(threads), _no_garbage_collection():
        for name, function in callables.items():
            for _ in range(warmup):
                _timed(name, function)
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                wall_ns, cpu_ns = _timed(name, callables[name])
                wall[name].append(wall_ns)
                cpu[name] += cpu_ns
    return {name: _summary(wall[name], cpu[name], threads) for name in callables}


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Hold PyTorch to `threads` threads within a block, then restore the number.

    This sets `torch.set_num_threads`, the threads inside an operation. The threads between
    operations cannot be changed once PyTorch has used them, and eager inference uses one.

    Raises:
        ValueError: `threads` is not a whole number of 1 or more.
    """
    require_count("threads", threads, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def eager(
    model: nn.Module, example: Tensor, *, channels_last: bool = False
) -> Callable[[], Tensor]:
    """A callable that runs `model` in PyTorch, operator by operator.

    It runs a copy on the CPU, in eval mode, under `torch.inference_mode`. Its threads are
    those of PyTorch, so those of `measure`.

    Args:
        model: it is not changed.
        example: the input of every call, shape (B, ...).
        channels_last: store weights and input as (B, H, W, C), for 4-D inputs; otherwise
            in the default, contiguous layout, whatever the given ones have.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = inference_copy(model).to(memory_format=layout)
    example = example.detach().cpu().contiguous(memory_format=layout)

    def run() -> Tensor:
        with torch.inference_mode():
            return model(example)

    return run


def onnxruntime(
    model_or_path: nn.Module | Path | str, example: Tensor, threads: int = 1
) -> Callable[[], Tensor]:
    """A callable that runs a network in ONNX Runtime's CPU execution provider.

    Args:
        model_or_path: a module, exported by `to_onnx`, or an .onnx file with one input.
        example: the input of every call, shape (B, ...).
        threads: threads inside an operation; operations run one after the other.

    Raises:
        MissingRuntimeError: onnxruntime, or for a module the exporter, is not installed.
        FileNotFoundError: the file does not exist.
    """
    import_runtime("onnxruntime")
    require_count("threads", threads, 1)
    session = onnx_session(_file_content(model_or_path, example, to_onnx, "model.onnx"), threads)
    feed = {session.get_inputs()[0].name: example.detach().cpu().contiguous().numpy()}

    def run() -> Tensor:
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def executorch(
    model_or_path: nn.Module | Path | str, example: Tensor, threads: int = 1
) -> Callable[[], Tensor]:
    """A callable that runs a network in ExecuTorch's XNNPACK backend.

    ExecuTorch has one thread pool for the whole process, and a loaded program keeps a
    pointer to it: replacing the pool under a loaded program crashes Python. So the pool is
    set to `threads` before loading, stays so afterwards (restoring it would be that
    replacement), and is not changed while a callable made here is alive. A program that
    was loaded by other means must be gone before the first call of this function.

    Args:
        model_or_path: a module, exported by `to_executorch`, or a .pte file.
        example: the input of every call, shape (B, ...).
        threads: size of the thread pool.

    Raises:
        MissingRuntimeError: executorch is not installed.
        FileNotFoundError: the file does not exist.
        RuntimeError: a callable with another number of threads is still alive.
    """
    require_count("threads", threads, 1)
    with silence():
        import_runtime("executorch.runtime")
    content = _file_content(model_or_path, example, to_executorch, "model.pte")
    return partial(executorch_program(content, threads), example.detach().cpu().contiguous())


def _file_content(
    model_or_path: nn.Module | Path | str, example: Tensor, export: Callable, name: str
) -> bytes:
    """The bytes of a given file, or of the file that `export` writes for a module."""
    if isinstance(model_or_path, nn.Module):
        with tempfile.TemporaryDirectory() as folder:
            return export(model_or_path, example, Path(folder) / name).read_bytes()
    path = Path(model_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give a module or an exported file")
    return path.read_bytes()


def _timed(name: Hashable, function: Callable[[], object]) -> tuple[int, int]:
    """Wall and CPU nanoseconds of one call; the wall clock is read innermost."""
    try:
        cpu = _cpu_ns()
        wall = _wall_ns()
        function()
        wall = _wall_ns() - wall
        return wall, _cpu_ns() - cpu
    except Exception as error:
        error.add_note(f"raised while {name!r} was being timed")
        raise


def _summary(wall_ns: list[int], cpu_ns: int, threads: int) -> Latency:
    samples = [ns / 1e6 for ns in wall_ns]
    q1, median, q3 = (float(q) for q in np.percentile(samples, (25, 50, 75)))
    # A clock too coarse to see the calls says nothing: the ratio is then 0, so disturbed.
    cpu_wall = cpu_ns / sum(wall_ns) if sum(wall_ns) else 0.0
    disturbed = not LOWEST_CPU_WALL <= cpu_wall <= HIGHEST_CPU_WALL * threads
    return Latency(median, q1, q3, tuple(samples), cpu_wall, disturbed, threads)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, then not again until the block is over."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
