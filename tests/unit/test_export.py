"""slimcnn.export: one file, the right names, no trace of the machine, silence."""

import copy
import logging
import os
import sys
import warnings

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slimcnn import export


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def logits_of(model, images):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    model, example = small(), torch.randn(1, 1, 12, 12)
    fixed = export.to_onnx(model, example, folder / "fixed.onnx")
    dynamic = export.to_onnx(model, example, str(folder / "dynamic.onnx"), dynamic_batch=True)
    return model, fixed, dynamic


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_one_onnx_file_with_the_agreed_names(onnx_files):
    model, fixed, dynamic = onnx_files
    assert sorted(p.name for p in fixed.parent.iterdir()) == ["dynamic.onnx", "fixed.onnx"]
    assert model.training
    onnx.checker.check_model(onnx.load(fixed), full_check=True)
    for path, batch in ((fixed, 1), (dynamic, "batch")):
        (given,), (returned,) = session(path).get_inputs(), session(path).get_outputs()
        assert (given.name, given.shape) == ("input", [batch, 1, 12, 12])
        assert (returned.name, returned.shape) == ("logits", [batch, 10])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_dynamic_batch_takes_any_size(onnx_files, count):
    model, _, dynamic = onnx_files
    images = torch.randn(count, 1, 12, 12)
    (logits,) = session(dynamic).run(None, {"input": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), logits_of(model, images))


def test_a_fixed_batch_takes_no_other(onnx_files):
    _, fixed, _ = onnx_files
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        session(fixed).run(None, {"input": torch.randn(2, 1, 12, 12).numpy()})


def test_batch_norm_is_folded_and_weights_are_inside(onnx_files):
    model, fixed, _ = onnx_files
    graph = onnx.load(fixed, load_external_data=False).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert weights < fixed.stat().st_size < weights + 4_000


def test_no_notes_of_the_exporter_stay_in_the_file(onnx_files):
    _, fixed, _ = onnx_files
    content = fixed.read_bytes()
    root = os.path.dirname(os.path.dirname(os.path.abspath(export.__file__)))
    for trace in (root, sys.prefix, "stack_trace", "pkg.torch", "forward"):
        assert trace.encode() not in content


@pytest.mark.parametrize("batch", [1, "batch"])
def test_what_an_older_torch_exports_computes_the_same(monkeypatch, tmp_path, batch):
    """torch 2.6 takes the TorchScript-based exporter, which is here, too."""
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.6.0"))
    model, images = small(), torch.randn(1, 1, 12, 12)
    path = export.to_onnx(model, images, tmp_path / "old.onnx", dynamic_batch=batch == "batch")
    (given,), (returned,) = session(path).get_inputs(), session(path).get_outputs()
    assert (given.name, given.shape) == ("input", [batch, 1, 12, 12])
    assert (returned.name, returned.shape[0]) == ("logits", batch)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
    (logits,) = session(path).run(None, {"input": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), logits_of(model, images))


def test_the_same_network_gives_the_same_file(onnx_files, tmp_path):
    _, fixed, _ = onnx_files
    again = export.to_onnx(small(), torch.randn(1, 1, 12, 12), tmp_path / "again.onnx")
    assert again.read_bytes() == fixed.read_bytes()


def test_executorch_program(tmp_path):
    model = small()
    path = export.to_executorch(model, torch.randn(1, 1, 12, 12), tmp_path / "small.pte")
    assert path == tmp_path / "small.pte"
    assert [p.name for p in tmp_path.iterdir()] == ["small.pte"]
    content = path.read_bytes()
    assert content[4:6] == b"ET"  # the format's identifier
    assert b"XnnpackBackend" in content
    assert len(content) > 4 * sum(p.numel() for p in model.parameters())
    assert sys.prefix.encode() not in content
    assert model.training


@pytest.mark.parametrize("exporter", [export.to_onnx, export.to_executorch])
def test_nothing_is_said(exporter, tmp_path, capfd, caplog):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exporter(nn.Sequential(nn.Linear(3, 2)), torch.ones(1, 3), tmp_path / "file")
    assert [str(w.message) for w in caught] == []
    # PyTorch's structured trace goes to a file, and only if one is asked for.
    assert [r.getMessage() for r in caplog.records if r.name != "torch.__trace"] == []
    assert capfd.readouterr() == ("", "")


class Fails(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("in the forward")


@pytest.mark.parametrize("exporter", [export.to_onnx, export.to_executorch])
def test_a_failed_export_leaves_the_old_file(exporter, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with pytest.raises(Exception, match=r"forward|export"):
        exporter(Fails(), torch.ones(1, 3), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("exporter", [export.to_onnx, export.to_executorch])
def test_wrong_arguments(exporter, tmp_path):
    model = nn.Linear(3, 2)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; create it"):
        exporter(model, torch.ones(1, 3), tmp_path / "nowhere" / "file")
    for example in (torch.ones(3), torch.ones(0, 3), [1.0]):
        with pytest.raises(ValueError, match="give an input batch"):
            exporter(model, example, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("exporter", "missing", "message"),
    [
        (export.to_onnx, "onnx", r'onnx cannot .* pip install "slimcnn\[onnx\]"'),
        (export.to_onnx, "onnxscript", r'onnxscript cannot .* pip install "slimcnn\[onnx\]"'),
        (export.to_executorch, "executorch.exir", "executorch cannot .* pip install executorch"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, exporter, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(export.MissingRuntimeError, match=message):
        exporter(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_package_is_named_too():
    with pytest.raises(export.MissingRuntimeError, match="pip install no_such_runtime"):
        export.import_runtime("no_such_runtime.part")


def test_silence_covers_every_channel_and_ends(capfd, caplog):
    def speak(word):
        print(word)
        os.write(2, word.encode())  # as C++ code does
        logging.getLogger("somebody").error(word)
        warnings.warn(word, stacklevel=2)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with export.silence():
            speak("hidden")
        with pytest.raises(ZeroDivisionError), export.silence():
            raise ZeroDivisionError
        speak("seen")
    assert [str(w.message) for w in caught] == ["seen"]
    assert caplog.messages == ["seen"]
    assert capfd.readouterr() == ("seen\n", "seen")


def test_silence_restores_a_log_level_that_was_disabled_before():
    logging.disable(logging.INFO)
    try:
        with export.silence():
            assert logging.root.manager.disable == logging.CRITICAL
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)


def test_inference_copy():
    model = small().to(memory_format=torch.channels_last)
    clone = export.inference_copy(model)
    assert not any(module.training for module in clone.modules())
    assert all(module.training for module in model.modules())
    assert clone[0].weight.is_contiguous()
    assert clone[0].weight.data_ptr() != model[0].weight.data_ptr()
    torch.testing.assert_close(clone.state_dict(), model.state_dict(), rtol=0, atol=0)
