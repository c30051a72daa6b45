"""Sparse times dense, by several kernels, ready to be timed: each must give the same result.

Chapter 3 (Sparsity: formats).
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from slimcnn.export import import_runtime


def matmul_kernels(
    weight: Tensor, inputs: Tensor, block: tuple[int, int] = (4, 4)
) -> dict[str, Callable[[], object]]:
    """Callables that compute `weight @ inputs`, for `slimcnn.latency.measure`.

    "dense" (PyTorch), "torch CSR", "torch BSR" and "scipy CSR". The weight is converted
    beforehand: as in inference, where it never changes.

    Args:
        weight: shape (rows, inner), float32; for BSR both must be multiples of the block.
        inputs: shape (inner, columns), float32; a convolution's patches, for instance.
        block: rows and columns of a block; PyTorch's product on a CPU needs as many of both.

    Raises:
        ValueError: shapes or types do not fit.
        ArithmeticError: a kernel's result differs from the dense one.
        MissingRuntimeError: SciPy is not installed.

    Chapter 3, Sparsity: formats.
    """
    fits = weight.ndim == inputs.ndim == 2 and weight.shape[1] == inputs.shape[0]
    if not fits or weight.dtype != torch.float32 or inputs.dtype != torch.float32:
        raise ValueError(
            f"{tuple(weight.shape)} {weight.dtype} and {tuple(inputs.shape)} {inputs.dtype} cannot"
            " be multiplied here; two float32 matrices that fit are needed"
        )
    if len(block) != 2 or block[0] != block[1] or block[0] < 1:
        raise ValueError(f"block is {block}; PyTorch's product on a CPU takes square blocks only")
    if any(size % block[0] for size in weight.shape):
        raise ValueError(f"a weight {tuple(weight.shape)} is no multiple of the block {block}")
    weight, inputs = weight.detach().contiguous(), inputs.detach().contiguous()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta state")
        csr, bsr = weight.to_sparse_csr(), weight.to_sparse_bsr(block)
    other, array = import_runtime("scipy.sparse").csr_array(weight.numpy()), inputs.numpy()
    kernels: dict[str, Callable[[], object]] = {
        "dense": lambda: weight @ inputs,
        "torch CSR": lambda: csr @ inputs,
        "torch BSR": lambda: bsr @ inputs,
        "scipy CSR": lambda: other @ array,
    }
    expected = (weight.double() @ inputs.double()).numpy()
    sizes = (weight.double().abs() @ inputs.double().abs()).numpy()  # rounding grows with these
    scale = max(float(sizes.max(initial=0.0)), 1e-30)
    for name, kernel in kernels.items():
        difference = float(np.abs(np.asarray(kernel()) - expected).max(initial=0.0))
        if not difference <= 1e-4 * scale:
            raise ArithmeticError(f"{name} differs from the exact product by {difference:.3g}")
    return kernels
