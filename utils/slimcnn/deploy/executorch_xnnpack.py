"""ExecuTorch: PyTorch's own way to phones; its XNNPACK backend computes on their CPUs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn import export, sessions
from slimcnn.deploy.runtime import Program, Runtime, TensorInfo, one_by_one, single


class ExecuTorch(Runtime):
    """XNNPACK backend; int8 by torchao's PT2E with XNNPACK's quantizer, a scale a channel.

    All loaded programs of a process share one pool of threads: see `slimcnn.latency.executorch`.
    """

    name = "ExecuTorch"
    package = "executorch"
    suffix = ".pte"

    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        return export.to_executorch(model, single(example), self._checked(path))

    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        path, example = self._checked(path), single(inputs)
        with export.silence():
            xnnpack = export.import_runtime(
                "executorch.backends.xnnpack.quantizer.xnnpack_quantizer"
            )
            pt2e = export.import_runtime("torchao.quantization.pt2e.quantize_pt2e")
            config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
            quantizer = xnnpack.XNNPACKQuantizer().set_global(config)
            plain = torch.export.export(export.inference_copy(model), (example,)).module()
            prepared = pt2e.prepare_pt2e(plain, quantizer)
            with torch.no_grad():
                for input in inputs.detach().cpu().float().split(1):
                    prepared(input)
            converted = pt2e.convert_pt2e(prepared)
        return export.lower_to_executorch(torch.export.export(converted, (example,)), path)

    def load(self, path: Path | str, threads: int = 1) -> Program:
        return one_by_one(sessions.executorch_program(self._there(path).read_bytes(), threads))

    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        path = self._there(path)
        with export.silence():
            runtime = export.import_runtime("executorch.runtime").Runtime.get()
            method = runtime.load_program(path.read_bytes()).metadata("forward")
        input, output = method.input_tensor_meta(0), method.output_tensor_meta(0)
        # Its files have places, not names; our exports are of float32 at both ends.
        return tuple(TensorInfo(None, tuple(end.sizes()), "float32") for end in (input, output))
