"""slimcnn.pruning.masks: exactly as many zeros as asked for, ties or none, one threshold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.nn.utils import prune

from slimcnn import pruning

FRACTIONS = st.floats(0, 1)
# Few different values, so that ties are everywhere.
TIED = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=5),
    elements=st.sampled_from([0.0, 0.5, 1.0, float("inf")]),
)
LAYERS = st.lists(TIED, min_size=1, max_size=4).map(
    lambda scores: {str(i): torch.from_numpy(s) for i, s in enumerate(scores)}
)


def zeros(mask):
    return int((~mask).sum())


@settings(max_examples=100, deadline=None)
@given(TIED, FRACTIONS)
def test_exactly_the_asked_number_goes_and_nothing_better_than_what_stays(scores, sparsity):
    scores = torch.from_numpy(scores)
    mask = pruning.mask_of(scores, sparsity)
    assert mask.dtype == torch.bool
    assert mask.shape == scores.shape
    assert zeros(mask) == round(sparsity * scores.numel())
    if mask.any() and not mask.all():
        assert scores[~mask].max() <= scores[mask].min()


@settings(max_examples=60, deadline=None)
@given(TIED, FRACTIONS, FRACTIONS)
def test_masks_are_nested_as_sparsity_grows(scores, a, b):
    scores = torch.from_numpy(scores)
    loose, tight = (pruning.mask_of(scores, s) for s in sorted((a, b)))
    assert not (tight & ~loose).any()


def test_of_equal_scores_the_first_in_memory_order_go():
    scores = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert pruning.mask_of(scores, 0.5).tolist() == [[False, False], [True, True]]
    assert pruning.mask_of(scores, 0.75).tolist() == [[False, False], [False, True]]
    assert pruning.mask_of(torch.zeros(4), 0.5).tolist() == [False, False, True, True]
    # Order is that of the indices, whatever the strides.
    assert pruning.mask_of(scores.t(), 0.5).tolist() == [[False, True], [False, True]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), FRACTIONS, st.integers(0, 2**16))
def test_magnitude_masks_are_those_of_pytorch(count, sparsity, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(count, 1)
    ours = pruning.mask_of(pruning.magnitude(layer)["weight"], sparsity)
    prune.l1_unstructured(layer, "weight", amount=sparsity)
    assert torch.equal(ours, layer.weight_mask.bool())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), FRACTIONS, st.integers(0, 2**16))
def test_global_magnitude_masks_are_those_of_pytorch(sizes, sparsity, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(size, 2) for size in sizes))
    ours = pruning.global_masks(pruning.magnitude(model), sparsity)
    layers = [(layer, "weight") for layer in model]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=sparsity)
    for index, layer in enumerate(model):
        assert torch.equal(ours[f"{index}.weight"], layer.weight_mask.bool())


@settings(max_examples=60, deadline=None)
@given(LAYERS, FRACTIONS)
def test_global_masks_have_one_threshold_and_the_exact_share_of_all(scores, sparsity):
    masks = pruning.global_masks(scores, sparsity)
    assert {n: m.shape for n, m in masks.items()} == {n: s.shape for n, s in scores.items()}
    total = sum(s.numel() for s in scores.values())
    assert sum(zeros(m) for m in masks.values()) == round(sparsity * total)
    assert pruning.sparsity_of(masks) == pytest.approx(round(sparsity * total) / total)
    gone = torch.cat([scores[n][~m] for n, m in masks.items()])
    stay = torch.cat([scores[n][m] for n, m in masks.items()])
    if len(gone) and len(stay):
        assert gone.max() <= stay.min()


def test_global_masks_differ_from_layerwise_ones_where_layers_do():
    scores = {"small": torch.tensor([0.1, 0.2, 0.3]), "large": torch.tensor([1.0, 2.0, 3.0])}
    by_layer = pruning.layerwise_masks(scores, 1 / 3)
    assert {n: m.tolist() for n, m in by_layer.items()} == {
        "small": [False, True, True],
        "large": [False, True, True],
    }
    together = pruning.global_masks(scores, 0.5)
    assert {n: m.tolist() for n, m in together.items()} == {
        "small": [False, False, False],
        "large": [True, True, True],
    }
    assert pruning.collapsed_layers(together) == ["small"]
    assert pruning.collapsed_layers(by_layer) == []


def test_global_masks_break_ties_in_the_order_given():
    scores = {"b": torch.zeros(2), "a": torch.zeros(2)}
    masks = pruning.global_masks(scores, 0.75)
    assert {n: m.tolist() for n, m in masks.items()} == {"b": [False, False], "a": [False, True]}


@settings(max_examples=40, deadline=None)
@given(LAYERS, FRACTIONS)
def test_layerwise_masks_are_exact_in_each_layer(scores, sparsity):
    masks = pruning.layerwise_masks(scores, sparsity)
    for name, score in scores.items():
        assert torch.equal(masks[name], pruning.mask_of(score, sparsity))


def test_layerwise_sparsity_by_name_leaves_the_others_whole():
    scores = {name: torch.arange(4.0) for name in "abc"}
    masks = pruning.layerwise_masks(scores, {"b": 0.5, "c": 1})
    assert {n: m.tolist() for n, m in masks.items()} == {
        "a": [True] * 4,
        "b": [False, False, True, True],
        "c": [False] * 4,
    }
    assert pruning.sparsity_of(masks) == 0.5


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1), (3, 0), ()])
def test_a_single_number_or_none_at_all(shape):
    scores = torch.ones(shape)
    assert pruning.mask_of(scores, 0).all()
    assert not pruning.mask_of(scores, 1).any()
    assert pruning.mask_of(scores, 1).shape == shape


def test_scores_may_need_gradients_and_be_infinite_or_whole_numbers():
    scores = torch.tensor([float("-inf"), 0.0, float("inf")], requires_grad=True)
    assert pruning.mask_of(scores, 2 / 3).tolist() == [False, False, True]
    assert not pruning.mask_of(scores, 0.5).requires_grad
    assert pruning.mask_of(torch.tensor([3, 1, 2]), 1 / 3).tolist() == [True, False, True]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0001, 90, float("nan"), float("inf")])
def test_a_sparsity_that_is_no_fraction_is_refused(sparsity):
    scores = {"a": torch.ones(3)}
    for masks in (pruning.layerwise_masks, pruning.global_masks):
        with pytest.raises(ValueError, match=f"sparsity is {sparsity}; .* 0 to 1"):
            masks(scores, sparsity)
    with pytest.raises(ValueError, match=f"sparsity is {sparsity}"):
        pruning.layerwise_masks(scores, {"a": sparsity})


def test_nan_scores_are_refused():
    scores = {"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}
    for masks in (pruning.layerwise_masks, pruning.global_masks):
        with pytest.raises(ValueError, match="a score is NaN"):
            masks(scores, 0.0)


def test_names_without_scores_and_nothing_at_all_are_refused():
    with pytest.raises(KeyError, match=r"'fc' has no score; scored are conv, head"):
        pruning.layerwise_masks({"conv": torch.ones(1), "head": torch.ones(1)}, {"fc": 0.5})
    with pytest.raises(ValueError, match="no scores"):
        pruning.global_masks({}, 0.5)
    for nothing in ({}, {"a": torch.ones(0).bool()}):
        with pytest.raises(ValueError, match="no masks"):
            pruning.sparsity_of(nothing)
    assert pruning.layerwise_masks({}, 0.5) == {}
    assert pruning.collapsed_layers({"empty": torch.ones(0).bool()}) == []
