"""Networks as files of six runtimes, the gate they must pass, and what is shipped (chapter 7).

Data flow: a network → `RUNTIMES[name].export` or `.quantize` → a file → `.load` → a program,
which `parity` holds against the network; `ship` does all of it and writes a manifest.
"""

from slimcnn.deploy.core_ml import CoreML
from slimcnn.deploy.executorch_xnnpack import ExecuTorch
from slimcnn.deploy.litert import LiteRT
from slimcnn.deploy.measurements import Measurement, load_measurements, runtime_table
from slimcnn.deploy.ncnn_cpu import NCNN
from slimcnn.deploy.onnx_runtime import ONNXRuntime
from slimcnn.deploy.openvino_cpu import OpenVINO
from slimcnn.deploy.parity import FLOAT, GATES, INT8, Gate, Parity, ParityError, parity
from slimcnn.deploy.runtime import Program, Runtime, TensorInfo, UnsupportedError
from slimcnn.deploy.shipping import ShipmentError, Shipped, load_shipped, ship

# All adapters, by the runtime's name.
RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (ONNXRuntime(), ExecuTorch(), LiteRT(), OpenVINO(), NCNN(), CoreML())
}

__all__ = [
    "FLOAT",
    "GATES",
    "INT8",
    "NCNN",
    "RUNTIMES",
    "CoreML",
    "ExecuTorch",
    "Gate",
    "LiteRT",
    "Measurement",
    "ONNXRuntime",
    "OpenVINO",
    "Parity",
    "ParityError",
    "Program",
    "Runtime",
    "ShipmentError",
    "Shipped",
    "TensorInfo",
    "UnsupportedError",
    "load_measurements",
    "load_shipped",
    "parity",
    "runtime_table",
    "ship",
]
