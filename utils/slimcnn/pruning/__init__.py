"""Pruning: networks with fewer weights, and networks with fewer channels.

    scores        how much each weight or filter seems to matter
    masks         which weights stay, at an exact sparsity
    schedules     one-shot and gradual pruning
    sensitivity   what each layer can lose
    batch_norm    statistics measured anew; network slimming's penalty
    groups        which slices of which tensors go together, found automatically
    structured    a smaller network with smaller tensors
    allocation    how many channels each group keeps under a budget

Masks on a network are in `slimcnn.masking` and can be had from here, too. Chapter 2 (Pruning)
derives all of it.
"""

from slimcnn.masking import apply_masks, finalize, masks_of, set_masks_
from slimcnn.pruning.allocation import Cost, allocate, cost, keep_best
from slimcnn.pruning.batch_norm import recalibrate, slimming_objective
from slimcnn.pruning.graph import UnprunableError
from slimcnn.pruning.groups import ChannelGroups, Group, Member, find_groups
from slimcnn.pruning.masks import (
    collapsed_layers,
    global_masks,
    layerwise_masks,
    mask_of,
    sparsity_of,
)
from slimcnn.pruning.schedules import GradualPruning, cubic, one_shot
from slimcnn.pruning.scores import (
    batch_norm_scale,
    filter_fpgm,
    filter_l1,
    filter_l2,
    filter_random,
    filter_taylor,
    group_scores,
    magnitude,
    random,
    snip,
    taylor,
)
from slimcnn.pruning.sensitivity import channel_sensitivity, damage_curves, weight_sensitivity
from slimcnn.pruning.structured import load_pruned, mask_channels, permute_channels, shrink

__all__ = [
    "ChannelGroups",
    "Cost",
    "GradualPruning",
    "Group",
    "Member",
    "UnprunableError",
    "allocate",
    "apply_masks",
    "batch_norm_scale",
    "channel_sensitivity",
    "collapsed_layers",
    "cost",
    "cubic",
    "damage_curves",
    "filter_fpgm",
    "filter_l1",
    "filter_l2",
    "filter_random",
    "filter_taylor",
    "finalize",
    "find_groups",
    "global_masks",
    "group_scores",
    "keep_best",
    "layerwise_masks",
    "load_pruned",
    "magnitude",
    "mask_channels",
    "mask_of",
    "masks_of",
    "one_shot",
    "permute_channels",
    "random",
    "recalibrate",
    "set_masks_",
    "shrink",
    "slimming_objective",
    "snip",
    "sparsity_of",
    "taylor",
    "weight_sensitivity",
]
