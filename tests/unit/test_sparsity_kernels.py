"""slimcnn.sparsity.kernels: the exact product from each, and no kernel that is wrong."""

import sys

import numpy as np
import pytest
import torch
from scipy import sparse

from slimcnn.export import MissingRuntimeError
from slimcnn.sparsity.kernels import matmul_kernels

NAMES = ["dense", "torch CSR", "scipy CSR", "scipy BSR", "torch BSR"]


def whole_numbers(*shape, density=1.0, seed=0):
    """float32 numbers so small that sums of their products are exact."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-9, 10, shape, generator=generator).float()
    return numbers * (torch.rand(shape, generator=generator) < density)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(
    ("rows", "inner", "columns", "block"),
    [
        (16, 24, 10, (4, 4)),
        (16, 24, 1, (2, 2)),
        (6, 9, 5, (3, 3)),
        (5, 3, 7, (1, 1)),
        (6, 8, 5, (1, 4)),
        (6, 8, 5, (3, 2)),
    ],
)
def test_every_kernel_gives_the_exact_product(density, rows, inner, columns, block):
    weight, inputs = whole_numbers(rows, inner, density=density), whole_numbers(inner, columns)
    expected = weight.numpy().astype(np.int64) @ inputs.numpy().astype(np.int64)
    found = matmul_kernels(weight, inputs, block)
    assert list(found) == NAMES[: 5 if block[0] == block[1] else 4]
    for kernel in found.values():
        for _ in range(2):
            result = np.asarray(kernel())
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 4, 0)])
def test_products_of_nothing(shape):
    rows, inner, columns = shape
    for kernel in matmul_kernels(torch.zeros(rows, inner), torch.zeros(inner, columns)).values():
        np.testing.assert_array_equal(np.asarray(kernel()), np.zeros((rows, columns)))


def test_parameters_and_strides_do_not_matter():
    weight, inputs = whole_numbers(8, 12, density=0.5), whole_numbers(12, 6)
    expected = (weight.double() @ inputs.double()).numpy()
    parameter = torch.nn.Parameter(weight.T.contiguous()).T
    strided = inputs.repeat_interleave(2, 1)[:, ::2].requires_grad_()
    for kernel in matmul_kernels(parameter, strided).values():
        np.testing.assert_array_equal(np.asarray(kernel()), expected)


def test_numbers_that_cancel_are_no_wrong_result():
    # In float32 1e8 + 1 is 1e8: every kernel gives 0, which is as near to 1 as it can be.
    weight = torch.tensor([[1e8, 1.0, -1e8, 0.0]] * 4)
    for kernel in matmul_kernels(weight, torch.ones(4, 1)).values():
        assert np.abs(np.asarray(kernel()) - 1).max() <= 1


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_random_numbers_of_any_size_pass(scale):
    torch.manual_seed(0)
    weight, inputs = torch.randn(32, 512) * scale, torch.randn(512, 20)
    expected = weight.double() @ inputs.double()
    for kernel in matmul_kernels(weight, inputs).values():
        result = torch.from_numpy(np.asarray(kernel())).double()
        assert ((result - expected).abs() < 1e-4 * expected.abs().max()).all()


@pytest.mark.parametrize("format", ["csr", "bsr"])
@pytest.mark.parametrize("error", [1.01, 0.0, float("nan")])
def test_a_kernel_that_is_wrong_is_not_handed_out(monkeypatch, format, error):
    correct = getattr(sparse, f"{format}_array")
    monkeypatch.setattr(
        sparse, f"{format}_array", lambda matrix, **options: correct(matrix, **options) * error
    )
    with pytest.raises(ArithmeticError, match=f"scipy {format.upper()} differs from the exact"):
        matmul_kernels(whole_numbers(8, 8), whole_numbers(8, 2))


def test_products_that_are_no_number_are_refused():
    weight = whole_numbers(4, 4)
    weight[1, 2] = float("nan")
    with pytest.raises(ArithmeticError, match="dense differs from the exact product by nan"):
        matmul_kernels(weight, whole_numbers(4, 2))


@pytest.mark.parametrize(
    ("weight", "inputs", "message"),
    [
        (torch.ones(4, 8), torch.ones(4, 3), r"\(4, 8\) torch.float32 and \(4, 3\) .* cannot"),
        (torch.ones(4, 8), torch.ones(8), "two float32 matrices that fit are needed"),
        (torch.ones(4, 4, 1, 1), torch.ones(4, 3), "two float32 matrices"),
        (torch.ones(4, 8).double(), torch.ones(8, 3), "float64"),
        (torch.ones(4, 8), torch.ones(8, 3).half(), "float16"),
        (torch.ones(4, 8, dtype=torch.int32), torch.ones(8, 3), "int32"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(weight, inputs, message):
    with pytest.raises(ValueError, match=message):
        matmul_kernels(weight, inputs)


@pytest.mark.parametrize("block", [(0, 0), (4, 0), (-4, -4), (4,), (2, 2, 2)])
def test_what_is_no_block_is_refused(block):
    with pytest.raises(ValueError, match=r"block is \(.*; it must be two numbers of 1 or more"):
        matmul_kernels(torch.ones(4, 8), torch.ones(8, 3), block)


@pytest.mark.parametrize("shape", [(6, 8), (8, 6)])
def test_weights_that_are_no_multiple_of_the_block_are_refused(shape):
    with pytest.raises(ValueError, match=r"a weight \(., .\) is no multiple of the block \(4, 4"):
        matmul_kernels(torch.ones(shape), torch.ones(shape[1], 3))


def test_without_scipy_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(MissingRuntimeError, match=r"slimcnn\[sparse\]"):
        matmul_kernels(torch.ones(4, 8), torch.ones(8, 3))
