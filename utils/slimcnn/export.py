"""A network as one file for another runtime: ONNX and ExecuTorch.

What is exported is a copy in eval mode on the CPU; the given model is not changed. The
files hold weights and graph and no trace of the machine that wrote them, so that their
size is a property of the network. Chapter 1 exports for timing, chapter 7 for devices.
"""

import copy
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# What to install when a module is missing.
_INSTALL = {
    "onnx": 'pip install "slimcnn[onnx]"',
    "onnxscript": 'pip install "slimcnn[onnx]"',
    "onnxruntime": 'pip install "slimcnn[onnx]"',
    "scipy": 'pip install "slimcnn[sparse]"',
    "executorch": "pip install executorch (it asks for one torch version: look before you do)",
    "litert_torch": 'pip install "slimcnn[litert]"',
    "ai_edge_litert": 'pip install "slimcnn[litert]"',
    "ai_edge_quantizer": 'pip install "slimcnn[litert]"',
    "openvino": 'pip install "slimcnn[openvino]"',
    "nncf": 'pip install "slimcnn[openvino]"',
    "ncnn": 'pip install "slimcnn[ncnn]"',
    "pnnx": 'pip install "slimcnn[ncnn]"',
    "coremltools": 'pip install "slimcnn[coreml]"',
}


class MissingRuntimeError(ImportError):
    """An export or a runtime needs a package that is not installed."""


def to_onnx(
    model: nn.Module, example: Tensor, path: Path | str, dynamic_batch: bool = False
) -> Path:
    """Write `model` as a single ONNX file: input "input", output "logits".

    PyTorch's `torch.export`-based exporter chooses the opset, and folds each batch norm
    into the convolution before it (before torch 2.8 the older, TorchScript-based one does
    it: that of 2.6 does not know today's onnxscript). Weights are inside the file. The exporter's
    notes on each node (source lines with the paths of this machine) are taken out again: for
    the small student they are a seventh of the file.

    Args:
        model: a network with one tensor in and one tensor out; it is not changed.
        example: an input, shape (B, ...); the exported graph takes this shape only.
        path: the file to write; its folder must exist.
        dynamic_batch: let the first dimension of input and output be of any size.

    Returns:
        The path, so that `to_onnx(...).stat().st_size` is the size in bytes.

    Raises:
        MissingRuntimeError: onnx or onnxscript is not installed.
        FileNotFoundError: the folder of `path` does not exist.
    """
    onnx = import_runtime("onnx")
    import_runtime("onnxscript")
    path = _checked(path, example)
    if dynamic_batch and len(example) == 1:
        example = torch.cat([example, example])  # a dimension of 1 would count as a constant
    partial = path.with_name(path.name + ".partial")
    try:
        with silence():
            torch.onnx.export(
                inference_copy(model),
                (example.detach().cpu(),),
                str(partial),
                input_names=["input"],
                output_names=["logits"],
                verbose=False,
                **_exporter_options(dynamic_batch),
            )
        proto = onnx.load(partial)
        _drop_notes_(proto)
        onnx.save(proto, partial)
        os.replace(partial, path)  # a failed export leaves an older file as it was
    finally:
        partial.unlink(missing_ok=True)
    return path


def to_executorch(model: nn.Module, example: Tensor, path: Path | str) -> Path:
    """Write `model` as an ExecuTorch program (.pte) whose layers run in XNNPACK.

    Args:
        model: a network with one tensor in and one tensor out; it is not changed.
        example: an input, shape (B, ...); the exported program takes this shape only.
        path: the file to write; its folder must exist.

    Returns:
        The path, so that `to_executorch(...).stat().st_size` is the size in bytes.

    Raises:
        MissingRuntimeError: executorch is not installed.
        FileNotFoundError: the folder of `path` does not exist.
    """
    with silence():
        import_runtime("executorch.exir")
    path = _checked(path, example)
    with silence():
        program = torch.export.export(inference_copy(model), (example.detach().cpu(),))
    return lower_to_executorch(program, path)


def lower_to_executorch(program: torch.export.ExportedProgram, path: Path) -> Path:
    """Write an exported program, quantized perhaps, as an ExecuTorch program for XNNPACK.

    Raises:
        MissingRuntimeError: executorch is not installed.
    """
    with silence():
        exir = import_runtime("executorch.exir")
        partitioner = import_runtime("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        edge = exir.to_edge_transform_and_lower(
            program, partitioner=[partitioner.XnnpackPartitioner()]
        )
        content = edge.to_executorch().buffer
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode, on the CPU, its weights in the contiguous layout."""
    clone = copy.deepcopy(model).cpu().eval()
    return clone.to(memory_format=torch.contiguous_format)


def import_runtime(name: str) -> ModuleType:
    """Import module `name`; if its package is missing, say what to install.

    Raises:
        MissingRuntimeError: the module, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingRuntimeError(
            f"{package} cannot be imported ({error}). Install it:"
            f" {_INSTALL.get(package, f'pip install {package}')}"
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """Run a block without its warnings, log lines and prints, those of C++ code included.

    Exceptions pass through. Everything is restored, on errors too. File descriptors 1 and
    2 point to the null device meanwhile, so other threads of the process are silent too.
    """
    disabled = logging.root.manager.disable
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = {fd: os.dup(fd) for fd in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in saved:
            os.dup2(null, fd)
        logging.disable(logging.CRITICAL)
        text = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(text), redirect_stderr(text):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for fd, copy_of_fd in saved.items():
            os.dup2(copy_of_fd, fd)
            os.close(copy_of_fd)
        os.close(null)


def _exporter_options(dynamic_batch: bool) -> dict[str, Any]:
    """What `torch.onnx.export` is told beside names: which exporter, and what is dynamic."""
    if torch.__version__ >= (2, 8):
        shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
        return {"dynamo": True, "external_data": False, "dynamic_shapes": shapes}
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}} if dynamic_batch else None
    return {"dynamo": False, "dynamic_axes": axes}


def _checked(path: Path | str, example: Tensor) -> Path:
    """`path` as a Path, after the checks that all exports share."""
    if not isinstance(example, Tensor) or example.ndim < 2 or len(example) == 0:
        given = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"example is {given}; give an input batch, a tensor of shape (B, ...)")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")
    return path


def _drop_notes_(message: Any) -> None:
    """Delete doc strings and metadata from a protobuf message and from all inside it."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            nested = [value] if hasattr(value, "ListFields") else value
            for item in nested:
                _drop_notes_(item)
