"""Sparse times dense, by several kernels, ready to be timed: each must give the same result.

Chapter 3 (Sparsity: formats).
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


def matmul_kernels(
    weight: Tensor, inputs: Tensor, block: tuple[int, int] = (4, 4)
) -> dict[str, Callable[[], object]]:
    """Callables that compute `weight @ inputs`, for `slimcnn.latency.measure`.

    "dense" (PyTorch), "torch CSR", "torch BSR" and "scipy CSR". The weight is converted
    beforehand: as in inference, where it never changes.

    Args:
        weight: shape (rows, inner), float32; for BSR both must be multiples of the block.
        inputs: shape (inner, columns), float32; a convolution's patches, for instance.
        block: rows and columns of a block.

    Raises:
        ValueError: shapes or types do not fit.
        ArithmeticError: a kernel's result differs from the dense one.

    Chapter 3, Sparsity: formats.
    """
    fits = weight.ndim == inputs.ndim == 2 and weight.shape[1] == inputs.shape[0]
    if not fits or weight.dtype != torch.float32 or inputs.dtype != torch.float32:
        raise ValueError(
            f"{tuple(weight.shape)} {weight.dtype} and {tuple(inputs.shape)} {inputs.dtype} cannot"
            " be multiplied here; two float32 matrices that fit are needed"
        )
    if any(size % side for size, side in zip(weight.shape, block, strict=True)):
        raise ValueError(f"a weight {tuple(weight.shape)} is no multiple of the block {block}")
    weight, inputs = weight.detach().contiguous(), inputs.detach().contiguous()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta state")
        csr, bsr = weight.to_sparse_csr(), weight.to_sparse_bsr(block)
    other, array = sparse.csr_array(weight.numpy()), inputs.numpy()
    kernels: dict[str, Callable[[], object]] = {
        "dense": lambda: weight @ inputs,
        "torch CSR": lambda: csr @ inputs,
        "torch BSR": lambda: bsr @ inputs,
        "scipy CSR": lambda: other @ array,
    }
    expected = (weight.double() @ inputs.double()).numpy()
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
    for name, kernel in kernels.items():
        difference = float(np.abs(np.asarray(kernel()) - expected).max(initial=0.0))
        if not difference <= 1e-4 * scale:
            raise ArithmeticError(f"{name} differs from the exact product by {difference:.3g}")
    return kernels
