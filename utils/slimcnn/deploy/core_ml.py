"""Core ML: Apple's runtime. Its files can be made anywhere, and computed on a Mac alone."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.deploy.runtime import (
    Program,
    Runtime,
    TensorInfo,
    UnsupportedError,
    one_by_one,
    single,
)
from slimcnn.export import import_runtime, inference_copy, silence


class CoreML(Runtime):
    """ML programs of float32; int8 is of weights alone, what its tool does without images."""

    name = "Core ML"
    package = "coremltools"
    suffix = ".mlpackage"

    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        path = self._checked(path)
        with silence():
            _converted(model, example).save(str(path))
        return path

    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        path = self._checked(path)
        with silence():
            optimize = import_runtime("coremltools.optimize.coreml")
            each = optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
            config = optimize.OptimizationConfig(global_config=each)
            optimize.linear_quantize_weights(_converted(model, inputs), config).save(str(path))
        return path

    def load(self, path: Path | str, threads: int = 1) -> Program:
        path = self._there(path)
        if sys.platform != "darwin":
            raise UnsupportedError(
                "Core ML computes on macOS, iOS and their kin alone. Here its files can be written"
                " and looked at; load them on a Mac"
            )
        tools = import_runtime("coremltools")
        network = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.CPU_ONLY)

        def run(input: Tensor) -> Tensor:
            output = next(iter(network.predict({"input": input.numpy()}).values()))
            return torch.from_numpy(np.asarray(output, dtype=np.float32))

        return one_by_one(run)

    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        path = self._there(path)
        tools = import_runtime("coremltools")
        said = tools.models.MLModel(str(path), skip_model_load=True).get_spec().description

        def info(end) -> TensorInfo:  # noqa: ANN001
            array = end.type.multiArrayType
            kinds = {tools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32: "float32"}
            return TensorInfo(end.name, tuple(array.shape), kinds[array.dataType])

        return info(said.input[0]), info(said.output[0])

    def files(self, path: Path | str) -> list[Path]:
        inside = sorted(file for file in Path(path).rglob("*") if file.is_file())
        return inside or [Path(path)]


def _converted(model: nn.Module, inputs: Tensor):
    """The network as an ML program with the input "input"."""
    tools = import_runtime("coremltools")
    example = single(inputs)
    program = torch.export.export(inference_copy(model), (example,)).run_decompositions({})
    return tools.convert(
        program,
        inputs=[tools.TensorType(name="input", shape=tuple(example.shape))],
        outputs=[tools.TensorType(name="logits")],
        convert_to="mlprogram",
        compute_precision=tools.precision.FLOAT32,
        minimum_deployment_target=tools.target.iOS17,
    )
