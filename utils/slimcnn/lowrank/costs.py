"""What a network costs with some layers factorized, without building it.

One forward pass sees at which sizes each layer runs; the rest is formulas. Chapter 5 (Low-rank:
matrices, tensors).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from slimcnn.lowrank.methods import Choice, parts
from slimcnn.lowrank.network import candidates
from slimcnn.lowrank.ranks import factorized_parameters
from slimcnn.metrics import count_macs, count_parameters
from slimcnn.tracing import ModelInput, named_tensors


class Cost(NamedTuple):
    """MACs of one pass, parameters, and bytes of parameters and buffers (without a file header)."""

    macs: int
    parameters: int
    bytes: int


class _Pass(NamedTuple):
    """One call of a layer: how many maps, and their height and width before and after."""

    maps: int
    before: tuple[int, int]
    after: tuple[int, int]


class Survey:
    """The sizes at which a network's layers run, and what they cost, whole or factorized.

    Args:
        model: it is run once, undisturbed, and is not changed.
        input_shape: as for `metrics.count_macs`: a shape with the batch first, a tensor, or a
            tuple of either. All MACs are for this input.

    Chapter 5, Low-rank: matrices.
    """

    def __init__(self, model: nn.Module, input_shape: ModelInput = (1, 1, 28, 28)):
        self.layers = candidates(model)
        self.passes: dict[str, list[_Pass]] = {name: [] for name in self.layers}
        handles = [
            layer.register_forward_hook(self._watch(name), with_kwargs=True)
            for name, layer in self.layers.items()
        ]
        try:
            macs = count_macs(model, input_shape)
        finally:
            for handle in handles:
                handle.remove()
        size = sum(t.numel() * t.element_size() for t in named_tensors(model).values())
        self.whole = Cost(macs, count_parameters(model), size)

    def of_layer(self, name: str, choice: Choice | None = None) -> Cost:
        """What one layer costs, whole or factorized.

        Raises:
            KeyError: it is none of `candidates`.
            ValueError: it cannot be factorized so.
        """
        if name not in self.layers:
            raise KeyError(f"{name!r} is no layer that can be factorized; see candidates(model)")
        layer = self.layers[name]
        if choice is None:
            positions = sum(p.maps * p.after[0] * p.after[1] for p in self.passes[name])
            macs = positions * layer.weight.numel()
            parameters = sum(parameter.numel() for parameter in layer.parameters())
        else:
            macs = sum(_macs(layer, choice, size) for size in self.passes[name])
            parameters = factorized_parameters(layer, *choice)
        return Cost(macs, parameters, parameters * layer.weight.element_size())

    def of_network(self, plan: Mapping[str, Choice]) -> Cost:
        """What the network costs with a plan; equals what `metrics` counts of `factorize`'s.

        Raises:
            KeyError, ValueError: a layer is none of `candidates`, or cannot be factorized so.
        """
        total = list(self.whole)
        for name, choice in plan.items():
            old, new = self.of_layer(name), self.of_layer(name, choice)
            total = [t - a + b for t, a, b in zip(total, old, new, strict=True)]
        return Cost(*total)

    def _watch(self, name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple, named: dict, output: Tensor) -> None:
            if isinstance(layer, nn.Linear):
                seen = _Pass(output[..., 0].numel(), (1, 1), (1, 1))
            else:
                (given,) = (*inputs, *named.values())
                maps = output.shape[:-3].numel()
                seen = _Pass(maps, tuple(given.shape[-2:]), tuple(output.shape[-2:]))
            self.passes[name].append(seen)

        return hook


def _macs(layer: nn.Module, choice: Choice, size: _Pass) -> int:
    """Σ over the parts of weights · positions; a part strides only along its own axes."""
    height, width = size.before
    total = 0
    for part in parts(layer, *choice):
        height = size.after[0] if "h" in part.axes else height
        width = size.after[1] if "w" in part.axes else width
        total += size.maps * height * width * part.weights(layer)
    return total
