"""ncnn: a small runtime for phones, without dependencies."""

import shutil
import tempfile
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


class NCNN(Runtime):
    """Files by pnnx, in float32 throughout. Its wheels have no int8 tool."""

    name = "ncnn"
    package = "ncnn"
    suffix = ".ncnn.param"
    quantizes = False

    def export(self, model: nn.Module, example: Tensor, path: Path | str) -> Path:
        path, example = self._checked(path), single(example)
        with tempfile.TemporaryDirectory() as folder, silence():
            pnnx = import_runtime("pnnx")
            traced = Path(folder) / "model.pt"  # pnnx writes its files beside it
            pnnx.export(inference_copy(model), str(traced), inputs=example, fp16=False)
            made = [traced.with_suffix(".ncnn.param"), traced.with_suffix(".ncnn.bin")]
            if not all(file.exists() for file in made):
                raise UnsupportedError(
                    f"pnnx could not convert {type(model).__name__}; its layers and operations are"
                    " not all known to it"
                )
            for file, target in zip(made, self.files(path), strict=True):
                shutil.move(file, target)
        return path

    def quantize(self, model: nn.Module, inputs: Tensor, path: Path | str) -> Path:
        raise UnsupportedError(
            "ncnn's wheels have no tool for int8; its C++ tools ncnn2table and ncnn2int8 make such"
            " files"
        )

    def load(self, path: Path | str, threads: int = 1) -> Program:
        path = self._there(path)
        ncnn = import_runtime("ncnn")
        network = ncnn.Net()
        network.opt.num_threads = threads
        network.opt.use_vulkan_compute = False
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(network.opt, f"use_{option}", False)
        param, weights = self.files(path)
        if network.load_param(str(param)) != 0 or network.load_model(str(weights)) != 0:
            raise ValueError(f"{param} and {weights} are no files that ncnn can read")

        def run(input: Tensor) -> Tensor:
            with network.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(input[0].numpy()))
                _, output = extractor.extract("out0")
                return torch.from_numpy(np.array(output))[None]

        return one_by_one(run)

    def describe(self, path: Path | str) -> tuple[TensorInfo, TensorInfo]:
        self._there(path)  # pnnx's names; without a batch, of any shape
        return TensorInfo("in0", None, "float32"), TensorInfo("out0", None, "float32")

    def files(self, path: Path | str) -> list[Path]:
        path = Path(path)
        return [path, path.with_name(path.name.removesuffix(".param") + ".bin")]
