"""How many components of a matrix stand out of noise: variational Bayes, solved in closed form.

Nakajima, Sugiyama, Babacan & Tomioka, 2013, Global analytic solution of fully-observed
variational Bayesian matrix factorization, JMLR 14, 1–37, in the variables of Nakajima, Tomioka,
Sugiyama & Babacan, 2012, Perfect dimensionality recovery by variational Bayesian PCA, NIPS 25.
Chapter 5 (Low-rank: tensors).
"""

from math import ceil, log1p

import torch
from torch import Tensor

from slimcnn.lowrank.matrices import in_double, singular_values

_GRID = 1000


def evbmf_rank(matrix: Tensor) -> int:
    """The rank of the matrix that is hidden in noise, by empirical variational Bayes.

    The model is V = B Aᵀ + noise of variance σ², with Gaussian priors on the columns of A and B
    whose variances are learned, so that components without support vanish. V is L × M with
    L ≤ M and singular values γ; α = L/M. A component survives if γ² > M σ² x̲ with

        x̲ = (1 + τ̲)(1 + α/τ̲),   Φ(τ̲) + Φ(τ̲/α) = 0,   Φ(z) = ln(1 + z)/z − 1/2,

    and σ² minimizes the free energy Σ ψ(γ²/(M σ²)), with ψ(x) = x − ln x, plus, where x > x̲,
    ln(1 + τ) + α ln(1 + τ/α) − τ with τ = (x − 1 − α + √((x − 1 − α)² − 4α)) / 2.

    Args:
        matrix: of any shape. Rows and columns of zeros (pruned filters) are left out, since they
            would say that there is no noise.

    Returns:
        From 0 (nothing but noise) to ⌈L/(1 + α)⌉ − 1: a matrix of higher rank, such as a square
        one of full rank, cannot be told from noise.

    Raises:
        TypeError, ValueError: no matrix of real finite numbers.

    Kim et al., 2016, arXiv:1511.06530, choose the ranks of convolutions so. Chapter 5, Low-rank:
    tensors.
    """
    work = in_double(matrix, 2)
    work = work[work.any(1)][:, work.any(0)]
    if work.numel() == 0:
        return 0
    short, long = sorted(work.shape)
    energies = singular_values(work).square() / long
    energies = energies / energies.mean()  # so that the noise is at most 1
    alpha = short / long
    threshold = _threshold(alpha)
    most = ceil(short / (1 + alpha)) - 1
    noise = _noise_variance(energies, alpha, threshold, most, _rounding(matrix.dtype))
    return min(most, int((energies > threshold * noise).sum()))


def _threshold(alpha: float) -> float:
    """x̲: the square of a singular value, in units of M σ², from which it counts."""

    def phi(z: float) -> float:
        return log1p(z) / z - 0.5

    low, high = 1e-12, 10.0  # the sum falls from 1 to below 0
    for _ in range(100):
        middle = (low + high) / 2
        if phi(middle) + phi(middle / alpha) > 0:
            low = middle
        else:
            high = middle
    return (1 + low) * (1 + alpha / low)


def _rounding(dtype: torch.dtype) -> float:
    """Variance of rounding, in units of the mean square of the entries: no noise is smaller."""
    return max(torch.finfo(dtype).eps ** 2, 1e-24)


def _noise_variance(
    energies: Tensor, alpha: float, threshold: float, most: int, smallest: float
) -> Tensor:
    """The σ² of least free energy: a grid between its bounds, laid ever finer."""
    tail = energies[most:]
    low = torch.maximum(tail[0] / threshold, tail.mean()).clamp(smallest, 1.0).log()
    high = torch.zeros_like(low)
    for _ in range(6):
        grid = torch.linspace(float(low), float(high), _GRID, dtype=torch.float64)
        best = int(free_energy(energies, grid.exp(), alpha, threshold).argmin())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    return grid[best].exp()


def free_energy(energies: Tensor, noise: Tensor, alpha: float, threshold: float) -> Tensor:
    """Σ ψ(energy / noise) for each noise variance, energies being γ²/M, without Σ ln(energy)."""
    x = energies / noise[:, None]
    beyond = (x - 1 - alpha).clamp_min(2 * alpha**0.5)  # real where x is above the threshold
    tau = (beyond + (beyond.square() - 4 * alpha).sqrt()) / 2
    gain = tau.log1p() + alpha * (tau / alpha).log1p() - tau
    return (x + noise.log()[:, None] + torch.where(x > threshold, gain, 0.0)).sum(1)
