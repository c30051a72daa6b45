"""A network computed with integers alone, as a microcontroller would.

Chapter 6 (Quantization: integers).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimcnn.quantization.integers import Arithmetic
from slimcnn.quantization.network import QuantizedLayer
from slimcnn.quantization.operations import Stored, real, rule_for, store
from slimcnn.quantization.placement import is_quantizer, placed


class IntegerNetwork(nn.Module):
    """A quantized network whose every sum is one of integers.

    Inputs are rounded to integers; each layer adds up integer products and an integer bias in
    int32; what is stored between layers is rescaled by an integer multiplier and a shift, with
    ReLU as a bound on integers; the outputs are sums times their scale.

    Args:
        network: from `place_quantizers`, its batch norms folded; it is not changed.
        arithmetic: how sums are rescaled: "fixed" (integers only) or "float" (a float32 factor).

    Raises:
        TypeError: the network has no placed quantizers.
        ValueError: it has operations that cannot be done here; the message lists them.

    Chapter 6, Quantization: integers.
    """

    def __init__(self, network: fx.GraphModule, arithmetic: Arithmetic = "fixed"):
        super().__init__()
        nodes = placed(network).graph.nodes
        if arithmetic not in ("fixed", "float"):
            raise ValueError(f"arithmetic is {arithmetic!r}; allowed are 'fixed' and 'float'")
        unknown = [
            f"{node.name} ({_kind(network, node)})"
            for node in nodes
            if node.op.startswith("call") and not is_quantizer(node) and not rule_for(network, node)
        ]
        if unknown:
            norms = any("BatchNorm" in name for name in unknown)
            hint = "; batch norms can be folded where a layer comes before them" if norms else ""
            shown = ", ".join([*unknown[:5], *(["…"] if unknown[5:] else [])])
            raise ValueError(f"there is no integer arithmetic for {shown}{hint}")
        self.network, self.arithmetic = network, arithmetic

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """The outputs, float32, of normalized images."""
        return _Run(self.network, self.arithmetic).run(x)

    @torch.no_grad()
    def steps(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All integers on the way, by the name of the operation in the graph.

        Args:
            x: normalized images.
            given: integers of placed quantizers, by name. What is computed in their place is
                returned, but what follows reads the given ones: so each step is seen alone.

        Returns:
            Of layers the int32 sums, of placed quantizers what is stored; in their order.
        """
        kept: dict[str, Tensor] = {}
        _Run(self.network, self.arithmetic, kept, given or {}).run(x)
        return kept


class _Run(fx.Interpreter):
    """One pass; values are `Stored` or `Sums` from the first quantizer on."""

    def __init__(
        self,
        network: fx.GraphModule,
        arithmetic: Arithmetic,
        kept: dict[str, Tensor] | None = None,
        given: Mapping[str, Tensor] | None = None,
    ):
        super().__init__(network)
        self.arithmetic, self.kept, self.given = arithmetic, kept, given or {}

    def run_node(self, node: fx.Node) -> Any:
        if node.op == "output":
            return fx.node.map_aggregate(super().run_node(node), real)
        if not node.op.startswith("call"):
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = self.module.get_submodule(node.target) if node.op == "call_module" else None
        if is_quantizer(node):
            made = store(args[0], module.quantizer(), self.arithmetic)
            self._keep(node, made.integers)
            return Stored(self.given.get(node.name, made.integers), made.quantizer)
        result = rule_for(self.module, node)(*args, **kwargs)
        if isinstance(module, QuantizedLayer):
            self._keep(node, result.terms[0][0])
        return result

    def _keep(self, node: fx.Node, integers: Tensor) -> None:
        if self.kept is not None:
            self.kept[node.name] = integers


def _kind(network: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(network.get_submodule(node.target)).__name__
    return node.target if isinstance(node.target, str) else node.target.__name__
