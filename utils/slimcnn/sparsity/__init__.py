"""Sparsity: what zeros are worth, in bytes and in time, and what patterns they may have.

    formats       tensors as bytes: COO, CSR, BSR, bitmask, relative index (codecs: each of them)
    sizes         the bytes of each format by formula, and its break-even point
    files         a network as one file, each tensor in its smallest format
    kernels       sparse × dense products, checked against dense, ready to be timed
    patterns      N:M with channel permutation, blocks, vectors, kernels, filters
    training      sparse from the start: drop and grow (RigL)
    activations   zeros after ReLU

Chapter 3 (Sparsity) derives all of it. `kernels` needs SciPy and is imported by name.
"""

from slimcnn.sparsity.activations import activation_sparsity
from slimcnn.sparsity.codecs import FormatError
from slimcnn.sparsity.files import load_encoded, save_encoded
from slimcnn.sparsity.formats import decode, encode
from slimcnn.sparsity.patterns import (
    block_mask,
    channel_permutation,
    filter_mask,
    kernel_mask,
    nm_mask,
)
from slimcnn.sparsity.sizes import break_even, encoded_bytes, header_bytes
from slimcnn.sparsity.training import DropAndGrow, dense_gradients, drop_and_grow, erk_sparsities

__all__ = [
    "DropAndGrow",
    "FormatError",
    "activation_sparsity",
    "block_mask",
    "break_even",
    "channel_permutation",
    "decode",
    "dense_gradients",
    "drop_and_grow",
    "encode",
    "encoded_bytes",
    "erk_sparsities",
    "filter_mask",
    "header_bytes",
    "kernel_mask",
    "load_encoded",
    "nm_mask",
    "save_encoded",
]
