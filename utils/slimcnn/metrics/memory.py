"""How much memory a network's activations need at the worst moment of a forward pass."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from slimcnn.tracing import ModelInput, Recorder, run, tensors


def peak_activation_bytes(model: nn.Module, input_shape: ModelInput = (1, 1, 28, 28)) -> int:
    """The most bytes of activations that are alive at once, in one forward pass.

    The model is run once in eval mode and its operations are recorded in program order.
    While an operation runs, these are alive: its inputs, its outputs, and all that was made
    before it and is read later or returned. With first(m) and last(m), the steps at which
    the piece of memory m is touched first and last,

        peak = max over steps t of Σ bytes(m), over all m with first(m) ≤ t ≤ last(m).

    - Memory is counted, not tensors: a view (flatten, reshape, chunk), an identity (dropout
      in eval mode) and an in-place operation (`ReLU(inplace=True)`) add nothing.
    - The model's input counts until its last use, its output to the end.
    - Weights, buffers, constants, and what is computed from them alone do not count.
    - Side results that nothing reads (the indices of max pooling) do not count, nor does the
      scratch memory inside an operation. A padded copy is an operation of its own: it counts.

    So this is what a runtime needs that keeps the program's order, fuses nothing, and frees
    every tensor after its last use. In eager mode Python's variables may keep some longer.

    Args:
        model: any module; it is left as it was, as by `layer_costs`.
        input_shape: a shape, a tensor, or a tuple of these, as for `layer_costs`.

    Raises:
        TypeError, ValueError: `input_shape` is no such thing.

    Chapter 1, Measuring: cost.
    """
    recorder = _Lifetimes(model)
    run(recorder, input_shape)
    return recorder.peak()


@dataclass
class _Memory:
    """A piece of memory that activations live in, and the steps that touch it."""

    reference: StorageWeakRef  # while it is held, no other storage gets the same address
    first: int
    last: int
    bytes: int
    side_result: bool


class _Lifetimes(Recorder):
    """Notes for each piece of memory when it is made and when it is used last."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.step = 0
        self.activations: dict[int, _Memory] = {}
        self.constants: dict[int, StorageWeakRef] = {}
        for tensor in [*model.parameters(), *model.buffers()]:
            self._exclude(tensor)

    def start(self, inputs: tuple[Tensor, ...]) -> None:
        for tensor in inputs:
            self._touch(tensor)

    def record(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        self.step += 1
        inputs, outputs = tensors((args, kwargs)), tensors(result)
        for tensor in inputs:
            if _address(tensor) in self.activations:
                self._touch(tensor)
            else:  # a tensor that no recorded operation made: the model brought it along
                self._exclude(tensor)
        if inputs and all(_address(tensor) in self.constants for tensor in inputs):
            for tensor in outputs:
                self._exclude(tensor)
        for tensor in outputs:
            self._touch(tensor, side_result=len(outputs) > 1)

    def finish(self, output: Any) -> None:
        self.step += 1
        for tensor in tensors(output):
            self._touch(tensor)

    def peak(self) -> int:
        change = [0] * (self.step + 2)
        for memory in self.activations.values():
            if not (memory.side_result and memory.first == memory.last):
                change[memory.first] += memory.bytes
                change[memory.last + 1] -= memory.bytes
        return max(accumulate(change))

    def _exclude(self, tensor: Tensor) -> None:
        if (address := _address(tensor)) is not None and address not in self.constants:
            self.constants[address] = StorageWeakRef(tensor.untyped_storage())

    def _touch(self, tensor: Tensor, side_result: bool = False) -> None:
        address = _address(tensor)
        if address is None or address in self.constants:
            return
        storage = tensor.untyped_storage()
        memory = self.activations.setdefault(
            address, _Memory(StorageWeakRef(storage), self.step, self.step, 0, side_result)
        )
        memory.last = self.step
        memory.bytes = max(memory.bytes, storage.nbytes())


def _address(tensor: Tensor) -> int | None:
    """What identifies the tensor's memory; None if it has no single piece (sparse)."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else None
