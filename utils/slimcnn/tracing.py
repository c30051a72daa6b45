"""Run a model once, undisturbed, and see every primitive operation that it performs.

The counters of `slimcnn.metrics` (`cost` and `memory`) are built on this: PyTorch hands
each operation to a `Recorder` after composite ones (a linear layer on a sequence, an
`einsum`, an attention function) have been broken into convolutions, matrix products and
elementwise operations. So nothing is missed because it is not a module.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# One input (a tensor, or a shape for zeros), or a sequence of them for several inputs.
ModelInput = Tensor | Sequence[int] | Sequence[Tensor | Sequence[int]]


class Recorder(TorchDispatchMode):
    """Sees each primitive operation of `model` while it is active."""

    def __init__(self, model: nn.Module):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; a torch.nn.Module is needed")
        super().__init__()
        self.model = model

    def start(self, inputs: tuple[Tensor, ...]) -> None:
        """See the model's inputs, before it runs."""

    def finish(self, output: Any) -> None:
        """See what the model returned."""

    def record(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        """See one operation, such as "aten::convolution", and what it returned."""
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Composite operations usually arrive in parts already; in inference mode they do not.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            self.record(func._schema.name, args, kwargs, result)
        return result


def run(recorder: Recorder, input_shape: ModelInput) -> None:
    """Run the recorder's model once, in eval mode and undisturbed."""
    model = recorder.model
    inputs = example_inputs(model, input_shape)
    recorder.start(inputs)
    with undisturbed(model):
        try:
            with recorder:
                output = model(*inputs)
            recorder.finish(output)
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            error.add_note(
                f"{type(model).__name__} was run on {shapes} to measure it. If that is not what"
                " it takes, pass another input_shape: a shape, a tensor, or a tuple of either."
            )
            raise


def tensors(value: Any) -> list[Tensor]:
    """All tensors inside nested tuples, lists and dictionaries, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def has_hooks(module: nn.Module) -> bool:
    """Whether something watches or changes what goes into a module or comes out of it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name; one with several names is there once."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def example_inputs(model: nn.Module, input_shape: ModelInput) -> tuple[Tensor, ...]:
    """The positional inputs that `input_shape` stands for; given tensors are copied.

    A shape becomes zeros on the device, and of the type, of the model's first
    floating-point parameter or buffer (float32 on the CPU if it has none).

    Raises:
        TypeError: `input_shape` is neither a shape, a tensor, nor a sequence of them.
        ValueError: a shape is empty or has a size that is not positive.
    """
    parts = input_shape
    if isinstance(parts, Tensor) or (_is_sequence(parts) and all(_is_size(p) for p in parts)):
        parts = (parts,)
    if not _is_sequence(parts):
        raise TypeError(_wrong_input(input_shape))
    state = [*model.parameters(), *model.buffers()]
    like = next((t for t in state if t.is_floating_point()), torch.empty(0, dtype=torch.float32))
    inputs = []
    for part in parts:
        if isinstance(part, Tensor):
            inputs.append(part.detach().clone())
            continue
        if not (_is_sequence(part) and all(_is_size(size) for size in part)):
            raise TypeError(_wrong_input(input_shape))
        if not part or min(part) < 1:
            raise ValueError(
                f"input_shape has the shape {tuple(part)}; sizes must be 1 or more, with the"
                " batch first, for example (1, 1, 28, 28)"
            )
        inputs.append(torch.zeros(tuple(part), dtype=like.dtype, device=like.device))
    return tuple(inputs)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, without gradients; at the end leave it as it was.

    What comes back, also after an error: each module's mode, every buffer (a batch norm
    that is told to update its statistics in eval mode, too), and the random generators.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.layout == torch.strided
    ]
    on_gpu = any(tensor.is_cuda for tensor in [*model.parameters(), *model.buffers()])
    gpus = list(range(torch.cuda.device_count())) if on_gpu else []
    # The fused attention layer would hide its matrix products from a recorder.
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in modes:
            module.training = False
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), torch.random.fork_rng(gpus):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                if not buffer.is_meta and not torch.equal(buffer, before):
                    buffer.copy_(before)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong_input(value: Any) -> str:
    return (
        f"input_shape is {value!r}; allowed are a shape such as (1, 1, 28, 28), a tensor, or a"
        " tuple of shapes and tensors for a model with several inputs"
    )
