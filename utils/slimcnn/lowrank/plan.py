"""Which layers to factorize, how, and to which rank, under a budget for the whole network.

Chapter 5 (Low-rank: tensors).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from slimcnn.budget import Option, choose
from slimcnn.lowrank.costs import Survey
from slimcnn.lowrank.methods import Choice
from slimcnn.lowrank.network import Plan, candidates, factorize
from slimcnn.lowrank.ranks import rank_at, relative_errors
from slimcnn.tracing import ModelInput

Resource = Literal["macs", "parameters", "bytes"]
Measure = Callable[[nn.Module], float]
# By layer: what was measured with it factorized so (None: the whole network), first the whole one.
Scan = dict[str, list[tuple[Choice | None, float]]]
# By layer, what each choice does harm, in any unit that is the same for all; whole is 0.
Damages = Mapping[str, Mapping[Choice, float]]


def energy_damages(
    model: nn.Module,
    methods: Sequence[str] = ("svd", "channel"),
    moments: Mapping[str, Tensor] | None = None,
) -> dict[str, dict[Choice, float]]:
    """For each layer, method and rank the share of the layer that is lost: see `relative_errors`.

    Nothing is run: this is quick, and knows nothing of what the network needs. Methods can be
    mixed, then the plan takes the best for each layer.

    Args:
        model: it is not changed.
        methods: any but "cp".
        moments: from `output_moments`: for layers named there, "svd" and "channel" are judged by
            their outputs; do not mix them with other methods then, whose shares mean less.

    Raises:
        ValueError: a method is unknown, or is "cp".

    Chapter 5, Low-rank: tensors.
    """
    return {
        name: {
            Choice(method, rank): error
            for method in _fitting(layer, methods)
            for rank, error in relative_errors(
                layer, method, (moments or {}).get(name) if method in ("svd", "channel") else None
            ).items()
        }
        for name, layer in candidates(model, methods).items()
    }


def layer_sensitivity(
    model: nn.Module,
    fractions: Sequence[float],
    measure: Measure,
    *,
    methods: Sequence[str] = ("svd", "channel"),
    moments: Mapping[str, Tensor] | None = None,
) -> Scan:
    """Factorize one layer at a time, all others whole, and measure.

    Args:
        model: it is not changed.
        fractions: of the layer's parameters that a rank may keep at most (see `rank_at`).
        measure: for instance accuracy on validation images: `lambda m: evaluate(m, split)`.
        methods: each that fits is tried on each layer.
        moments: as for `factorize`.

    Returns:
        By layer, (None, what the whole network measures), then (choice, measured) for each method
        and fraction; ranks that come up twice once.

    Raises:
        ValueError: a method is unknown, or a fraction not above 0.

    Chapter 5, Low-rank: tensors.
    """
    whole = measure(model)
    scan: Scan = {}
    for name, layer in candidates(model, methods).items():
        tried = [
            Choice(method, rank_at(layer, method, fraction))
            for method in _fitting(layer, methods)
            for fraction in fractions
        ]
        scan[name] = [(None, whole)] + [
            (choice, measure(factorize(model, {name: choice}, moments)))
            for choice in dict.fromkeys(tried)
        ]
    return scan


def measured_damages(scan: Scan) -> dict[str, dict[Choice, float]]:
    """What `choose_ranks` reads, from a scan: how far each choice falls below the whole network."""
    return {
        name: {choice: whole - value for choice, value in found}
        for name, ((_, whole), *found) in scan.items()
    }


def choose_ranks(
    model: nn.Module,
    damages: Damages,
    *,
    budget: float,
    resource: Resource = "macs",
    input_shape: ModelInput = (1, 1, 28, 28),
) -> Plan:
    """A plan for the whole network: within the budget, with the least sum of damages.

    Each layer takes one of its choices, or stays whole at no damage (`slimcnn.budget.choose`).
    The budget is never exceeded; what is left of it buys no choice of less damage for any layer.

    Args:
        model: it is run once and not changed.
        damages: from `energy_damages` or `measured_damages`; layers that are not named stay whole.
        budget: what may be left, as a fraction of the whole network's `resource`, in (0, 1].
        resource: "macs", "parameters" or "bytes" (of the tensors).
        input_shape: as for `metrics.count_macs`.

    Raises:
        KeyError, ValueError: an argument is not as described, a damage is no finite number, or
            no plan fits the budget; the message gives the smallest fraction that can be reached.

    Chapter 5, Low-rank: tensors.
    """
    if resource not in ("macs", "parameters", "bytes"):
        raise ValueError(f"resource is {resource!r}; it must be macs, parameters or bytes")
    if not 0 < budget <= 1:
        raise ValueError(f"budget is {budget}; it must be above 0 and at most 1")
    survey = Survey(model, input_shape)

    def price(name: str, choice: Choice | None = None) -> int:
        return getattr(survey.of_layer(name, choice), resource)

    options = {
        name: [Option(price(name), 0.0)] + [Option(price(name, c), d) for c, d in found.items()]
        for name, found in damages.items()
    }
    whole = getattr(survey.whole, resource)
    fixed = whole - sum(price(name) for name in options)
    least = fixed + sum(min(option.cost for option in found) for found in options.values())
    if least > budget * whole:
        raise ValueError(
            f"no plan leaves {budget:.3f} of the {resource}: with the cheapest choice for each"
            f" layer, {least / whole:.3f} are left"
        )
    chosen = choose(options, budget * whole - fixed)
    return {name: list(damages[name])[index - 1] for name, index in chosen.items() if index > 0}


def _fitting(layer: nn.Module, methods: Sequence[str]) -> list[str]:
    return [m for m in methods if (m == "svd") == isinstance(layer, nn.Linear)]
