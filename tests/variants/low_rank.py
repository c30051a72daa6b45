"""Solutions of the assignment on low-rank factorization, wrong and right."""

import copy

import numpy as np
import torch
from torch import nn

from slimcnn import checkpoints, data, distillation, lowrank, pruning, training
from slimcnn.training import Recipe


def _factors(weight, rank, left=0.5, right=0.5):
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank] ** left, s[:rank, None] ** right * vh[:rank]


def _rank(weight, share, power=2):
    energy = torch.linalg.svdvals(weight).pow(power).cumsum(0)
    return int((energy < share * energy[-1]).sum()) + 1


def thin_by_values(weight, bias, mean, share):
    """The share is that of the singular values, not of their squares."""
    left, right = _factors(weight, _rank(weight, share, 1))
    return left, right, bias + (weight - left @ right) @ mean


def thin_by_what_is_lost(weight, bias, mean, share):
    """Loses the share instead of keeping it."""
    left, right = _factors(weight, _rank(weight, 1 - share))
    return left, right, bias + (weight - left @ right) @ mean


def thin_one_too_few(weight, bias, mean, share):
    """Stops one before the share is reached."""
    left, right = _factors(weight, max(1, _rank(weight, share) - 1))
    return left, right, bias + (weight - left @ right) @ mean


def thin_values_twice(weight, bias, mean, share):
    """Both factors have the whole singular values."""
    left, right = _factors(weight, _rank(weight, share), 1, 1)
    return left, right, bias + (weight - left @ right) @ mean


def thin_without_values(weight, bias, mean, share):
    """No singular values."""
    left, right = _factors(weight, _rank(weight, share), 0, 0)
    return left, right, bias + (weight - left @ right) @ mean


def thin_values_on_one_side(weight, bias, mean, share):
    """One factor has them all."""
    left, right = _factors(weight, _rank(weight, share), 1, 0)
    return left, right, bias + (weight - left @ right) @ mean


def thin_old_bias(weight, bias, mean, share):
    """The bias stays."""
    return *_factors(weight, _rank(weight, share)), bias


def thin_bias_backwards(weight, bias, mean, share):
    """The correction has the wrong sign."""
    left, right = _factors(weight, _rank(weight, share))
    return left, right, bias - (weight - left @ right) @ mean


def thin_transposed(weight, bias, mean, share):
    """The right factor is V instead of its transpose."""
    left, right = _factors(weight, _rank(weight, share))
    return left, right.T, bias


def thin_by_the_package(weight, bias, mean, share):
    """Lets the package do the work."""
    left, right = lowrank.truncated_svd(weight, _rank(weight, share))
    return left, right, bias + (weight - left @ right) @ mean


def thin_with_numpy(weight, bias, mean, share):
    """In NumPy, by a loop over ranks."""
    w, b, x = (part.numpy() for part in (weight, bias, mean))
    u, s, vh = np.linalg.svd(w, full_matrices=False)
    rank = 1
    while (s[:rank] ** 2).sum() < share * (s**2).sum():
        rank += 1
    left = u[:, :rank] @ np.diag(np.sqrt(s[:rank]))
    right = np.diag(np.sqrt(s[:rank])) @ vh[:rank]
    return left, right, b + w @ x - left @ right @ x


def thin_by_eigenvectors(weight, bias, mean, share):
    """By the eigenvectors of W Wᵀ, with other signs."""
    squares, vectors = torch.linalg.eigh(weight @ weight.T)
    squares, vectors = squares.flip(0).clamp(min=0), -vectors.flip(1)
    energy = squares.cumsum(0)
    rank = int((energy < share * energy[-1]).sum()) + 1
    root = squares[:rank] ** 0.25
    left, right = vectors[:, :rank] * root, vectors[:, :rank].T @ weight / root[:, None]
    return left, right, bias + (weight - left @ right) @ mean


def _sizes(kernel, stride, padding, size):
    sides = zip(size, padding, kernel, strict=True)
    return [(n + 2 * p - k) // stride + 1 for n, p, k in sides]


def in_weights(c_in, c_out, kernel, stride, padding, size):
    """The lesson's break-even, in weights."""
    return (c_in * c_out * kernel[0] * kernel[1] - 1) // (c_in * kernel[0] + c_out * kernel[1])


def stride_at_the_end(c_in, c_out, kernel, stride, padding, size):
    """The first layer works at the input's size."""
    h, w = _sizes(kernel, stride, padding, size)
    each = c_in * kernel[0] * size[0] * size[1] + c_out * kernel[1] * h * w
    return (c_in * c_out * kernel[0] * kernel[1] * h * w - 1) // each


def stride_at_once(c_in, c_out, kernel, stride, padding, size):
    """Both layers work at the output's size: in weights again."""
    h, w = _sizes(kernel, stride, padding, size)
    each = c_in * kernel[0] * h * w + c_out * kernel[1] * h * w
    return (c_in * c_out * kernel[0] * kernel[1] * h * w - 1) // each


def may_be_equal(c_in, c_out, kernel, stride, padding, size):
    """Counts a rank at which nothing is saved."""
    h, w = _sizes(kernel, stride, padding, size)
    each = c_in * kernel[0] * h * size[1] + c_out * kernel[1] * h * w
    return c_in * c_out * kernel[0] * kernel[1] * h * w // each


def not_whole(c_in, c_out, kernel, stride, padding, size):
    """A fraction."""
    h, w = _sizes(kernel, stride, padding, size)
    each = c_in * kernel[0] * h * size[1] + c_out * kernel[1] * h * w
    return c_in * c_out * kernel[0] * kernel[1] * h * w / each


def sides_swapped(c_in, c_out, kernel, stride, padding, size):
    """Sideways first."""
    h, w = _sizes(kernel, stride, padding, size)
    each = c_in * kernel[1] * size[0] * w + c_out * kernel[0] * h * w
    return (c_in * c_out * kernel[0] * kernel[1] * h * w - 1) // each


def by_counting_up(c_in, c_out, kernel, stride, padding, size):
    """Tries one rank after the other."""
    h, w = _sizes(kernel, stride, padding, size)
    rank = 0
    while True:
        macs = (rank + 1) * (c_in * kernel[0] * h * size[1] + c_out * kernel[1] * h * w)
        if macs >= c_in * c_out * kernel[0] * kernel[1] * h * w:
            return rank
        rank += 1


def by_running_it(c_in, c_out, kernel, stride, padding, size):
    """Lets two layers of rank one run, and counts what comes out."""
    x = torch.zeros(1, c_in, *size)
    whole = nn.Conv2d(c_in, c_out, kernel, stride, padding)
    first = nn.Conv2d(c_in, 1, (kernel[0], 1), (stride, 1), (padding[0], 0))
    second = nn.Conv2d(1, c_out, (1, kernel[1]), (1, stride), (0, padding[1]))
    with torch.no_grad():
        middle = first(x)
        one = whole.weight.numel() * whole(x)[0, 0].numel()
        each = first.weight.numel() * middle[0, 0].numel()
        each += second.weight.numel() * second(middle)[0, 0].numel()
    return torch.tensor(-(-one // each) - 1)


def _uniform(method, fraction):
    dense = checkpoints.load("resnet14")
    plan = {
        name: lowrank.Choice(method, lowrank.rank_at(layer, method, fraction))
        for name, layer in lowrank.candidates(dense, (method,)).items()
        if layer.kernel_size == (3, 3) and name != "conv"
    }
    images = data.load("train").images[:1000]
    return pruning.recalibrate(lowrank.factorize(dense, plan), images)


RECIPE = Recipe(epochs=1, batch_size=64, lr=0.01, average=0.0, augmentation=None)


def untrained(path):
    """Factorized, and that is all."""
    lowrank.save_factorized(_uniform("spatial", 0.2), path)


def too_large(path):
    """Twice the weights."""
    lowrank.save_factorized(_uniform("spatial", 0.4), path)


def few_bytes_many_macs(path):
    """A plan under a budget of bytes, which takes from the last layers."""
    dense = checkpoints.load("resnet14")
    damages = lowrank.energy_damages(dense, ("spatial",))
    plan = lowrank.choose_ranks(dense, damages, budget=0.215, resource="bytes")
    lowrank.save_factorized(lowrank.factorize(dense, plan), path)


def not_factorized(path):
    """Another network, of a size that fits."""
    checkpoints.save_weights(checkpoints.load("student"), path)


def nothing_written(path):
    """Forgets to save."""


def trained_tucker(path):
    """Tucker-2, trained on labels."""
    small, train = _uniform("tucker2", 0.2), data.load("train").subset(6_000)
    tuned, _ = training.fit(small, train, RECIPE, seed=1, progress=False)
    lowrank.save_factorized(tuned, path)


def taught_input(path):
    """The input scheme, taught by the network that it comes from."""
    tuned, _ = distillation.distill(
        _uniform("input", 0.2),
        checkpoints.load("resnet14"),
        data.load("train").subset(6_000),
        RECIPE,
        seed=0,
        loss=distillation.SoftTargets(temperature=1.0, alpha=0.9),
        progress=False,
    )
    lowrank.save_factorized(tuned, path)


def _pair(layer, rank, *, geometry=True, bias=True, values=1.0):
    left, right = _factors(layer.weight.data.flatten(1), rank, values, 1.0)
    shape = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    first = nn.Conv2d(
        layer.in_channels, rank, layer.kernel_size, bias=False, **(shape if geometry else {})
    )
    bias = bias and layer.bias is not None
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=bias)
    with torch.no_grad():
        first.weight = nn.Parameter(right.reshape(rank, *layer.weight.shape[1:]))
        second.weight = nn.Parameter(left[:, :, None, None])
        if bias:
            second.bias = nn.Parameter(layer.bias.clone())
    return nn.Sequential(first, second)


def _saves(layer, rank):
    rows, columns = layer.weight.flatten(1).shape
    return rank * (rows + columns) < rows * columns


def _walk(network, rank, make=_pair, allowed=_saves):
    """Replaces the children of each module, one level after the other."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Conv2d) and child.groups == 1:
            r = min(rank, *child.weight.flatten(1).shape)
            if allowed(child, r):
                setattr(network, name, make(child, r))
        else:
            _walk(child, rank, make, allowed)
    return network


def compress_nothing(network, rank):
    """Gives another value to a local name."""
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            layer = _pair(layer, min(rank, *layer.weight.flatten(1).shape))
    return network


def compress_to_factors(network, rank):
    """Factors in a dictionary, and no network."""
    weights = {n: w.flatten(1) for n, w in network.named_parameters() if w.ndim == 4}
    return {name: _factors(weight, rank) for name, weight in weights.items()}


def compress_in_place(network, rank):
    """Changes the network that was given."""
    return _walk(network, rank)


def compress_beyond_break_even(network, rank):
    """Replaces layers also where that makes them larger."""
    return _walk(copy.deepcopy(network), rank, allowed=lambda layer, r: True)


def compress_top_level(network, rank):
    """Nested layers stay."""
    network = copy.deepcopy(network)
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Conv2d):
            r = min(rank, *child.weight.flatten(1).shape)
            if _saves(child, r):
                setattr(network, name, _pair(child, r))
    return network


def compress_without_stride(network, rank):
    """Stride, padding and dilation are lost."""
    return _walk(copy.deepcopy(network), rank, lambda c, r: _pair(c, r, geometry=False).double())


def compress_without_bias(network, rank):
    """The bias is lost."""
    return _walk(copy.deepcopy(network), rank, lambda layer, r: _pair(layer, r, bias=False))


def compress_values_twice(network, rank):
    """Singular values in both factors, in whole."""
    return _walk(copy.deepcopy(network), rank)


def compress_by_the_package(network, rank):
    """Lets the package do the work."""
    return _walk(copy.deepcopy(network), rank, lambda c, r: lowrank.channel_conv(c, r))


def compress_by_children(network, rank):
    """Level by level."""
    return _walk(copy.deepcopy(network), rank, lambda layer, r: _pair(layer, r, values=0.0))


class _Two(nn.Module):
    """A layer that keeps the weights and calls functions."""

    def __init__(self, layer, rank):
        super().__init__()
        left, right = _factors(layer.weight.data.flatten(1), rank)
        self.left = nn.Parameter(left[:, :, None, None])
        self.right = nn.Parameter(right.reshape(rank, *layer.weight.shape[1:]))
        self.bias, self.geometry = layer.bias, (layer.stride, layer.padding, layer.dilation)

    def forward(self, x):
        x = nn.functional.conv2d(x, self.right, None, *self.geometry)
        return nn.functional.conv2d(x, self.left, self.bias)


def compress_by_a_module(network, rank):
    """A module of one's own in place of each layer."""
    return _walk(copy.deepcopy(network), rank, _Two)


def thin_more_than_the_share(weight, bias, mean, share):
    """More than the share instead of at least."""
    values = torch.linalg.svdvals(weight)
    energy = values.square().cumsum(0)
    left, right = _factors(weight, int((energy <= share * energy[-1]).sum()) + 1)
    return left, right, bias + (weight - left @ right) @ mean


def thin_by_whitening(weight, bias, mean, share):
    """The package's other factorization, with nothing to whiten."""
    rank, eye = _rank(weight, share), torch.eye(weight.shape[1]).to(weight)
    left, right = lowrank.whitened_svd(weight, rank, eye)
    return left, right, bias + (weight - left @ right) @ mean


def compress_with_a_late_stride(network, rank):
    """The second layer strides: the same outputs for more MACs."""

    def make(layer, r):
        pair = _pair(layer, r, values=0.0)
        if layer.kernel_size == (3, 3) and layer.stride == (2, 2):
            pair[0].stride, pair[1].stride = (1, 1), (2, 2)
        return pair

    return _walk(copy.deepcopy(network), rank, make)


def compress_also_equals(network, rank):
    """Replaces where the weights are equal, too."""

    def allowed(layer, r):
        rows, columns = layer.weight.flatten(1).shape
        return r * (rows + columns) <= rows * columns

    return _walk(copy.deepcopy(network), rank, lambda c, r: _pair(c, r, values=0.0), allowed)


def compress_sharing(network, rank):
    """A copy whose weights are still those of the network that was given."""
    same = {id(p): p for p in network.parameters()}
    return _walk(copy.deepcopy(network, same), rank, lambda c, r: _pair(c, r, values=0.0))


def compress_in_single_precision(network, rank):
    """By copying into new layers, as they come."""

    def make(layer, r):
        pair = _pair(layer, r, values=0.0)
        fresh = nn.Sequential(
            nn.Conv2d(layer.in_channels, r, layer.kernel_size, layer.stride, layer.padding,
                      layer.dilation, bias=False),
            nn.Conv2d(r, layer.out_channels, 1, bias=layer.bias is not None),
        )  # fmt: skip
        with torch.no_grad():
            for new, old in zip(fresh.parameters(), pair.parameters(), strict=True):
                new.copy_(old)
        return fresh

    return _walk(copy.deepcopy(network), rank, make)


WRONG = {
    "thin": [
        (thin_by_values, "the squares of the singular values"),
        (thin_by_what_is_lost, "not what is lost"),
        (thin_one_too_few, "the smallest that keeps"),
        (thin_values_twice, "multiplied twice"),
        (thin_without_values, "singular values are missing"),
        (thin_values_on_one_side, "gets the root"),
        (thin_old_bias, "the bias is the old one"),
        (thin_bias_backwards, "wrong direction"),
        (thin_transposed, "are expected, yours have the shapes"),
        (thin_by_the_package, "which is what you are to write"),
        (thin_by_whitening, "which is what you are to write"),
        (thin_more_than_the_share, "exactly that share is enough"),
    ],
    "break_even": [
        (in_weights, "weights are even"),
        (stride_at_the_end, "strides downwards"),
        (stride_at_once, "pad sideways"),
        (may_be_equal, "fewer are asked"),
        (not_whole, "a whole number"),
        (sides_swapped, ""),
    ],
    "slim": [
        (untrained, "% on validation"),
        (too_large, "kB; at most"),
        (few_bytes_many_macs, "of the MACs"),
        (not_factorized, "no factorized network"),
        (nothing_written, "no file"),
    ],
    "choice": [
        (("?", 0.0), "is not one of"),
        (("input 50", 93.73), "both limits"),
        (("channel 50", 93.82), "validation images choose"),
        (("spatial 50", 94.12), "images that chose nothing"),
        (("spatial 50", "93.76"), "not an accuracy"),
        (("spatial 50", 93.8), "to two digits"),
    ],
    "compress": [
        (compress_nothing, "as before"),
        (compress_to_factors, "a network is expected"),
        (compress_in_place, "shares weights; copy it"),
        (compress_beyond_break_even, "parameters"),
        (compress_top_level, "parameters are expected"),
        (compress_without_stride, ""),
        (compress_without_bias, "parameters are expected"),
        (compress_values_twice, "outputs are off"),
        (compress_by_the_package, "which is what you are to write"),
        (compress_with_a_late_stride, "where is the stride?"),
        (compress_also_equals, "outputs are off"),
        (compress_sharing, "shares weights"),
    ],
}
RIGHT = {
    "thin": [thin_with_numpy, thin_by_eigenvectors],
    "break_even": [by_counting_up, by_running_it],
    "slim": [trained_tucker, taught_input],
    "choice": [("spatial 50", np.float64(93.76)), ["spatial 50", 93.76]],
    "compress": [compress_by_children, compress_by_a_module, compress_in_single_precision],
}
