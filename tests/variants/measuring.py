"""Solutions of the assignment on measuring, wrong and right."""

from statistics import mean, median
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from slimcnn import checkpoints, metrics


def _sizes(kernel, stride, padding, dilation, size):
    return [
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip(size, kernel, strict=True)
    ]


def no_groups(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    h, w = _sizes(kernel, stride, padding, dilation, size)
    weights = c_out * c_in * kernel[0] * kernel[1]
    return weights + c_out * bias, weights * h * w


def no_bias(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    h, w = _sizes(kernel, stride, padding, dilation, size)
    weights = c_out * c_in // groups * kernel[0] * kernel[1]
    return weights, weights * h * w


def bias_multiplied(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    h, w = _sizes(kernel, stride, padding, dilation, size)
    parameters = c_out * c_in // groups * kernel[0] * kernel[1] + c_out * bias
    return parameters, parameters * h * w


def size_of_input(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    weights = c_out * c_in // groups * kernel[0] * kernel[1]
    return weights + c_out * bias, weights * size[0] * size[1]


def no_dilation(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    h, w = _sizes(kernel, stride, padding, 1, size)
    weights = c_out * c_in // groups * kernel[0] * kernel[1]
    return weights + c_out * bias, weights * h * w


def square_kernel(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    h, w = _sizes(kernel, stride, padding, dilation, size)
    weights = c_out * c_in // groups * kernel[0] ** 2
    return weights + c_out * bias, weights * h * w


def halves(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    h, w = [
        (n + 2 * padding - dilation * (k - 1) - 1) / stride + 1
        for n, k in zip(size, kernel, strict=True)
    ]
    weights = c_out * c_in // groups * kernel[0] * kernel[1]
    return weights + c_out * bias, weights * h * w


def asks_the_package(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias)
    return metrics.count_parameters(layer), metrics.count_macs(layer, (1, c_in, *size))


def counts_loops(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    rows = len(range(0, size[0] + 2 * padding - dilation * (kernel[0] - 1), stride))
    columns = len(range(0, size[1] + 2 * padding - dilation * (kernel[1] - 1), stride))
    filters = [c_in // groups * kernel[0] * kernel[1] for _ in range(c_out)]
    return sum(filters) + (c_out if bias else 0), sum(filters) * rows * columns


def runs_a_layer(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias)
    out = layer(torch.zeros(1, c_in, *size))
    parameters = sum(p.numel() for p in layer.parameters())
    return np.int64(parameters), layer.weight.numel() * out.shape[2] * out.shape[3]


def points_as_share(points, disagreement, z=1.96):
    return max(1, int(np.ceil(z**2 * (disagreement - points**2) / points**2)))


def rounds_down(points, disagreement, z=1.96):
    delta = points / 100
    return max(1, int(z**2 * (disagreement - delta**2) / delta**2))


def no_variance_of_the_mean(points, disagreement, z=1.96):
    return max(1, int(np.ceil(z**2 * disagreement / (points / 100) ** 2)))


def unpaired(points, disagreement, z=1.96):
    return max(1, int(np.ceil(2 * z**2 * 0.94 * 0.06 / (points / 100) ** 2)))


def perhaps_none(points, disagreement, z=1.96):
    delta = points / 100
    return int(np.ceil(z**2 * (disagreement - delta**2) / delta**2))


def halving(points, disagreement, z=1.96):
    delta = points / 100
    low, high = 0, 10**9
    while high - low > 1:
        n = (low + high) // 2
        low, high = (low, n) if z * ((disagreement - delta**2) / n) ** 0.5 <= delta else (n, high)
    return high


def with_numpy(points, disagreement, z=1.96):
    ratio = (z * 100 / points) ** 2 * (disagreement - (points / 100) ** 2)
    return np.maximum(1, np.ceil(ratio))


def _state():
    return checkpoints.load("resnet14").state_dict()


def as_it_is(path):
    save_file(_state(), path)


def cast_to_integers(path):
    save_file({name: t.to(torch.int8) for name, t in _state().items()}, path)


def weights_only(path):
    save_file({n: t.half() for n, t in _state().items() if n.endswith("weight")}, path)


def pickled(path):
    torch.save({name: t.half() for name, t in _state().items()}, path)


def elsewhere(path):
    save_file({n: t.half() for n, t in _state().items()}, path.with_suffix(".small"))


def flat(path):
    save_file({name: t.half().flatten() for name, t in _state().items()}, path)


def bfloat_weights(path):
    """The larger tensors in bfloat16, the others in float16."""
    kind = {True: torch.bfloat16, False: torch.float16}
    save_file({n: t.to(kind[t.numel() > 9000]) for n, t in _state().items()}, path)


def only_matrices(path):
    save_file({n: t.half() if t.ndim > 1 else t for n, t in _state().items()}, path)


def cold(run_old, run_new, clock):
    start = clock()
    run_old()
    old = clock() - start
    start = clock()
    run_new()
    return old / (clock() - start)


def _time(run, clock, times):
    found = []
    for _ in range(times):
        start = clock()
        run()
        found.append(clock() - start)
    return found


def means(run_old, run_new, clock):
    _time(run_old, clock, 20), _time(run_new, clock, 20)
    pairs = [(_time(run_old, clock, 1)[0], _time(run_new, clock, 1)[0]) for _ in range(200)]
    return mean(a for a, _ in pairs) / mean(b for _, b in pairs)


def one_after_the_other(run_old, run_new, clock):
    _time(run_old, clock, 20), _time(run_new, clock, 20)
    return median(_time(run_old, clock, 200)) / median(_time(run_new, clock, 200))


def no_warm_up(run_old, run_new, clock):
    pairs = [(_time(run_old, clock, 1)[0], _time(run_new, clock, 1)[0]) for _ in range(6)]
    return median(a for a, _ in pairs) / median(b for _, b in pairs)


def the_other_way_round(run_old, run_new, clock):
    return 1 / ratio_of_medians(run_old, run_new, clock)


def ratio_of_medians(run_old, run_new, clock):
    _time(run_old, clock, 30), _time(run_new, clock, 30)
    pairs = [(_time(run_old, clock, 1)[0], _time(run_new, clock, 1)[0]) for _ in range(300)]
    return median(a for a, _ in pairs) / median(b for _, b in pairs)


def rounds_of_five(run_old, run_new, clock):
    _time(run_old, clock, 25), _time(run_new, clock, 25)
    ratios = []
    for n in range(60):
        if n % 2:
            old, new = _time(run_old, clock, 5), _time(run_new, clock, 5)
        else:
            new, old = _time(run_new, clock, 5), _time(run_old, clock, 5)
        ratios.append(median(old) / median(new))
    return median(ratios)


def z_is_fixed(points, disagreement, z=1.96):
    return halving(points, disagreement)


def one_too_many(points, disagreement, z=1.96):
    """The next whole number, also where it is whole already."""
    delta = points / 100
    return max(1, int(z**2 * (disagreement - delta**2) / delta**2) + 1)


def reads_the_costs(run_old, run_new, clock):
    """Asks the machine instead of the clock."""
    old, new = clock.__self__._costs
    return old / new


class Cost(NamedTuple):
    parameters: int
    macs: int


def named(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    return Cost(*counts_loops(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size))


def numpy_medians(run_old, run_new, clock):
    pairs = [_time(run_old, clock, 1) + _time(run_new, clock, 1) for _ in range(220)]
    return np.median([old / new for old, new in pairs[20:]])


WRONG = {
    "conv_cost": [
        (no_groups, "a filter sees"),
        (no_bias, "with the bias"),
        (bias_multiplied, "the parameters are right"),
        (size_of_input, "the parameters are right"),
        (no_dilation, "the parameters are right"),
        (square_kernel, ""),
        (halves, "the parameters are right"),
        (asks_the_package, "which is what you are to write"),
    ],
    "images_needed": [
        (z_is_fixed, "z is 2.576 here"),
        (one_too_many, "the least whole number"),
        (points_as_share, "are a share of"),
        (rounds_down, "the least whole number"),
        (no_variance_of_the_mean, ""),
        (unpaired, ""),
        (perhaps_none, ""),
    ],
    "save_small": [
        (as_it_is, "are allowed"),
        (cast_to_integers, "% on validation"),
        (weights_only, "names missing"),
        (pickled, "no safetensors file"),
        (elsewhere, "no file"),
        (flat, "has shape"),
    ],
    "choice": [(name, "") for name in ("?", "old", "A", "B", "C", "E")],
    "compare": [
        (cold, "first runs are slow"),
        (means, "other programs run"),
        (one_after_the_other, "gets slower"),
        (no_warm_up, ""),
        (reads_the_costs, "raises AttributeError"),
        (the_other_way_round, "old / new is asked"),
    ],
}
RIGHT = {
    "conv_cost": [counts_loops, runs_a_layer, named],
    "images_needed": [halving, with_numpy],
    "save_small": [bfloat_weights, only_matrices],
    "choice": ["D"],
    "compare": [ratio_of_medians, rounds_of_five, numpy_medians],
}
