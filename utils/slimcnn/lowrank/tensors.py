"""Tucker-2 and CP: a tensor as a small core with factors, or as a sum of outer products.

Everything is computed in float64 on the CPU and given back in the type, and on the device, of
the input. Chapter 5 (Low-rank: tensors).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from slimcnn.lowrank.matrices import TINY, check_int, in_double, leading_vectors, left_vectors

# Pull towards the last factor in each least-squares problem, relative to its matrix's diagonal.
_PROXIMITY = 1e-9


class Tucker2(NamedTuple):
    """A kernel whose channels are mixed before and after a small convolution.

    kernel[o, i, y, x] ≈ Σ_a Σ_b out_factor[o, a] · core[a, b, y, x] · in_factor[i, b]

    Attributes:
        core: shape (r_out, r_in, kh, kw).
        out_factor: shape (O, r_out), columns orthonormal.
        in_factor: shape (I, r_in), columns orthonormal.
    """

    core: Tensor
    out_factor: Tensor
    in_factor: Tensor

    def reconstruct(self) -> Tensor:
        """The kernel that this stands for, shape (O, I, kh, kw)."""
        return torch.einsum("abyx,oa,ib->oiyx", *self)


def tucker2(
    kernel: Tensor, ranks: tuple[int, int], *, iterations: int = 50, tolerance: float = 1e-6
) -> Tucker2:
    """Tucker decomposition of a kernel along its two channel axes.

    HOSVD takes the first eigenvectors of both unfoldings (De Lathauwer et al., 2000,
    doi:10.1137/S0895479896305696); HOOI then renews each factor as the best one beside the
    other, so that the error never rises (doi:10.1137/S0895479898346995). The core is the kernel
    projected on both, and ‖kernel − reconstruction‖² = ‖kernel‖² − ‖core‖².

    Args:
        kernel: shape (O, I, kh, kw).
        ranks: (r_out, r_in), up to (O, I).
        iterations: of HOOI at most; 0 for HOSVD.
        tolerance: HOOI stops when the squared error, as a share of ‖kernel‖², falls by less.

    Raises:
        TypeError, ValueError: no such kernel, or ranks beyond their limits.

    Kim et al., 2016, arXiv:1511.06530, use it for convolutions. Chapter 5, Low-rank: tensors.
    """
    work = in_double(kernel, 4)
    rank_out, rank_in = ranks
    check_int("r_out", rank_out, work.shape[0])
    check_int("r_in", rank_in, work.shape[1])
    by_out, by_in = work.flatten(1), work.transpose(0, 1).flatten(1)
    out_factor = leading_vectors(by_out @ by_out.T, rank_out)
    in_factor = leading_vectors(by_in @ by_in.T, rank_in)
    total = work.square().sum().clamp_min(TINY)
    explained = -1.0
    for _ in range(iterations):
        half = (in_factor.T @ by_in).unflatten(1, (work.shape[0], -1)).transpose(0, 1).flatten(1)
        out_factor = leading_vectors(half @ half.T, rank_out)
        half = (out_factor.T @ by_out).unflatten(1, (work.shape[1], -1)).transpose(0, 1).flatten(1)
        in_factor = leading_vectors(half @ half.T, rank_in)
        before, explained = explained, float((in_factor.T @ half).square().sum() / total)
        if explained - before < tolerance:
            break
    core = torch.einsum("oiyx,oa,ib->abyx", work, out_factor, in_factor)
    return Tucker2(*(part.to(kernel) for part in (core, out_factor, in_factor)))


@dataclass(frozen=True)
class CP:
    """A sum of R outer products: T ≈ Σ_r weights[r] · f₁[:, r] ∘ f₂[:, r] ∘ …

    Attributes:
        weights: norms of the components, shape (R,).
        factors: one for each axis, shape (size of the axis, R), columns of norm 1.
        errors: ‖T − approximation‖ / ‖T‖ after each sweep.
        degeneracy: Σ weights / ‖T‖. It is at most √R for orthogonal components. Where it is
            large, components cancel each other: a best approximation may not exist, and the
            factors are hard to train and to quantize (de Silva & Lim, 2008, arXiv:math/0607647).
    """

    weights: Tensor
    factors: tuple[Tensor, ...]
    errors: tuple[float, ...]
    degeneracy: float

    def reconstruct(self) -> Tensor:
        """The tensor that this stands for."""
        result = self.weights
        for axis, factor in enumerate(self.factors):
            # (sizes so far, R) -> (sizes so far, size, R)
            result = result.unsqueeze(axis) * factor
        return result.sum(-1)


def cp(
    tensor: Tensor,
    rank: int,
    *,
    starts: int = 1,
    iterations: int = 500,
    tolerance: float = 3e-5,
    generator: torch.Generator | None = None,
) -> CP:
    """CP decomposition by alternating least squares (ALS).

    Each factor f in turn becomes the best one beside the others: f · H = M, where H is the
    entrywise product of the others' Gram matrices and M the tensor times the others. A weak pull
    towards the last f keeps this solvable where H is singular; the error still never rises (Li,
    Kindermann & Navasca, 2013, doi:10.1016/j.laa.2011.12.002). Every third sweep starts from a
    point further along the last step, and counts only if that pays (Bro, 1998, Multi-way analysis
    in the food industry, thesis, University of Amsterdam). The first start are the leading singular
    vectors of the unfoldings, others are random; the one with the least error in the end is taken.

    Args:
        tensor: T, of two axes or more.
        rank: R, up to the product of all sizes but the largest: so many always suffice.
        starts: how many, each with all its sweeps; there are many local minima.
        iterations: sweeps at most.
        tolerance: ALS stops when three sweeps lower the error, as a share of ‖T‖, by less.
        generator: for the random starts; by default one with seed 0.

    Raises:
        TypeError, ValueError: no such tensor, or numbers out of range.

    Hitchcock, 1927; Kolda & Bader, 2009, doi:10.1137/07070111X. Chapter 5, Low-rank: tensors.
    """
    work = in_double(tensor)
    if work.ndim < 2:
        raise ValueError(f"the tensor has shape {tuple(work.shape)}; two axes or more are needed")
    check_int("rank", rank, work.numel() // max(work.shape))
    check_int("starts", starts, 1000)
    check_int("iterations", iterations, 10**6)
    generator = generator or torch.Generator().manual_seed(0)
    norm = work.norm().clamp_min(TINY)
    # In the coordinates of the singular vectors, long axes are no longer than they need be, and
    # the leading vectors are the first unit vectors. Turning changes no error.
    bases = [_basis(work.movedim(axis, 0).flatten(1)) for axis in range(work.ndim)]
    core = work / norm
    for axis, basis in enumerate(bases):
        core = torch.tensordot(core, basis, ([axis], [0])).movedim(-1, axis)
    sweep = _Sweep(core)
    runs = [
        _als(sweep, _start(core, rank, index > 0, generator), iterations, tolerance)
        for index in range(starts)
    ]
    factors, errors = min(runs, key=lambda run: run[1][-1])
    factors, weights = _normalized(factors)
    factors = [basis @ factor for basis, factor in zip(bases, factors, strict=True)]
    return CP(
        weights=(norm * weights).to(tensor),
        factors=tuple(factor.to(tensor) for factor in factors),
        errors=tuple(errors),
        degeneracy=float(weights.sum()),
    )


class _Sweep:
    """Renews every factor of a tensor of norm 1; each component's factors have equal norms."""

    def __init__(self, tensor: Tensor):
        self.square = tensor.square().sum()
        order = sorted(range(tensor.ndim), key=lambda axis: tensor.shape[axis])
        # Each sweep multiplies the tensor by factors twice only: by that of its longest axis,
        # which serves all other axes, and by that of the second longest, which serves the longest.
        self.axes = {axis: [a for a in range(tensor.ndim) if a != axis] for axis in order[-2:]}
        self.matrices = {axis: tensor.movedim(axis, -1).contiguous() for axis in self.axes}
        self.second, self.longest = order[-2:]

    def __call__(self, factors: list[Tensor]) -> tuple[list[Tensor], float]:
        factors, weights = _normalized(factors)
        grams = [factor.T @ factor for factor in factors]
        for source, axes in (
            (self.longest, self.axes[self.longest]),
            (self.second, [self.longest]),
        ):
            part = self.matrices[source] @ factors[source]
            for axis in axes:
                times_others = self._contract(part, source, axis, factors)
                h = torch.ones_like(grams[0])
                for other, gram in enumerate(grams):
                    h = h * gram if other != axis else h
                pull = _PROXIMITY * weights * factors[axis]
                h.diagonal().add_(_PROXIMITY)
                solution = torch.cholesky_solve((times_others + pull).T, torch.linalg.cholesky(h)).T
                weights = solution.norm(dim=0)
                factors[axis] = solution / weights.clamp_min(TINY)
                grams[axis] = factors[axis].T @ factors[axis]
        inner = (times_others * factors[self.longest] * weights).sum()
        norm = weights @ torch.stack(grams).prod(0) @ weights
        error = (self.square - 2 * inner + norm).clamp_min(0).sqrt()
        share = weights ** (1 / len(factors))
        return [factor * share for factor in factors], float(error)

    def _contract(self, part: Tensor, source: int, keep: int, factors: list[Tensor]) -> Tensor:
        """Sum over all axes of `part` but `keep` and the component, times their factors."""
        for axis in reversed(self.axes[source]):
            if axis != keep:
                place = self.axes[source].index(axis)
                later = 1 if place < self.axes[source].index(keep) else 0
                shape = (-1, *[1] * later, part.shape[-1])
                part = (part * factors[axis].view(shape)).sum(place)
        return part


def _als(
    sweep: _Sweep, factors: list[Tensor], iterations: int, tolerance: float
) -> tuple[list[Tensor], list[float]]:
    """Factors and errors after sweeps from one start; every third one is an extrapolation."""
    last, errors = factors, []
    for count in range(1, iterations + 1):
        begin, jump = factors, count % 3 == 0
        if jump:
            step = count ** (1 / 3)
            begin = [old + step * (new - old) for old, new in zip(last, factors, strict=True)]
        found, error = sweep(begin)
        if jump and error > errors[-1]:
            continue
        last, factors = factors, found
        errors.append(error)
        if len(errors) > 3 and errors[-4] - error < tolerance:
            break
    return factors, errors


def _basis(unfolding: Tensor) -> Tensor:
    """Left singular vectors of all singular values that are not zero, at least one."""
    vectors, values = left_vectors(unfolding)
    noise = values[0] * max(unfolding.shape) * torch.finfo(torch.float64).eps
    return vectors[:, : max(1, int((values > noise).sum()))]


def _start(core: Tensor, rank: int, random: bool, generator: torch.Generator) -> list[Tensor]:
    """Random factors, or the first unit vectors with random ones where those are too few."""
    factors = []
    for size in core.shape:
        factor = torch.randn(size, rank, dtype=core.dtype, generator=generator)
        if not random:
            factor[:, :size] = torch.eye(size, min(size, rank), dtype=core.dtype)
        factors.append(factor / factor.norm(dim=0).clamp_min(TINY))
    return factors


def _normalized(factors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Columns of norm 1, and the norms of the components."""
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    scaled = [f / n.clamp_min(TINY) for f, n in zip(factors, norms, strict=True)]
    return scaled, norms.prod(0)
