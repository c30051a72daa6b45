"""Which layers can lose how much: prune one at a time, and look.

Chapter 2 (Pruning: magnitude, and structured).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from slimcnn.masking import apply_masks, finalize
from slimcnn.pruning.allocation import Damage, keep_best
from slimcnn.pruning.groups import ChannelGroups
from slimcnn.pruning.masks import check_sparsity, mask_of
from slimcnn.pruning.structured import mask_channels

Measure = Callable[[nn.Module], float]
# By layer or group: (fraction removed, what was measured then), beginning with fraction 0.
Scan = dict[str, list[tuple[float, float]]]


def weight_sensitivity(
    model: nn.Module, scores: Mapping[str, Tensor], sparsities: Sequence[float], measure: Measure
) -> Scan:
    """Mask one layer at a time at each sparsity, all others whole, and measure.

    Args:
        model: it is not changed.
        scores: of weights, by name; each named layer is scanned.
        sparsities: fractions of zeros, ascending.
        measure: for instance accuracy on validation images: `lambda m: evaluate(m, split)`.

    Chapter 2, Pruning: magnitude.
    """
    whole = measure(model)
    return {
        name: [(0.0, whole)]
        + [
            (s, measure(finalize(apply_masks(model, {name: mask_of(score, s)}))))
            for s in sparsities
        ]
        for name, score in scores.items()
    }


def channel_sensitivity(
    model: nn.Module,
    groups: ChannelGroups,
    scores: Mapping[str, Tensor],
    fractions: Sequence[float],
    measure: Measure,
) -> Scan:
    """Mask the lowest channels of one group at a time, all others whole, and measure.

    Args:
        model: it is not changed.
        groups, scores: from `find_groups` and `group_scores`.
        fractions: of channels removed, ascending; at least one channel always stays.
        measure: as for `weight_sensitivity`.

    Chapter 2, Pruning: structured.
    """
    for fraction in fractions:
        check_sparsity(fraction)
    whole = measure(model)
    scan: Scan = {}
    for group in groups:
        scan[group.name] = [(0.0, whole)]
        for fraction in fractions:
            count = max(1, round((1 - fraction) * group.size))
            keep = keep_best(groups, scores, {group.name: count})
            measured = measure(mask_channels(model, groups, keep))
            scan[group.name].append((1 - count / group.size, measured))
    return scan


def damage_curves(scan: Scan) -> dict[str, Damage]:
    """What `allocate` reads: for each entry of a scan, the drop by fraction removed.

    Between measured fractions the drop is interpolated; beyond the last one it rises with the
    line from the last measured point to losing everything.
    """
    curves = {}
    for name, points in scan.items():
        fractions, values = zip(*points, strict=True)
        drops = [values[0] - value for value in values]
        if fractions[-1] < 1:
            fractions, drops = (*fractions, 1.0), [*drops, max(values[0], drops[-1])]

        def curve(fraction: float, x: tuple = fractions, y: list = drops) -> float:
            return float(np.interp(fraction, x, y))

        curves[name] = curve
    return curves
