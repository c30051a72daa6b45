"""Solutions of the assignment on pruning, wrong and right."""

import numpy as np
import torch
from torch import nn

from slimcnn import checkpoints, data, pruning, training


def layer_threshold(weight, k):
    """One threshold for the whole layer."""
    return pruning_like(weight.abs().flatten(), k * len(weight)).view(weight.shape)


def pruning_like(scores, kept):
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.argsort(descending=True, stable=True)[:kept]] = True
    return mask


def signed(weight, k):
    """The largest weights, not the largest magnitudes."""
    order = weight.flatten(1).argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros(order.shape, dtype=torch.bool)
    return mask.scatter_(1, order[:, :k], True).view(weight.shape)


def above_kth(weight, k):
    """Everything from the k-th largest value on: too many where values are equal."""
    size = weight.abs().flatten(1)
    if k == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    kth = size.sort(dim=1, descending=True).values[:, k - 1 : k]
    return (size >= kth).view(weight.shape)


def last_of_equals(weight, k):
    """Ascending, from the end: of equal magnitudes the last ones stay."""
    order = weight.abs().flatten(1).argsort(dim=1, stable=True)
    mask = torch.zeros(order.shape, dtype=torch.bool)
    return mask.scatter_(1, order[:, order.shape[1] - k :], True).view(weight.shape)


def drops_k(weight, k):
    """Drops k instead of keeping k."""
    order = weight.abs().flatten(1).argsort(dim=1, stable=True)
    mask = torch.ones(order.shape, dtype=torch.bool)
    return mask.scatter_(1, order[:, :k], False).view(weight.shape)


def weights_not_mask(weight, k):
    """The pruned weights."""
    return weight * mask_by_loops(weight, k)


def mask_by_loops(weight, k):
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for i, row in enumerate(weight.flatten(1)):
        ranked = sorted(range(len(row)), key=lambda j: (-abs(float(row[j])), j))
        for j in ranked[:k]:
            mask[i].view(-1)[j] = True
    return mask


def mask_by_numpy(weight, k):
    size = np.abs(weight.numpy()).reshape(len(weight), -1)
    order = np.argsort(-size, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(size.shape[1])[None].repeat(len(size), 0), 1)
    return (ranks < k).reshape(weight.shape)


def mask_by_counting(weight, k):
    """A rank is the number of weights that are larger, or equal and earlier."""
    size = weight.abs().flatten(1)
    larger = (size[:, None, :] > size[:, :, None]).sum(2)
    earlier = torch.ones(size.shape[1], size.shape[1]).tril(-1).bool()
    equal = ((size[:, None, :] == size[:, :, None]) & earlier).sum(2)
    return (larger + equal < k).view(weight.shape).float()


def _greedy(scores, macs, layer, budget, rank, first=True, stop=False):
    mask = [False] * len(scores)
    if first:
        for number in set(layer.tolist()):
            members = [i for i in range(len(scores)) if layer[i] == number]
            mask[max(members, key=lambda i: float(scores[i]))] = True
    spent = sum(int(m) for m, kept in zip(macs, mask, strict=True) if kept)
    for i in sorted(range(len(scores)), key=lambda i: -rank(i)):
        if mask[i]:
            continue
        if spent + int(macs[i]) <= budget:
            mask[i] = True
            spent += int(macs[i])
        elif stop:
            break
    return torch.tensor(mask)


def by_score_alone(scores, macs, layer, budget):
    """Ranks by the score, whatever a channel costs."""
    return _greedy(scores, macs, layer, budget, lambda i: float(scores[i]))


def stops_at_the_first(scores, macs, layer, budget):
    """Stops at the first channel that does not fit."""
    return _greedy(scores, macs, layer, budget, lambda i: float(scores[i] / macs[i]), stop=True)


def empties_layers(scores, macs, layer, budget):
    """No channel is kept for its layer's sake."""
    return _greedy(scores, macs, layer, budget, lambda i: float(scores[i] / macs[i]), first=False)


def first_for_free(scores, macs, layer, budget):
    """What the first rule keeps is not counted."""
    first = _greedy(scores, macs, layer, 0, lambda i: 0.0)
    rest = _greedy(
        scores * ~first, macs, layer, budget + int(macs[first].sum()),
        lambda i: float(scores[i] / macs[i]),
    )  # fmt: skip
    return first | rest


def below_the_budget(scores, macs, layer, budget):
    """Below the budget instead of at most."""
    rest = _greedy(scores, macs, layer, budget - 1, lambda i: float(scores[i] / macs[i]))
    return rest


def affordable_by_lists(scores, macs, layer, budget):
    return _greedy(scores, macs, layer, budget, lambda i: float(scores[i]) / float(macs[i]))


def affordable_by_numpy(scores, macs, layer, budget):
    q, m, at = scores.numpy(), macs.numpy(), layer.numpy()
    best = [np.flatnonzero(at == n)[np.argmax(q[at == n])] for n in np.unique(at)]
    mask = np.isin(np.arange(len(q)), best)
    for i in np.lexsort((np.arange(len(q)), -q / m)):
        if not mask[i] and m[mask].sum() + m[i] <= budget:
            mask[i] = True
    return mask


def _smaller(plan, images):
    dense = checkpoints.load("resnet14")
    groups = pruning.find_groups(dense, (1, 1, 28, 28))
    scores = pruning.group_scores(groups, pruning.filter_l2(dense))
    model = pruning.shrink(dense, groups, pruning.keep_best(groups, scores, plan(groups)))
    if not images:
        return pruning.recalibrate(model, data.load("train").images[:1000])
    recipe = training.Recipe(epochs=1, lr=0.02, average=0.0)
    return training.fit(model, data.load("train").subset(images), recipe, seed=1, progress=False)[0]


def prune_by_hand(path):
    """A plan without a scan: inner channels of the late blocks, where the bytes are."""
    plan = {"stage2.0.conv1": 56, "stage2.1.conv1": 48, "stage3.0.conv1": 48, "stage3.1.conv1": 16}
    checkpoints.save_weights(_smaller(lambda groups: plan, 5_000), path)


def dense_file(path):
    """Nothing is removed."""
    checkpoints.save_weights(checkpoints.load("resnet14"), path)


def masked_file(path):
    """Zeros in a dense file."""
    dense = checkpoints.load("resnet14")
    masks = pruning.global_masks(pruning.magnitude(dense), 0.7)
    checkpoints.save_weights(pruning.finalize(pruning.apply_masks(dense, masks)), path)


def uniform_untrained(path):
    """The same share of every group, statistics measured anew, no training."""

    def plan(groups):
        alike = {group.name: lambda removed: removed for group in groups}
        return pruning.allocate(groups, alike, budget=0.4, resource="bytes")

    checkpoints.save_weights(_smaller(plan, 0), path)


def other_network(path):
    """The book's student, which is small, but no pruned ResNet-14."""
    checkpoints.save_weights(checkpoints.load("student"), path)


def no_file(path):
    """Writes nothing."""


def every_gradient_masked(weight, velocity, mask, inputs, targets, steps):
    """The gradient is masked; the velocity of the dense training moves the zeros."""
    weight = weight * mask
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weight - targets) / len(inputs) * mask
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = weight - 0.05 * velocity
    return weight, (weight == 0).double().mean().item()


def masked_at_the_end(weight, velocity, mask, inputs, targets, steps):
    """Masked once more at the end: what stays was trained beside weights that then go."""
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weight * 1.0 - targets) / len(inputs)
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = weight - 0.05 * velocity
    weight = weight * mask
    return weight, (weight == 0).double().mean().item()


def share_of_the_mask(weight, velocity, mask, inputs, targets, steps):
    """The zeros hold, but are counted in the mask."""
    trained, _ = sparse_masked_each_step(weight, velocity, mask, inputs, targets, steps)
    return trained, 1 - mask.double().mean().item()


def no_momentum(weight, velocity, mask, inputs, targets, steps):
    """The velocity is thrown away: zeros hold, the rest is trained differently."""
    return sparse_masked_each_step(weight, 0 * velocity, mask, inputs, targets, steps)


def share_that_stays(weight, velocity, mask, inputs, targets, steps):
    """The share of what is not zero."""
    trained, zeros = sparse_masked_each_step(weight, velocity, mask, inputs, targets, steps)
    return trained, 1 - zeros


def as_announced(weight, velocity, mask, inputs, targets, steps):
    """The blog's own code."""
    weight = weight * mask
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weight - targets) / len(inputs)
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = weight - 0.05 * velocity
    return weight, 1 - mask.double().mean().item()


def sparse_masked_each_step(weight, velocity, mask, inputs, targets, steps):
    weight = torch.where(mask, weight, 0)
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weight - targets) / len(inputs)
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = torch.where(mask, weight - 0.05 * velocity, 0)
    return weight, int((weight == 0).sum()) / weight.numel()


def sparse_by_optimizer(weight, velocity, mask, inputs, targets, steps):
    """PyTorch's optimizer, on the weights that there are."""
    stays = mask.flatten()
    weights = nn.Parameter(weight[stays].clone())
    if steps and len(weights):
        optimizer = torch.optim.SGD([weights], lr=0.05, momentum=0.9, weight_decay=0.01)
        optimizer.state[weights]["momentum_buffer"] = velocity[stays].clone()
        for _ in range(steps):
            optimizer.zero_grad()
            error = inputs[:, stays] @ weights - targets
            (error.square().sum() / len(inputs) / 2).backward()
            optimizer.step()
    trained = torch.zeros_like(weight)
    trained[stays] = weights.detach()
    return trained, 1 - torch.count_nonzero(trained).item() / trained.numel()


def last_of_equals_first(scores, macs, layer, budget):
    """Of channels with the same score a MAC the last one first."""
    return _greedy(scores.flip(0), macs.flip(0), layer.flip(0), budget,
                   lambda i: float(scores.flip(0)[i] / macs.flip(0)[i])).flip(0)  # fmt: skip


def in_single_precision(weight, velocity, mask, inputs, targets, steps):
    parts = (part.float() for part in (weight, velocity, inputs, targets))
    weight, velocity, inputs, targets = parts
    return sparse_masked_each_step(weight, velocity, mask, inputs, targets, steps)


WRONG = {
    "keep_largest": [
        (layer_threshold, "of each were asked"),
        (signed, "the sign does not count"),
        (above_kth, "keeps 8 weights; 5 of each were asked"),
        (last_of_equals, "of equal magnitudes the first stay"),
        (drops_k, "keeps 3 weights; 5 of each were asked"),
        (weights_not_mask, "a mask holds True and False"),
    ],
    "affordable": [
        (by_score_alone, "equal score per MAC"),
        (stops_at_the_first, "would fit"),
        (empties_layers, "keeps no channel"),
        (first_for_free, "the budget is"),
        (below_the_budget, "would fit"),
        (last_of_equals_first, ""),
    ],
    "prune": [
        (dense_file, "at most"),
        (masked_file, "Zeros take four bytes each"),
        (uniform_untrained, "% on validation"),
        (other_network, "is no ResNet-14 with fewer channels"),
        (no_file, "has written no file"),
    ],
    "findings": [
        ({"change": 0.34, "verdict": "loss", "ship": "B"}, "change"),
        ({"change": -0.3, "verdict": "gain", "ship": "B"}, "verdict"),
        ({"change": -0.3, "verdict": "loss", "ship": "D"}, "ship"),
        ({"change": 0.3, "verdict": "loss", "ship": "B"}, "negative if it lost"),
        ({"change": -0.3, "verdict": "worse", "ship": "B"}, "gain, loss or open"),
    ],
    "train_sparse": [
        (as_announced, "pruned weights are not zero"),
        (every_gradient_masked, "pruned weights are not zero"),
        (masked_at_the_end, "had they been zero in every step"),
        (share_of_the_mask, "are reported"),
        (no_momentum, "go on from the velocity"),
        (share_that_stays, "are reported"),
        (in_single_precision, "float64"),
    ],
}

RIGHT = {
    "keep_largest": [mask_by_loops, mask_by_numpy, mask_by_counting],
    "affordable": [affordable_by_lists, affordable_by_numpy],
    "prune": [prune_by_hand],
    "findings": [
        {"change": -0.297, "verdict": "loss", "ship": "B"},
        {"ship": "B", "verdict": "loss", "change": -0.29},
        {"ship": np.str_("B"), "verdict": "loss", "change": np.float32(-0.29)},
    ],
    "train_sparse": [sparse_masked_each_step, sparse_by_optimizer],
}
