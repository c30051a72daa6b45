"""What a network costs: parameters, non-zeros, multiply-accumulates, bytes of a file.

A MAC is one multiplication and the addition that follows it. Convolutions and matrix
products (linear layers are matrix products) are made of them and are counted by the
formulas below; pooling, normalization, activations, softmax, interpolation and all other
elementwise work counts zero. Zeros count like any other number, in weights and in padding.
Chapter 1 (Measuring: cost) derives the formulas and checks them against PyTorch's counter,
`torch.utils.flop_counter`, which counts two operations for each MAC.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from slimcnn.metrics._formulas import operation_macs
from slimcnn.tracing import ModelInput, Recorder, run, tensors


@dataclass(frozen=True)
class LayerCost:
    """What one call of one module costs.

    Attributes:
        name: the module's name in `named_modules()`; "" is the model itself.
        kind: the name of its class, such as "Conv2d".
        output_shape: shape of its output, batch first; a tuple of shapes if it returns
            several tensors; () if it never ran.
        parameters: numbers of its own that can be trained. A parameter belongs to the first
            row that has it, so the column sums to `count_parameters`.
        nonzeros: how many of these are not zero; the column sums to `count_nonzeros`.
        macs: multiply-accumulates done by the module itself, not by its children.
        activation_bytes: bytes of its output.
    """

    name: str
    kind: str
    output_shape: tuple
    parameters: int
    nonzeros: int
    macs: int
    activation_bytes: int


def layer_costs(model: nn.Module, input_shape: ModelInput = (1, 1, 28, 28)) -> list[LayerCost]:
    """The cost of each layer for one forward pass in eval mode, in the order of the calls.

    There is a row for each call of a leaf module, also where it does no MACs. A module with
    children gets a row if it has parameters of its own or calls functions such as
    `F.conv2d` or `torch.matmul` itself: their MACs belong to the innermost module that is
    running, so none are lost. A module that holds parameters but was not called (a head
    that only training uses; a layer whose weight another module takes, as attention does)
    has a row at the end, with the output shape ().

    MACs of each operation, K being the product of the kernel's sides:

    - convolution: (numbers in the output) · (C_in / groups) · K. Stride, dilation and
      padding act through the size of the output.
    - transposed convolution: (numbers in the input) · (C_out / groups) · K.
    - matrix product (m × k) · (k × n): m·k·n, for each pair in the batch; a linear layer is
      one, and its bias is free.
    - attention: queries · keys · (width of a key + width of a value), for each head.

    The model is run once, on its own device, and left as it was: modes, buffers, hooks,
    random state.

    Args:
        model: any module; compiled or quantized ones are not supported.
        input_shape: the shape of the input with the batch first (zeros are used), or a
            tensor, or a tuple of shapes and tensors for a model with several inputs.

    Raises:
        TypeError, ValueError: `input_shape` is no such thing.
        UncountableError: an operation does MACs that have no formula, such as an LSTM's.

    Chapter 1, Measuring: cost.
    """
    seen: set[int] = set()
    rows = [_row(call, seen) for call in _calls(model, input_shape) if call.has_row()]
    for name, module in model.named_modules():
        if any(id(parameter) not in seen for parameter in module.parameters(recurse=False)):
            rows.append(_row(_Call(name, module), seen))
    return rows


def count_macs(model: nn.Module, input_shape: ModelInput = (1, 1, 28, 28)) -> int:
    """Multiply-accumulates of one forward pass: the sum over the rows of `layer_costs`.

    The batch size counts: a batch of 8 costs 8 times what one image costs. Arguments,
    errors and formulas are those of `layer_costs`. Chapter 1, Measuring: cost.
    """
    return sum(call.macs for call in _calls(model, input_shape))


def count_parameters(model: nn.Module) -> int:
    """How many numbers can be trained; a parameter with several names counts once.

    Frozen parameters count; buffers (running statistics) do not. Chapter 1, Measuring: cost.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzeros(model: nn.Module) -> int:
    """How many parameters are not zero; −0.0 is zero, NaN is not.

    A parameter that `torch.nn.utils.prune` masks (`weight_orig` with `weight_mask`), or a
    parametrization such as that of `slimcnn.masking`, counts as the network sees it: masked.
    Chapter 1, Measuring: cost.
    """
    seen: set[int] = set()
    return sum(_parameters_of(module, seen)[1] for module in model.modules())


def saved_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors file that holds the model's state: weights, buffers, header.

    The file is really written, to a temporary folder. Tensors that are one and the same
    memory (tied weights) are stored once. Chapter 1, Measuring: cost.

    Raises:
        TypeError: the state holds something else than tensors with data.
    """
    state, stored = {}, set()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.layout != torch.strided:
            raise TypeError(
                f"{name!r} in the model's state is {_describe(tensor)}; a safetensors file holds"
                " dense tensors with data only. Convert or remove it before measuring."
            )
        memory = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if tensor.numel() and (memory, tensor.device) in stored:
            continue
        stored.add((memory, tensor.device))
        state[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(state, path)
        return path.stat().st_size


@dataclass
class _Call:
    """One call of one module, while and after it runs."""

    name: str
    module: nn.Module
    macs: int = 0
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)
    output_bytes: int = 0

    def has_row(self) -> bool:
        leaf = not list(self.module.children())
        return leaf or self.macs > 0 or bool(list(self.module.parameters(recurse=False)))


def _calls(model: nn.Module, input_shape: ModelInput) -> list[_Call]:
    """Every call of every module in one forward pass, with the MACs of its own."""
    counter = _MacCounter(model)
    with counter.watch_modules():
        run(counter, input_shape)
    outside = [call for call in counter.running if call.macs]
    return outside + counter.calls


class _MacCounter(Recorder):
    """Gives the MACs of each operation to the innermost module that is running."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.calls: list[_Call] = []
        # The bottom takes what runs before the model itself does: global hooks of the user.
        self.running = [_Call("", model)]

    def record(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        self.running[-1].macs += operation_macs(name, args, kwargs, result)

    @contextmanager
    def watch_modules(self) -> Iterator[None]:
        handles = []
        try:
            for name, module in self.model.named_modules():
                enter = self._enter(name)
                handles.append(module.register_forward_pre_hook(enter, prepend=True))
                handles.append(module.register_forward_hook(self._leave))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple) -> None:
            self.calls.append(_Call(name, module))
            self.running.append(self.calls[-1])

        return hook

    def _leave(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        call = self.running.pop()
        outputs = tensors(output)
        call.output_shapes = [tuple(tensor.shape) for tensor in outputs]
        call.output_bytes = sum(tensor.numel() * tensor.element_size() for tensor in outputs)


def _row(call: _Call, seen: set[int]) -> LayerCost:
    parameters, nonzeros = _parameters_of(call.module, seen)
    shapes = call.output_shapes
    return LayerCost(
        name=call.name,
        kind=type(call.module).__name__,
        output_shape=shapes[0] if len(shapes) == 1 else tuple(shapes),
        parameters=parameters,
        nonzeros=nonzeros,
        macs=call.macs,
        activation_bytes=call.output_bytes,
    )


def _parameters_of(module: nn.Module, seen: set[int]) -> tuple[int, int]:
    """(parameters, non-zeros) of the module itself that are not in `seen`; adds them to it."""
    total = nonzeros = 0
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        total += parameter.numel()
        values = parameter.detach()
        if isinstance(module, ParametrizationList) and name == "original":
            weight = module().detach()  # as the network sees it
            values = weight if weight.shape == values.shape else values
        mask = getattr(module, name.removesuffix("_orig") + "_mask", None)
        if name.endswith("_orig") and isinstance(mask, Tensor):
            values = values * mask
        nonzeros += int(torch.count_nonzero(values))
    return total, nonzeros


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return "on the meta device" if value.is_meta else f"a tensor of layout {value.layout}"
