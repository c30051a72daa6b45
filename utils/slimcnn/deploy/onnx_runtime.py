"""ONNX Runtime: one file for servers, desktops, phones and browsers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn import export, sessions
from slimcnn.deploy.runtime import Program, Runtime, TensorInfo, one_by_one, single


class ONNXRuntime(Runtime):
    """CPU execution provider; int8 by its static quantizer, a scale a channel."""

    name = "ONNX Runtime"
    package = "onnxruntime"
    suffix = ".onnx"

    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        return export.to_onnx(model, single(example), self._checked(path))

    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        path = self._checked(path)
        example = single(inputs)
        with tempfile.TemporaryDirectory() as folder, export.silence():
            tool = export.import_runtime("onnxruntime.quantization")
            prepare = export.import_runtime("onnxruntime.quantization.shape_inference")
            plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
            export.to_onnx(model, example, plain)
            prepare.quant_pre_process(plain, prepared)
            tool.quantize_static(
                prepared,
                path,
                _reader(tool, inputs),
                activation_type=tool.QuantType.QUInt8,
                weight_type=tool.QuantType.QInt8,
                per_channel=True,
            )
        return path

    def load(self, path: Path | str, threads: int = 1) -> Program:
        session = sessions.onnx_session(self._there(path).read_bytes(), threads)
        name = session.get_inputs()[0].name

        def run(input: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: input.numpy()})[0])

        return one_by_one(run)

    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        session = sessions.onnx_session(self._there(path).read_bytes())
        types = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}

        def info(end) -> TensorInfo:  # noqa: ANN001
            return TensorInfo(end.name, tuple(end.shape), types[end.type])

        return info(session.get_inputs()[0]), info(session.get_outputs()[0])


def _reader(tool, inputs: Tensor) -> object:  # noqa: ANN001, a module that may be missing
    """The inputs as the quantizer asks for them."""
    batches: Iterator[Tensor] = iter(inputs.detach().cpu().float().split(1))

    class Reader(tool.CalibrationDataReader):
        def get_next(self) -> dict | None:
            batch = next(batches, None)
            return None if batch is None else {"input": batch.numpy()}

    return Reader()
