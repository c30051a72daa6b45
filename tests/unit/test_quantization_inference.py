"""Placed quantizers, integers alone, QDQ files: against each other and ONNX Runtime."""

import copy
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn
from torchvision import models as vision

from slimcnn import checkpoints, data, training
from slimcnn import quantization as q
from slimcnn.quantization.placement import is_layer, is_quantizer
from slimcnn.training import Recipe


def images(count=8, size=16, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@cache
def placed(name, scheme=None):
    train = data.load("train").subset(200).images
    folded = q.fold_batch_norm(checkpoints.load(name))
    return q.place_quantizers(q.quantize(folded, scheme or q.Scheme(), train), train)


class Everything(nn.Module):
    """Each operation that integers are known for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.shared = nn.Conv2d(6, 6, 1)
        self.branch = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6()
        self.largest = nn.MaxPool2d(2, ceil_mode=True)
        self.average = nn.AvgPool2d(3, 2, padding=1)
        self.valid = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.uneven = nn.AdaptiveAvgPool2d((3, 2))
        self.dropout, self.flatten = nn.Dropout(0.5), nn.Flatten()
        self.fc = nn.Linear(30 + 4, 5)

    def forward(self, x):
        x = self.relu6(self.first(x))
        y = self.shared(self.relu(self.depthwise(x)))
        y += self.shared(x)
        y = torch.cat([self.largest(y), F.relu(self.branch(y))], 1)
        y = torch.cat([self.average(y), self.valid(y)], dim=1)
        a, b = torch.chunk(y, 2, dim=1)
        a = self.flatten(self.uneven(a.transpose(2, 3).transpose(2, 3)))[:, :30]
        b = b.mean([2, 3])[:, :4]
        return self.fc(self.dropout(torch.cat((a, b.view(b.size(0), -1)), 1)))


class Keywords(nn.Module):
    """The same operations, called in other ways; linear layers on sequences."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding="same", padding_mode="reflect")
        self.other = nn.Conv2d(1, 4, 3, padding=1, groups=1)
        self.rows, self.fc = nn.Linear(16, 6), nn.Linear(6, 3, bias=False)

    def forward(self, x):
        a, b = F.relu(input=self.conv(x)), self.other(x)
        a = torch.add(a, b, alpha=1.7) - a
        a = torch.cat(tensors=(a, b.sub(a)), dim=1)
        y = F.adaptive_avg_pool2d(a, output_size=(4, 16)).flatten(1, 2)  # (B, 32, 16)
        y = torch.relu(self.rows(y))
        return self.fc(y.mean(dim=1)), y.mean(dim=(1, 2), keepdim=True)


def integers_of(network, x):
    """The integers behind each placed quantizer's output, as the network itself has them."""
    found = {}

    class Run(fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if is_quantizer(node):
                quantizer = network.get_submodule(node.target).quantizer()
                found[node.name] = quantizer.quantize(result)
            return result

    with torch.no_grad():
        Run(network).run(x)
    return found


def session(path, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    # Processors without VNNI add two products in 16 bits, which are not enough for all.
    options.add_session_config_entry("session.x64quantprecision", "1")
    content = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(content, options)


def with_outputs(path):
    """The file as bytes, all that is quantized on the way among its outputs."""
    proto = onnx.load(path)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    return proto.SerializeToString()


# --- where quantizers are ----------------------------------------------------------------------


def quantized_names(network):
    return [n.name.removesuffix("_quantized") for n in network.graph.nodes if is_quantizer(n)]


def test_where_quantizers_are_placed():
    network = q.place_quantizers(q.quantize(Everything(), q.Scheme(), images()), images())
    found = quantized_names(network)
    assert found == [
        *("x", "relu6", "relu", "shared", "shared_1", "add", "relu_1"),
        *("cat", "average", "valid", "cat_1", "uneven", "mean", "cat_2"),
    ]
    layers = [m for m in network.modules() if isinstance(m, q.QuantizedLayer)]
    assert all(isinstance(m.input_quantizer, nn.Identity) for m in layers)


def test_readers_keep_their_quantizers_and_share_them():
    quantized = q.quantize(Everything(), q.Scheme(8, 4, ends=None), images())
    first, shared = quantized.depthwise.input_quantizer, quantized.branch.input_quantizer
    network = q.place_quantizers(quantized, images())
    after = network.tensor_quantizers
    assert after.after_relu6.bits == 4 and after.after_shared.bits == 8
    assert after.after_relu6.high == first.high and after.after_add.low == shared.low
    assert quantized.depthwise.input_quantizer is first  # the given one is as it was


def test_folded_batch_norms_leave_no_rounding_and_others_belong_to_their_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    model.eval()
    for given in (model, q.fold_batch_norm(model, (1, 1, 16, 16))):
        network = q.place_quantizers(q.quantize(given, q.Scheme(), images()), images())
        assert len(quantized_names(network)) == 2


def test_sixteen_bits_change_almost_nothing_and_the_given_network_stays():
    model = checkpoints.load("student")
    few = data.load("validation").subset(20).images
    quantized = q.quantize(q.fold_batch_norm(model), q.Scheme(16, 16, ends=None), few)
    before = copy.deepcopy(quantized.state_dict())
    network = q.place_quantizers(quantized, few, bits=16)
    assert all(torch.equal(v, before[k]) for k, v in quantized.state_dict().items())
    with torch.no_grad():
        a, b = model(data.normalize(few)), network(data.normalize(few))
    torch.testing.assert_close(a, b, atol=3e-3, rtol=3e-3)


def test_placed_networks_can_be_trained():
    train = data.Split("toy", images(32), torch.arange(32) % 3)
    network = q.place_quantizers(
        q.quantize(Everything(), q.Scheme(4, 4), train.images), train.images
    )
    recipe = Recipe(epochs=6, batch_size=16, lr=0.05, average=0.0, augmentation=None)
    trained, history = training.fit(network, train, recipe, seed=0, device="cpu", progress=False)
    assert history.loss[-1] < history.loss[0]
    found = trained.tensor_quantizers.after_average
    assert not torch.equal(found.high, network.tensor_quantizers.after_average.high)


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_biases_are_whole_numbers_of_the_sums_unit(weight_bits, per_channel, learned):
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(6 * 64, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)),
    )
    scheme = q.Scheme(
        weight_bits, 2, per_channel=per_channel, learned=learned and weight_bits > 1, ends=None
    )
    quantized = q.quantize(model, scheme, images())
    network = q.place_quantizers(quantized, images(), bits=2)
    x = data.normalize(images(6, seed=1))
    with torch.no_grad():
        real, unrounded = network(x), quantized(x)
    torch.testing.assert_close(q.IntegerNetwork(network, "float")(x), real, atol=1e-5, rtol=1e-5)
    assert (real - unrounded).abs().max() > 1e-3, "the biases of this network matter"
    # straight through: a bias is trained as if it were not rounded
    first = network.get_submodule("0")
    bias = first.layer.bias
    rounded = first.bias_quantizer(bias, first.weight_quantizer, first.layer.weight)
    assert not torch.equal(rounded, bias)
    torch.testing.assert_close(*torch.autograd.grad(rounded.sum(), bias), torch.ones(6))
    assert quantized[0].bias_quantizer is None


def test_a_bias_with_two_units_is_not_rounded():
    network = q.place_quantizers(q.quantize(Everything(), q.Scheme(), images()), images())
    assert network.shared.bias_quantizer is None
    assert network.depthwise.layer.bias is None
    assert network.first.bias_quantizer.input_quantizer is network.tensor_quantizers.after_x


def test_what_placing_refuses():
    class Depends(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="there are no images"):
        q.place_quantizers(q.quantize(Everything(), q.Scheme(), images()), images()[:0])
    with pytest.raises(ValueError, match="Everything has no quantized layer; quantize it first"):
        q.place_quantizers(Everything(), images())
    with pytest.raises(ValueError, match="Depends cannot be traced by"):
        q.place_quantizers(Depends(), images())
    with pytest.raises(ValueError, match="range is 'best'; allowed are 'min-max'"):
        q.place_quantizers(q.quantize(Everything(), q.Scheme(), images()), images(), range="best")


# --- integers alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ["fixed", "float"])
@pytest.mark.parametrize("bits", [8, 4])
def test_each_step_is_that_of_the_simulation(arithmetic, bits):
    model = Everything()
    if bits == 4:  # its bias would have a unit in each of its two calls, both coarse
        model.shared.bias.data.zero_()
    network = q.place_quantizers(
        q.quantize(model, q.Scheme(bits, bits, ends=None), images()), images(), bits=bits
    )
    x = data.normalize(images(6, seed=1))
    expected = integers_of(network, x)
    exact = q.IntegerNetwork(network, arithmetic)
    steps = exact.steps(x, expected)
    for name, integers in expected.items():
        difference = (steps[name] - integers).abs()
        assert difference.max() <= 1, name
        assert (difference > 0).float().mean() <= 0.005, name
    with torch.no_grad():
        real = network(x)
    assert (exact(x) - real).abs().max() <= 0.15 * real.abs().max()


@pytest.mark.parametrize("name", ["resnet14", "student"])
def test_sums_equal_those_of_onnx_runtime_bit_by_bit(name):
    network, x = placed(name), data.normalize(data.load("validation").subset(20).images)
    steps = q.IntegerNetwork(network).steps(x)
    compared = 0
    for node in network.graph.nodes:
        if not is_layer(network, node):
            continue
        module = network.get_submodule(node.target)
        source = node.args[0]
        while not is_quantizer(source):
            source = source.args[0]
        layer, quantizer = module.layer, network.get_submodule(source.target).quantizer()
        weight, scale = module.weight_quantizer.integers(layer.weight)
        inputs = steps[source.name].numpy().astype(np.uint8)
        if isinstance(layer, nn.Linear):
            inputs, weight = inputs.reshape(len(inputs), -1), weight.T
            operation = helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"])
        else:
            operation = helper.make_node(
                "ConvInteger",
                ["x", "w", "z"],
                ["y"],
                pads=[*layer.padding, *layer.padding],
                strides=layer.stride,
                group=layer.groups,
            )
        constants = {"w": weight.numpy().astype(np.int8), "z": np.uint8(quantizer.zero_point)}
        graph = helper.make_graph(
            [operation],
            "sums",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, None)],
            [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        (sums,) = session(proto.SerializeToString()).run(None, {"x": inputs})
        bias = torch.round(layer.bias.double() / (scale.double() * quantizer.scale.double()))
        bias = bias.view(-1, *[1] * (sums.ndim - 2)).detach().numpy()
        assert np.array_equal(sums + bias, steps[node.name].numpy()), node.name
        compared += 1
    assert compared == {"resnet14": 16, "student": 12}[name]


@pytest.mark.parametrize("name", ["resnet14", "student"])
def test_layers_and_predictions_are_those_of_onnx_runtime(name, tmp_path):
    network, split = placed(name), data.load("validation").subset(500)
    x = data.normalize(split.images)
    path = q.to_qdq_onnx(network, x[:1], tmp_path / "network.onnx", dynamic_batch=True)
    (logits,) = session(path).run(None, {"input": x.numpy()})
    exact = {arithmetic: q.IntegerNetwork(network, arithmetic) for arithmetic in ("fixed", "float")}
    for integer in exact.values():
        same = integer(x).argmax(1) == torch.from_numpy(logits).argmax(1)
        assert same.float().mean() >= 0.998
    x = x[:50]
    _, *theirs = session(with_outputs(path)).run(None, {"input": x.numpy()})
    # the last of them is rounded a second time, after flattening
    names = [f"{n}_quantized" for n in quantized_names(network)]
    theirs = dict(zip(names, theirs, strict=False))
    given = {n: torch.from_numpy(v.astype(np.int32)) for n, v in theirs.items()}
    for integer in exact.values():
        steps = integer.steps(x, given)
        for found in names:
            difference = (steps[found] - given[found]).abs()
            assert difference.max() <= 1, found
            assert (difference == 0).float().mean() >= 0.999, found


def test_what_integers_are_not_known_for():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(1, 2, 3), nn.Hardswish()

        def forward(self, x):
            x = self.conv(x)
            return self.conv(self.act(x).mean(1, keepdim=True) * torch.sigmoid(x[:, :1]))

    network = q.place_quantizers(q.quantize(Gate(), q.Scheme(), images()), images())
    with pytest.raises(ValueError, match=r"act \(Hardswish\), sigmoid \(sigmoid\), mul \(mul\)"):
        q.IntegerNetwork(network)
    normed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    network = q.place_quantizers(q.quantize(normed, q.Scheme(), images()), images())
    with pytest.raises(ValueError, match=r"\(BatchNorm2d\); batch norms can be folded"):
        q.IntegerNetwork(network)
    with pytest.raises(TypeError, match="a Gate has no quantizers between its layers; place them"):
        q.IntegerNetwork(Gate())
    with pytest.raises(ValueError, match="arithmetic is 'exact'; allowed are"):
        q.IntegerNetwork(placed("student"), "exact")


@pytest.mark.parametrize("per_channel", [True, False])
def test_operations_with_keywords_and_linear_layers_on_sequences(per_channel, tmp_path):
    scheme = q.Scheme(per_channel=per_channel)
    network = q.place_quantizers(q.quantize(Keywords(), scheme, images()), images())
    x = data.normalize(images(6, seed=1))
    expected = integers_of(network, x)
    steps = q.IntegerNetwork(network).steps(x, expected)
    for name, integers in expected.items():
        difference = (steps[name] - integers).abs()
        assert difference.max() <= 1, name
        assert (difference > 0).float().mean() <= 0.01, name
    with torch.no_grad():
        real = network(x)
    for found, wanted in zip(q.IntegerNetwork(network)(x), real, strict=True):
        torch.testing.assert_close(found, wanted, atol=0.1 * wanted.abs().max().item(), rtol=0)


def test_layers_that_are_not_quantized_stay_in_the_file(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.rows = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(16, 5)
            self.line = nn.Conv1d(32, 3, 3)

        def forward(self, x):
            return self.line(self.rows(self.conv(x)).flatten(1, 2)).flatten(1)

    network = q.place_quantizers(q.quantize(Mixed(), q.Scheme(), images()), images())
    x = data.normalize(images(3, seed=1))
    path = q.to_qdq_onnx(network, x, tmp_path / "mixed.onnx")
    arrays = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    assert sorted(a.size for a in arrays if a.dtype == np.int8 and a.size > 5) == [18, 80]
    (found,) = session(path).run(None, {"input": x.numpy()})
    with torch.no_grad():
        wanted = network(x)
    torch.testing.assert_close(
        torch.from_numpy(found), wanted, atol=0.05 * wanted.abs().max().item(), rtol=0
    )


class InPlace(nn.Module):
    """Operations whose result nobody takes, and a tensor that is read after one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.a(x)
        self.relu(y)
        z = self.b(y)
        F.relu(z, True)
        y.add_(z)
        y = 1 + y - 0.5
        y = self.c(y) + 0
        return y.mean(axis=(2, 3)).view(y.size(0), -1)


def by_onnx_runtime(network, x, path):
    q.to_qdq_onnx(network, x, path)
    return torch.from_numpy(session(path).run(None, {"input": x.numpy()})[0])


def test_what_works_in_place_and_numbers(tmp_path):
    model = InPlace()
    network = q.place_quantizers(q.quantize(model, q.Scheme(), images()), images())
    x = data.normalize(images(6, seed=1))
    with torch.no_grad():
        wanted, simulated = model(x), network(x)
    exact, found = q.IntegerNetwork(network)(x), by_onnx_runtime(network, x, tmp_path / "a.onnx")
    for other in (simulated, exact, found):
        torch.testing.assert_close(other, wanted, atol=0.05 * wanted.abs().max().item(), rtol=0)
    # the size that is asked for is no reason to round the outputs
    assert "mean" not in quantized_names(network)


def test_a_part_has_its_own_range_and_a_pool_the_same(tmp_path):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(2, 2, 1)
            self.last, self.pool = nn.Conv2d(4, 3, 1), nn.MaxPool2d(2)
            with torch.no_grad():
                self.first.weight[:2] *= 20  # which the second layer does not read

        def forward(self, x):
            one, two = self.first(x).chunk(2, 1)
            return self.last(self.pool(torch.cat([one, self.second(two)], 1)))

    model = Halves()
    quantized = q.quantize(model, q.Scheme(8, 6, ends=None), images())
    network = q.place_quantizers(quantized, images())
    x = data.normalize(images(6, seed=1))
    whole = model.first(data.normalize(images())).detach()
    after = network.tensor_quantizers.after_first
    assert after.high.item() == pytest.approx(whole.max().item(), rel=0.01) and after.bits == 6
    assert after.low.item() == pytest.approx(whole.min().item(), rel=0.01)
    pooled = network.tensor_quantizers.after_cat
    assert pooled.high == quantized.last.input_quantizer.high and pooled.bits == 6
    found = by_onnx_runtime(network, x, tmp_path / "halves.onnx")
    with torch.no_grad():
        torch.testing.assert_close(found, network(x), atol=1.0, rtol=0)
        assert (network(x) - model(x)).abs().max() < 0.1 * model(x).abs().max()


def test_dead_channels_have_biases_that_fit(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(588, 3)
    )
    with torch.no_grad():
        model[0].weight[0] *= 1e-8
        model[0].weight[1] = 0
        model[0].bias += 0.3
    x = data.normalize(images(6, seed=1))
    for scheme in (q.Scheme(), q.Scheme(1, 8, ends=None)):
        network = q.place_quantizers(q.quantize(model, scheme, images()), images())
        with torch.no_grad():
            wanted = network(x)
        exact = q.IntegerNetwork(network)(x)
        found = by_onnx_runtime(network, x, tmp_path / "dead.onnx")
        for other in (exact, found):
            torch.testing.assert_close(other, wanted, atol=0.05 * wanted.abs().max().item(), rtol=0)


def test_a_file_of_a_network_with_keywords(tmp_path):
    class First(Keywords):
        def forward(self, x):
            return super().forward(x)[0]

    network = q.place_quantizers(q.quantize(First(), q.Scheme(), images()), images())
    x = data.normalize(images(6, seed=1))
    found = by_onnx_runtime(network, x, tmp_path / "keywords.onnx")
    with torch.no_grad():
        wanted = network(x)
    torch.testing.assert_close(found, wanted, atol=0.1 * wanted.abs().max().item(), rtol=0)


def test_the_first_operation_may_be_a_relu():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3))
    network = q.place_quantizers(q.quantize(model, q.Scheme(), images()), images())
    x = data.normalize(images(6, seed=1))
    with torch.no_grad():
        torch.testing.assert_close(q.IntegerNetwork(network)(x), network(x), atol=0.02, rtol=0)


# --- QDQ files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme",
    [
        q.Scheme(),
        q.Scheme(per_channel=False),
        q.Scheme(4, 4, ends=None),
        q.Scheme(4, 4, learned=True, ends=None),
        q.Scheme(1, 8, ends=None),
        q.Scheme(8, None),
    ],
    ids=str,
)
def test_files_compute_what_the_network_simulates(scheme, tmp_path):
    model = Everything()
    model.shared.bias.data.zero_()  # the simulation would leave it as it is: two units
    network = q.place_quantizers(q.quantize(model, scheme, images()), images())
    x = data.normalize(images(6, seed=1))
    path = q.to_qdq_onnx(network, x, tmp_path / "network.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    with torch.no_grad():
        expected = network(x)
    (plain,) = session(path, "ORT_DISABLE_ALL").run(None, {"input": x.numpy()})
    share = 0.05 if scheme.weight_bits == 8 else 0.1  # a step more or less, on its way
    tolerance = share * expected.abs().max().item()
    torch.testing.assert_close(torch.from_numpy(plain), expected, atol=tolerance, rtol=0)
    (fused,) = session(path).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(fused, plain, atol=tolerance)
    exact = q.IntegerNetwork(network, "float")(x)
    torch.testing.assert_close(torch.from_numpy(fused), exact, atol=tolerance, rtol=0)


def test_files_hold_the_integers_themselves(tmp_path):
    network = placed("student")
    x = torch.zeros(1, 1, 28, 28)
    path = q.to_qdq_onnx(network, x, tmp_path / "network.onnx")
    proto = onnx.load(path)
    arrays = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    stored = [a for a in arrays if a.dtype == np.int8 and a.size > 1 and a.any()]
    layers = [m for m in network.modules() if isinstance(m, q.QuantizedLayer)]
    expected = [m.weight_quantizer.integers(m.layer.weight)[0].numpy() for m in layers]
    assert len(stored) == len(expected) == 12

    def key(array):
        return array.shape, array.astype(np.int8).tobytes()

    for a, b in zip(sorted(stored, key=key), sorted(expected, key=key), strict=True):
        assert np.array_equal(a, b)
    assert sum(a.dtype == np.int32 for a in arrays) == 12  # the biases
    weights = sum(m.layer.weight.numel() for m in layers)
    assert path.stat().st_size < 1.7 * weights
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds >= {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("resnet18", "ORT_ENABLE_ALL"),
        ("densenet121", "ORT_ENABLE_ALL"),
        ("mobilenet_v2", "ORT_ENABLE_ALL"),
        ("squeezenet1_1", "ORT_ENABLE_ALL"),
        # ENABLE_ALL changes its layout, and ONNX Runtime 1.32 computes something else
        ("shufflenet_v2_x0_5", "ORT_ENABLE_EXTENDED"),
        ("mobilenet_v3_small", "ORT_ENABLE_ALL"),
    ],
)
def test_networks_of_torchvision(name, level, tmp_path):
    torch.manual_seed(0)
    model = getattr(vision, name)(num_classes=10).eval()
    calibration = images(4, 64, channels=3)
    folded = q.fold_batch_norm(model, (1, 3, 64, 64))
    network = q.place_quantizers(q.quantize(folded, q.Scheme(), calibration), calibration)
    x = data.normalize(images(2, 64, channels=3, seed=1))
    path = q.to_qdq_onnx(network, x, tmp_path / "network.onnx")
    (logits,) = session(path, level).run(None, {"input": x.numpy()})
    with torch.no_grad():
        expected = network(x)
    tolerance = 0.1 * expected.abs().max().item()
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=tolerance, rtol=0)
    # batch norms that no layer comes before, gates and hard swishes have no rule
    if name not in ("densenet121", "mobilenet_v3_small"):
        exact = q.IntegerNetwork(network)(x)
        torch.testing.assert_close(exact, torch.from_numpy(logits), atol=tolerance, rtol=0)


def test_what_qdq_files_refuse(tmp_path):
    x = torch.zeros(1, 1, 16, 16)
    for scheme, bits in ((q.Scheme(9), 8), (q.Scheme(), 9)):
        network = q.place_quantizers(
            q.quantize(Everything(), scheme, images()), images(), bits=bits
        )
        with pytest.raises(ValueError, match="do not fit 8 bits"):
            q.to_qdq_onnx(network, x, tmp_path / "network.onnx")
    with pytest.raises(TypeError, match="has no quantizers between its layers"):
        q.to_qdq_onnx(Everything(), x, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())
