"""Eight bits by the industry: three quantizers, given the network and the images that ours get.

Each takes a network without batch norms, calibration images, and a file to write; it returns a
function that gives the logits of images as its network computes them. Their defaults, with the
ranges that they choose. Used by scripts/sweep_quantization.py; chapter 6 compares.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn import data, export, latency

Answers = Callable[[Tensor], Tensor]


def in_runtime(path: Path) -> Answers:
    """What ONNX Runtime computes from a file, images (N, C, H, W) of uint8 to logits (N, K)."""

    def answers(images: Tensor) -> Tensor:
        parts = data.normalize(images).split(500)
        return torch.cat([latency.onnxruntime(path, part)() for part in parts])

    return answers


def onnxruntime_static(model: nn.Module, images: Tensor, path: Path) -> Answers:
    """Static quantization of ONNX Runtime: uint8 activations, int8 weights, a scale a channel."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(data.normalize(images).split(100))

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch.numpy()}

    plain = _plain(model, images, path)
    with export.silence():
        quantization.quantize_static(
            plain,
            path,
            Reader(),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
    plain.unlink()
    return in_runtime(path)


def torchao_pt2e(model: nn.Module, images: Tensor, path: Path) -> Answers:
    """PT2E of torchao with the quantizer for x86, computed by its reference operations.

    Its file holds rounded float32 weights; a backend packs them.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    batches = data.normalize(images).split(100)
    prepared = prepare_pt2e(torch.export.export(model, (batches[0],)).module(), quantizer)
    for batch in batches:
        prepared(batch)
    converted = convert_pt2e(prepared)
    archive = path.with_suffix(".pt2")  # it insists on the ending
    torch.export.save(torch.export.export(converted, (batches[0],)), archive)
    archive.rename(path)

    @torch.no_grad()
    def answers(images: Tensor) -> Tensor:
        return torch.cat([converted(part) for part in data.normalize(images).split(100)])

    return answers


def nncf_onnx(model: nn.Module, images: Tensor, path: Path) -> Answers:
    """NNCF on an ONNX file: ranges, then fast bias correction; it expects one image at a time."""
    os.environ.setdefault("NNCF_CI", "1")  # it reports its use to its makers otherwise
    import nncf
    import onnx

    plain = _plain(model, images, path)
    single = [{"input": image.numpy()} for image in data.normalize(images).split(1)]
    with export.silence():
        made = nncf.quantize(onnx.load(plain), nncf.Dataset(single), subset_size=len(single))
    onnx.save(made, path)
    plain.unlink()
    return in_runtime(path)


def _plain(model: nn.Module, images: Tensor, path: Path) -> Path:
    """The network in float32, beside the file to be."""
    plain = path.with_name("plain.onnx")
    return export.to_onnx(model, data.normalize(images[:1]), plain, dynamic_batch=True)


# By the name of the package.
RIVALS = {"onnxruntime": onnxruntime_static, "torchao": torchao_pt2e, "nncf": nncf_onnx}
