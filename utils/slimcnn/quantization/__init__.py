"""Quantization: numbers of a few bits.

    quantizers    the affine map between real numbers and integers; binary weights; SQNR
    ranges        which range the integers cover: min-max, percentile, MSE, KL, moving average
    folding       batch norm as part of the layer before it
    network       a network whose layers have quantized weights and inputs
    fake          quantizers to train with: straight through, binary, learned steps
    equalization  ranges of neighboring layers made even
    correction    mean errors taken out by the bias
    adaround      rounding up or down, learned
    allocation    how many bits for which layer
    files         a quantized network as a file of packed integers
    graphs        a network as a graph of its operations
    placement     a quantizer on every other tensor, too
    integers      sums of integer products; scales changed by multiplier and shift
    operations    what each operation of a network does to integers
    inference     a network computed with integers alone
    qdq           the same network as an ONNX file

Chapter 6 (Quantization) derives all of it.
"""

from slimcnn.quantization.adaround import RoundedWeight, ada_round
from slimcnn.quantization.allocation import allocate_bits, damages, weight_bytes
from slimcnn.quantization.correction import correct_bias
from slimcnn.quantization.equalization import equalize
from slimcnn.quantization.fake import (
    ActivationQuantizer,
    BinaryWeight,
    LearnedStep,
    SettledQuantizer,
    WeightQuantizer,
    fake_quantize,
    round_through,
)
from slimcnn.quantization.files import load_quantized, pack, save_quantized, unpack
from slimcnn.quantization.folding import fold_batch_norm
from slimcnn.quantization.inference import IntegerNetwork
from slimcnn.quantization.integers import fixed_point, integer_layer, rescale
from slimcnn.quantization.network import QuantizedLayer, Scheme, quantize
from slimcnn.quantization.placement import place_quantizers
from slimcnn.quantization.qdq import to_qdq_onnx
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
    "IntegerNetwork",
    "LearnedStep",
    "MovingAverageRange",
    "QuantizedLayer",
    "Quantizer",
    "RoundedWeight",
    "Scheme",
    "SettledQuantizer",
    "WeightQuantizer",
    "ada_round",
    "affine_quantizer",
    "allocate_bits",
    "binarize",
    "correct_bias",
    "damages",
    "equalize",
    "fake_quantize",
    "fixed_point",
    "fold_batch_norm",
    "integer_layer",
    "kl_range",
    "load_quantized",
    "min_max_range",
    "mse_range",
    "pack",
    "percentile_range",
    "place_quantizers",
    "quantize",
    "rescale",
    "round_through",
    "save_quantized",
    "sqnr",
    "symmetric_quantizer",
    "to_qdq_onnx",
    "unpack",
    "weight_bytes",
]
