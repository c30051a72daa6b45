"""slimcnn.deploy: every runtime computes what the network computes, and says what it cannot."""

import copy
import os
import sys

import pytest
import torch
import torchvision
from torch import nn

from slimcnn import deploy
from slimcnn.deploy import openvino_cpu, runtime
from slimcnn.export import MissingRuntimeError

COMPUTING = [r for r in deploy.RUNTIMES.values() if r.name != "Core ML"]
FLOATS = ["float32", "float32"]
WITH_INT8 = [r for r in COMPUTING if r.quantizes]


def named(adapter):
    return adapter.name


class Small(nn.Module):
    """Colors, a stride, a depthwise layer, a shortcut, batch norms that do something."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last_relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        x = self.last_relu(x + self.depthwise(x))
        return self.fc(torch.flatten(self.pool(x), 1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = Small()
    with torch.no_grad():
        for tensor in (network.norm.weight, network.norm.running_var):
            tensor.uniform_(0.5, 2.0)
        for tensor in (network.norm.bias, network.norm.running_mean):
            tensor.normal_()
    return network.eval()


@pytest.fixture(scope="module")
def inputs():
    """Pictures in which channels differ, so that their order matters."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 3, 16, 16, generator=generator) + torch.tensor([1.0, 0.0, -1.0]).view(
        3, 1, 1
    )


@pytest.fixture(scope="module")
def exported(model, inputs, tmp_path_factory):
    """The file of each runtime, written once."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        name: adapter.export(model, inputs, folder / f"small{adapter.suffix}")
        for name, adapter in deploy.RUNTIMES.items()
    }


@pytest.mark.parametrize("adapter", COMPUTING, ids=named)
def test_the_file_computes_what_the_network_computes(adapter, model, inputs, exported):
    program = adapter.load(exported[adapter.name])
    found = deploy.parity(model, program, inputs).require()
    assert found.error < 1e-5  # the order of sums
    assert program(inputs).dtype == torch.float32


@pytest.mark.parametrize("adapter", COMPUTING, ids=named)
@pytest.mark.parametrize("network", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_networks_of_others(network, adapter, tmp_path):
    torch.manual_seed(0)
    foreign = torchvision.models.get_model(network, weights=None, num_classes=7).eval()
    x = torch.randn(3, 3, 64, 64)
    path = adapter.export(foreign, x, tmp_path / f"foreign{adapter.suffix}")
    program = adapter.load(path)
    deploy.parity(foreign, program, x).require()
    assert not deploy.parity(foreign, lambda x: program(x.flip(1)), x).passed


@pytest.mark.parametrize("adapter", COMPUTING, ids=named)
def test_inputs_are_computed_one_by_one_and_results_stay(adapter, inputs, exported):
    program = adapter.load(exported[adapter.name])
    first = program(inputs[:1])
    kept = first.clone()
    together = program(inputs[:3])
    assert torch.equal(first, kept)  # a runtime may reuse its memory
    singles = torch.cat([program(single) for single in inputs[:3].split(1)])
    assert torch.equal(together, singles)
    strided = inputs[:1].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(program(strided), kept)


@pytest.mark.parametrize("adapter", COMPUTING, ids=named)
def test_a_wrong_batch_is_refused(adapter, inputs, exported):
    program = adapter.load(exported[adapter.name])
    with pytest.raises(ValueError, match="give a batch"):
        program(inputs[:0])


@pytest.mark.parametrize("adapter", WITH_INT8, ids=named)
def test_int8_files_are_small_and_near(adapter, model, inputs, exported, tmp_path):
    path = adapter.quantize(model, inputs, tmp_path / f"int8{adapter.suffix}")
    program = adapter.load(path)
    expected, found = model(inputs).detach(), program(inputs)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.1  # it is rounded, and not by much
    ends = adapter.describe(path)
    assert [end.type for end in ends] == (["int8"] * 2 if adapter.name == "LiteRT" else FLOATS)


def test_scale_and_zero_point_are_those_that_an_app_has_to_use(model, inputs, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    adapter = deploy.RUNTIMES["LiteRT"]
    path = adapter.quantize(model, inputs, tmp_path / "int8.tflite")
    into, out = adapter.describe(path)
    stored = (inputs[:1].permute(0, 2, 3, 1) / into.scale).round() + into.zero_point
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], stored.to(torch.int8))
    interpreter.invoke()
    answer = torch.tensor(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    real = (answer.float() - out.zero_point) * out.scale
    torch.testing.assert_close(real, adapter.load(path)(inputs[:1]))


@pytest.mark.parametrize("adapter", deploy.RUNTIMES.values(), ids=named)
def test_ends_are_described_as_the_file_has_them(adapter, exported):
    into, out = adapter.describe(exported[adapter.name])
    shapes = {"LiteRT": ((1, 16, 16, 3), (1, 5)), "ncnn": (None, None)}
    assert (into.shape, out.shape) == shapes.get(adapter.name, ((1, 3, 16, 16), (1, 5)))
    names = {"LiteRT": None, "ncnn": ("in0", "out0"), "ExecuTorch": (None, None)}
    expected = names.get(adapter.name, ("input", "logits"))
    assert expected is None or (into.name, out.name) == expected
    assert [into.type, out.type] == FLOATS
    assert (into.scale, out.zero_point) == (None, None)


def test_the_layout_is_that_of_the_file(exported):
    from ai_edge_litert.interpreter import Interpreter

    assert {r.name for r in deploy.RUNTIMES.values() if r.layout != "NCHW"} == {"LiteRT"}
    details = Interpreter(model_path=str(exported["LiteRT"])).get_input_details()
    assert details[0]["shape"].tolist() == [1, 16, 16, 3]  # NHWC


def test_int8_weights_of_core_ml_take_a_quarter(tmp_path):
    wide = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3)).eval()
    adapter, example = deploy.RUNTIMES["Core ML"], torch.randn(1, 1, 12, 12)
    full = adapter.export(wide, example, tmp_path / "full.mlpackage")
    int8 = adapter.quantize(wide, example, tmp_path / "int8.mlpackage")
    assert adapter.size(int8) < 0.35 * adapter.size(full)


def test_core_ml_files_have_named_inputs_of_the_right_shape(exported):
    import coremltools

    description = (
        coremltools.models.MLModel(str(exported["Core ML"]), skip_model_load=True)
        .get_spec()
        .description
    )
    assert [i.name for i in description.input] == ["input"]
    assert list(description.input[0].type.multiArrayType.shape) == [1, 3, 16, 16]
    assert [o.name for o in description.output] == ["logits"]


def test_core_ml_computes_on_a_mac_alone(monkeypatch, exported):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(deploy.UnsupportedError, match="macOS"):
        deploy.RUNTIMES["Core ML"].load(exported["Core ML"])


def test_ncnn_says_that_its_wheels_cannot_quantize(model, inputs, tmp_path):
    adapter = deploy.RUNTIMES["ncnn"]
    assert not adapter.quantizes
    with pytest.raises(deploy.UnsupportedError, match="ncnn2int8"):
        adapter.quantize(model, inputs, tmp_path / "a.ncnn.param")


@pytest.mark.parametrize("adapter", deploy.RUNTIMES.values(), ids=named)
def test_all_bytes_are_counted(adapter, exported):
    path = exported[adapter.name]
    files = adapter.files(path)
    assert files and all(file.is_file() for file in files)
    assert adapter.size(path) == sum(len(file.read_bytes()) for file in files)
    stem = path.name.removesuffix(adapter.suffix)
    beside = [p for p in path.parent.rglob("*") if p.is_file() and p.name.startswith(stem + ".")]
    mine = [p for p in beside if adapter.suffix.split(".")[1] in p.name or p.suffix == ".bin"]
    if len(files) > 1 and path.is_file():
        assert set(files) <= set(mine)


@pytest.mark.parametrize("adapter", deploy.RUNTIMES.values(), ids=named)
def test_the_model_stays_as_it_was(adapter, model, inputs, tmp_path):
    trained = copy.deepcopy(model).train()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    path = adapter.export(trained, inputs, tmp_path / f"a{adapter.suffix}")
    assert trained.training and trained.norm.training
    assert all(torch.equal(before[name], t) for name, t in trained.state_dict().items())
    if adapter in COMPUTING:  # what was exported is in eval mode all the same
        deploy.parity(model, adapter.load(path), inputs).require()


@pytest.mark.parametrize("adapter", deploy.RUNTIMES.values(), ids=named)
def test_names_and_folders_are_checked_first(adapter, model, inputs, tmp_path):
    with pytest.raises(FileNotFoundError, match="create it first"):
        adapter.export(model, inputs, tmp_path / "nowhere" / f"a{adapter.suffix}")
    with pytest.raises(ValueError, match=f"must end in {adapter.suffix}"):
        adapter.export(model, inputs, tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="does not exist; write it with"):
        adapter.load(tmp_path / f"a{adapter.suffix}")
    with pytest.raises(ValueError, match="give a batch"):
        adapter.export(model, inputs[:0], tmp_path / f"a{adapter.suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("companion", ["OpenVINO", "ncnn"])
def test_a_missing_second_file_is_named(companion, model, inputs, tmp_path):
    adapter = deploy.RUNTIMES[companion]
    path = adapter.export(model, inputs, tmp_path / f"a{adapter.suffix}")
    second = adapter.files(path)[1]
    second.unlink()
    with pytest.raises(FileNotFoundError, match=second.name):
        adapter.load(path)


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("ONNX Runtime", "onnx", r"slimcnn\[onnx\]"),
        ("ExecuTorch", "executorch.exir", "executorch"),
        ("LiteRT", "litert_torch", r"slimcnn\[litert\]"),
        ("OpenVINO", "openvino", r"slimcnn\[openvino\]"),
        ("ncnn", "pnnx", r"slimcnn\[ncnn\]"),
        ("Core ML", "coremltools", r"slimcnn\[coreml\]"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    name, module, install, monkeypatch, model, inputs, tmp_path
):
    monkeypatch.setitem(sys.modules, module, None)
    adapter = deploy.RUNTIMES[name]
    with pytest.raises(MissingRuntimeError, match=install):
        adapter.export(model, inputs, tmp_path / f"a{adapter.suffix}")
    assert list(tmp_path.iterdir()) == []


def test_reports_are_turned_off_and_the_environment_restored(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("NNCF_CI", "before")
    with pytest.raises(KeyError), openvino_cpu._unreported():
        assert (os.environ["CI"], os.environ["NNCF_CI"]) == ("true", "1")
        raise KeyError
    assert "CI" not in os.environ and os.environ["NNCF_CI"] == "before"


def test_litert_shows_no_progress(monkeypatch, model, inputs, tmp_path):
    import litert_torch

    shown = []
    monkeypatch.setattr(litert_torch.progress.console, "print", lambda text: shown.append(text))
    monkeypatch.setenv("LITERT_TORCH_SHOW_PROGRESS", "y")
    deploy.RUNTIMES["LiteRT"].export(model, inputs, tmp_path / "a.tflite")
    assert shown == [] and os.environ["LITERT_TORCH_SHOW_PROGRESS"] == "y"


def test_the_example_of_an_export_is_one_input():
    assert runtime.single(torch.ones(3, 2, dtype=torch.float64)).shape == (1, 2)
    with pytest.raises(ValueError, match="list"):
        runtime.single([1.0])
