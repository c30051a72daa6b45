"""Patterns of zeros: which freedom the mask has, from single weights to whole filters.

Every function takes scores (higher stays) of a weight's shape, and returns a bool mask of that
shape, True where the weight stays. A weight of two or more dimensions is seen as a matrix,
its first dimension the rows. Chapter 3 (Sparsity: patterns).
"""

from math import prod

import torch
from torch import Tensor


def nm_mask(scores: Tensor, n: int, m: int, dim: int = 1) -> Tensor:
    """N:M sparsity: of each M neighbours along `dim`, the N of the highest score stay.

    That is the best mask of this pattern for the sum of scores, since groups do not share
    weights. Sparse tensor cores take 2:4 (Mishra et al., 2021, arXiv:2104.08378).

    Args:
        scores: any shape; for a convolution (O, I, kh, kw), dim 1 groups input channels, as
            those kernels want it.
        n: how many stay, 0 to m. A last group of fewer than m keeps at most n.
        m: size of a group, 1 or more.
        dim: where neighbours are counted.

    Returns:
        bool; of equal scores the first stay.

    Raises:
        ValueError: n or m is out of range, there is no such dimension, or a score is NaN.

    Chapter 3, Sparsity: patterns.
    """
    if m < 1 or not 0 <= n <= m:
        raise ValueError(f"{n}:{m} is no pattern; N must be from 0 to M, and M 1 or more")
    _check_scores(scores, dim)
    groups = _in_groups(scores, m, dim)
    order = groups.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    mask.scatter_(-1, order[..., :n], True)
    size = scores.shape[dim]
    return mask.flatten(-2)[..., :size].movedim(-1, dim).contiguous()


def channel_permutation(
    scores: Tensor, n: int, m: int, *, dim: int = 1, sweeps: int = 10
) -> Tensor:
    """An order of the channels along `dim` with which an N:M mask keeps more of the scores.

    Greedy: of all exchanges of two channels in different groups the best one is made, again
    and again, until none helps or each channel has moved `sweeps` times on average (Pool & Yu,
    2021, Channel permutations for N:M sparsity, use the same moves). The order is never worse
    than the given one.

    Args:
        scores: 0 or more, any shape.
        n, m, dim: as for `nm_mask`.
        sweeps: bound on the exchanges, times the number of channels.

    Returns:
        int64, shape (channels,): the new place i takes channel `order[i]`.

    Raises:
        ValueError: as `nm_mask`.

    Chapter 3, Sparsity: patterns.
    """
    nm_mask(scores, n, m, dim)  # checks the arguments
    matrix = scores.detach().float().movedim(dim, -1).flatten(0, -2)  # (rows, channels)
    channels = matrix.shape[1]
    order = torch.arange(channels)
    full = channels // m * m  # a last, shorter group keeps its channels
    if n in (0, m) or full <= m:
        return order
    groups = full // m

    def kept(columns: Tensor) -> Tensor:
        """Score that stays in groups of columns, (..., m) -> (...)."""
        return matrix[:, columns].topk(n, dim=-1).values.sum((0, -1))

    place = order[:full].view(groups, m).clone()
    now = kept(place)
    gains = torch.full((full, full), float("-inf"))

    def refresh(a: int) -> None:
        """Gains of exchanging any channel of group a with any of the other groups."""
        others = torch.tensor([g for g in range(groups) if g != a])
        for i in range(m):
            for j in range(m):
                mine = place[a].repeat(len(others), 1)
                theirs = place[others].clone()
                mine[:, i], theirs[:, j] = theirs[:, j].clone(), mine[:, i].clone()
                gain = kept(mine) + kept(theirs) - now[a] - now[others]
                gains[a * m + i, others * m + j] = gain
                gains[others * m + j, a * m + i] = gain

    for a in range(groups):
        refresh(a)
    for _ in range(sweeps * channels):
        best = int(gains.argmax())
        first, second = divmod(best, full)
        if gains[first, second] <= 1e-6 * now.sum():
            break
        flat = place.view(-1)
        flat[first], flat[second] = flat[second].item(), flat[first].item()
        for a in (first // m, second // m):
            now[a] = kept(place[a])
        for a in (first // m, second // m):
            refresh(a)
    order[:full] = place.view(-1)
    return order


def block_mask(scores: Tensor, block: tuple[int, int], sparsity: float) -> Tensor:
    """Blocks of the weight's matrix stay or go as a whole, by the sum of their scores.

    (1, v) are vectors along a filter, (v, 1) vectors across filters. A kernel of a convolution
    is (1, kh · kw), a filter (1, everything): see `kernel_mask` and `filter_mask`.

    Args:
        scores: two or more dimensions; the matrix is (first, all others).
        block: rows and columns of a block; blocks at the edge may be smaller.
        sparsity: fraction of blocks that go, `round(sparsity · blocks)` of them; of equal
            ones the first.

    Raises:
        ValueError: the sparsity or the block is out of range, a score is NaN, or there are
            fewer than two dimensions.

    Chapter 3, Sparsity: patterns.
    """
    if scores.ndim < 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}; a matrix or more is needed")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}; it must be a fraction of blocks, 0 to 1")
    height, width = block
    if height < 1 or width < 1:
        raise ValueError(f"block is {block}; it must be two numbers of 1 or more")
    _check_scores(scores, 0)
    rows, columns = scores.shape[0], prod(scores.shape[1:])
    matrix = scores.detach().reshape(rows, columns)
    padded = torch.nn.functional.pad(matrix, (0, -columns % width, 0, -rows % height))
    sums = padded.unflatten(0, (-1, height)).unflatten(2, (-1, width)).sum((1, 3))
    stays = torch.ones(sums.numel(), dtype=torch.bool, device=scores.device)
    stays[sums.flatten().argsort(stable=True)[: round(sparsity * sums.numel())]] = False
    spread = stays.view(sums.shape).repeat_interleave(height, 0).repeat_interleave(width, 1)
    return spread[:rows, :columns].reshape(scores.shape)


def kernel_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Whole kernels of a convolution stay or go: the (kh, kw) numbers of one pair of channels."""
    return block_mask(scores, (1, max(1, prod(scores.shape[2:]))), sparsity)


def filter_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Whole filters stay or go: everything that makes one output channel."""
    return block_mask(scores, (1, max(1, prod(scores.shape[1:]))), sparsity)


def _in_groups(scores: Tensor, m: int, dim: int) -> Tensor:
    """Scores with `dim` last, in groups of m: (..., groups, m); what is missing is −∞."""
    moved = scores.detach().movedim(dim, -1)
    if not moved.is_floating_point():
        moved = moved.double()
    missing = -moved.shape[-1] % m
    padded = torch.nn.functional.pad(moved, (0, missing), value=float("-inf"))
    return padded.unflatten(-1, (-1, m))


def _check_scores(scores: Tensor, dim: int) -> None:
    if not -scores.ndim <= dim < scores.ndim:
        raise ValueError(f"there is no dimension {dim} in scores of shape {tuple(scores.shape)}")
    if torch.isnan(scores).any():
        raise ValueError("a score is NaN; nothing can be ranked by it")
