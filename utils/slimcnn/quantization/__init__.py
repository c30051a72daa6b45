"""Quantization: numbers of a few bits.

    quantizers    the affine map between real numbers and integers; binary weights; SQNR
    folding       batch norm as part of the layer before it
    ranges        which range the integers cover: min-max, percentile, MSE, KL, moving average

Chapter 6 (Quantization) derives all of it.
"""

from slimcnn.quantization.folding import fold_batch_norm
from slimcnn.quantization.quantizers import (
    Quantizer,
    affine_quantizer,
    binarize,
    sqnr,
    symmetric_quantizer,
)
from slimcnn.quantization.ranges import (
    MovingAverageRange,
    kl_range,
    min_max_range,
    mse_range,
    percentile_range,
)

__all__ = [
    "MovingAverageRange",
    "Quantizer",
    "affine_quantizer",
    "binarize",
    "fold_batch_norm",
    "kl_range",
    "min_max_range",
    "mse_range",
    "percentile_range",
    "sqnr",
    "symmetric_quantizer",
]
