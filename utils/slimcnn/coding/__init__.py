"""Coding: shared values, and words of few bits for what occurs often.

    container  the .slim file: a network, its architecture and a checksum
    blocks     one tensor in as few bytes as its numbers allow
    kmeans     a codebook of shared values for a weight
    sharing    networks whose weights share values, and can be trained so
    huffman    canonical Huffman codes of limited length

Chapter 6 (Quantization: weight sharing) derives all of it.
"""

from slimcnn.coding import huffman
from slimcnn.coding.blocks import SlimError
from slimcnn.coding.container import load_slim, save_slim
from slimcnn.coding.kmeans import Codebook, kmeans
from slimcnn.coding.sharing import share_weights

__all__ = [
    "Codebook",
    "SlimError",
    "huffman",
    "kmeans",
    "load_slim",
    "save_slim",
    "share_weights",
]
