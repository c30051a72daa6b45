"""OpenVINO: Intel's runtime for its processors."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn.deploy.runtime import Program, Runtime, TensorInfo, environment, one_by_one, single
from slimcnn.export import import_runtime, inference_copy, silence


class OpenVINO(Runtime):
    """CPU device, computing in float32; int8 by NNCF. Weights stay float32 in float32 files.

    Its tools report their use to their makers unless they run in continuous integration: here
    they are told that they do.
    """

    name = "OpenVINO"
    package = "openvino"
    suffix = ".xml"

    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        path = self._checked(path)
        with _unreported(), silence():
            openvino = import_runtime("openvino")
            openvino.save_model(_converted(openvino, model, example), path, compress_to_fp16=False)
        return path

    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        path = self._checked(path)
        with _unreported(), silence():
            openvino, nncf = import_runtime("openvino"), import_runtime("nncf")
            images = [image.numpy() for image in inputs.detach().cpu().float().split(1)]
            plain = _converted(openvino, model, inputs)
            made = nncf.quantize(plain, nncf.Dataset(images), subset_size=len(images))
            openvino.save_model(made, path, compress_to_fp16=False)
        return path

    def load(self, path: Path | str, threads: int = 1) -> Program:
        path = self._there(path)
        with _unreported(), silence():
            openvino = import_runtime("openvino")
            settings = {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": "1",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",  # it may choose bfloat16 otherwise
            }
            request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

        def run(input: Tensor) -> Tensor:
            return torch.from_numpy(request.infer({0: input.numpy()})[0].copy())

        return one_by_one(run)

    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        path = self._there(path)
        with _unreported(), silence():
            network = import_runtime("openvino").Core().read_model(path)

        def info(end) -> TensorInfo:  # noqa: ANN001
            return TensorInfo(end.any_name, tuple(end.shape), end.element_type.to_dtype().name)

        return info(network.input(0)), info(network.output(0))

    def files(self, path: Path | str) -> list[Path]:
        return [Path(path), Path(path).with_suffix(".bin")]


def _converted(openvino, model: nn.Module, inputs: Tensor):  # noqa: ANN001
    """The network as OpenVINO's own, with its shape fixed and its ends named."""
    example = single(inputs)
    program = torch.export.export(inference_copy(model), (example,))
    network = openvino.convert_model(program, input=list(example.shape))
    network.input(0).tensor.set_names({"input"})
    network.output(0).tensor.set_names({"logits"})
    return network


def _unreported() -> AbstractContextManager[None]:
    """Run a block with the settings that turn reports off."""
    return environment({"CI": "true", "NNCF_CI": "1"})
