"""Scores: how much each weight, or each filter, seems to matter.

Every score is called alike, `score(model, batches, generator)`, and returns a tensor for each
scored parameter: of the weight's shape for `magnitude`, `random`, `taylor` and `snip`; one
number a filter, shape (filters,), for those whose name begins with `filter_`, and one a
channel for `batch_norm_scale`. Only scores of gradients read `batches`, only random ones draw
from `generator`. A higher score stays longer. The scored parameters are the weights of
convolutions and linear layers, the last of which a caller may well leave out.

Chapter 2 derives the scores: magnitude and structured.
"""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimcnn.data import Batch
from slimcnn.masking import finalize
from slimcnn.pruning.groups import ChannelGroups

Scores = dict[str, Tensor]
Score = Callable[[nn.Module, Iterable[Batch] | None, torch.Generator | None], Scores]


def magnitude(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """|w|: small weights change little when they go (Han et al., 2015, arXiv:1506.02626)."""
    return {name: weight.abs() for name, weight in _weights(model).items()}


def random(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """Uniform random numbers: the control that every score must beat."""
    return {
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in _weights(model).items()
    }


def taylor(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """Mean over batches of (w · ∂L/∂w)².

    To first order that is the squared change of the loss without the weight (Molchanov et
    al., 2019, arXiv:1906.10771).
    """
    products = list(_weight_times_gradient(model, _needed(batches, "taylor")))
    return {n: torch.stack([p[n] ** 2 for p in products]).mean(0) for n in products[0]}


def snip(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """|w · ∂L/∂w| of the mean loss over all batches, as shares of the network's sum.

    It says how much the loss feels each connection. Lee et al., 2019, arXiv:1810.02340, use
    it before any training.
    """
    products = list(_weight_times_gradient(model, _needed(batches, "snip")))
    total = {n: torch.stack([p[n] for p in products]).mean(0).abs() for n in products[0]}
    everything = sum(float(t.sum()) for t in total.values())
    return {n: t / everything if everything else t for n, t in total.items()}


def filter_l1(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """Sum of |w| over each filter (Li et al., 2017, arXiv:1608.08710)."""
    return {name: rows.abs().sum(1) for name, rows in _filters(model).items()}


def filter_l2(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """√(sum of w²) over each filter."""
    return {name: rows.norm(dim=1) for name, rows in _filters(model).items()}


def filter_random(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """A uniform random number for each filter: the control."""
    return {
        name: torch.rand(len(rows), generator=generator).to(rows.device)
        for name, rows in _filters(model).items()
    }


def filter_taylor(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """Mean over batches of (Σ w · ∂L/∂w)², summed over each filter before squaring.

    To first order that is the squared change of the loss without the filter (Molchanov et
    al., 2019, arXiv:1906.10771).
    """
    products = [
        {name: _as_rows(model, name, p).sum(1) for name, p in product.items()}
        for product in _weight_times_gradient(model, _needed(batches, "filter_taylor"))
    ]
    return {n: torch.stack([p[n] ** 2 for p in products]).mean(0) for n in products[0]}


def filter_fpgm(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """Sum of the Euclidean distances of a filter to all others of its layer.

    A filter near the geometric median can be replaced by the rest (FPGM, He et al., 2019,
    arXiv:1811.00250).
    """
    # `cdist` subtracts large squares: in float32 equal filters would have a distance.
    wide = {name: rows.double() for name, rows in _filters(model).items()}
    return {name: torch.cdist(rows, rows).sum(1).float() for name, rows in wide.items()}


def batch_norm_scale(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    """|γ| of each batch norm: the network's own dial for a channel.

    Network slimming (Liu et al., 2017, arXiv:1708.06519) trains γ with an L1 penalty first,
    see `slimming_objective`.

    Raises:
        ValueError: the network has no batch norm with a scale.
    """
    scores = {
        f"{name}.weight".lstrip("."): module.weight.detach().abs()
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.weight is not None
    }
    if not scores:
        raise ValueError("the network has no batch norm with a scale; use a score of filters")
    return scores


def group_scores(groups: ChannelGroups, scores: Mapping[str, Tensor]) -> Scores:
    """One score for each channel of each group: the sum over what goes with it.

    A group's layers can have scores of very different size (a 1×1 shortcut, a 3×3 filter), so
    each tensor's scores are divided by their mean first; then they are summed over the
    tensors of the group, and divided by the group's mean.

    Args:
        groups: from `find_groups`.
        scores: of filters or of channels, by the name of the weight, shape (filters,).

    Returns:
        By the group's name, shape (channels,), mean 1 (or all zero).

    Raises:
        ValueError: a group has no scored tensor, or a score is not one number a filter, or NaN.
    """
    result = {}
    for group in groups:
        total = torch.zeros(group.size)
        parts = 0
        for member in group.members:
            if member.role not in ("producer", "norm") or member.tensor not in scores:
                continue
            values = scores[member.tensor].detach().float().cpu()
            size = groups.shapes[member.tensor][member.dim]
            if values.ndim != 1 or not len(values) or len(values) % size:
                raise ValueError(
                    f"the score of {member.tensor!r} has shape {tuple(values.shape)}; one number"
                    " a filter is needed: use a score whose name begins with filter_"
                )
            if values.isnan().any():
                raise ValueError(
                    f"a score of {member.tensor!r} is NaN; nothing can be ranked by it"
                )
            # Transposed convolutions have several filters at one index, see `_as_rows`.
            by_index = values.view(-1, size).sum(0) if member.dim else values.view(size, -1).sum(1)
            total += _mean_one(by_index[member.indices].sum(1))
            parts += 1
        if not parts:
            raise ValueError(
                f"no tensor of group {group.name!r} has a score; those scored are"
                f" {', '.join(list(scores)[:3])}, ..."
            )
        result[group.name] = _mean_one(total)
    return result


def _mean_one(values: Tensor) -> Tensor:
    mean = values.mean()
    return values / mean if mean > 0 else torch.zeros_like(values)


def _weights(model: nn.Module) -> Scores:
    """Weights of convolutions and linear layers by name, as the network sees them."""
    return {
        f"{name}.weight".lstrip("."): module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear)
    }


def _filters(model: nn.Module) -> Scores:
    """The same, each filter a row: shape (filters, numbers of a filter)."""
    return {name: _as_rows(model, name, weight) for name, weight in _weights(model).items()}


def _as_rows(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, _ConvTransposeNd):  # (in, out / groups, ...)
        weight = weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def _needed(batches: Iterable[Batch] | None, name: str) -> list[Batch]:
    batches = list(batches) if batches is not None else []
    if not batches:
        raise ValueError(f"{name} needs batches of labelled images to take gradients from")
    return batches


def _weight_times_gradient(model: nn.Module, batches: list[Batch]) -> Iterable[Scores]:
    """For each batch w · ∂L/∂w, L being the cross-entropy and the network in eval mode."""
    model = finalize(copy.deepcopy(model)).eval().requires_grad_(True)
    device = next(model.parameters()).device
    names = list(_weights(model))
    parameters = dict(model.named_parameters(remove_duplicate=False))  # tied weights, too
    for batch in batches:
        loss = F.cross_entropy(model(batch.images.to(device)), batch.labels.to(device))
        gradients = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        yield {
            n: parameters[n].detach() * (torch.zeros_like(parameters[n]) if g is None else g)
            for n, g in zip(names, gradients, strict=True)
        }
