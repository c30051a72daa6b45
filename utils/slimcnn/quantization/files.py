"""A quantized network as one file: the integers of its weights packed bit by bit.

A safetensors file. Of each quantized layer it has the integers, as many bits each as they have,
their scales and the bias; what else the network has as it is. The bits of each layer, and the
quantizers of activations, are in the metadata. Chapter 6 (Quantization: post-training).
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from slimcnn.checkpoints import CheckpointError
from slimcnn.quantization.adaround import RoundedWeight
from slimcnn.quantization.fake import SettledQuantizer
from slimcnn.quantization.network import QuantizedLayer
from slimcnn.quantization.quantizers import Quantizer

_KEY = "slimcnn.quantization"
_MOST_BITS = 16


def pack(integers: Tensor, bits: int) -> bytes:
    """Integers as a row of bits, each in two's complement; the last byte is filled with zeros.

    Args:
        integers: any shape, from −2^(bits − 1) to 2^(bits − 1) − 1; with 1 bit, −1 and 1.
        bits: 1 to 16.

    Raises:
        ValueError: an integer does not fit, or the bits are out of range.

    Chapter 6, Quantization: post-training.
    """
    _check_bits(bits)
    values = integers.detach().cpu().flatten().long()
    if bits == 1:
        values = torch.where(values.abs() == 1, (values + 1) // 2, -1)
    else:
        values = values + 2 ** (bits - 1)
    if len(values) and not (values.min() >= 0 and values.max() < 2**bits):
        raise ValueError(
            f"integers from {integers.min()} to {integers.max()} need over {bits} bits"
        )
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((values.numpy()[:, None] >> shifts) & 1).tobytes()


def unpack(data: bytes, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The int32 numbers that `pack` has packed.

    Raises:
        ValueError: the bytes are too few or too many for that shape, or the bits out of range.

    Chapter 6, Quantization: post-training.
    """
    _check_bits(bits)
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) != -(-count * bits // 8):
        raise ValueError(f"{len(data)} bytes for {count} integers of {bits} bits")
    ones = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    values = ones.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
    values = 2 * values - 1 if bits == 1 else values - 2 ** (bits - 1)
    return torch.from_numpy(values).to(torch.int32).reshape(shape)


def save_quantized(network: nn.Module, path: Path | str) -> str:
    """Write a network that `quantize` made to a file and return its SHA-256.

    Args:
        network: with batch norms folded or not, trained or not.
        path: the file.

    Raises:
        ValueError: the network has no quantized layer, or was placed (`place_quantizers`).

    Chapter 6, Quantization: post-training.
    """
    if isinstance(network, fx.GraphModule):
        raise ValueError("quantizers were placed in this network; save it as `quantize` gave it")
    layers = {n: m for n, m in network.named_modules() if isinstance(m, QuantizedLayer)}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no quantized layer; quantize it first")
    stored: dict[str, Tensor] = {}
    described: dict[str, Any] = {}
    inputs: dict[int, int] = {}
    quantizers: list[list[float]] = []
    for name, module in layers.items():
        integers, scale = module.weight_quantizer.integers(module.layer.weight)
        bits = module.weight_quantizer.bits
        data = pack(integers, bits)
        stored[f"{name}.integers"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        stored[f"{name}.scale"] = scale.detach().float()
        if module.layer.bias is not None:
            stored[f"{name}.bias"] = module.layer.bias.detach()
        number = None
        if not isinstance(module.input_quantizer, nn.Identity):
            number = inputs.setdefault(id(module.input_quantizer), len(inputs))
            if number == len(quantizers):
                q = module.input_quantizer.quantizer()
                quantizers.append([float(q.scale), int(q.zero_point), q.low, q.high])
        described[name] = [bits, number]
    stored |= _rest(network)
    stored = {k: v.cpu().clone().contiguous() for k, v in stored.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"layers": described, "inputs": quantizers}, separators=(",", ":"))
    save_file(stored, path, metadata={_KEY: text})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_quantized(model: nn.Module, path: Path | str) -> nn.Module:
    """A copy of `model`, quantized as a file says: it computes what was saved, bit by bit.

    Args:
        model: the network as it was before `quantize`, any weights; it is not changed. If batch
            norms were folded, so are its own (`fold_batch_norm`).
        path: a file of `save_quantized`.

    Returns:
        The copy, in eval mode, on the CPU. Integers and ranges are settled; training moves biases
        alone.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no quantized version of `model`.

    Chapter 6, Quantization: post-training.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; it comes with a clone of the repository")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "null"))
            stored = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no quantized network: {error}") from error
    if metadata is None:
        raise CheckpointError(f"{path} holds no quantized network; save_quantized writes them")
    network = copy.deepcopy(model).cpu().eval()
    try:
        _fill_(network, metadata, stored)
    except _UNFIT as error:
        raise CheckpointError(f"{path} does not fit this network: {error}") from error
    return network


_UNFIT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)


def _fill_(network: nn.Module, metadata: dict, stored: dict[str, Tensor]) -> None:
    quantizers = [
        SettledQuantizer(Quantizer(torch.tensor(s), torch.tensor(z, dtype=torch.int32), low, high))
        for s, z, low, high in metadata["inputs"]
    ]
    made_of: dict[int, QuantizedLayer] = {}
    for name, (bits, number) in metadata["layers"].items():
        layer = network.get_submodule(name)
        integers = unpack(
            stored.pop(f"{name}.integers").numpy().tobytes(), bits, tuple(layer.weight.shape)
        )
        weight = RoundedWeight(integers, stored.pop(f"{name}.scale"), bits)
        layer.weight.data = weight(layer.weight.data)
        bias = stored.pop(f"{name}.bias", None)
        if bias is not None and bias.shape != layer.weight.shape[:1]:
            raise ValueError(f"{name} has a bias of shape {tuple(bias.shape)}")
        layer.bias = nn.Parameter(bias) if bias is not None else None
        if number is not None and not 0 <= number < len(quantizers):
            raise ValueError(f"{name} reads tensor {number} of {len(quantizers)}")
        reads = nn.Identity() if number is None else quantizers[number]
        made_of[id(layer)] = QuantizedLayer(layer, weight, reads)
    for parent in [m for m in network.modules() if not isinstance(m, QuantizedLayer)]:
        for child, module in parent._modules.items():  # a layer may have several names
            parent._modules[child] = made_of.get(id(module), module)
    others = sorted(_rest(network).keys() ^ stored.keys())
    if others:
        raise ValueError(f"only one of both has {', '.join(others[:3])}")
    network.load_state_dict(stored, strict=False)


def _rest(network: nn.Module) -> dict[str, Tensor]:
    """All tensors that are in no quantized layer."""
    named = network.named_modules(remove_duplicate=False)  # a layer may have several names
    layers = tuple(f"{name}." for name, m in named if isinstance(m, QuantizedLayer))
    return {k: v.detach() for k, v in network.state_dict().items() if not k.startswith(layers)}


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= _MOST_BITS:
        raise ValueError(f"bits is {bits!r}; it must be a whole number, 1 to {_MOST_BITS}")
