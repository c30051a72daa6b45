"""Coding: shared values, and words of few bits for what occurs often.

    kmeans     a codebook of shared values for a weight
    huffman    canonical Huffman codes of limited length

Chapter 6 (Quantization: weight sharing) derives all of it.
"""

from slimcnn.coding import huffman
from slimcnn.coding.kmeans import Codebook, kmeans

__all__ = ["Codebook", "huffman", "kmeans"]
