"""Ranks: how many weights they leave, how much of a layer, and which one to take.

Chapter 5 (Low-rank: matrices, tensors).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from slimcnn.lowrank.matrices import (
    TINY,
    in_double,
    left_vectors,
    singular_values,
    unfold,
)
from slimcnn.lowrank.methods import Rank, channels, check_layer, largest_rank, parts


def factorized_parameters(layer: nn.Module, method: str, rank: Rank) -> int:
    """How many parameters a factorized layer has, bias included.

    Raises:
        ValueError: the layer cannot be factorized by this method, or not at this rank.

    Chapter 5, Low-rank: matrices.
    """
    weights = sum(part.weights(layer) for part in parts(layer, method, rank))
    return weights + (0 if layer.bias is None else layer.bias.numel())


def tucker_ranks(layer: nn.Conv2d, fraction: float) -> tuple[int, int]:
    """(r_out, r_in): the same fraction of the output and of the input channels, at least 1 each.

    Raises:
        ValueError: the fraction is not in (0, 1], or the layer is no convolution without groups.

    Chapter 5, Low-rank: tensors.
    """
    check_layer(layer, "tucker2")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must be above 0 and at most 1")
    outputs, inputs = channels(layer)
    return max(1, round(fraction * outputs)), max(1, round(fraction * inputs))


def all_ranks(layer: nn.Module, method: str) -> list[Rank]:
    """The ranks to choose from, ascending: every one, for "tucker2" all pairs of `tucker_ranks`.

    Raises:
        ValueError: the layer cannot be factorized by this method.
    """
    largest = largest_rank(layer, method)
    if method != "tucker2":
        return list(range(1, largest + 1))
    steps = max(largest)
    return list(dict.fromkeys(tucker_ranks(layer, (i + 1) / steps) for i in range(steps)))


def rank_at(layer: nn.Module, method: str, fraction: float) -> Rank:
    """The largest rank that keeps at most a fraction of the layer's parameters, or the smallest.

    Args:
        layer: a linear layer or a convolution.
        method: one of `METHODS`.
        fraction: of the layer's parameters, bias included; above 0.

    Raises:
        ValueError: the layer cannot be factorized by this method, or the fraction is not above 0.

    Chapter 5, Low-rank: matrices.
    """
    if not fraction > 0:
        raise ValueError(f"fraction is {fraction}; it must be above 0")
    ranks = all_ranks(layer, method)
    allowed = fraction * sum(parameter.numel() for parameter in layer.parameters())
    fitting = [rank for rank in ranks if factorized_parameters(layer, method, rank) <= allowed]
    return fitting[-1] if fitting else ranks[0]


def break_even_rank(layer: nn.Module, method: str) -> Rank | None:
    """The largest rank with fewer parameters than the layer has; None if there is none.

    For a matrix m × n it is the largest r with r (m + n) < m n; for "tucker2" the largest pair
    of `tucker_ranks`.

    Raises:
        ValueError: the layer cannot be factorized by this method.

    Chapter 5, Low-rank: matrices.
    """
    whole = sum(parameter.numel() for parameter in layer.parameters())
    fewer = [r for r in all_ranks(layer, method) if factorized_parameters(layer, method, r) < whole]
    return fewer[-1] if fewer else None


def energy_rank(matrix: Tensor, energy: float) -> int:
    """The smallest rank that keeps a share of the squared singular values, Σ_{i≤r} σ²ᵢ / Σ σ²ᵢ.

    Args:
        matrix: of any shape.
        energy: the share, in (0, 1]; 1 is all but rounding.

    Returns:
        At least 1.

    Raises:
        TypeError, ValueError: no matrix of real finite numbers, or no such share.

    Chapter 5, Low-rank: matrices.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy is {energy}; it must be above 0 and at most 1")
    lost = _tails(singular_values(matrix).square())
    return max(1, int((lost > 1 - energy + len(lost) * torch.finfo(lost.dtype).eps).sum()))


def rank_by(layer: nn.Module, method: str, rule: Callable[[Tensor], int]) -> Rank:
    """The rank of a layer, by a rule for matrices.

    Args:
        layer: a linear layer or a convolution.
        method: any but "cp"; for "tucker2" the rule is asked twice, for the kernel unfolded by
            its outputs, O × (I·kh·kw), and by its inputs, I × (O·kh·kw).
        rule: from a matrix to its rank, such as `evbmf_rank`, or
            `lambda matrix: energy_rank(matrix, 0.9)`; 0 is taken as 1.

    Raises:
        ValueError: the layer cannot be factorized by this method, or the method is "cp".

    Chapter 5, Low-rank: tensors.
    """
    found = [max(1, rule(matrix)) for matrix in _matrices(layer, method)]
    return tuple(found) if method == "tucker2" else found[0]


def relative_errors(
    layer: nn.Module, method: str, moment: Tensor | None = None
) -> dict[Rank, float]:
    """What each rank loses: ‖W − Ŵ‖² / ‖W‖², from 0 to 1, without building anything.

    It is Σ_{i>r} σ²ᵢ / Σ σ²ᵢ of the matrix that the method factorizes. For "tucker2" it is that of
    HOSVD, by the entries of the full core that the ranks leave out; HOOI loses at most this.

    Args:
        layer: a linear layer or a convolution.
        method: any but "cp".
        moment: for "svd" and "channel", the second moment of the outputs: then the shares are of
            the mean squared outputs (without bias) and not of the weights.

    Raises:
        ValueError: the layer cannot be factorized by this method, the method is "cp", or takes no
            moment, or the moment has another shape than (O, O).

    Chapter 5, Low-rank: matrices, tensors.
    """
    matrices = _matrices(layer, method)
    if moment is not None:
        outputs = channels(layer)[0]
        if method not in ("svd", "channel") or moment.shape != (outputs, outputs):
            raise ValueError(
                f"a moment of shape {tuple(moment.shape)} was given for {method!r}; 'svd' and"
                f" 'channel' of this layer take one of shape {(outputs, outputs)}"
            )
        spectrum = torch.linalg.eigvalsh(in_double(moment, 2)).flip(0).clamp_min(0)
    elif method == "tucker2":
        bases = [left_vectors(matrix)[0] for matrix in map(in_double, matrices)]
        core = torch.einsum("oiyx,oa,ib->abyx", in_double(layer.weight), *bases)
        kept = core.square().sum((2, 3)).cumsum(0).cumsum(1)
        rows, columns = kept.shape  # fewer than channels where kernels leave fewer dimensions
        total = kept[-1, -1].clamp_min(TINY)
        return {
            (a, b): float(1 - kept[min(a, rows) - 1, min(b, columns) - 1] / total)
            for a, b in all_ranks(layer, method)
        }
    else:
        spectrum = singular_values(matrices[0]).square()
    lost = _tails(spectrum)
    return {
        rank: float(lost[rank]) if rank < len(lost) else 0.0 for rank in all_ranks(layer, method)
    }


def _matrices(layer: nn.Module, method: str) -> list[Tensor]:
    check_layer(layer, method)
    if method == "cp":
        raise ValueError(
            "'cp' has no spectrum: no rank is best by its singular values. Factorize at several"
            " ranks and compare accuracies on the validation images (layer_sensitivity)."
        )
    if method == "svd":
        return [layer.weight]
    if method == "tucker2":
        return [layer.weight.flatten(1), layer.weight.transpose(0, 1).flatten(1)]
    return [unfold(layer.weight, method)]


def _tails(spectrum: Tensor) -> Tensor:
    """At r: the share of all but the first r entries; 1 at 0."""
    tails = spectrum.flip(0).cumsum(0).flip(0)
    return tails / tails[0].clamp_min(TINY)
