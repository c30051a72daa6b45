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

    "dense" (PyTorch), "torch CSR", "scipy CSR", "scipy BSR", and "torch BSR" if blocks are
    square: PyTorch's product on a CPU takes no others. The weight is converted beforehand: as
    in inference, where it never changes.

    Args:
        weight: shape (rows, inner), float32; for BSR both must be multiples of the block.
        inputs: shape (inner, columns), float32; a convolution's patches, for instance.
        block: rows and columns of a block.

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
    if len(block) != 2 or min(block) < 1:
        raise ValueError(f"block is {block}; it must be two numbers of 1 or more")
    if any(size % side for size, side in zip(weight.shape, block, strict=True)):
        raise ValueError(f"a weight {tuple(weight.shape)} is no multiple of the block {block}")
    weight, inputs = weight.detach().contiguous(), inputs.detach().contiguous()
    scipy, array = import_runtime("scipy.sparse"), inputs.numpy()
    rows, blocks = scipy.csr_array(weight.numpy()), scipy.bsr_array(weight.numpy(), blocksize=block)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta state")
        csr = weight.to_sparse_csr()
        bsr = weight.to_sparse_bsr(block) if block[0] == block[1] else None
    kernels: dict[str, Callable[[], object]] = {
        "dense": lambda: weight @ inputs,
        "torch CSR": lambda: csr @ inputs,
        "scipy CSR": lambda: rows @ array,
        "scipy BSR": lambda: blocks @ array,
    }
    if bsr is not None:
        kernels["torch BSR"] = lambda: bsr @ inputs
    expected = (weight.double() @ inputs.double()).numpy()
    sizes = (weight.double().abs() @ inputs.double().abs()).numpy()  # rounding grows with these
    scale = max(float(sizes.max(initial=0.0)), 1e-30)
    for name, kernel in kernels.items():
        difference = float(np.abs(np.asarray(kernel()) - expected).max(initial=0.0))
        if not difference <= 1e-4 * scale:
            raise ArithmeticError(f"{name} differs from the exact product by {difference:.3g}")
    return kernels
