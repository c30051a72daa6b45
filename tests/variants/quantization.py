"""Solutions of the assignment on quantization, wrong and right."""

import math

import numpy as np
import torch
from safetensors.torch import save_file

from slimcnn import checkpoints, data
from slimcnn import quantization as quant


def _along(exponents, weight):
    return torch.exp2(exponents).view(-1, *[1] * (weight.ndim - 1))


def _exponents(largest, high, whole):
    return torch.where(largest > 0, whole(torch.log2(largest / high)), 0.0)


def _powers(weight, bits, whole=torch.ceil, rounding=torch.round):
    high = 2 ** (bits - 1) - 1
    exponents = _exponents(weight.double().abs().flatten(1).amax(1), high, whole)
    return exponents, rounding(weight / _along(exponents, weight)).clamp(-high, high)


def rounds_down(weight, bits):
    """The largest weights are clipped."""
    return _powers(weight, bits, torch.floor)


def nearest_exponent(weight, bits):
    return _powers(weight, bits, torch.round)


def one_for_all(weight, bits):
    """A scale a tensor."""
    high = 2 ** (bits - 1) - 1
    e = _exponents(weight.double().abs().max(), high, torch.ceil).expand(len(weight))
    return e, torch.round(weight / _along(e, weight))


def without_signs(weight, bits):
    high = 2 ** (bits - 1) - 1
    e = _exponents(weight.double().flatten(1).amax(1), high, torch.ceil)
    return e, torch.round(weight / _along(e, weight)).clamp(-high, high)


def zeros_forgotten(weight, bits):
    """log2(0)."""
    largest = weight.double().abs().flatten(1).amax(1)
    e = torch.ceil(torch.log2(largest / (2 ** (bits - 1) - 1)))
    return e, torch.round(weight / _along(e, weight))


def cut_off(weight, bits):
    return _powers(weight, bits, rounding=torch.trunc)


def all_integers(weight, bits):
    """2^(bits − 1) is taken for the largest integer."""
    high = 2 ** (bits - 1)
    e = _exponents(weight.double().abs().flatten(1).amax(1), high, torch.ceil)
    return e, torch.round(weight / _along(e, weight))


def magnitudes(weight, bits):
    exponents, integers = _powers(weight, bits)
    return exponents, integers.abs()


def by_loops(weight, bits):
    """NumPy and whole numbers, a channel at a time."""
    high, exponents, rows = 2 ** (bits - 1) - 1, [], []
    for channel in weight.numpy().astype(np.float64):
        largest, e = np.abs(channel).max(), -200
        while largest > high * 2.0**e:
            e += 1
        e = e if largest > 0 else 0
        exponents.append(e)
        rows.append(np.rint(channel / 2.0**e))
    return np.array(exponents), np.stack(rows)


def by_frexp(weight, bits):
    """In float32; of 0.5 · 2^k the exponent is k − 1."""
    fraction, exponent = torch.frexp(weight.abs().flatten(1).amax(1) / (2 ** (bits - 1) - 1))
    exponent = exponent - (fraction == 0.5).int()
    return exponent.int(), torch.ldexp(weight, -exponent.view(-1, *[1] * (weight.ndim - 1))).round()


def _fixed(factor):
    n = 40
    while round(factor * 2**n) >= 2**15:
        n -= 1
    return round(factor * 2**n), n


def _factor(q, scale, new_scale):
    return scale / (q.shape[2] * q.shape[3] * new_scale)


def no_wider_type(q, scale, zero_point, new_scale, new_zero_point):
    """uint8 wraps around."""
    m, n = _fixed(_factor(q, scale, new_scale))
    sums = (q - zero_point).sum((2, 3))
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 255)


def zero_point_once(q, scale, zero_point, new_scale, new_zero_point):
    m, n = _fixed(_factor(q, scale, new_scale))
    sums = q.long().sum((2, 3)) - zero_point
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 255)


def no_half(q, scale, zero_point, new_scale, new_zero_point):
    m, n = _fixed(_factor(q, scale, new_scale))
    sums = (q.long() - zero_point).sum((2, 3))
    return (((sums * m) >> n) + new_zero_point).clamp(0, 255)


def no_clamp(q, scale, zero_point, new_scale, new_zero_point):
    m, n = _fixed(_factor(q, scale, new_scale))
    sums = (q.long() - zero_point).sum((2, 3))
    return ((sums * m + (1 << (n - 1))) >> n) + new_zero_point


def real_numbers(q, scale, zero_point, new_scale, new_zero_point):
    """Floating point, rounded in the end."""
    mean = (scale * (q.double() - zero_point)).mean((2, 3))
    return (torch.round(mean / new_scale) + new_zero_point).clamp(0, 255)


def wide_multiplier(q, scale, zero_point, new_scale, new_zero_point):
    """31 bits, as in the lesson."""
    multiplier, shift = quant.fixed_point(torch.tensor([_factor(q, scale, new_scale)]))
    return no_half(q, scale, zero_point, new_scale, new_zero_point) * 0 + int(multiplier >> shift)


def more_bits(q, scale, zero_point, new_scale, new_zero_point):
    """The lesson's 31 bits, by hand."""
    factor = _factor(q, scale, new_scale)
    n = 31 - math.frexp(factor)[1]
    sums = (q.long() - zero_point).sum((2, 3))
    m = round(factor * 2**n)
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 255)


def no_count(q, scale, zero_point, new_scale, new_zero_point):
    """A sum in place of an average."""
    m, n = _fixed(scale / new_scale)
    sums = (q.long() - zero_point).sum((2, 3))
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 255)


def python_integers(q, scale, zero_point, new_scale, new_zero_point):
    """Loops over Python's own numbers."""
    m, n = _fixed(_factor(q, scale, new_scale))
    rows = []
    for image in q.tolist():
        rows.append([])
        for channel in image:
            a = sum(x - zero_point for row in channel for x in row)
            rows[-1].append(min(max((m * a + 2 ** (n - 1)) // 2**n + new_zero_point, 0), 255))
    return torch.tensor(rows)


def numpy_integers(q, scale, zero_point, new_scale, new_zero_point):
    m, n = _fixed(_factor(q, scale, new_scale))
    numbers = q.numpy().astype(np.int32)
    a = numbers.sum((2, 3), dtype=np.int64) - zero_point * numbers[0, 0].size
    return np.clip(((m * a + 2 ** (n - 1)) >> n) + new_zero_point, 0, 255).astype(np.uint8)


def _student():
    return quant.fold_batch_norm(checkpoints.load("student"))


def _images():
    return data.load("train").subset(300).images


def eight_bits(path):
    quant.save_quantized(quant.quantize(_student(), quant.Scheme(8, None), _images()[:1]), path)


def nearest(path):
    """Few enough bits, and nothing mended."""
    scheme = quant.Scheme(3, None, per_channel=False)
    quant.save_quantized(quant.quantize(_student(), scheme, _images()[:1]), path)


def not_folded(path):
    network = checkpoints.load("student")
    scheme = quant.Scheme(2, None, per_channel=False)
    quant.save_quantized(quant.quantize(network, scheme, _images()[:1]), path)


def not_quantized(path):
    save_file({"fc.weight": _student().fc.weight.detach()}, path)


def elsewhere(path):
    nearest(path.with_name("elsewhere.safetensors"))


def random_weights(path):
    torch.manual_seed(0)
    network = quant.fold_batch_norm(checkpoints.load("student"))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheme = quant.Scheme(3, None, per_channel=False)
    quant.save_quantized(quant.quantize(network, scheme, _images()[:1]), path)


def by_hand(path):
    """Bits from looking at the layers: few for the large ones; means mended, no search."""
    network, images = quant.equalize(_student()), _images()
    bits = {}
    for name, module in network.named_modules():
        if hasattr(module, "weight"):
            bits[name] = 8 if module.weight.numel() < 600 else 4
    bits |= {"blocks.2.pointwise": 3, "blocks.3.pointwise": 3, "blocks.4.pointwise": 3, "fc": 4}
    network = quant.quantize(network, quant.Scheme(bits, None, per_channel=False), images[:1])
    learned = quant.ada_round(network, quant.equalize(_student()), images, iterations=100)
    quant.save_quantized(quant.correct_bias(learned, quant.equalize(_student()), images), path)


def _shared(shape, values, whole=True, book=4, keep=True):
    count = math.prod(shape)
    bits = math.ceil(math.log2(values)) if whole else math.log2(values)
    coded = math.ceil(count * bits / 8) + book * shape[0] * values
    return min(coded, 4 * count) if keep else coded


def no_codebook(shape, values):
    """As published."""
    return _shared(shape, values, book=0)


def as_published(shape, values):
    return math.prod(shape) * math.log2(values) / 8


def fractions_of_bits(shape, values):
    return _shared(shape, values, whole=False)


def larger_than_plain(shape, values):
    return _shared(shape, values, keep=False)


def one_codebook(shape, values):
    """For all filters together."""
    count = math.prod(shape)
    coded = math.ceil(count * math.ceil(math.log2(values)) / 8) + 4 * values
    return min(coded, 4 * count)


def cut_bytes(shape, values):
    count = math.prod(shape)
    return min(count * math.ceil(math.log2(values)) // 8 + 4 * shape[0] * values, 4 * count)


def bit_by_bit(shape, values):
    """Counting, with whole numbers only."""
    weights = 1
    for size in shape:
        weights *= size
    row = weights * (values - 1).bit_length()
    return min(-(-row // 8) + 4 * values * shape[0], 4 * weights)


def packed_by_numpy(shape, values):
    """The bytes of arrays that are made."""
    each = int(np.prod(shape[1:]))
    bits = next(b for b in range(9) if 2**b >= values)
    row = np.packbits(np.zeros(shape[0] * each * bits, np.uint8))
    books = np.zeros((shape[0], values), np.float32)
    return min(row.nbytes + books.nbytes, np.zeros(shape, np.float32).nbytes)


def half_to_even(q, scale, zero_point, new_scale, new_zero_point):
    """15 bits, and PyTorch's rounding."""
    m, n = _fixed(_factor(q, scale, new_scale))
    sums = (q.double() - zero_point).sum((2, 3))
    return (torch.round(sums * m / 2**n) + new_zero_point).clamp(0, 255)


def multiplier_cut_off(q, scale, zero_point, new_scale, new_zero_point):
    """Where m is rounded up to 2^15, one less."""
    factor = _factor(q, scale, new_scale)
    n = 15 - math.frexp(factor)[1]
    m = min(round(factor * 2**n), 2**15 - 1)
    sums = (q.long() - zero_point).sum((2, 3))
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 255)


def up_to_254(q, scale, zero_point, new_scale, new_zero_point):
    m, n = _fixed(_factor(q, scale, new_scale))
    sums = (q.long() - zero_point).sum((2, 3))
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 254)


def bits_rounded_down(shape, values):
    bits = math.floor(math.log2(values))
    coded = math.ceil(math.prod(shape) * bits / 8) + 4 * shape[0] * values
    return min(coded, 4 * math.prod(shape))


def bit_length(shape, values):
    """Enough bits for the number of values itself."""
    coded = math.ceil(math.prod(shape) * values.bit_length() / 8) + 4 * shape[0] * values
    return min(coded, 4 * math.prod(shape))


WRONG = {
    "power_of_two": [
        (rounds_down, "cuts off the largest weights"),
        (nearest_exponent, "cuts off the largest weights"),
        (one_for_all, "each has its own"),
        (without_signs, "without regard to signs"),
        (zeros_forgotten, "a channel of zeros"),
        (cut_off, "not to the nearest"),
        (all_integers, "the largest integer of"),
        (magnitudes, "lost their sign"),
    ],
    "average": [
        (no_wider_type, "wraps around below 0"),
        (zero_point_once, "off the sum once"),
        (no_half, "the shift alone rounds down"),
        (no_clamp, "clamp"),
        (real_numbers, "halves are rounded up"),
        (more_bits, "off by one"),
        (half_to_even, "halves are rounded up"),
        (multiplier_cut_off, "off by one"),
        (up_to_254, "off by one"),
        (wide_multiplier, "which is what you are to write"),
        (no_count, ""),
    ],
    "choice": [
        ("?", "not in the list"),
        ("weights 4, per tensor, equalized and bias corrected", "no images"),
        ("weights 4, per channel, mse", "scales per tensor"),
        ("weights 4, per tensor, equalized", "loses more"),
        ("weights 5, per tensor, equalized, ends 8", "a better one"),
    ],
    "pack_student": [
        (eight_bits, "are allowed"),
        (nearest, "% on validation"),
        (not_folded, "folded batch norms"),
        (not_quantized, "no quantized student"),
        (elsewhere, "no file"),
        (random_weights, "% on validation"),
    ],
    "shared_bytes": [
        (bits_rounded_down, "bits, not fewer"),
        (bit_length, "bits, not more"),
        (as_published, "the codebooks are missing"),
        (no_codebook, "the codebooks are missing"),
        (fractions_of_bits, "whole bits"),
        (larger_than_plain, "the weights are kept"),
        (one_codebook, "a codebook of its own"),
        (cut_bytes, "filled up to whole bytes"),
    ],
}
RIGHT = {
    "power_of_two": [by_loops, by_frexp],
    "average": [python_integers, numpy_integers],
    "choice": ["weights 5, per tensor, equalized"],
    "pack_student": [by_hand],
    "shared_bytes": [bit_by_bit, packed_by_numpy],
}
