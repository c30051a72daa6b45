"""Bias correction, AdaRound and mixed precision: against exhaustive search and by hand."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimcnn import checkpoints, data, training
from slimcnn import quantization as q


def images(count=16, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(96, 3),
    ).eval()


def means(model, layer, x):
    """Of each output channel of a layer."""
    with torch.no_grad():
        y = model[: layer + 1](data.normalize(x))
    return y.mean((0, 2, 3)) if y.ndim == 4 else y.mean(0)


# --- bias correction ---------------------------------------------------------------------------


def test_means_are_those_of_the_original_afterwards():
    model = network()
    rounded = q.quantize(model, q.Scheme(3, 4, ends=None), images())
    before = copy.deepcopy(rounded.state_dict())
    made = q.correct_bias(rounded, model, images())
    assert all(torch.equal(v, before[k]) for k, v in rounded.state_dict().items())
    for layer in (0, 2, 5):
        wanted = means(model, layer, images())
        torch.testing.assert_close(means(made, layer, images()), wanted, atol=1e-5, rtol=1e-5)
        assert (means(rounded, layer, images()) - wanted).abs().max() > 1e-3
        assert torch.equal(made[layer].layer.weight, model[layer].weight)
    assert made[0].layer.bias is not None and model[0].bias is None


def test_linear_layers_have_their_channels_last():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1)).eval()
    rounded = q.quantize(model, q.Scheme(2, None, ends=None), images())
    made = q.correct_bias(rounded, model, images())
    x = data.normalize(images())  # (N, 1, 8, 8): rows of eight
    with torch.no_grad():
        for layer in (1, 3):
            a, b = (m[:layer](x).flatten(0, -2).mean(0) for m in (made, model))
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        with torch.no_grad():  # in which it is learned all the same
            q.ada_round(rounded, model, images(), iterations=3)


def test_what_correction_refuses():
    model = network()
    rounded = q.quantize(model, q.Scheme(), images())
    with pytest.raises(ValueError, match="there are no images"):
        q.correct_bias(rounded, model, images()[:0])
    with pytest.raises(ValueError, match="Sequential has no quantized layer; quantize it first"):
        q.correct_bias(model, model, images())
    with pytest.raises(ValueError, match="the model has no '2'; pass the one that was quantized"):
        q.correct_bias(rounded, nn.Sequential(model[0], model[1]), images())


# --- AdaRound ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_roundings_is_found(seed):
    """Inputs that are alike let errors cancel; with 6 weights all 64 roundings can be tried."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(60, 200, (256, 1, 1, 1), generator=generator)
    noise = torch.randint(-20, 21, (256, 1, 1, 6), generator=generator)
    pixels = (base + noise).to(torch.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 1, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.rand(1, 6, generator=generator) - 0.3)
    rounded = q.quantize(model, q.Scheme(3, None, ends=None), pixels)
    made = q.ada_round(rounded, model, pixels, iterations=1500)
    x, weight = data.normalize(pixels).flatten(1), model[1].weight.detach()
    quantizer = rounded[1].weight_quantizer.quantizer(weight)

    def error(w):
        return float(F.linear(x, w - weight).square().mean())

    below = torch.floor(weight / quantizer.scale)
    tried = [
        error((below + torch.tensor([up])).clamp(-3, 3) * quantizer.scale)
        for up in product((0.0, 1.0), repeat=6)
    ]
    found = error(made[1].weight_quantizer(weight))
    nearest = error(rounded[1].weight_quantizer(weight))
    assert found <= nearest
    assert found <= sorted(tried)[2] + 1e-9


def test_a_network_computes_more_nearly_the_same():
    model = q.fold_batch_norm(checkpoints.load("student"))
    calibration = data.load("train").subset(200).images
    rounded = q.quantize(model, q.Scheme(3, 8), calibration)
    options = {"iterations": 100, "seed": 3}
    made = q.ada_round(rounded, model, calibration, **options)
    again = q.ada_round(rounded, model, calibration, **options)
    x = data.normalize(data.load("validation").subset(200).images)
    with torch.no_grad():
        wanted, nearest, learned = model(x), rounded(x), made(x)
        assert torch.equal(learned, again(x))
    assert (learned - wanted).square().mean() < 0.8 * (nearest - wanted).square().mean()
    up = 0
    for name, module in made.named_modules():
        if isinstance(module, q.QuantizedLayer):
            weight, found = module.layer.weight, module.weight_quantizer
            integers, scale = found.integers(weight)
            assert torch.equal(weight, model.get_submodule(name).weight)
            largest = 127 if name in ("conv", "fc") else 3
            assert found.bits == (8 if largest == 127 else 3) and integers.abs().max() <= largest
            exact = weight / scale.view(-1, *[1] * (weight.ndim - 1))
            assert ((integers - exact).abs() < 1 + 1e-4).all()
            up += int((integers != exact.round()).sum())
            real = integers * scale.view(-1, *[1] * (weight.ndim - 1))
            torch.testing.assert_close(found(weight), real)
    assert up > 0


def test_what_rounding_refuses():
    model = network()
    rounded = q.quantize(model, q.Scheme(), images())
    with pytest.raises(ValueError, match="there are no images"):
        q.ada_round(rounded, model, images()[:0])
    with pytest.raises(ValueError, match="no layer has a WeightQuantizer"):
        q.ada_round(q.quantize(model, q.Scheme(learned=True), images()), model, images())


# --- mixed precision ---------------------------------------------------------------------------


def test_bytes_by_hand():
    assert q.weight_bytes(nn.Conv2d(3, 5, 3), 4) == 68 + 20  # 135 weights
    assert q.weight_bytes(nn.Linear(3, 5), 8, per_channel=False) == 15 + 4


def test_damages_are_those_of_one_layer_and_bits_keep_the_budget():
    model = network()
    split = data.Split("toy", images(40), torch.arange(40) % 3)
    found = q.damages(model, split, (8, 4, 2))
    assert list(found) == ["0", "2", "5"] and list(found["0"]) == [8, 4, 2]
    alone = copy.deepcopy(model)
    largest = model[2].weight.detach().abs().flatten(1).amax(1)
    alone[2].weight.data = q.symmetric_quantizer(largest, 2, 0)(model[2].weight.detach())

    def loss(of):
        return F.cross_entropy(training.predict(of, split.images), split.labels).item()

    assert found["2"][2] == pytest.approx(loss(alone) - loss(model), abs=1e-3)
    least = {"0": 4, "2": 2, "5": 2}
    made_up = {name: {8: 0.0, 4: 0.1, 2: 0.1 if least[name] == 2 else 9.0} for name in found}
    sizes = {name: model.get_submodule(name) for name in found}
    cheapest = sum(q.weight_bytes(sizes[n], b) for n, b in least.items())
    assert q.allocate_bits(model, made_up, cheapest) == least
    everything = sum(q.weight_bytes(layer, 8) for layer in sizes.values())
    bits = q.allocate_bits(model, made_up, everything)
    assert set(bits.values()) == {8}
    with pytest.raises(ValueError, match="the cheapest options cost"):
        q.allocate_bits(model, made_up, 10)
    mixed = q.quantize(model, q.Scheme(q.allocate_bits(model, made_up, cheapest), None), images())
    assert [mixed[i].weight_quantizer.bits for i in (0, 2, 5)] == [4, 2, 2]


def test_bits_by_name_are_checked():
    with pytest.raises(ValueError, match="conv is 17; it must be a whole number, 1 to 16"):
        q.Scheme({"conv": 17})
    with pytest.raises(ValueError, match="no step to learn"):
        q.Scheme({"conv": 1}, learned=True)
    with pytest.raises(ValueError, match=r"name all layers and no others; look at \['5', '7'\]"):
        q.quantize(network(), q.Scheme({"0": 8, "2": 8, "7": 8}), images())
