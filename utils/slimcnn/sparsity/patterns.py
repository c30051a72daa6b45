"""Patterns of zeros: which freedom the mask has, from single weights to whole filters.

Every function takes scores (higher stays) of a weight's shape, and returns a bool mask of that
shape, True where the weight stays. A weight of two or more dimensions is seen as a matrix,
its first dimension the rows. Chapter 3 (Sparsity: patterns).
"""

from math import prod

import torch
from torch import Tensor


def nm_mask(scores: Tensor, n: int, m: int, dim: int = 1) -> Tensor:
    """N:M sparsity: of each M neighbors along `dim`, the N of the highest score stay.

    That is the best mask of this pattern for the sum of scores, since groups do not share
    weights. Sparse tensor cores take 2:4 (Mishra et al., 2021, arXiv:2104.08378).

    Args:
        scores: any shape; for a convolution (O, I, kh, kw), dim 1 groups input channels, as
            those kernels want it.
        n: how many stay, 0 to m. A last group of fewer than m keeps at most n.
        m: size of a group, 1 or more.
        dim: where neighbors are counted.

    Returns:
        bool; of equal scores the first stay.

    Raises:
        ValueError: n or m is out of range, there is no such dimension, or a score is NaN.

    Chapter 3, Sparsity: patterns.
    """
    if m < 1 or not 0 <= n <= m:
        raise ValueError(f"{n}:{m} is no pattern; N must be from 0 to M, and M 1 or more")
    _check_scores(scores, dim)
    groups = _in_groups(scores, m, dim).movedim(-1, 0).contiguous()
    # A rank is the number of neighbors that are larger, or equal and earlier. For groups as
    # small as these counting them is much faster than sorting.
    rank = torch.zeros(groups.shape, dtype=torch.int32, device=groups.device)
    for place, member in enumerate(groups):
        rank[:place] += member > groups[:place]
        rank[place + 1 :] += member >= groups[place + 1 :]
    mask = (rank < n).movedim(0, -1).flatten(-2)
    return mask[..., : scores.shape[dim]].movedim(-1, dim).contiguous()


def channel_permutation(
    scores: Tensor, n: int, m: int, *, dim: int = 1, sweeps: int = 10
) -> Tensor:
    """An order of the channels along `dim` with which an N:M mask keeps more of the scores.

    Greedy: of all exchanges of two channels in different groups the best one is made, again
    and again, until none helps or `sweeps` exchanges a channel have been made (Pool & Yu, 2021,
    Channel permutations for N:M sparsity, use the same moves). The order is never worse than
    the given one.

    Args:
        scores: 0 or more, any shape.
        n, m, dim: as for `nm_mask`.
        sweeps: bound on the exchanges, as a multiple of the number of channels.

    Returns:
        int64, shape (channels,): the new place i takes channel `order[i]`.

    Raises:
        ValueError: as `nm_mask`.

    Chapter 3, Sparsity: patterns.
    """
    nm_mask(scores, n, m, dim)  # checks the arguments
    matrix = scores.detach().cpu().double().movedim(dim, 0).flatten(1)  # (channels, rows)
    channels = len(matrix)
    order = torch.arange(channels)
    full = channels // m * m  # a last, shorter group keeps its channels
    if n in (0, m) or full <= m:
        return order
    matrix = matrix[:full]
    groups = torch.arange(full).view(-1, m)
    kept = matrix.new_empty(full, full)  # [p, c]: by the group of place p, with channel c there

    def refresh(places: Tensor) -> None:
        """The rows of `kept` for the places of one group."""
        for i, place in enumerate(places):
            others = matrix[order[torch.cat([places[:i], places[i + 1 :]])]]
            best = others.topk(n, dim=0).values
            # Channel c takes the last of these places in the rows where it is larger.
            kept[place] = best[:-1].sum() + torch.maximum(best[-1], matrix).sum(1)

    for places in groups:
        refresh(places)
    for _ in range(sweeps * channels):
        exchanged = kept[:, order[:full]]
        now = exchanged.diagonal()
        # Within a group a gain, which is meaningless, is never above zero: both sums are then
        # of one group's channels taken twice, of which none are better than the best n twice.
        gains = exchanged + exchanged.T - now - now[:, None]
        first, second = divmod(int(gains.argmax()), full)
        if not gains[first, second] > 1e-9 * now.sum():
            break
        order[[first, second]] = order[[second, first]]
        refresh(groups[first // m])
        refresh(groups[second // m])
    return order


def block_mask(scores: Tensor, block: tuple[int, int], sparsity: float) -> Tensor:
    """Blocks of the weight's matrix stay or go as a whole, by the mean of their scores.

    (1, v) are vectors along a filter, (v, 1) vectors across filters. A kernel of a convolution
    is (1, kh · kw), a filter (1, everything): see `kernel_mask` and `filter_mask`.

    Args:
        scores: two or more dimensions; the matrix is (first, all others).
        block: rows and columns of a block; blocks at the edge may be smaller. It is for them
            that means are compared: by sums they would go first, and with them, say, the last
            two of ten classes.
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
    if matrix.is_floating_point():
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))  # half would overflow

    def sums(of: Tensor) -> Tensor:
        """By block, (block rows, block columns)."""
        padded = torch.nn.functional.pad(of, (0, -columns % width, 0, -rows % height))
        return padded.unflatten(0, (-1, height)).unflatten(2, (-1, width)).sum((1, 3))

    means = sums(matrix) / sums(torch.ones_like(matrix))
    stays = torch.ones(means.numel(), dtype=torch.bool, device=scores.device)
    stays[means.flatten().argsort(stable=True)[: round(sparsity * means.numel())]] = False
    spread = stays.view(means.shape).repeat_interleave(height, 0).repeat_interleave(width, 1)
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
