"""slimcnn.quantization.network: layers by hand, what training learns, what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimcnn import data, masking, training
from slimcnn import quantization as q
from slimcnn.models import StudentNet
from slimcnn.training import Recipe


def images(count=8, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2, padding="same", padding_mode="reflect"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()


def by_hand(model, x, weight_bits, activation_bits, calibration):
    """Each layer with rounded weight and input, ranges from the calibration images."""
    x, seen = data.normalize(x), data.normalize(calibration)
    for module in model:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            largest = module.weight.abs().flatten(1).amax(1)
            weight = q.symmetric_quantizer(largest, weight_bits, 0)(module.weight)
            if activation_bits:
                x = q.affine_quantizer(seen.min(), seen.max(), activation_bits)(x)
            rounded = copy.deepcopy(module)
            rounded.weight.data = weight.detach()
            x = rounded(x)
        else:
            x = module(x)
        seen = module(seen)
    return x


@pytest.mark.parametrize("activation_bits", [None, 8, 4])
@pytest.mark.parametrize("weight_bits", [8, 3])
def test_equals_layers_rounded_by_hand(weight_bits, activation_bits):
    model, calibration, x = network(), images(), images(5, seed=1)
    scheme = q.Scheme(weight_bits, activation_bits, ends=None)
    quantized = q.quantize(model, scheme, calibration)
    with torch.no_grad():
        expected = by_hand(model, x, weight_bits, activation_bits, calibration)
        torch.testing.assert_close(quantized(data.normalize(x)), expected)


def test_a_layer_that_is_used_twice_is_quantized_in_both_places():
    torch.manual_seed(0)
    shared = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.Flatten(), nn.Linear(64, 2))
    calibration = images()
    quantized = q.quantize(model.eval(), q.Scheme(4, 4, ends=None), calibration)
    assert isinstance(quantized[0], q.QuantizedLayer) and quantized[0] is quantized[1][1]
    with torch.no_grad():
        first = data.normalize(calibration)
        second = shared(first).relu()
    found = quantized[0].input_quantizer
    assert found.low == min(first.min(), second.min())
    assert found.high == max(first.max(), second.max())


def test_the_ends_are_those_of_the_computation_and_calls_may_have_keywords():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head, self.unused = nn.Conv2d(4, 2, 1), nn.Linear(3, 3)
            self.stem, self.middle = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.head(input=self.middle(self.stem(x)))

    quantized = q.quantize(HeadFirst(), q.Scheme(4, 3), images())
    named = dict.fromkeys(("head", "unused", "stem", "middle"), 4)
    assert type(q.quantize(HeadFirst(), q.Scheme(named, 3), images()).unused) is nn.Linear
    assert type(quantized.unused) is nn.Linear  # the network might read its weight by itself
    del quantized.unused
    bits = {n: m.weight_quantizer.bits for n, m in quantized.named_children()}
    assert bits == {"head": 8, "stem": 8, "middle": 4}
    assert [m.input_quantizer.bits for m in (quantized.stem, quantized.middle)] == [8, 3]
    quantized(data.normalize(images()))


def test_a_quantizer_of_several_tensors_keeps_its_range_in_training():
    torch.manual_seed(0)
    shared = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.Flatten(), nn.Linear(64, 2))
    quantized = q.quantize(model.eval(), q.Scheme(4, 4, ends=None), images())
    before = quantized[0].input_quantizer.high.clone()
    quantized.train()(3 * data.normalize(images()))
    assert quantized[0].input_quantizer.high == before
    assert quantized[3].input_quantizer.high != 0


def test_names_bits_and_the_ends():
    quantized = q.quantize(network(), q.Scheme(4, 3), images())
    layers = [m for m in quantized.modules() if isinstance(m, q.QuantizedLayer)]
    assert [m.weight_quantizer.bits for m in layers] == [8, 4, 8]
    assert [m.input_quantizer.bits for m in layers] == [8, 3, 8]
    assert [type(m) for m in quantized] == [
        q.QuantizedLayer,
        nn.ReLU,
        q.QuantizedLayer,
        nn.ReLU,
        nn.Flatten,
        q.QuantizedLayer,
    ]
    assert not quantized.training


@pytest.mark.parametrize("name", ["min-max", "percentile", "mse", "kl"])
def test_ranges_are_those_of_the_method(name):
    model, calibration = network(), images(20)
    quantized = q.quantize(model, q.Scheme(8, 8, range=name), calibration)
    seen = F.relu(model[0](data.normalize(calibration))).detach()
    low, high = {
        "min-max": q.min_max_range,
        "percentile": q.percentile_range,
        "mse": lambda x: q.mse_range(x, 8, symmetric=False),
        "kl": lambda x: q.kl_range(x, 8),
    }[name](seen)
    found = quantized[2].input_quantizer
    torch.testing.assert_close(found.low, low)
    torch.testing.assert_close(found.high, high)


@pytest.mark.parametrize("name", ["min-max", "percentile", "mse"])
def test_weights_ranges_are_those_of_the_method(name):
    model = network()
    quantized = q.quantize(model, q.Scheme(3, None, weight_range=name, ends=None), images())
    weight = model[2].weight.detach()
    low, high = {
        "min-max": q.min_max_range(weight, 0),
        "percentile": q.percentile_range(weight, 99.9, 0),
        "mse": q.mse_range(weight, 3, 0),
    }[name]
    expected = q.symmetric_quantizer(torch.maximum(-low, high), 3, 0)
    torch.testing.assert_close(quantized[2].weight_quantizer(weight), expected(weight))


def test_kl_ranges_of_many_bits():
    # So many levels that both ranges must reproduce what the network computes.
    model, few = network(), images(2)
    quantized = q.quantize(model, q.Scheme(16, 13, range="kl", ends=None), few)
    with torch.no_grad():
        expected, found = model(data.normalize(few)), quantized(data.normalize(few))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_nothing_given_is_changed_and_sixteen_bits_lose_almost_nothing():
    model = StudentNet().eval()
    before = copy.deepcopy(model.state_dict())
    few = data.load("validation").subset(20).images
    quantized = q.quantize(model, q.Scheme(16, 16, ends=None), few)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        a, b = model(data.normalize(few)), quantized(data.normalize(few))
    torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "scheme",
    [
        q.Scheme(3, 4),
        q.Scheme(2, 4, learned=True),
        q.Scheme(1, None),
        q.Scheme(4, 4, per_channel=False),
    ],
)
def test_training_through_rounding_lowers_the_loss(scheme):
    train = data.Split("toy", images(48), torch.arange(48) % 3)
    quantized = q.quantize(network(), scheme, train.images)
    recipe = Recipe(epochs=8, batch_size=16, lr=0.05, average=0.0, augmentation=None)
    options = {"seed": 0, "device": "cpu", "progress": False}
    trained, history = training.fit(quantized, train, recipe, **options)
    assert history.loss[-1] < history.loss[0] - 0.02
    before, after = quantized[2].layer.weight, trained[2].layer.weight
    assert not torch.equal(before, after)
    if scheme.learned:
        moved = [
            not torch.equal(a, b)
            for (name, a), b in zip(quantized.named_parameters(), trained.parameters(), strict=True)
            if name.endswith("step")
        ]
        assert len(moved) == 6 and all(moved)
    bits = trained[2].weight_quantizer(after)
    assert bits.detach().unique().numel() <= 4 * 2**scheme.weight_bits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_bits": 0}, "weight_bits is 0; it must be a whole number, 1 to 16"),
        ({"weight_bits": None}, "weight_bits is None"),
        ({"weight_bits": 4.0}, "weight_bits is 4.0"),
        ({"activation_bits": 1}, "activation_bits is 1; it must be a whole number, 2 to 16"),
        ({"ends": 17}, "ends is 17"),
        ({"range": "best"}, "range is 'best'; allowed are 'min-max', 'percentile', 'mse', 'kl'"),
        ({"weight_range": "kl"}, "weight_range is 'kl'; allowed are 'min-max', 'percentile', 'm"),
        ({"weight_bits": 1, "learned": True}, "no step to learn"),
    ],
)
def test_schemes_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        q.Scheme(**arguments)


def test_what_quantize_refuses():
    with pytest.raises(ValueError, match="there are no images"):
        q.quantize(network(), q.Scheme(), images()[:0])
    with pytest.raises(ValueError, match="is a layer itself; put it into"):
        q.quantize(nn.Conv2d(1, 2, 3), q.Scheme(), images())
    with pytest.raises(ValueError, match="ReLU has no convolution and no linear layer"):
        q.quantize(nn.ReLU(), q.Scheme(), images())
    masked = masking.apply_masks(network(), {"0.weight": torch.ones(4, 1, 3, 3).bool()})
    with pytest.raises(ValueError, match="weight of '0' is computed from other tensors"):
        q.quantize(masked, q.Scheme(), images())
    hooked = network()
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="'0' has hooks, which would be lost; remove them"):
        q.quantize(hooked, q.Scheme(), images())


def test_a_layer_whose_weight_the_network_reads_itself_stays():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.read, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(F.linear(self.conv(x).mean((2, 3)), self.read.weight))

    model = Reads().eval()
    made = q.quantize(model, q.Scheme(), images())
    assert type(made.read) is nn.Linear and isinstance(made.fc, q.QuantizedLayer)
    x = data.normalize(images())
    torch.testing.assert_close(made(x), model(x), atol=0.05, rtol=0.05)
