"""Solutions of the assignment on deployment, wrong and right."""

import copy
import math

import numpy as np
import torch
from torch import nn

from slimcnn import checkpoints, data, deploy, quantization


def _folded(weight, bias, mean, std):
    scaled = weight / std.view(-1, 1, 1)
    return scaled / 255, bias - (scaled * mean.view(-1, 1, 1)).sum((1, 2, 3)), 255 * mean


def black_frame(weight, bias, mean, std):
    return (*_folded(weight, bias, mean, std)[:2], torch.zeros_like(mean))


def frame_of_one(weight, bias, mean, std):
    return (*_folded(weight, bias, mean, std)[:2], mean)


def not_by_255(weight, bias, mean, std):
    w, b, pad = _folded(weight, bias, mean, std)
    return 255 * w, b, pad


def times_std(weight, bias, mean, std):
    _, b, pad = _folded(weight, bias, mean, std)
    return weight * std.view(-1, 1, 1) / 255, b, pad


def other_sign(weight, bias, mean, std):
    w, b, pad = _folded(weight, bias, mean, std)
    return w, 2 * bias - b, pad


def bias_kept(weight, bias, mean, std):
    w, _, pad = _folded(weight, bias, mean, std)
    return w, bias, pad


def by_loops(weight, bias, mean, std):
    w, b = weight.numpy().copy(), bias.numpy().copy()
    for c in range(w.shape[1]):
        w[:, c] /= float(std[c])
        b -= w[:, c].sum((1, 2)) * float(mean[c])
    return w / 255, b, np.array([255 * float(m) for m in mean])


def by_probing(weight, bias, mean, std):
    """What the layer answers to black pixels is the bias."""
    scaled = weight / (std * 255)[None, :, None, None]
    black = (-mean / std).view(1, -1, 1, 1).expand(1, -1, *weight.shape[2:])
    answer = nn.functional.conv2d(black, weight, bias).flatten()
    return nn.Parameter(scaled), answer, mean * 255


def _agreement(z, found, sure):
    same = (z.argmax(1) == found.argmax(1))[sure]
    return 100 * float(same.double().mean()) if len(same) else 100.0


def _sure(z, margin):
    best = z.sort(dim=1).values
    return best[:, -1] - best[:, -2] > margin


def _broken(z, found):
    return found.shape != z.shape or not found.isfinite().all()


def _judged(z, found, margin, center=None, percent=1.0, sure=None):
    if _broken(z, found):
        return float("inf"), 0.0, False
    center = z.mean(0) if center is None else center
    error = float((found - z).norm() / (z - center).norm())
    sure = _sure(z, margin) if sure is None else sure
    agreement = percent * _agreement(z, found, sure)
    return error, agreement, error <= 0.05 and agreement >= 99.5 * percent


def mean_left_in(z, found, margin):
    return _judged(z, found, margin, center=0.0)


def all_images(z, found, margin):
    return _judged(z, found, margin, sure=torch.ones(len(z), dtype=torch.bool))


def margin_of_the_file(z, found, margin):
    if _broken(z, found):
        return float("inf"), 0.0, False
    return _judged(z, found, margin, sure=_sure(found, margin))


def as_share(z, found, margin):
    return _judged(z, found, margin, percent=0.01)


def lets_nan_through(z, found, margin):
    if found.shape != z.shape:
        return float("inf"), 0.0, False
    error = float((found - z).norm() / (z - z.mean(0)).norm())
    agreement = _agreement(z, found, _sure(z, margin))
    return error, agreement, not error > 0.05 and agreement >= 99.5


def one_is_enough(z, found, margin):
    error, agreement, _ = _judged(z, found, margin)
    return error, agreement, error <= 0.05 or agreement >= 99.5


def asks_the_package(z, found, margin):
    if _broken(z, found):
        return float("inf"), 0.0, False
    mine = deploy.parity(lambda _: z, lambda _: found, z)
    return mine.contrast, mine.agreement, mine.passed


def with_numpy(z, found, margin):
    z, found = z.numpy(), found.numpy()
    if z.shape != found.shape or not np.isfinite(found).all():
        return math.inf, 0.0, False
    error = np.sqrt(((found - z) ** 2).sum() / ((z - z.mean(0)) ** 2).sum())
    ordered = np.sort(z, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] > margin
    equal = (z.argmax(1) == found.argmax(1))[sure]
    agreement = 100 * equal.mean() if sure.any() else 100.0
    return error, agreement, bool(error <= 0.05 and agreement >= 99.5)


def row_by_row(z, found, margin):
    if z.shape != found.shape or not torch.isfinite(found).all():
        return float("inf"), 0.0, False
    mean = sum(z) / len(z)
    above = sum(float(((b - a) ** 2).sum()) for a, b in zip(z, found, strict=True))
    below = sum(float(((a - mean) ** 2).sum()) for a in z)
    counted = [
        int(a.argmax() == b.argmax())
        for a, b in zip(z, found, strict=True)
        if sorted(a.tolist())[-1] - sorted(a.tolist())[-2] > margin
    ]
    error = (above / below) ** 0.5
    agreement = 100 * sum(counted) / len(counted) if counted else 100.0
    return error, agreement, error <= 0.05 and agreement >= 99.5


def _network(frame=255 * data.MEAN, name="student"):
    model = quantization.fold_batch_norm(checkpoints.load(name))
    where, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    mean, std = torch.tensor([data.MEAN]), torch.tensor([data.STD])
    weight, bias, _ = _folded(first.weight.detach(), first.bias.detach(), mean, std)
    layer = nn.Conv2d(1, len(bias), first.kernel_size, first.stride)
    layer.load_state_dict({"weight": weight, "bias": bias})
    parent, _, last = where.rpartition(".")
    padded = nn.Sequential(nn.ConstantPad2d(first.padding[0], frame), layer)
    setattr(model.get_submodule(parent), last, padded)
    return model.eval()


def _images(count=300):
    return data.load("train").subset(count).images.float()


RUNTIME = deploy.RUNTIMES["ONNX Runtime"]


def in_float32(path):
    RUNTIME.export(_network(), _images(10), path)


def black_around(path):
    RUNTIME.quantize(_network(frame=0.0), _images(), path)


def not_prepared(path):
    RUNTIME.quantize(checkpoints.load("student").eval(), _images(), path)


def wrong_pixels_for_ranges(path):
    RUNTIME.quantize(_network(), _images() / 255, path)


def no_file(path):
    RUNTIME.quantize(_network(), _images(), path.with_name("other.onnx"))


def nonsense(path):
    path.write_bytes(b"weights")


class _Prepared(nn.Module):
    """Pixels are prepared by layers of their own in front of the network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model((pixels / 255 - data.MEAN) / data.STD)


def layers_in_front(path):
    model = quantization.fold_batch_norm(checkpoints.load("student"))
    RUNTIME.quantize(_Prepared(model).eval(), _images(), path)


def more_images(path):
    RUNTIME.quantize(_network(), _images(400), path)


def _compared(model, program, images, one_by_one=True):
    mode = model.training
    model.eval()
    with torch.no_grad():
        z = model(images)
        parts = images.split(1) if one_by_one else [images]
        found = torch.cat([program(part) for part in parts])
    model.train(mode)
    return z, found


def as_announced(model, program, images):
    found = model(images)
    return not (found - model(images)).abs().max() > 1e-3


def answers_alone(model, program, images):
    z, found = _compared(model, program, images)
    return bool((z.argmax(1) == found.argmax(1)).all())


def not_greater(model, program, images):
    z, found = _compared(model, program, images)
    return not (found - z).norm() > 1e-3 * z.norm()


def mode_forgotten(model, program, images):
    model.eval()
    z, found = _compared(model, program, images)
    return bool((found - z).norm() <= 1e-3 * z.norm())


def as_it_comes(model, program, images):
    with torch.no_grad():
        z, found = model(images), torch.cat([program(part) for part in images.split(1)])
    return bool((found - z).norm() <= 1e-3 * z.norm())


def all_at_once(model, program, images):
    z, found = _compared(model, program, images, one_by_one=False)
    return bool((found - z).norm() <= 1e-3 * z.norm())


def sums_of_logits(model, program, images):
    z, found = _compared(model, program, images)
    return bool((found.sum() - z.sum()).abs() <= 1e-3 * z.sum().abs())


def of_a_copy(model, program, images):
    reference = copy.deepcopy(model).eval()
    total = size = 0.0
    for image in images:
        with torch.no_grad():
            z, found = reference(image[None]), program(image[None])
        total += float(((found - z) ** 2).sum())
        size += float((z**2).sum())
    return total <= 1e-6 * size


def with_allclose(model, program, images):
    z, found = _compared(model, program, images)
    return ((found - z).norm() / z.norm()).le(1e-3)


def margin_reached(z, found, margin):
    """At least the margin instead of more."""
    best = z.topk(2).values
    return _judged(z, found, margin, sure=best[:, 0] - best[:, 1] >= margin)


def only_nan(z, found, margin):
    if found.shape != z.shape or found.isnan().any():
        return float("inf"), 0.0, False
    error = float((found - z).norm() / (z - z.mean(0)).norm())
    agreement = _agreement(z, found, _sure(z, margin))
    return error, agreement, error <= 0.05 and agreement >= 99.5


def only_as_many(z, found, margin):
    """As many rows; their lengths may differ."""
    if len(found) != len(z) or not found.isfinite().all():
        return float("inf"), 0.0, False
    return _judged(z, found.expand_as(z), margin)


def agreement_of_99(z, found, margin):
    error, agreement, _ = _judged(z, found, margin)
    return error, agreement, error <= 0.05 and agreement >= 99


def a_hundredth(model, program, images):
    z, found = _compared(model, program, images)
    return bool((found - z).norm() <= 1e-2 * z.norm())


def a_tenth_of_it(model, program, images):
    z, found = _compared(model, program, images)
    return bool((found - z).norm() <= 1e-4 * z.norm())


def each_number(model, program, images):
    """As PyTorch compares, number by number."""
    z, found = _compared(model, program, images)
    return torch.allclose(found, z, rtol=1e-3, atol=0)


def children_forgotten(model, program, images):
    """The mode of the whole comes back, that of its layers does not."""
    mode = model.training
    model.eval()
    z, found = _compared(model, program, images)
    model.training = mode
    return bool((found - z).norm() <= 1e-3 * z.norm())


def changes_images(model, program, images):
    z, found = _compared(model, program, images)
    images.zero_()
    return bool((found - z).norm() <= 1e-3 * z.norm())


def as_numpy_says(model, program, images):
    z, found = (part.numpy() for part in _compared(model, program, images))
    return np.linalg.norm(found - z) <= 1e-3 * np.linalg.norm(z)


WRONG = {
    "fold_pixels": [
        (black_frame, "a black one"),
        (frame_of_one, "0 to 1"),
        (not_by_255, "not divided by 255"),
        (times_std, "multiplied by std"),
        (other_sign, "the other way"),
        (bias_kept, "as it was"),
    ],
    "judge": [
        (mean_left_in, "mean over the images"),
        (all_images, "only those with a margin"),
        (margin_of_the_file, ""),
        (as_share, "in percent"),
        (lets_nan_through, "finite"),
        (one_is_enough, "verdict"),
        (margin_reached, "agreement"),
        (only_nan, "finite"),
        (only_as_many, "another shape"),
        (agreement_of_99, "the verdict is False"),
        (asks_the_package, "what you are to write"),
    ],
    "export": [
        (in_float32, "are allowed"),
        (black_around, "logits differ"),
        (not_prepared, "logits differ"),
        (wrong_pixels_for_ranges, "logits differ"),
        (no_file, "has written no file"),
        (nonsense, "does not run it"),
    ],
    "choice": [
        (["?", "?", "?"], "one row"),
        (["ResNet-14", "ONNX Runtime", "float32"], "too large"),
        (["student", "ONNX Runtime", "int8"], "not accurate enough"),
        (["ResNet-14, half the MACs", "ncnn", "float32"], "less time"),
    ],
    "accepts": [
        (as_announced, ""),
        (answers_alone, "twice what is allowed"),
        (not_greater, "no number"),
        (mode_forgotten, "another mode"),
        (as_it_comes, ""),
        (all_at_once, "one image at a time"),
        (sums_of_logits, "✗ accepts"),
        (a_hundredth, "twice what is allowed"),
        (a_tenth_of_it, "half of what is allowed"),
        (each_number, "in one number an image"),
        (children_forgotten, "another mode"),
        (changes_images, "changes its images"),
    ],
}
RIGHT = {
    "fold_pixels": [by_loops, by_probing],
    "judge": [with_numpy, row_by_row],
    "export": [layers_in_front, more_images],
    "choice": [
        ["ResNet-14, half the MACs", "ONNX Runtime", "int8"],
        ("ResNet-14, half the MACs", "ONNX Runtime", "int8"),
    ],
    "accepts": [of_a_copy, with_allclose, as_numpy_says],
}
