"""Quantization: numbers of a few bits.

    network       a network whose layers have quantized weights and inputs
    quantizers    the affine map between real numbers and integers; binary weights; SQNR
    fake          quantizers to train with: straight through, binary, learned steps
    folding       batch norm as part of the layer before it
    ranges        which range the integers cover: min-max, percentile, MSE, KL, moving average

Chapter 6 (Quantization) derives all of it.
"""

from slimcnn.quantization.fake import (
    ActivationQuantizer,
    BinaryWeight,
    LearnedStep,
    WeightQuantizer,
    fake_quantize,
    round_through,
)
from slimcnn.quantization.folding import fold_batch_norm
from slimcnn.quantization.network import QuantizedLayer, Scheme, quantize
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
    "ActivationQuantizer",
    "BinaryWeight",
    "LearnedStep",
    "MovingAverageRange",
    "QuantizedLayer",
    "Quantizer",
    "Scheme",
    "WeightQuantizer",
    "affine_quantizer",
    "binarize",
    "fake_quantize",
    "fold_batch_norm",
    "kl_range",
    "min_max_range",
    "mse_range",
    "percentile_range",
    "quantize",
    "round_through",
    "sqnr",
    "symmetric_quantizer",
]
