"""slimcnn.sessions: files loaded to run, int8 with exact sums on every processor."""

import types

import numpy as np
import pytest
import torch
from torch import nn

from slimcnn import export, sessions


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_are_whole_and_positive(threads):
    for load in (sessions.onnx_session, sessions.executorch_program):
        with pytest.raises(ValueError, match="a whole number, 1 or more"):
            load(b"", threads)


@pytest.mark.parametrize("saturate", [True, False])
def test_exact_sums_are_asked_for_where_they_would_saturate(saturate, monkeypatch, tmp_path):
    monkeypatch.setattr(sessions, "sums_saturate", lambda: saturate)
    path = export.to_onnx(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "a.onnx")
    options = sessions.onnx_session(path.read_bytes()).get_session_options()
    if saturate:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")


def test_a_processor_that_adds_in_sixteen_bits_is_found_out(monkeypatch):
    class Session:
        """Two products at a time in 16 bits, as x86 without VNNI."""

        def __init__(self, *_, **__): ...

        def run(self, _, feed):
            a, b = feed["a"].astype(np.int64), feed["b"].astype(np.int64)
            pairs = a[:, ::2, None] * b[::2] + a[:, 1::2, None] * b[1::2]
            return [np.clip(pairs, -32768, 32767).sum(1).astype(np.int32)]

    runtime = types.SimpleNamespace(InferenceSession=Session)
    real = sessions.import_runtime
    monkeypatch.setattr(
        sessions, "import_runtime", lambda name: runtime if name == "onnxruntime" else real(name)
    )
    assert sessions.sums_saturate.__wrapped__()
    exact = lambda self, _, feed: [feed["a"].astype(np.int32) @ feed["b"].astype(np.int32)]  # noqa: E731
    monkeypatch.setattr(Session, "run", exact)
    assert not sessions.sums_saturate.__wrapped__()
