"""Multiply-accumulates of PyTorch's primitive operations, by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


class UncountableError(RuntimeError):
    """An operation does multiply-accumulates that this counter has no formula for."""


def _convolution_macs(
    result: Tensor, data: Tensor, weight: Tensor, bias, stride, padding, dilation, transposed, *_
) -> int:
    # weight: (C_out, C_in / groups, *kernel), or (C_in, C_out / groups, *kernel) transposed.
    # Each output number gathers, or each input number scatters, one filter's worth of MACs.
    return (data if transposed else result).numel() * weight.shape[1:].numel()


def _product_macs(result: Tensor, left: Tensor, right: Tensor, *_, **__) -> int:
    # (…, m, k) · (…, k, n), or · (k,): each number on the left meets n on the right.
    return left.numel() * (right.shape[-1] if right.ndim > 1 else 1)


def _added_product_macs(
    result: Tensor, addend: Tensor, left: Tensor, right: Tensor, *_, **__
) -> int:
    return _product_macs(result, left, right)


def _attention_macs(result: tuple, query: Tensor, key: Tensor, value: Tensor, *_, **__) -> int:
    # query (…, L, E), key (…, S, E), value (…, S, V): L·S·E for the scores, L·S·V to mix.
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


_FORMULAS: dict[str, Callable[..., int]] = {}
for _formula, _names in {
    _convolution_macs: "_convolution convolution convolution_overrideable",
    _product_macs: "mm bmm mv dot vdot _int_mm _scaled_mm",
    _added_product_macs: "addmm addmm_ baddbmm baddbmm_ addbmm addbmm_ addmv addmv_"
    " _addmm_activation _sparse_addmm",
    _attention_macs: "_scaled_dot_product_flash_attention"
    " _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"
    " _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable"
    " _scaled_dot_product_attention_math_for_mps",
}.items():
    _FORMULAS.update(dict.fromkeys(_names.split(), _formula))

# Operations that do MACs and have no formula here, by parts of their names, and the
# libraries whose other operations are known to do none.
_UNCOUNTABLE = (
    "_rnn", "rnn_layer", "_lstm_mps", "_trilinear", "multi_head_attention",
    "transformer_encoder", "attention_forward", "cudnn_convolution", "miopen_convolution",
    "mkldnn_convolution", "mkldnn_linear", "slow_conv", "conv_depthwise", "conv_tbc",
    "deform_conv", "grouped_mm", "pack_mm", "sparse_mm", "sparse_matmul", "hspmm", "spaddmm",
    "semi_structured", "sampled_addmm", "foreach_mm", "matmul_4bit", "mixed_dtypes_linear",
    "scaled_mm_v2",
)  # fmt: skip
_KNOWN_LIBRARIES = ("aten", "prim", "prims", "profiler", "torchvision")


def operation_macs(operation: str, args: tuple, kwargs: dict, result: Any) -> int:
    """MACs of one primitive operation such as "aten::mm"; 0 for what is not made of MACs.

    Raises:
        UncountableError: the operation does MACs, or may do some, that have no formula here.
    """
    library, _, name = operation.partition("::")
    if library == "aten" and name in _FORMULAS:
        return _FORMULAS[name](result, *args, **kwargs)
    if library not in _KNOWN_LIBRARIES or any(part in name for part in _UNCOUNTABLE):
        raise UncountableError(
            f"{operation} may do multiply-accumulates, and slimcnn.metrics has no formula for it."
            " It counts convolutions, matrix products and scaled dot-product attention; replace"
            " the layer by one that is made of these, or count it by hand."
        )
    return 0
