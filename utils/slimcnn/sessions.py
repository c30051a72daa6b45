"""Files of ONNX Runtime and ExecuTorch, loaded to run with a given number of threads.

`slimcnn.latency` times what is loaded here, `slimcnn.deploy` answers with it.
"""

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from slimcnn.export import import_runtime, silence


def onnx_session(content: bytes, threads: int = 1) -> Any:
    """A session of ONNX Runtime's CPU execution provider with the content of an .onnx file.

    Raises:
        MissingRuntimeError: onnxruntime is not installed.
    """
    runtime = import_runtime("onnxruntime")
    require_count("threads", threads, 1)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    if sums_saturate():  # int8 must be right there, too (chapter 6); elsewhere it would be slower
        options.add_session_config_entry("session.x64quantprecision", "1")
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@cache
def sums_saturate() -> bool:
    """Whether ONNX Runtime adds products of bytes up in 16 bits here: on x86 without VNNI."""
    runtime, onnx = import_runtime("onnxruntime"), import_runtime("onnx")
    make, types = onnx.helper, onnx.TensorProto
    graph = make.make_graph(
        [make.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "largest",
        [
            make.make_tensor_value_info("a", types.UINT8, (16, 64)),
            make.make_tensor_value_info("b", types.INT8, (64, 16)),
        ],
        [make.make_tensor_value_info("c", types.INT32, (16, 16))],
    )
    versions = {"opset_imports": [make.make_opsetid("", 17)], "ir_version": 8}
    content = make.make_model(graph, **versions).SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = {"a": np.full((16, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)}
    return bool((session.run(None, largest)[0] != 255 * 127 * 64).any())


def executorch_program(content: bytes, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """The content of a .pte file as a function of its input; see `executorch` for its threads.

    Raises:
        MissingRuntimeError: executorch is not installed.
        RuntimeError: a program with another number of threads is still alive.
    """
    require_count("threads", threads, 1)
    with silence():
        runtime = import_runtime("executorch.runtime").Runtime.get()
        pool = import_runtime("executorch.extension.pybindings.portable_lib")
    others = sorted({loaded.threads for loaded in _loaded if loaded.threads != threads})
    if others:
        raise RuntimeError(
            f"{threads} threads are asked of ExecuTorch, but a callable with {others[0]} is alive,"
            " and all share one thread pool. Delete that callable first, or use the same number."
        )
    with silence():
        if pool._threadpool_get_thread_count() != threads:
            pool._unsafe_reset_threadpool(threads)
        loaded = _ExecuTorchProgram(runtime.load_program(content), threads)
    _loaded.add(loaded)
    return loaded


class _ExecuTorchProgram:
    """One loaded ExecuTorch program; calling it runs the program."""

    def __init__(self, program: Any, threads: int):
        self._program = program  # owns the memory of the method
        self._execute = program.load_method("forward").execute
        self.threads = threads

    def __call__(self, input: Tensor) -> Tensor:
        return self._execute((input,))[0].clone()  # older versions write results to one place


# The programs that `executorch_program` made and that are still alive.
_loaded: "weakref.WeakSet[_ExecuTorchProgram]" = weakref.WeakSet()


def require_count(name: str, value: int, smallest: int) -> None:
    """Refuse a number of threads, rounds or runs that is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {smallest} or more")
