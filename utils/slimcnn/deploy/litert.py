"""LiteRT, once TensorFlow Lite: the runtime of Android, and of microcontrollers."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.deploy.runtime import Program, Runtime, TensorInfo, environment, one_by_one, single
from slimcnn.export import import_runtime, inference_copy, silence


class LiteRT(Runtime):
    """Files whose inputs lie channels last, as it prefers; int8 by its static quantizer.

    An int8 file takes and gives int8; the program here rounds and scales, as an app has to.
    """

    name = "LiteRT"
    package = "ai_edge_litert"
    suffix = ".tflite"
    layout = "NHWC"

    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        path, example = self._checked(path), single(example)
        # Its progress goes around every stream in a notebook.
        with environment({"LITERT_TORCH_SHOW_PROGRESS": "n"}), silence():
            converter = import_runtime("litert_torch")
            network = inference_copy(model)
            if example.ndim == 4:
                network = converter.to_channel_last_io(network, args=[0]).eval()
            converter.convert(network, (_channels_last(example),)).export(str(path))
        return path

    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        path = self._checked(path)
        with silence():
            tool = import_runtime("ai_edge_quantizer")
        with tempfile.TemporaryDirectory() as folder:
            plain = self.export(model, single(inputs), Path(folder) / "plain.tflite")
            with silence():
                signatures = _interpreter(plain, 1).get_signature_list()
                key, signature = next(iter(signatures.items()))
                images = _channels_last(inputs.detach().cpu().float()).numpy()
                feed = [{signature["inputs"][0]: image[None]} for image in images]
                quantizer = tool.quantizer.Quantizer(str(plain), tool.recipe.static_wi8_ai8())
                made = quantizer.quantize(quantizer.calibrate({key: feed}))
                made.export_model(str(path), overwrite=True)
        return path

    def load(self, path: Path | str, threads: int = 1) -> Program:
        interpreter = _interpreter(self._there(path), threads)
        interpreter.allocate_tensors()
        into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def run(input: Tensor) -> Tensor:
            interpreter.set_tensor(into["index"], _stored(_channels_last(input).numpy(), into))
            interpreter.invoke()
            return torch.from_numpy(_real(interpreter.get_tensor(out["index"]), out))

        return one_by_one(run)

    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        interpreter = _interpreter(self._there(path), 1)

        def info(details: dict) -> TensorInfo:
            kind = np.dtype(details["dtype"])
            scale = details["quantization"] if kind.kind == "i" else ()
            shape = tuple(int(n) for n in details["shape"])
            return TensorInfo(details["name"], shape, kind.name, *scale)

        return info(interpreter.get_input_details()[0]), info(interpreter.get_output_details()[0])


def _interpreter(path: Path, threads: int):
    with silence():
        module = import_runtime("ai_edge_litert.interpreter")
        return module.Interpreter(model_path=str(path), num_threads=threads)


def _channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H, W, C); other shapes stay."""
    return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x


def _stored(x: np.ndarray, details: dict) -> np.ndarray:
    """Numbers as the file takes them: integers of its scale and zero point, or as they are."""
    kind = np.dtype(details["dtype"])
    if kind.kind != "i":
        return x
    scale, zero = details["quantization"]
    limits = np.iinfo(kind)
    return np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(kind)


def _real(x: np.ndarray, details: dict) -> np.ndarray:
    """What the file's numbers stand for."""
    if x.dtype.kind != "i":
        return x.copy()  # the interpreter reuses its memory
    scale, zero = details["quantization"]
    return ((x.astype(np.float32) - zero) * scale).astype(np.float32)
