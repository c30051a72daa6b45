"""slimcnn.lowrank.tensors: Tucker-2 and CP by NumPy's formulas, and no worse than TensorLy's."""

import itertools
import math
import warnings
from functools import reduce

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import khatri_rao
from tensorly.decomposition import parafac, partial_tucker

from slimcnn import lowrank


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decaying(*shape, power=0.7, seed=0):
    """A tensor whose unfoldings have falling spectra, as trained kernels have."""
    tensor = normal(*shape, seed=seed)
    for axis, size in enumerate(shape):
        basis = torch.linalg.qr(normal(size, size, seed=seed + axis + 1)).Q
        scaled = basis * torch.arange(1, size + 1, dtype=torch.float64) ** -power
        tensor = torch.tensordot(tensor, scaled, ([axis], [1])).movedim(-1, axis)
    return tensor


def outer(*vectors):
    return reduce(lambda a, b: a.unsqueeze(-1) * b, vectors)


def relative(tensor, approximation):
    return float((tensor - approximation).norm() / tensor.norm())


def unfolded(tensor, axis):
    return tensor.movedim(axis, 0).flatten(1)


@pytest.fixture
def tensorly_torch():
    with tensorly.backend_context("pytorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes more singular vectors than there are
        yield


# ---------------------------------------------------------------- Tucker-2


@pytest.mark.parametrize(("shape", "ranks"), [((6, 5, 3, 3), (3, 2)), ((4, 7, 1, 5), (4, 1))])
def test_hosvd_is_numpys_and_the_sum_is_that_of_the_docstring(shape, ranks):
    kernel = normal(*shape)
    found = lowrank.tucker2(kernel, ranks, iterations=0)
    assert found.core.shape == (*ranks, *shape[2:])
    for factor, axis in ((found.out_factor, 0), (found.in_factor, 1)):
        u = torch.from_numpy(np.linalg.svd(unfolded(kernel, axis).numpy())[0])[:, : ranks[axis]]
        assert factor.shape == u.shape
        torch.testing.assert_close(factor @ factor.T, u @ u.T)
        torch.testing.assert_close(factor.T @ factor, torch.eye(ranks[axis], dtype=torch.float64))
    by_hand = torch.zeros(shape, dtype=torch.float64)
    for a, b in itertools.product(*map(range, ranks)):
        weights = outer(found.out_factor[:, a], found.in_factor[:, b])
        by_hand += weights[..., None, None] * found.core[a, b]
    torch.testing.assert_close(found.reconstruct(), by_hand)
    projected = torch.einsum("oiyx,oa,ib->abyx", kernel, found.out_factor, found.in_factor)
    torch.testing.assert_close(found.core, projected)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 3)] * 2), st.data())
def test_hooi_never_gets_worse_and_the_error_is_what_the_core_lacks(shape, data):
    ranks = tuple(data.draw(st.integers(1, size)) for size in shape[:2])
    kernel = normal(*shape, seed=data.draw(st.integers(0, 9)))
    before = math.inf
    for iterations in range(5):
        found = lowrank.tucker2(kernel, ranks, iterations=iterations, tolerance=0)
        error = float((kernel - found.reconstruct()).square().sum())
        total = float(kernel.square().sum())
        assert error == pytest.approx(total - float(found.core.square().sum()), abs=1e-9 * total)
        assert error <= before + 1e-9 * total
        before = error
    for factor in found[1:]:
        assert (factor.T @ factor - torch.eye(factor.shape[1])).abs().max() < 1e-10


def test_one_step_of_hooi_is_the_best_factor_beside_the_other():
    kernel = normal(7, 6, 3, 2)
    start = lowrank.tucker2(kernel, (3, 2), iterations=0)
    step = lowrank.tucker2(kernel, (3, 2), iterations=1)
    u = torch.linalg.svd(torch.einsum("oiyx,ib->obyx", kernel, start.in_factor).flatten(1)).U
    torch.testing.assert_close(step.out_factor @ step.out_factor.T, u[:, :3] @ u[:, :3].T)
    half = torch.einsum("oiyx,oa->iayx", kernel, step.out_factor).flatten(1)
    v = torch.linalg.svd(half).U
    torch.testing.assert_close(step.in_factor @ step.in_factor.T, v[:, :2] @ v[:, :2].T)


def test_hooi_stops_where_it_gains_less_than_the_tolerance():
    kernel = decaying(12, 10, 3, 3)
    one, two = (lowrank.tucker2(kernel, (4, 3), iterations=i, tolerance=0) for i in (1, 2))
    gains = [float(t.core.square().sum() / kernel.square().sum()) for t in (one, two)]
    gain = gains[1] - gains[0]
    assert gain > 1e-6
    at_two = lowrank.tucker2(kernel, (4, 3), tolerance=1.01 * gain)
    torch.testing.assert_close(at_two.core, two.core, rtol=0, atol=0)
    later = lowrank.tucker2(kernel, (4, 3), tolerance=0.99 * gain)
    assert later.core.square().sum() > two.core.square().sum()


def test_a_kernel_of_known_tucker_rank_is_recovered_and_full_rank_is_exact():
    made = torch.einsum("abyx,oa,ib->oiyx", normal(3, 2, 3, 3), normal(8, 3), normal(6, 2, seed=1))
    assert relative(made, lowrank.tucker2(made, (3, 2)).reconstruct()) < 1e-10
    assert relative(made, lowrank.tucker2(made, (8, 6)).reconstruct()) < 1e-10
    assert relative(made, lowrank.tucker2(made, (2, 2)).reconstruct()) > 0.01
    narrow = normal(9, 2, 2, 1)  # r_out may be more than r_in · kh · kw
    assert relative(narrow, lowrank.tucker2(narrow, (9, 2)).reconstruct()) < 1e-10
    assert lowrank.tucker2(torch.zeros(3, 3, 1, 1), (2, 2)).reconstruct().abs().max() == 0


@pytest.mark.parametrize("ranks", [(4, 4), (8, 3), (2, 10)])
@pytest.mark.parametrize("kernel", [normal(16, 12, 3, 3), decaying(16, 12, 3, 3)])
def test_tucker_is_no_worse_than_tensorlys(tensorly_torch, kernel, ranks):
    (core, factors), _ = partial_tucker(kernel, ranks, modes=[0, 1])
    theirs = torch.einsum("abyx,oa,ib->oiyx", core, *factors)
    ours = lowrank.tucker2(kernel, ranks)
    assert relative(kernel, ours.reconstruct()) <= relative(kernel, theirs) + 1e-6


# ---------------------------------------------------------------- CP


def test_the_sum_and_the_measures_are_those_of_the_docstring():
    tensor = normal(4, 5, 3)
    found = lowrank.cp(tensor, 2)
    assert [f.shape for f in found.factors] == [(4, 2), (5, 2), (3, 2)]
    by_hand = sum(w * outer(*(f[:, r] for f in found.factors)) for r, w in enumerate(found.weights))
    torch.testing.assert_close(found.reconstruct(), by_hand)
    for factor in found.factors:
        torch.testing.assert_close(factor.norm(dim=0), torch.ones(2, dtype=torch.float64))
    assert (found.weights > 0).all()
    assert found.errors[-1] == pytest.approx(relative(tensor, by_hand), rel=1e-6)
    norms = sum(
        float((w * outer(*(f[:, r] for f in found.factors))).norm())
        for r, w in enumerate(found.weights)
    )
    assert found.degeneracy == pytest.approx(norms / float(tensor.norm()))


@pytest.mark.parametrize(
    ("shape", "rank"),
    [((8, 7, 6), 4), ((12, 5, 9), 5), ((6, 6), 3), ((5, 4, 3, 3), 3), ((3, 3, 2, 2, 3), 2)],
)
@pytest.mark.parametrize("seed", range(2))
def test_tensors_made_at_a_rank_are_recovered(shape, rank, seed):
    made = [normal(size, rank, seed=10 * seed + axis) for axis, size in enumerate(shape)]
    tensor = torch.einsum(
        ",".join(f"{letter}r" for letter in "abcde"[: len(shape)]) + "->" + "abcde"[: len(shape)],
        *made,
    )
    found = lowrank.cp(tensor, rank, starts=2, tolerance=1e-9, iterations=3000)
    assert relative(tensor, found.reconstruct()) < 1e-6
    assert all(later <= earlier + 1e-7 for earlier, later in itertools.pairwise(found.errors))
    if len(shape) > 2:  # then the factors are unique, but for order and sign
        for mine, true in zip(found.factors, made, strict=True):
            cosines = (mine.T @ torch.nn.functional.normalize(true, dim=0)).abs()
            assert cosines.amax(0).min() > 1 - 1e-6


def plain_als(tensor, rank, sweeps):
    """Textbook ALS in NumPy from singular vectors, the longest axis last; the errors."""
    axes = range(tensor.ndim)
    factors = [np.linalg.svd(unfolded(tensor, a).numpy())[0][:, :rank] for a in axes]
    longest = max(axes, key=lambda a: tensor.shape[a])
    errors = []
    for _ in range(sweeps):
        for axis in [a for a in axes if a != longest] + [longest]:
            design = reduce(khatri_rao, [factors[a] for a in axes if a != axis])
            matrix = unfolded(tensor, axis).numpy()
            factors[axis] = np.linalg.lstsq(design, matrix.T, rcond=None)[0].T
        rest = matrix - factors[axis] @ design.T
        errors.append(np.linalg.norm(rest) / np.linalg.norm(matrix))
    return errors


@pytest.mark.parametrize(
    ("shape", "rank"), [((5, 9, 6), 4), ((9, 6, 5), 3), ((6, 5, 9), 5), ((4, 3, 5, 6), 2)]
)
def test_the_first_sweeps_are_those_of_textbook_least_squares(shape, rank):
    tensor = normal(*shape)
    found = lowrank.cp(tensor, rank, starts=1, iterations=2)
    assert found.errors == pytest.approx(plain_als(tensor, rank, 2), rel=1e-6)


def test_extrapolation_gets_further_in_as_many_sweeps():
    tensor = decaying(14, 12, 9)
    found = lowrank.cp(tensor, 8, starts=1, iterations=60, tolerance=0)
    plain = plain_als(tensor, 8, 60)
    assert found.errors[-1] < plain[-1]
    assert found.errors[:2] == pytest.approx(plain[:2], rel=1e-6)
    assert 40 <= len(found.errors) <= 60  # at most every third sweep is thrown away


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.integers(0, 3),
    st.integers(0, 2**16),
    st.data(),
)
def test_any_tensor_and_rank_give_finite_factors_and_errors_that_do_not_rise(
    shape, true, seed, data
):
    """Ranks beyond the sizes, singular Gram matrices, zeros, repeated slices."""
    rank = data.draw(st.integers(1, math.prod(shape) // max(shape)))
    tensor = normal(*shape, seed=seed)
    if true < 3:
        parts = [
            outer(*(normal(n, seed=seed + r + a) for a, n in enumerate(shape))) for r in range(3)
        ]
        tensor = sum(parts[:true], torch.zeros(shape, dtype=torch.float64))
    found = lowrank.cp(tensor, rank, iterations=20, tolerance=0)
    approximation = found.reconstruct()
    assert approximation.shape == tensor.shape
    assert approximation.isfinite().all()
    assert len(found.errors) <= 20
    assert all(later <= earlier + 1e-7 for earlier, later in itertools.pairwise(found.errors))
    total = float(tensor.norm())
    error = float((tensor - approximation).norm())
    assert error == pytest.approx(found.errors[-1] * total, abs=3e-7 * total + 1e-300)
    assert error <= total * (1 + 1e-9)


def test_a_matrix_has_the_error_of_its_svd():
    matrix = normal(9, 6)
    values = torch.linalg.svdvals(matrix).square()
    for rank in (1, 3, 6):
        found = lowrank.cp(matrix, rank)
        expected = float((values[rank:].sum() / values.sum()).sqrt())
        assert found.errors[-1] == pytest.approx(expected, abs=1e-7)


def test_zeros_and_slices_of_zeros():
    nothing = lowrank.cp(torch.zeros(3, 4, 2), 2)
    assert nothing.reconstruct().abs().max() == 0
    assert nothing.errors[-1] == pytest.approx(0, abs=1e-6)
    assert nothing.degeneracy == pytest.approx(0, abs=1e-6)
    tensor = decaying(8, 6, 4)
    tensor[2:5] = 0  # pruned filters
    found = lowrank.cp(tensor, 4)
    assert found.factors[0][2:5].abs().max() < 1e-12
    assert found.errors[-1] == pytest.approx(
        lowrank.cp(tensor[[0, 1, 5, 6, 7]], 4).errors[-1], abs=0.02
    )


def test_the_first_start_can_be_stuck_and_the_random_ones_find_more():
    """Symmetric: singular vectors give 1/3 of the energy, the best rank 1 has 4/9 of it."""
    tensor = torch.zeros(2, 2, 2)
    tensor[0, 1, 1] = tensor[1, 0, 1] = tensor[1, 1, 0] = 1
    stuck = lowrank.cp(tensor, 1, starts=1, tolerance=1e-9)
    assert stuck.errors[-1] == pytest.approx(math.sqrt(1 - 1 / 3), abs=1e-6)
    found = lowrank.cp(tensor, 1, starts=2, tolerance=1e-9)
    assert found.errors[-1] == pytest.approx(math.sqrt(1 - 4 / 9), abs=1e-6)


def test_more_starts_are_never_worse():
    tensor = normal(5, 4, 4)
    errors = [lowrank.cp(tensor, 3, starts=starts).errors[-1] for starts in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) > 1


def test_components_that_cancel_are_told_from_those_that_do_not():
    orthogonal = sum(
        weight * outer(*(torch.eye(5, dtype=torch.float64)[r] for _ in range(3)))
        for r, weight in enumerate((3.0, 2.0, 1.0))
    )
    found = lowrank.cp(orthogonal, 3, tolerance=1e-9)
    assert found.degeneracy == pytest.approx(6 / math.sqrt(14), rel=1e-6)
    a, b = torch.eye(5, dtype=torch.float64)[:2]
    border = outer(a, a, b) + outer(a, b, a) + outer(b, a, a)  # rank 3, arbitrarily near rank 2
    growing = [lowrank.cp(border, 2, iterations=i, tolerance=0) for i in (10, 100, 500)]
    errors, degeneracies = zip(*((f.errors[-1], f.degeneracy) for f in growing), strict=True)
    assert list(errors) == sorted(errors, reverse=True)  # n (a + b / n)³ − n a³: ever nearer,
    assert list(degeneracies) == sorted(degeneracies)  # with ever larger components
    assert errors[-1] < 0.05
    assert degeneracies[-1] > 4


def test_randomness_is_in_the_generator_alone():
    tensor = normal(6, 5, 4)
    state = torch.get_rng_state()
    found = [
        lowrank.cp(tensor, 8, generator=generator)  # more than there are singular vectors
        for generator in (None, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].reconstruct(), found[1].reconstruct())
    assert not torch.equal(found[0].reconstruct(), found[2].reconstruct())


def test_sweeps_end_at_the_limit_or_the_tolerance():
    tensor = normal(10, 9, 8)
    assert len(lowrank.cp(tensor, 6, iterations=1).errors) == 1
    assert len(lowrank.cp(tensor, 6, iterations=7, tolerance=0).errors) <= 7
    rough, fine = (lowrank.cp(tensor, 6, starts=1, tolerance=t).errors for t in (1e-3, 1e-6))
    assert len(rough) < len(fine)
    assert rough == fine[: len(rough)]
    gains = [before - after for before, after in zip(rough, rough[3:], strict=False)]
    assert gains[-1] < 1e-3
    assert all(gain >= 1e-3 for gain in gains[:-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_types_are_kept(dtype):
    tensor = normal(4, 3, 2, 2).to(dtype).requires_grad_()
    found = lowrank.cp(tensor, 3)
    assert {t.dtype for t in (found.weights, *found.factors)} == {dtype}
    exact = lowrank.cp(tensor.detach().double(), 3)
    torch.testing.assert_close(
        found.reconstruct(), exact.reconstruct().to(dtype), rtol=0.1, atol=0.1
    )
    tucker = lowrank.tucker2(tensor, (2, 2))
    assert {t.dtype for t in tucker} == {dtype}
    assert not any(t.requires_grad for t in (*tucker, *found.factors))


@pytest.mark.parametrize("rank", [4, 12, 30])
@pytest.mark.parametrize("kind", [normal, decaying])
def test_cp_is_no_worse_than_tensorlys(tensorly_torch, kind, rank):
    """On the mean of four tensors: each has several minima, and either may find the better one."""
    mine, theirs = [], []
    for seed in range(0, 80, 20):
        tensor = kind(16, 12, 9, seed=seed)
        rival = parafac(tensor, rank, n_iter_max=100, init="svd", random_state=0)
        theirs.append(relative(tensor, rival.to_tensor()))
        mine.append(relative(tensor, lowrank.cp(tensor, rank).reconstruct()))
    assert sum(mine) <= sum(theirs) * (1.005 if rank == 4 else 1.0)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((5, 1), "r_out is 5; it must be a whole number from 1 to 4"),
        ((1, 4), "r_in is 4; it must be a whole number from 1 to 3"),
        ((0, 1), "r_out is 0"),
        ((1, 0), "r_in is 0"),
        ((1.0, 1), r"r_out is 1\.0"),
        ((1, True), "r_in is True"),
    ],
)
def test_tucker_ranks_beyond_their_limits_are_refused(ranks, message):
    with pytest.raises(ValueError, match=message):
        lowrank.tucker2(normal(4, 3, 2, 2), ranks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be a whole number from 1 to 6"),
        ({"rank": 7}, "rank is 7; it must be a whole number from 1 to 6"),
        ({"rank": 2, "starts": 0}, "starts is 0"),
        ({"rank": 2, "iterations": 0}, "iterations is 0"),
    ],
)
def test_cp_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lowrank.cp(normal(4, 3, 2), **arguments)


def test_what_is_no_tensor_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\); two axes or more"):
        lowrank.cp(normal(4), 1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        lowrank.cp(torch.tensor([[1.0, float("nan")]]), 1)
    with pytest.raises(ValueError, match=r"shape \(4, 3\); 4 axes"):
        lowrank.tucker2(normal(4, 3), (1, 1))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        lowrank.tucker2(torch.ones(1, 1, 1, 1, dtype=torch.int64), (1, 1))
