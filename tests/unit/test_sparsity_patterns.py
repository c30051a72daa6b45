"""slimcnn.sparsity, patterns: masks against every other mask, loops and PyTorch."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.ao.pruning import WeightNormSparsifier

from slimcnn import sparsity
from slimcnn.sparsity import block_mask, channel_permutation, filter_mask, kernel_mask, nm_mask


def random_scores(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def scores_with_ties(draw, least=1):
    """Small whole numbers, some below zero: many are equal, and sums are exact."""
    shape = draw(st.lists(st.integers(0, 7), min_size=least, max_size=4).map(tuple))
    kinds = [torch.float32, torch.float64, torch.float16, torch.int64]
    count = math.prod(shape)
    numbers = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    return torch.tensor(numbers).reshape(shape).to(draw(st.sampled_from(kinds)))


@st.composite
def patterns(draw):
    m = draw(st.integers(1, 6))
    return draw(st.integers(0, m)), m


def groups_of(tensor, m, dim):
    """Every group of a pattern as a list; the last of a line may be short."""
    lines = tensor.movedim(dim, -1).flatten(0, -2) if tensor.ndim > 1 else tensor[None]
    return [
        line[start : start + m].tolist() for line in lines for start in range(0, line.numel(), m)
    ]


# ---------------------------------------------------------------- N:M


@settings(max_examples=120, deadline=None)
@given(scores_with_ties(), patterns(), st.data())
def test_no_other_mask_of_the_pattern_keeps_more(scores, pattern, data):
    n, m = pattern
    dim = data.draw(st.integers(-scores.ndim, scores.ndim - 1))
    before = scores.clone()
    mask = nm_mask(scores, n, m, dim)
    assert (mask.shape, mask.dtype) == (scores.shape, torch.bool)
    assert torch.equal(scores, before)
    for numbers, stays in zip(groups_of(scores, m, dim), groups_of(mask, m, dim), strict=True):
        count = min(n, len(numbers))
        assert sum(stays) == count
        kept = sum(itertools.compress(numbers, stays))
        assert kept == max(map(sum, itertools.combinations(numbers, count)))
        # Of equal scores the first stay.
        ranked = sorted(range(len(numbers)), key=lambda place: -numbers[place])
        assert [i for i, stay in enumerate(stays) if stay] == sorted(ranked[:count])


def test_nm_by_pencil():
    scores = torch.tensor([[5.0, 1, 4, 3, 2, 2, 2, 9, 0, 8], [0, 0, 0, 0, -1, -2, -3, -4, 7, 6]])
    expected = torch.tensor([[1, 0, 1, 0, 1, 0, 0, 1, 1, 1], [1, 1, 0, 0, 1, 1, 0, 0, 1, 1]]).bool()
    assert torch.equal(nm_mask(scores, 2, 4), expected)
    along_rows = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]])
    assert torch.equal(nm_mask(scores, 1, 2, dim=0), along_rows.bool())
    assert torch.equal(nm_mask(scores, 1, 2, dim=-2), along_rows.bool())


@pytest.mark.parametrize("m", [1, 3, 4, 20])
def test_none_and_all_may_stay(m):
    scores = random_scores(3, 10) - 0.5
    assert not nm_mask(scores, 0, m).any()
    assert nm_mask(scores, m, m).all()


def test_a_short_group_keeps_at_most_n():
    scores = torch.tensor([9.0, 8, 7, 6, 1, 2, 3])
    assert nm_mask(scores, 2, 4, 0).tolist() == [True, True, False, False, False, True, True]
    assert nm_mask(scores[:5], 2, 4, 0).tolist() == [True, True, False, False, True]
    assert nm_mask(scores[:1], 3, 4, 0).tolist() == [True]


def test_infinite_scores_are_ranked_like_others():
    inf = float("inf")
    scores = torch.tensor([[-inf, -inf, 3.0, inf, -inf, -inf]])
    assert nm_mask(scores, 2, 4).tolist() == [[False, False, True, True, True, True]]
    assert nm_mask(scores, 3, 4).tolist() == [[True, False, True, True, True, True]]


def test_a_convolution_is_grouped_along_its_input_channels():
    scores = random_scores(6, 8, 3, 3)
    mask = nm_mask(scores, 2, 4)
    assert torch.equal(mask.view(6, 2, 4, 3, 3).sum(2), torch.full((6, 2, 3, 3), 2))
    kept = torch.where(mask, scores, 0).view(6, 2, 4, 3, 3).sum(2)
    assert torch.equal(kept, scores.view(6, 2, 4, 3, 3).topk(2, dim=2).values.sum(2))


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (7, 12), (1, 4)])
def test_two_of_four_are_those_of_pytorchs_sparsifier(rows, columns):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, rows))
    weight = model[0].weight.detach().clone()
    sparsifier = WeightNormSparsifier(1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    theirs = model[0].parametrizations.weight[0].mask.bool()
    assert theirs.sum() == rows * columns // 2
    assert torch.equal(nm_mask(weight.abs(), 2, 4), theirs)


def test_layout_and_gradients_do_not_matter():
    scores = random_scores(8, 8, 2, 2)
    weight = nn.Parameter(scores.contiguous(memory_format=torch.channels_last))
    assert torch.equal(nm_mask(weight, 2, 4), nm_mask(scores, 2, 4))
    turned = weight.transpose(0, 1)
    assert torch.equal(nm_mask(turned, 2, 4, 0), nm_mask(scores, 2, 4).transpose(0, 1))
    assert torch.equal(block_mask(weight, (4, 2), 0.5), block_mask(scores, (4, 2), 0.5))
    assert torch.equal(channel_permutation(weight, 1, 4), channel_permutation(scores, 1, 4))


@pytest.mark.parametrize("search", [nm_mask, channel_permutation])
@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((3, 8), (5, 4), "5:4 is no pattern; N must be from 0 to M, and M 1 or more"),
        ((3, 8), (-1, 4), "-1:4 is no pattern"),
        ((3, 8), (0, 0), "0:0 is no pattern"),
        ((8,), (2, 4), r"there is no dimension 1 in scores of shape \(8,\)"),
        ((), (2, 4), "there is no dimension 1"),
    ],
)
def test_patterns_that_do_not_exist_are_refused(search, shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        search(torch.ones(shape), *arguments)


@pytest.mark.parametrize("dim", [2, -3])
def test_dimensions_that_do_not_exist_are_refused(dim):
    for search in (nm_mask, channel_permutation):
        with pytest.raises(ValueError, match=f"there is no dimension {dim}"):
            search(torch.ones(8, 8), 2, 4, dim=dim)


@pytest.mark.parametrize(
    "search",
    [
        lambda scores: nm_mask(scores, 2, 4),
        lambda scores: channel_permutation(scores, 2, 4),
        lambda scores: block_mask(scores, (1, 4), 0.5),
        lambda scores: filter_mask(scores, 0.5),
    ],
)
def test_nothing_is_ranked_by_nan(search):
    scores = torch.ones(4, 8)
    scores[1, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        search(scores)


# ---------------------------------------------------------------- channel permutation


def kept_by(scores, order, n, m, dim=1):
    moved = scores.index_select(dim, order)
    return float(moved[nm_mask(moved, n, m, dim)].double().sum())


def greedy_by_loops(scores, n, m):
    """The documented search, one mask for each exchange."""
    channels = scores.shape[1]
    full = channels // m * m
    order = torch.arange(channels)
    while True:
        now, best = kept_by(scores, order, n, m), (0.0, None)
        for a, b in itertools.combinations(range(full), 2):
            if a // m != b // m:
                other = order.clone()
                other[[a, b]] = order[[b, a]]
                best = max(best, (kept_by(scores, other, n, m) - now, (a, b)), key=lambda x: x[0])
        if best[0] <= 1e-9 * now:
            return order
        a, b = best[1]
        order[[a, b]] = order[[b, a]]


@settings(max_examples=80, deadline=None)
@given(scores_with_ties(least=2), patterns(), st.data())
def test_a_permutation_that_is_never_worse(scores, pattern, data):
    n, m = pattern
    dim = data.draw(st.integers(-scores.ndim, scores.ndim - 1))
    scores = scores.abs()
    before = scores.clone()
    order = channel_permutation(scores, n, m, dim=dim)
    channels = scores.shape[dim]
    identity = torch.arange(channels)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, identity)
    assert kept_by(scores, order, n, m, dim) >= kept_by(scores, identity, n, m, dim)
    tail = channels // m * m
    assert torch.equal(order[tail:], identity[tail:])  # a short group keeps its channels
    assert torch.equal(scores, before)


@pytest.mark.parametrize(
    ("n", "m", "channels"), [(2, 4, 8), (1, 4, 12), (3, 4, 9), (1, 2, 8), (2, 3, 10)]
)
def test_it_is_the_greedy_search_that_it_says(n, m, channels):
    moved = 0
    for seed in range(3):
        scores = random_scores(5, channels, seed=seed)
        order = channel_permutation(scores, n, m)
        assert torch.equal(order, greedy_by_loops(scores, n, m))
        moved += int((order != torch.arange(channels)).sum())
    assert moved >= 4


@pytest.mark.parametrize(
    ("n", "m", "groups"), [(2, 4, 2), (2, 4, 8), (1, 4, 4), (3, 4, 4), (1, 2, 9)]
)
def test_a_hidden_optimum_is_found(n, m, groups):
    """Each group can keep n channels: the large ones, unless they are crowded in a few groups."""
    scores = 0.1 * random_scores(20, groups * m)
    large = groups * n
    scores[:, :large] += 1
    order = channel_permutation(scores, n, m)
    assert kept_by(scores, order, n, m) == pytest.approx(float(scores[:, :large].double().sum()))
    if n * 2 <= m:
        worse = kept_by(scores, torch.arange(groups * m), n, m)
        assert worse < 0.6 * kept_by(scores, order, n, m)


def best_of_all(scores):
    """The most that 2:4 can keep of eight channels: all 35 ways to split them in two groups."""
    splits = [
        torch.tensor([0, *three, *(c for c in range(1, 8) if c not in three)])
        for three in itertools.combinations(range(1, 8), 3)
    ]
    assert len(splits) == 35
    return max(kept_by(scores, split, 2, 4) for split in splits)


def test_it_is_near_the_best_of_all_permutations():
    shares = []
    for seed in range(20):
        scores = random_scores(6, 8, seed=seed) ** 3
        best = best_of_all(scores)
        shares.append(kept_by(scores, channel_permutation(scores, 2, 4), 2, 4) / best)
    assert max(shares) <= 1 + 1e-9
    assert min(shares) > 0.97
    assert sum(shares) / len(shares) > 0.995
    assert sum(share > 1 - 1e-9 for share in shares) >= 10


def test_the_dimension_that_is_permuted():
    scores = random_scores(5, 12, 3)
    expected = channel_permutation(scores, 2, 4)
    assert torch.equal(channel_permutation(scores.movedim(1, 0), 2, 4, dim=0), expected)
    assert torch.equal(channel_permutation(scores.movedim(1, 2), 2, 4, dim=-1), expected)
    rows = scores.movedim(1, -1).reshape(15, 12)
    assert torch.equal(channel_permutation(rows, 2, 4), expected)


def test_exchanges_are_bounded_by_sweeps():
    scores = random_scores(5, 24)
    assert torch.equal(channel_permutation(scores, 2, 4, sweeps=0), torch.arange(24))
    assert not torch.equal(channel_permutation(scores, 2, 4, sweeps=1), torch.arange(24))


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (1, 1), (2, 12), (2, 7)])
def test_where_no_exchange_can_help_the_order_stays(n, m):
    assert torch.equal(channel_permutation(random_scores(3, 12), n, m), torch.arange(12))


# ---------------------------------------------------------------- blocks


def block_mask_by_loops(scores, block, sparsity):
    matrix = scores.double().reshape(scores.shape[0], -1).numpy()
    height, width = block
    corners = [
        (top, left)
        for top in range(0, matrix.shape[0], height)
        for left in range(0, matrix.shape[1], width)
    ]
    means = [matrix[top : top + height, left : left + width].mean() for top, left in corners]
    mask = np.ones(matrix.shape, bool)
    ranked = sorted(range(len(corners)), key=lambda index: (means[index], index))
    for index in ranked[: round(sparsity * len(corners))]:
        top, left = corners[index]
        mask[top : top + height, left : left + width] = False
    return torch.from_numpy(mask).reshape(scores.shape)


@settings(max_examples=120, deadline=None)
@given(
    scores_with_ties(least=2).filter(lambda scores: scores.numel() > 0),
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
)
def test_blocks_go_as_in_a_loop(scores, block, sparsity):
    before = scores.clone()
    mask = block_mask(scores, block, sparsity)
    assert torch.equal(mask, block_mask_by_loops(scores, block, sparsity))
    assert torch.equal(scores, before)


def test_blocks_by_pencil():
    scores = torch.tensor([[1.0, 1, 4, 4, 9], [1, 1, 4, 4, 9], [1, 1, 0, 5, 3]])
    # Means of blocks of 2 × 2, smaller at the edges: 1, 4, 9 and 1, 2.5, 3. Half of them go.
    expected = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    assert torch.equal(block_mask(scores, (2, 2), 3 / 6), expected)
    # Of the equal means the first goes first.
    assert block_mask(scores, (2, 2), 1 / 6)[:, 0].tolist() == [False, False, True]


def test_small_blocks_at_the_edge_are_no_worse_for_being_small():
    scores = torch.ones(10, 8)
    scores[:8, :4] = 0.9  # of ten classes in blocks of four, the last block has two
    assert block_mask(scores, (4, 4), 2 / 6)[8:].all()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75, 1.0])
def test_vectors_kernels_and_filters_are_blocks_and_counts_are_exact(sparsity):
    scores = random_scores(8, 6, 3, 3)
    zeros = {
        (1, 4): 4 * round(sparsity * 8 * 14),  # 54 = 13 · 4 + 2: the last vector has two
        (4, 1): 4 * round(sparsity * 2 * 54),
        (1, 9): 9 * round(sparsity * 48),
        (1, 54): 54 * round(sparsity * 8),
    }
    for block, count in zeros.items():
        found = int((~block_mask(scores, block, sparsity)).sum())
        assert found == count if block != (1, 4) else count - 2 * 8 <= found <= count
    kernels, filters = kernel_mask(scores, sparsity), filter_mask(scores, sparsity)
    assert torch.equal(kernels, block_mask(scores, (1, 9), sparsity))
    assert torch.equal(filters, block_mask(scores, (1, 54), sparsity))
    per_kernel, per_filter = kernels.flatten(2).sum(2), filters.flatten(1).sum(1)
    assert torch.equal(per_kernel == 9, per_kernel > 0)
    assert torch.equal(per_filter == 54, per_filter > 0)
    gone = scores.sum((2, 3)).flatten().argsort()[: round(sparsity * 48)]
    assert set((per_kernel.flatten() == 0).nonzero().flatten().tolist()) == set(gone.tolist())
    gone = scores.sum((1, 2, 3)).argsort()[: round(sparsity * 8)]
    assert set((per_filter == 0).nonzero().flatten().tolist()) == set(gone.tolist())


def test_a_linear_layers_kernels_are_its_weights_and_its_filters_its_rows():
    scores = torch.tensor([[1.0, 8.0], [3.0, 4.0]])
    assert kernel_mask(scores, 0.5).tolist() == [[False, True], [False, True]]
    assert filter_mask(scores, 0.5).tolist() == [[True, True], [False, False]]


def test_sums_of_half_precision_do_not_overflow():
    # In float16 the sums of the first and the second block would both be infinite.
    scores = torch.tensor([[6e4, 6e4, 4e4, 4e4, 1, 1]]).half()
    assert block_mask(scores, (1, 2), 2 / 3).tolist() == [[True, True, False, False, False, False]]
    # The first sum is the larger one by 1/128, which bfloat16 cannot say of 3,000.
    many = torch.ones(1, 6000, dtype=torch.bfloat16)
    many[0, 7] = 1.0078125
    assert block_mask(many, (1, 3000), 0.5).tolist() == [[True] * 3000 + [False] * 3000]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 3, 0, 3)])
def test_masks_of_nothing(shape):
    scores = torch.zeros(shape)
    for mask in (
        nm_mask(scores, 2, 4),
        block_mask(scores, (2, 2), 0.5),
        kernel_mask(scores, 0.5),
        filter_mask(scores, 0.5),
    ):
        assert (mask.shape, mask.dtype) == (shape, torch.bool)
    assert torch.equal(channel_permutation(scores, 2, 4), torch.arange(shape[1]))


@pytest.mark.parametrize(
    ("shape", "block", "fraction", "message"),
    [
        ((8,), (1, 1), 0.5, r"scores have shape \(8,\); a matrix or more is needed"),
        ((2, 2), (1, 1), 1.1, "sparsity is 1.1; it must be a fraction of blocks, 0 to 1"),
        ((2, 2), (1, 1), -0.1, "sparsity is -0.1"),
        ((2, 2), (1, 1), float("nan"), "sparsity is nan"),
        ((2, 2), (0, 1), 0.5, r"block is \(0, 1\); it must be two numbers of 1 or more"),
        ((2, 2), (1, -2), 0.5, "block is"),
    ],
)
def test_blocks_that_do_not_exist_are_refused(shape, block, fraction, message):
    with pytest.raises(ValueError, match=message):
        block_mask(torch.ones(shape), block, fraction)


@pytest.mark.parametrize("mask", [sparsity.kernel_mask, sparsity.filter_mask])
def test_kernels_and_filters_that_do_not_exist_are_refused(mask):
    with pytest.raises(ValueError, match="a matrix or more"):
        mask(torch.ones(5), 0.5)
    with pytest.raises(ValueError, match="sparsity is 2"):
        mask(torch.ones(5, 5), 2)
