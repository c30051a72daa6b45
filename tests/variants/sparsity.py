"""Solutions of the assignment on sparsity, wrong and right."""

import struct

import numpy as np
import torch
from safetensors.torch import save_file

from slimcnn import checkpoints, data, pruning, sparsity


def _blocks(values, block):
    numbers = values.numpy()
    return np.pad(numbers, (0, -len(numbers) % block)).reshape(-1, block)


def _joined(*parts):
    return b"".join(part.tobytes() for part in parts)


def coded(values, block):
    padded = _blocks(values, block)
    filled = padded[(padded != 0).any(1)]
    stored = filled[filled != 0].astype("<f4")
    return _joined(np.packbits((padded != 0).any(1)), np.packbits(filled != 0), stored)


def one_level(values, block):
    numbers = values.numpy()
    return _joined(np.packbits(numbers != 0), numbers[numbers != 0].astype("<f4"))


def whole_second_map(values, block):
    padded = _blocks(values, block)
    stored = padded[padded != 0].astype("<f4")
    return _joined(np.packbits((padded != 0).any(1)), np.packbits(padded != 0), stored)


def low_bits_first(values, block):
    padded = _blocks(values, block)
    filled = padded[(padded != 0).any(1)]
    pack = lambda bits: np.packbits(bits, bitorder="little")  # noqa: E731
    stored = filled[filled != 0].astype("<f4")
    return _joined(pack((padded != 0).any(1)), pack(filled != 0), stored)


def doubles(values, block):
    padded = _blocks(values, block).astype(np.float64)
    filled = padded[(padded != 0).any(1)]
    return _joined(np.packbits((padded != 0).any(1)), np.packbits(filled != 0), filled[filled != 0])


def minus_zero_kept(values, block):
    padded = _blocks(values, block)
    there = (padded != 0) | np.signbit(padded)
    filled, bits = padded[there.any(1)], there[there.any(1)]
    return _joined(np.packbits(there.any(1)), np.packbits(bits), filled[bits].astype("<f4"))


def a_list(values, block):
    return list(coded(values, block))


def by_loops(values, block):
    numbers = values.tolist() + [0.0] * (-len(values) % block)
    first, second, stored = "", "", b""
    for start in range(0, len(numbers), block):
        part = numbers[start : start + block]
        first += "1" if any(part) else "0"
        if any(part):
            second += "".join("1" if x else "0" for x in part)
            stored += b"".join(struct.pack("<f", x) for x in part if x)
    first += "0" * (-len(first) % 8)
    both = first + second
    return bytes(int(both[i : i + 8], 2) for i in range(0, len(both), 8)) + stored


def by_torch(values, block):
    padded = torch.nn.functional.pad(values, (0, -len(values) % block)).view(-1, block)
    filled = padded.count_nonzero(1) > 0
    inside = padded[filled] != 0
    weights = 2 ** torch.arange(7, -1, -1)

    def pack(bits):
        bits = torch.nn.functional.pad(bits.flatten().long(), (0, -bits.numel() % 8))
        return bytes((bits.view(-1, 8) * weights).sum(1).tolist())

    return bytearray(pack(filled) + pack(inside) + padded[filled][inside].numpy().tobytes())


def in_percent(block):
    return 100 * block ** (-1 / block)


def share_that_stays(block):
    return 1 - block ** (-1 / block)


def one_in_so_many_filled(block):
    return (1 - 1 / block) ** (1 / block)


def one_over_value_bits(block):
    return 1 / 32


def by_logarithms(block):
    return float(np.exp(-np.log(block) / block))


def by_halving(block):
    low, high = 0.0, 1.0
    for _ in range(60):
        s = (low + high) / 2
        low, high = (low, s) if 1 / block + 1 - s**block < 1 else (s, high)
    return high


def _best(sums, n, m):
    groups = sums.unflatten(1, (-1, m))
    ranked = groups.argsort(dim=2, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter(2, ranked[..., :n], True).flatten(1)


def in_the_orders_places(scores, n, m, order):
    kept = _best(scores.sum((2, 3))[:, order], n, m)
    return kept[:, :, None, None].expand_as(scores)


def without_the_order(scores, n, m, order):
    return _best(scores.sum((2, 3)), n, m)[:, :, None, None].expand_as(scores)


def by_the_inverse(scores, n, m, order):
    return kernels_by_gather(scores, n, m, order.argsort())


def single_weights(scores, n, m, order):
    ranked = scores.flatten(2)[:, order].unflatten(1, (-1, m)).argsort(dim=2, descending=True)
    kept = torch.zeros_like(ranked, dtype=torch.bool).scatter(2, ranked[:, :, :n], True)
    return kept.flatten(1, 2)[:, order.argsort()].view_as(scores)


def the_smallest(scores, n, m, order):
    return kernels_by_gather(-scores, n, m, order)


def m_minus_n(scores, n, m, order):
    return kernels_by_gather(scores, m - n, m, order)


def the_packages(scores, n, m, order):
    return sparsity.nm_mask(scores.sum((2, 3))[:, order], n, m)[:, order.argsort()]


def kernels_by_gather(scores, n, m, order):
    kept = _best(scores.sum((2, 3))[:, order], n, m)[:, order.argsort()]
    return kept[:, :, None, None].repeat(1, 1, *scores.shape[2:])


def kernels_by_loops(scores, n, m, order):
    mask = np.zeros(tuple(scores.shape))
    for o in range(len(scores)):
        for start in range(0, len(order), m):
            group = order[start : start + m].tolist()
            ranked = sorted(group, key=lambda c: -float(scores[o, c].sum()))
            for channel in ranked[:n]:
                mask[o, channel] = 1
    return mask


def _sparse(kept, recalibrated=True):
    model = checkpoints.load("resnet14")
    masks = pruning.global_masks(pruning.magnitude(model), 1 - kept)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    if recalibrated:
        model = pruning.recalibrate(model, data.load("train").images[:2_000])
    return model


def _save(model, path, block=16, code=coded):
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            tensor = torch.frombuffer(bytearray(code(tensor.flatten(), block)), dtype=torch.uint8)
        tensors[name] = tensor
    save_file(tensors, path)


def zeros_stored(path):
    save_file(_sparse(0.138).state_dict(), path)


def not_enough_zeros(path):
    _save(_sparse(0.5), path)


def far_too_many(path):
    _save(_sparse(0.04), path)


def norms_as_they_were(path):
    _save(_sparse(0.138, recalibrated=False), path)


def another_block(path):
    _save(_sparse(0.138), path, block=8)


def nowhere(path):
    _sparse(0.138)


def without_norms(path):
    state = _sparse(0.138).state_dict()
    save_file({name: t for name, t in state.items() if "running" not in name}, path)


def layer_by_layer(path):
    model = checkpoints.load("resnet14")
    masks = pruning.layerwise_masks(pruning.magnitude(model), 0.862)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    _save(pruning.recalibrate(model, data.load("train").images[:2_000]), path)


def a_little_less(path):
    _save(_sparse(0.135), path, code=by_torch)


def by_one_threshold(path):
    model = checkpoints.load("resnet14")
    weights = [p for p in model.parameters() if p.ndim > 1]
    every = torch.cat([w.detach().abs().flatten() for w in weights])
    threshold = every.kthvalue(int(0.862 * len(every))).values
    with torch.no_grad():
        for weight in weights:
            weight[weight.abs() <= threshold] = 0
    _save(pruning.recalibrate(model, data.load("train").images[:1_000]), path)


def only_values(state, masks, value_bytes):
    before = sum(value_bytes * t.numel() for t in state.values())
    after = sum(value_bytes * t.numel() for n, t in state.items() if n not in masks)
    after += sum(value_bytes * int(((state[n] != 0) & m).sum()) for n, m in masks.items())
    return before / max(after, 1e-9)


def _counted(state, masks, value_bytes, before_bytes=None, by_mask=False, whole=True, dense=True):
    before = after = 0
    for name, tensor in state.items():
        size = value_bytes * tensor.numel()
        before += (before_bytes or value_bytes) * tensor.numel()
        if name in masks:
            stored = int((masks[name] & (by_mask | (tensor != 0))).sum())
            bits = -(-tensor.numel() // 8) if whole else tensor.numel() / 8
            sparse = value_bytes * stored + bits
            size = min(size, sparse) if dense else sparse
        after += size
    return before / after


def against_float32(state, masks, value_bytes):
    return _counted(state, masks, value_bytes, before_bytes=4)


def trusts_the_mask(state, masks, value_bytes):
    return _counted(state, masks, value_bytes, by_mask=True)


def never_dense(state, masks, value_bytes):
    return _counted(state, masks, value_bytes, dense=False)


def parts_of_bytes(state, masks, value_bytes):
    return _counted(state, masks, value_bytes, whole=False)


def no_norms(state, masks, value_bytes):
    before = sum(value_bytes * t.numel() for t in state.values())
    after = 0
    for name, mask in masks.items():
        sparse = value_bytes * int(((state[name] != 0) & mask).sum()) + -(-mask.numel() // 8)
        after += min(sparse, value_bytes * mask.numel())
    return before / after


def upside_down(state, masks, value_bytes):
    return 1 / _counted(state, masks, value_bytes)


def sums_of_two_parts(state, masks, value_bytes):
    numbers = {name: t.numel() for name, t in state.items()}
    after = sum(value_bytes * n for name, n in numbers.items() if name not in masks)
    for name, mask in masks.items():
        nonzeros = np.count_nonzero(state[name].numpy() * mask.numpy())
        after += min(value_bytes * numbers[name], value_bytes * nonzeros + (numbers[name] + 7) // 8)
    return np.float64(value_bytes * sum(numbers.values()) / after)


def counted_again(state, masks, value_bytes):
    return torch.tensor(_counted(state, masks, value_bytes))


def nearly_zero_dropped(values, block):
    kept = torch.where(values.abs() > 1e-6, values, torch.zeros(()))
    return coded(kept, block)


def mask_forgotten(state, masks, value_bytes):
    """All numbers that are not zero, masked or not."""
    return sums_of_two_parts(state, {n: torch.ones_like(m) for n, m in masks.items()}, value_bytes)


def masks_in_place(state, masks, value_bytes):
    for name, mask in masks.items():
        state[name].mul_(mask)
    return sums_of_two_parts(state, masks, value_bytes)


WRONG = {
    "encode": [
        (nearly_zero_dropped, "compare with 0 exactly"),
        (one_level, ""),
        (whole_second_map, "bits of empty blocks"),
        (low_bits_first, "the first bit is the highest"),
        (doubles, "8 bytes each"),
        (minus_zero_kept, "−0.0"),
        (a_list, "bytes are expected"),
    ],
    "break_even": [
        (in_percent, "not percent"),
        (share_that_stays, "that are not zero"),
        (one_in_so_many_filled, "is *filled*"),
        (one_over_value_bits, "both maps together"),
    ],
    "kernels_of": [
        (in_the_orders_places, "order of the permutation"),
        (without_the_order, "as they stand"),
        (by_the_inverse, "inverse"),
        (single_weights, "kernels are whole"),
        (the_smallest, ""),
        (m_minus_n, "are asked"),
        (the_packages, "what you are to write"),
    ],
    "compress": [
        (zeros_stored, "encoded weights are uint8"),
        (not_enough_zeros, "are allowed"),
        (far_too_many, "% on validation"),
        (norms_as_they_were, "% on validation"),
        (layer_by_layer, "% on validation"),
        (another_block, "cannot be decoded"),
        (nowhere, "has written no file"),
        (without_norms, "names missing"),
    ],
    "findings": [
        ({"speedup": 2.07, "ship": "channels 50 %"}, "alike"),
        ({"speedup": 1.1, "ship": "4×4 blocks 75 %"}, "the points"),
        ({"speedup": 1.1, "ship": "kernels 50 %"}, "like for like"),
        ({"speedup": 1.1, "ship": "dense"}, "ship is one of"),
    ],
    "times_smaller": [
        (only_values, "where the numbers are"),
        (against_float32, "4 bytes"),
        (trusts_the_mask, "zero although"),
        (never_dense, "stored dense"),
        (parts_of_bytes, "whole bytes"),
        (no_norms, "not masked"),
        (upside_down, ""),
        (mask_forgotten, "that the mask drops"),
        (masks_in_place, "changes its arguments"),
    ],
}
RIGHT = {
    "encode": [by_loops, by_torch],
    "break_even": [by_logarithms, by_halving],
    "kernels_of": [kernels_by_gather, kernels_by_loops],
    "compress": [by_one_threshold, a_little_less],
    "findings": [{"speedup": 1.1, "ship": "channels 50 %"}],
    "times_smaller": [sums_of_two_parts, counted_again],
}
