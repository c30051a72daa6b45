"""slimcnn.lowrank.matrices: the best of a rank by NumPy's SVD, for weights and for data."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimcnn import lowrank
from slimcnn.lowrank.matrices import left_vectors, singular_values

SHAPES = [(1, 1), (1, 5), (5, 1), (4, 4), (3, 8), (8, 3), (12, 30), (30, 12)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def second_moment(size, samples, seed=1):
    inputs = normal(samples, size, seed=seed) * torch.arange(1.0, size + 1, dtype=torch.float64)
    return inputs, inputs.T @ inputs / samples


def assert_balanced(left, right):
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1), rtol=1e-6, atol=1e-12)


# ---------------------------------------------------------------- the best for the weights


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_the_tail_of_the_spectrum_and_the_product_numpys(shape):
    matrix = normal(*shape)
    u, s, vh = np.linalg.svd(matrix.numpy(), full_matrices=False)
    for rank in range(1, min(shape) + 1):
        left, right = lowrank.truncated_svd(matrix, rank)
        assert left.shape == (shape[0], rank)
        assert right.shape == (rank, shape[1])
        best = torch.from_numpy(u[:, :rank] * s[:rank] @ vh[:rank])
        torch.testing.assert_close(left @ right, best, rtol=1e-10, atol=1e-12)
        error = float((matrix - left @ right).square().sum())
        assert error == pytest.approx((s[rank:] ** 2).sum(), rel=1e-10, abs=1e-20)
        torch.testing.assert_close(left.norm(dim=0), torch.from_numpy(s[:rank]).sqrt())
        assert_balanced(left, right)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.data())
def test_any_matrix_of_lower_rank_comes_back_without_a_nan(rows, columns, true, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    matrix = normal(rows, true) @ normal(true, columns, seed=1)
    left, right = lowrank.truncated_svd(matrix, rank)
    assert left.isfinite().all()
    assert right.isfinite().all()
    if rank >= true:
        torch.testing.assert_close(left @ right, matrix, rtol=1e-10, atol=1e-12)


def test_a_part_without_energy_can_still_learn():
    """A component of a zero singular value has one factor that is not zero: gradients flow."""
    left, right = lowrank.truncated_svd(torch.zeros(3, 4), 2)
    assert torch.equal(left @ right, torch.zeros(3, 4))
    assert left.norm(dim=0).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_type_and_layout_of_the_input_are_kept(dtype):
    wide = normal(6, 10, dtype=dtype).requires_grad_()
    before = wide.detach().clone()
    for matrix in (wide, wide.T, wide[::2, 1::3]):
        left, right = lowrank.truncated_svd(matrix, 2)
        assert left.dtype == right.dtype == dtype
        assert not left.requires_grad
        exact = lowrank.truncated_svd(matrix.detach().double().contiguous(), 2)
        torch.testing.assert_close(left, exact[0].to(dtype))
        torch.testing.assert_close(right, exact[1].to(dtype))
    assert torch.equal(wide, before)


@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (6, 6)])
def test_singular_values_and_vectors_are_numpys(shape):
    matrix = normal(*shape)
    u, s, _ = np.linalg.svd(matrix.numpy(), full_matrices=False)
    torch.testing.assert_close(
        singular_values(matrix.float().double()), torch.from_numpy(s), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(singular_values(matrix), torch.from_numpy(s))
    vectors, values = left_vectors(matrix)
    torch.testing.assert_close(values, torch.from_numpy(s))
    torch.testing.assert_close(
        (vectors.T @ torch.from_numpy(u)).abs(), torch.eye(len(s), dtype=torch.float64)
    )


# ---------------------------------------------------------------- the best for the data


def mean_squared_error(matrix, product, gram):
    difference = matrix - product
    return float((difference @ gram @ difference.T).trace())


@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1)])
def test_the_error_on_the_data_is_that_of_the_svd_of_the_whitened_matrix(rows, columns):
    """‖(W − Ŵ) G^½‖² is least where Ŵ G^½ is the truncated SVD of W G^½."""
    matrix = normal(rows, columns)
    inputs, gram = second_moment(columns, 50)
    root = torch.linalg.cholesky(gram)
    tail = torch.linalg.svdvals(matrix @ root).square()
    for rank in range(1, min(rows, columns) + 1):
        left, right = lowrank.whitened_svd(matrix, rank, gram)
        assert (left.shape, right.shape) == ((rows, rank), (rank, columns))
        found = mean_squared_error(matrix, left @ right, gram)
        measured = (inputs @ (matrix - left @ right).T).square().sum(1).mean()
        scale = float(tail.sum())
        assert found == pytest.approx(float(tail[rank:].sum()), rel=1e-6, abs=1e-9 * scale)
        assert found == pytest.approx(float(measured), abs=1e-9 * scale)
        plain = torch.matmul(*lowrank.truncated_svd(matrix, rank))
        assert found <= mean_squared_error(matrix, plain, gram) + 1e-9 * scale
        best = torch.matmul(*lowrank.truncated_svd(matrix @ root, rank)) @ torch.linalg.inv(root)
        torch.testing.assert_close(left @ right, best, rtol=1e-6, atol=1e-7)
        assert_balanced(left, right)


def test_inputs_without_correlation_and_of_one_size_leave_the_plain_svd():
    matrix = normal(5, 8)
    for rank in (1, 3, 5):
        found = torch.matmul(*lowrank.whitened_svd(matrix, rank, 4 * torch.eye(8)))
        plain = torch.matmul(*lowrank.truncated_svd(matrix, rank))
        torch.testing.assert_close(found, plain, rtol=1e-8, atol=1e-10)


def test_a_singular_moment_is_no_trouble_and_the_weights_order_the_rest():
    """Data along one direction only: the first component is its image, the others are SVD's."""
    matrix = normal(5, 8)
    direction = normal(8, 1, seed=2)
    gram = direction @ direction.T
    first = torch.nn.functional.normalize(matrix @ direction, dim=0)
    remaining = matrix - first @ first.T @ matrix
    for rank in (1, 2, 4, 5):
        product = torch.matmul(*lowrank.whitened_svd(matrix, rank, gram))
        assert mean_squared_error(matrix, product, gram) < 1e-16 * gram.trace()
        tail = torch.linalg.svdvals(remaining).square()[rank - 1 :].sum()
        assert float((matrix - product).square().sum()) == pytest.approx(float(tail), abs=1e-6)
    silent = torch.matmul(*lowrank.whitened_svd(matrix, 2, torch.zeros(8, 8)))
    torch.testing.assert_close(silent, torch.matmul(*lowrank.truncated_svd(matrix, 2)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 8), st.integers(0, 3), st.data())
def test_outputs_moments_say_the_same_as_inputs_and_full_rank_is_exact(m, n, k, true, data):
    rank = data.draw(st.integers(1, min(m, n)))
    matrix = normal(m, true) @ normal(true, n, seed=1) if true else normal(m, n)
    inputs = normal(k, n, seed=2)
    gram = inputs.T @ inputs
    left, right = lowrank.whitened_svd(matrix, rank, gram)
    assert left.isfinite().all()
    assert right.isfinite().all()
    other = lowrank.output_svd(matrix, rank, matrix @ gram @ matrix.T)
    assert torch.equal(left @ right, torch.matmul(*other))
    if rank == min(m, n):
        torch.testing.assert_close(left @ right, matrix, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_data_aware_svd_keeps_the_type_too(dtype):
    matrix = normal(4, 6, dtype=dtype)
    gram = second_moment(6, 20)[1].float()
    left, right = lowrank.whitened_svd(matrix, 2, gram)
    assert left.dtype == right.dtype == dtype
    exact = lowrank.whitened_svd(matrix.double(), 2, gram.double())
    torch.testing.assert_close(left @ right, torch.matmul(*exact).to(dtype), rtol=0.02, atol=0.02)


# ---------------------------------------------------------------- kernels as matrices


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (5, 1, 3, 1), (1, 4, 1, 1), (3, 2, 1, 7)])
def test_every_entry_of_a_kernel_has_its_place_in_the_matrix(shape):
    kernel = torch.arange(float(np.prod(shape))).reshape(shape)
    outputs, inputs, height, width = shape
    channel, input_, spatial = (lowrank.unfold(kernel, s) for s in ("channel", "input", "spatial"))
    assert channel.shape == (outputs, inputs * height * width)
    assert input_.shape == (outputs * height * width, inputs)
    assert spatial.shape == (inputs * height, outputs * width)
    for o, i, y, x in itertools.product(*map(range, shape)):
        entry = kernel[o, i, y, x]
        assert channel[o, (i * height + y) * width + x] == entry
        assert input_[(o * height + y) * width + x, i] == entry
        assert spatial[i * height + y, o * width + x] == entry


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("rank", [0, 4, -1, 2.0, True, None, "2"])
def test_a_rank_beyond_its_limits_is_refused_and_the_limit_named(rank):
    matrix, moment = normal(3, 5), torch.eye(3)
    message = rf"rank is {rank!r}; it must be a whole number from 1 to 3"
    with pytest.raises(ValueError, match=message):
        lowrank.truncated_svd(matrix, rank)
    with pytest.raises(ValueError, match=message):
        lowrank.output_svd(matrix, rank, moment)
    with pytest.raises(ValueError, match=message):
        lowrank.whitened_svd(matrix, rank, torch.eye(5))


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (torch.ones(2, 3, 4), ValueError, r"shape \(2, 3, 4\); 2 axes and at least one number"),
        (torch.ones(0, 3), ValueError, r"shape \(0, 3\)"),
        (torch.tensor([[1.0, float("nan")]]), ValueError, "NaN or infinity"),
        (torch.tensor([[1.0, float("inf")]]), ValueError, "NaN or infinity"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, r"floating-point numbers .* torch\.int64"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, r"this is torch\.complex64"),
        ([[1.0]], TypeError, "this is list"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(matrix, error, message):
    with pytest.raises(error, match=message):
        lowrank.truncated_svd(matrix, 1)
    with pytest.raises(error, match=message):
        lowrank.whitened_svd(torch.ones(2, 2), 1, matrix)


def test_moments_and_kernels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"gram has shape \(3, 3\); inputs of 5 .* \(5, 5\)"):
        lowrank.whitened_svd(normal(3, 5), 1, torch.eye(3))
    with pytest.raises(ValueError, match=r"moment has shape \(5, 5\); 3 outputs .* \(3, 3\)"):
        lowrank.output_svd(normal(3, 5), 1, torch.eye(5))
    with pytest.raises(ValueError, match=r"kernel has shape \(3, 5\), not \(O, I, kh, kw\)"):
        lowrank.unfold(normal(3, 5), "channel")
    with pytest.raises(ValueError, match="scheme is 'rows'; there are channel, input, spatial"):
        lowrank.unfold(normal(1, 1, 1, 1), "rows")
