"""Encoders against SciPy, and the N:M mask against PyTorch's sparsifier.

    python benchmarks/sparsity.py

Prints medians of interleaved runs and their ratios. SciPy converts a dense matrix to its own
arrays and writes them out as bytes, with the index types that it chooses.
"""

import scipy.sparse
import torch
from torch import nn

from slimcnn import sparsity
from timing import compare


def encoders(zeros: float) -> None:
    """COO, CSR and BSR of a layer with scattered zeros."""
    weight = torch.randn(512, 4608)
    weight = torch.where(torch.rand(weight.shape) < zeros, 0.0, weight)
    array = weight.numpy()

    def coo() -> bytes:
        found = scipy.sparse.coo_array(array)
        return found.row.tobytes() + found.col.tobytes() + found.data.tobytes()

    def csr() -> bytes:
        found = scipy.sparse.csr_array(array)
        return found.indptr.tobytes() + found.indices.tobytes() + found.data.tobytes()

    def bsr() -> bytes:
        found = scipy.sparse.bsr_array(array, blocksize=(4, 4))
        return found.indptr.tobytes() + found.indices.tobytes() + found.data.tobytes()

    for name, rival in (("coo", coo), ("csr", csr), ("bsr", bsr)):
        label = f"{name}, {100 * zeros:.0f} % zeros"
        compare(label, lambda name=name: sparsity.encode(weight, name), rival)


def masks() -> None:
    """2:4 on one linear layer."""
    linear = nn.Linear(4608, 512)
    sparsifier = torch.ao.pruning.WeightNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    sparsifier.prepare(nn.Sequential(linear), [{"tensor_fqn": "0.weight"}])
    weight = linear.parametrizations.weight.original.detach()
    compare("2:4 mask", lambda: sparsity.nm_mask(weight.abs(), 2, 4), sparsifier.step)


if __name__ == "__main__":
    torch.manual_seed(0)
    for share in (0.5, 0.9):
        encoders(share)
    masks()
