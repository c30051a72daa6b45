"""slimcnn.coding.sharing: values by hand, gradients as sums, files bit by bit."""

import copy

import pytest
import torch
from torch import nn

from slimcnn import coding, data, masking, models, pruning, training
from slimcnn.training import Recipe


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def split(count=48):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return data.Split("toy", images, torch.arange(count) % 3)


def test_each_layer_has_the_values_of_k_means():
    model = network()
    before = copy.deepcopy(model.state_dict())
    shared = coding.share_weights(model, 5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for index in (0, 4):
        book = coding.kmeans(model[index].weight.detach(), 5)
        assert torch.equal(shared[index].weight, book.decode())
        assert shared[index].weight.unique().numel() == 5
    assert torch.equal(shared[4].bias, model[4].bias)
    parameters = dict(shared.named_parameters())
    assert parameters["0.parametrizations.weight.original"].shape == (5,)


def test_a_values_gradient_is_the_sum_of_its_weights_gradients():
    shared = coding.share_weights(network(), {"0": 3})
    plain = masking.finalize(shared)
    x = data.normalize(split().images)
    for model in (shared, plain):
        model.eval()(x).square().mean().backward()
    whole = plain[0].weight.grad
    chain = shared[0].parametrizations.weight
    for place in range(3):
        belongs = chain[0].indices == place + 1
        torch.testing.assert_close(chain.original.grad[place], whole[belongs].sum())
    assert isinstance(shared[4].weight, nn.Parameter)  # which was not named


def test_zeros_stay_zeros_while_values_are_trained():
    model = network()
    masks = pruning.global_masks(pruning.magnitude(model), 0.7)
    shared = coding.share_weights(masking.apply_masks(model, masks), 4)
    recipe = Recipe(epochs=4, batch_size=16, lr=0.05, average=0.0, augmentation=None)
    trained, history = training.fit(shared, split(), recipe, seed=0, device="cpu", progress=False)
    assert history.loss[-1] < history.loss[0]
    for index, name in ((0, "0.weight"), (4, "4.weight")):
        weight = trained[index].weight
        assert torch.equal(weight != 0, masks[name])
        places = shared[index].parametrizations.weight[0].indices
        for place in places.unique():  # those that shared a value still do
            assert weight[places == place].unique().numel() == 1
        assert not torch.equal(weight, shared[index].weight)


def test_files_hold_what_was_trained(tmp_path):
    model = models.StudentNet()
    masks = pruning.global_masks(pruning.magnitude(model), 0.8)
    shared = coding.share_weights(masking.apply_masks(model, masks), 8)
    final = masking.finalize(shared)
    size = coding.save_slim(final, tmp_path / "student.slim")
    back = coding.load_slim(tmp_path / "student.slim")
    for name, tensor in final.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    # three bits for each of a fifth, four for its place, and 5 kB of batch norms and headers
    assert size < 54_000 * 0.2 * 7 / 8 + 8_000


def test_layers_of_zeros_and_with_few_weights():
    model = network()
    with torch.no_grad():
        model[0].weight.zero_()
    shared = coding.share_weights(model, 1000)
    assert torch.equal(shared[0].weight, model[0].weight)
    assert torch.equal(shared[4].weight, model[4].weight)  # fewer weights than values


def test_what_sharing_refuses():
    with pytest.raises(KeyError, match="no convolution or linear layer '1'"):
        coding.share_weights(network(), {"1": 4})
    with pytest.raises(ValueError, match="k is 0"):
        coding.share_weights(network(), 0)
    with pytest.raises(ValueError, match="start is 'middle'"):
        coding.share_weights(network(), 2, "middle")


def test_weight_averaging_leaves_indices_alone():
    shared = coding.share_weights(network(), 40)
    recipe = Recipe(epochs=2, batch_size=16, lr=0.01, average=0.9, augmentation=None)
    trained, _ = training.fit(shared, split(), recipe, seed=0, device="cpu", progress=False)
    for index in (0, 4):
        found, given = (m[index].parametrizations.weight[0].indices for m in (trained, shared))
        assert torch.equal(found, given)
