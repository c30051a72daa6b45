"""What the book measures: cost, memory, accuracy, and whether a difference is real.

    cost        parameters, non-zeros, MACs of each layer, bytes of a file
    memory      peak activation memory
    accuracy    accuracy and its interval, per class, calibration, agreement
    comparison  paired tests of two networks: McNemar, bootstrap over images and seeds

Sizes are in bytes, accuracies in percent. Nothing here changes the model it measures.
Chapter 1 (Measuring) derives each quantity.
"""

from slimcnn.metrics._formulas import UncountableError
from slimcnn.metrics.accuracy import (
    Reliability,
    accuracy,
    agreement,
    expected_calibration_error,
    per_class_accuracy,
    reliability,
    wilson_interval,
)
from slimcnn.metrics.comparison import McNemar, PairedDifference, mcnemar, paired_bootstrap
from slimcnn.metrics.cost import (
    LayerCost,
    count_macs,
    count_nonzeros,
    count_parameters,
    layer_costs,
    saved_bytes,
)
from slimcnn.metrics.memory import peak_activation_bytes

__all__ = [
    "LayerCost",
    "McNemar",
    "PairedDifference",
    "Reliability",
    "UncountableError",
    "accuracy",
    "agreement",
    "count_macs",
    "count_nonzeros",
    "count_parameters",
    "expected_calibration_error",
    "layer_costs",
    "mcnemar",
    "paired_bootstrap",
    "peak_activation_bytes",
    "per_class_accuracy",
    "reliability",
    "saved_bytes",
    "wilson_interval",
]
