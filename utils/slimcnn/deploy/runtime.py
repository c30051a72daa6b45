"""What every runtime is asked for: a file from a network, and answers from a file.

Six runtimes have six ways to say the same five things. Each adapter of this package says them
alike, so that one table, one gate and one loader serve all of them. Files take one image at a
time, as phones do. Chapter 7 uses and compares them.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

# Inputs (N, ...) of float32 to outputs (N, ...) of float32.
Program = Callable[[Tensor], Tensor]


class UnsupportedError(RuntimeError):
    """A runtime cannot do what it was asked for, here or at all."""


@dataclass(frozen=True)
class TensorInfo:
    """What an app has to know of a file's input or output.

    Attributes:
        name: to feed or fetch it by; None where it has a place alone.
        shape: as it lies in the file; None where the file does not say.
        type: of its numbers, as NumPy calls it.
        scale, zero_point: real number = (stored integer - zero_point) · scale; None for floats.
    """

    name: str | None
    shape: tuple[int, ...] | None
    type: str
    scale: float | None = None
    zero_point: int | None = None


class Runtime(ABC):
    """One runtime.

    Attributes:
        name: as its makers write it.
        package: what must be importable for it to compute.
        suffix: how the name of its file (the first one, if there are several) ends.
        layout: of the images in its files; programs take (N, C, H, W) all the same.
        quantizes: whether `quantize` makes files of eight-bit integers.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    suffix: ClassVar[str]
    layout: ClassVar[str] = "NCHW"
    quantizes: ClassVar[bool] = True

    @abstractmethod
    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        """Write the network, in float32, for inputs of the shape (1, ...) of `example[:1]`.

        The model is not changed. Raises FileNotFoundError if the folder of `path` does not exist,
        ValueError if `path` does not end in `suffix`, `MissingRuntimeError` without the package.
        """

    @abstractmethod
    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        """Write the network in int8 by the runtime's own tool; ranges come from `inputs` (N, ...).

        Raises what `export` raises, and UnsupportedError where the runtime has no such tool.
        """

    @abstractmethod
    def load(self, path: Path | str, threads: int = 1) -> Program:
        """The file as a function of inputs (N, ...), which it computes one by one.

        Raises FileNotFoundError if a file is missing, UnsupportedError where the runtime does not
        compute on this machine, `MissingRuntimeError` without the package.
        """

    @abstractmethod
    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        """The file's input and output, as the file itself says.

        Raises FileNotFoundError if a file is missing, `MissingRuntimeError` without the package.
        """

    def files(self, path: Path | str) -> list[Path]:
        """All files that have to be shipped, the one at `path` first."""
        return [Path(path)]

    def size(self, path: Path | str) -> int:
        """Bytes of all files that have to be shipped."""
        return sum(file.stat().st_size for file in self.files(path))

    def _checked(self, path: Path | str) -> Path:
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")
        if not path.name.endswith(self.suffix) or path.name == self.suffix:
            raise ValueError(f"{path.name} is no file of {self.name}; it must end in {self.suffix}")
        return path

    def _there(self, path: Path | str) -> Path:
        path = self._checked(path)
        for file in self.files(path):
            if not file.exists():
                raise FileNotFoundError(
                    f"{file} does not exist; write it with {type(self).__name__}().export(...)"
                )
        return path


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Run a block with these environment variables, then restore them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def one_by_one(run: Callable[[Tensor], Tensor]) -> Program:
    """A program from a function of a single input (1, ...)."""

    def program(inputs: Tensor) -> Tensor:
        if inputs.ndim < 2 or len(inputs) == 0:
            raise ValueError(f"inputs are {tuple(inputs.shape)}; give a batch (N, ...), N >= 1")
        inputs = inputs.detach().cpu().float().contiguous()
        if len(inputs) == 1:
            return run(inputs)
        return torch.cat([run(single) for single in inputs.split(1)])

    return program


def single(inputs: Tensor) -> Tensor:
    """The first of the inputs (N, ...), as an example for an export."""
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or len(inputs) == 0:
        given = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"the example is {given}; give a batch of inputs (N, ...), N >= 1")
    return inputs[:1].detach().cpu().float().contiguous()
