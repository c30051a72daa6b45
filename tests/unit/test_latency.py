"""slimcnn.latency: the procedure against a clock of our own; the adapters against eager."""

import copy
import gc
import sys
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from slimcnn import export, latency, sessions
from slimcnn.models import ResNet14, StudentNet


class Clock:
    """Wall and CPU time that pass only when a test says so."""

    def __init__(self):
        self.wall = self.cpu = 0

    def task(self, wall_ms, cpu_ms=None):
        """A callable that takes so many milliseconds, in turn, of wall and of CPU time."""
        wall_ms = [wall_ms] if isinstance(wall_ms, int | float) else list(wall_ms)
        cpu_ms = wall_ms if cpu_ms is None else [cpu_ms]
        calls = iter(range(10**6))

        def run():
            call = next(calls)
            self.wall += round(1e6 * wall_ms[call % len(wall_ms)])
            self.cpu += round(1e6 * cpu_ms[call % len(cpu_ms)])

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "_wall_ns", lambda: clock.wall)
    monkeypatch.setattr(latency, "_cpu_ns", lambda: clock.cpu)
    return clock


def test_real_clocks_by_default():
    assert latency._wall_ns is time.perf_counter_ns
    assert latency._cpu_ns is time.process_time_ns


def test_median_quartiles_and_samples_of_a_known_sequence(clock):
    result = latency.measure({"a": clock.task([7, 1, 4, 2, 3])}, rounds=5, warmup=0)["a"]
    assert result.samples == (7.0, 1.0, 4.0, 2.0, 3.0)
    assert (result.q1, result.median, result.q3) == (2.0, 3.0, 4.0)
    assert result.cpu_wall == 1.0
    assert not result.disturbed
    assert result.threads == 1


def test_quartiles_interpolate_as_numpy_does(clock):
    times = [1.0, 2.0, 4.0, 8.0]
    result = latency.measure({"a": clock.task(times)}, rounds=4, warmup=0)["a"]
    assert (result.q1, result.median, result.q3) == tuple(np.percentile(times, [25, 50, 75]))
    assert (result.q1, result.median, result.q3) == (1.75, 3.0, 5.0)


def test_one_round_is_its_own_quartiles(clock):
    result = latency.measure({"a": clock.task(3)}, rounds=1, warmup=0)["a"]
    assert (result.q1, result.median, result.q3, result.samples) == (3.0, 3.0, 3.0, (3.0,))


def test_warm_up_is_not_counted(clock):
    times = [90, 90, 90, 2, 2, 2, 2]
    result = latency.measure({"a": clock.task(times)}, rounds=4, warmup=3)["a"]
    assert result.samples == (2.0, 2.0, 2.0, 2.0)
    assert result.cpu_wall == 1.0


def test_each_callable_once_a_round_in_varying_order(clock):
    calls = []
    names = ["a", "b", "c"]
    callables = {name: lambda name=name: calls.append(name) for name in names}
    results = latency.measure(callables, rounds=200, warmup=5)
    assert list(results) == names
    assert calls[:15] == ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    rounds = [tuple(calls[i : i + 3]) for i in range(15, len(calls), 3)]
    assert len(rounds) == 200
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) == 6  # every order occurs
    # No callable always follows the same neighbor.
    followed = Counter(pairwise(calls[15:]))
    for name in names:
        before = [followed[other, name] for other in names if other != name]
        assert min(before) > 50


def test_the_orders_are_the_same_every_time(clock):
    def run():
        calls = []
        tasks = {n: lambda n=n: calls.append(n) for n in "abcd"}
        latency.measure(tasks, rounds=20, warmup=0)
        return calls

    assert run() == run()


@pytest.mark.parametrize(
    ("threads", "cpu", "disturbed"),
    [
        (1, 1.0, False),
        (1, 0.9, False),
        (1, 0.89, True),
        (1, 0.0, True),
        (1, 1.1, False),
        (1, 1.11, True),
        (1, 2.0, True),  # the runtime used both cores
        (2, 2.0, False),
        (2, 1.0, False),  # not every operation has work for two
        (2, 2.2, False),
        (2, 2.21, True),
        (2, 0.89, True),
    ],
)
def test_disturbed_by_cpu_time_over_wall_time(clock, threads, cpu, disturbed):
    tasks = {"a": clock.task(10, 10 * cpu)}
    result = latency.measure(tasks, rounds=3, warmup=1, threads=threads)["a"]
    assert result.cpu_wall == pytest.approx(cpu)
    assert result.disturbed is disturbed
    assert result.threads == threads


def test_a_planted_sleep_is_found_and_its_neighbor_is_not(clock):
    work = clock.task(2)

    def sleeper():
        work()
        clock.wall += 4_000_000  # asleep: wall time passes, CPU time does not

    results = latency.measure({"worker": clock.task(2), "sleeper": sleeper}, rounds=9)
    assert results["sleeper"].disturbed
    assert results["sleeper"].cpu_wall == pytest.approx(1 / 3)
    assert results["sleeper"].median == 6.0
    assert not results["worker"].disturbed
    assert results["worker"].median == 2.0


def test_a_clock_too_coarse_to_see_the_calls_counts_as_disturbed(clock):
    result = latency.measure({"a": lambda: None}, rounds=3)["a"]
    assert (result.median, result.cpu_wall, result.disturbed) == (0.0, 0.0, True)


def test_text_of_a_latency():
    plain = latency.Latency(0.5712, 0.5, 12.34, (0.5712,), 1.0, False, 1)
    assert str(plain) == "0.571 ms (0.500 to 12.3)"
    disturbed = latency.Latency(5.0, 4.0, 6.0, (5.0,), 0.61, True, 1)
    assert str(disturbed) == "5.00 ms (4.00 to 6.00, disturbed: CPU/wall 0.61)"


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_settings_hold_inside_and_are_restored(two_threads):
    seen = []

    def look():
        seen.append((torch.get_num_threads(), gc.isenabled()))

    latency.measure({"a": look}, rounds=2, warmup=1, threads=1)
    assert seen == [(1, False)] * 3
    assert (torch.get_num_threads(), gc.isenabled()) == (2, True)
    latency.measure({"a": look}, rounds=1, warmup=0, threads=3)
    assert seen[-1] == (3, False)


@pytest.mark.parametrize("fails_at", [1, 4])  # while warming up, in a round
def test_settings_are_restored_when_a_callable_raises(two_threads, fails_at):
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == fails_at:
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken") as caught:
        latency.measure({"good": lambda: None, "bad": fails}, rounds=5, warmup=2)
    assert caught.value.__notes__ == ["raised while 'bad' was being timed"]
    assert (torch.get_num_threads(), gc.isenabled()) == (2, True)


def test_a_disabled_garbage_collector_stays_disabled():
    gc.disable()
    try:
        latency.measure({"a": lambda: None}, rounds=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("callables", "arguments", "message"),
    [
        ({}, {}, "nothing to measure"),
        ({"a": 3}, {}, "'a' is a int; a function"),
        ({"a": print}, {"rounds": 0}, "rounds is 0; it must be a whole number, 1 or more"),
        ({"a": print}, {"rounds": 2.0}, "rounds is 2.0"),
        ({"a": print}, {"rounds": True}, "rounds is True"),
        ({"a": print}, {"warmup": -1}, "warmup is -1; it must be a whole number, 0 or more"),
        ({"a": print}, {"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(capsys, callables, arguments, message):
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=message):
        latency.measure(callables, **arguments)
    assert capsys.readouterr().out == ""
    assert torch.get_num_threads() == before


def test_thread_limit_nests_and_restores(two_threads):
    with latency.thread_limit(3):
        with latency.thread_limit(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(ValueError, match="threads is 0"), latency.thread_limit(0):
            pass
    assert torch.get_num_threads() == 2


# The adapters.


def trained_like(model, shape):
    """Give batch norms the statistics of real activations, so that logits are not tiny."""
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(32, *shape, generator=generator))
    for norm in norms:
        norm.momentum = 0.1
    return model


@pytest.fixture(scope="module")
def networks():
    """Networks in training mode, an input, and the logits of eager PyTorch."""
    torch.manual_seed(0)
    cases = {}
    for name, model, shape in (
        ("resnet14", ResNet14(), (1, 28, 28)),
        ("student", StudentNet(), (1, 28, 28)),
        ("mobilenet_v2", torchvision.models.mobilenet_v2(num_classes=10), (3, 32, 32)),
    ):
        model = trained_like(model, shape)
        example = torch.randn(2, *shape)
        with torch.no_grad():
            logits = copy.deepcopy(model).eval()(example)
        assert logits.std() > 0.05  # so that a tolerance of 1e-4 can fail
        cases[name] = model, example, logits
    return cases


@pytest.mark.parametrize("name", ["resnet14", "student", "mobilenet_v2"])
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "executorch"])
def test_each_runtime_gives_the_logits_of_eager(networks, name, runtime):
    model, example, logits = networks[name]
    before = copy.deepcopy(model.state_dict())
    run = getattr(latency, runtime)(model, example)
    first, second = run(), run()
    torch.testing.assert_close(first, logits, atol=1e-4 * logits.abs().max().item(), rtol=1e-4)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()  # a later call leaves an earlier result alone
    assert model.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Probe(nn.Module):
    """Notes how it is called."""

    seen: list = []  # noqa: RUF012 - shared with the copies, on purpose

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        channels_last = [
            t.is_contiguous(memory_format=torch.channels_last) for t in (x, self.conv.weight)
        ]
        self.seen.append((self.training, torch.is_inference_mode_enabled(), channels_last))
        return self.conv(x)


@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("wanted", [False, True])
def test_eager_layout_does_not_depend_on_what_was_given(given, wanted):
    model = Probe().to(memory_format=given)
    example = torch.randn(2, 3, 8, 8).to(memory_format=given)
    expected = model(example)
    out = latency.eager(model, example, channels_last=wanted)()
    assert model.seen[-1] == (False, True, [wanted, wanted])
    torch.testing.assert_close(out, expected)
    assert model.training


def test_eager_is_a_copy():
    model = nn.Linear(2, 2)
    run = latency.eager(model, torch.ones(1, 2))
    before = run()
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(run(), before)


def test_files_can_be_given_and_missing_ones_are_named(networks, tmp_path):
    model, example, logits = networks["student"]
    onnx = latency.to_onnx(model, example, tmp_path / "student.onnx")
    for path in (onnx, str(onnx)):
        torch.testing.assert_close(latency.onnxruntime(path, example)(), logits)


@pytest.mark.parametrize(
    "adapter", [latency.onnxruntime, latency.executorch], ids=["onnxruntime", "executorch"]
)
def test_a_missing_file_and_an_impossible_number_of_threads_are_refused(adapter, tmp_path):
    example = torch.zeros(1, 1, 28, 28)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent"):
        adapter(tmp_path / "absent", example)
    with pytest.raises(ValueError, match="threads is 0"):
        adapter(tmp_path / "absent", example, threads=0)


def test_onnx_runtime_is_told_the_threads_and_the_provider(networks, tmp_path, monkeypatch):
    import onnxruntime

    model, example, _ = networks["student"]
    path = latency.to_onnx(model, example, tmp_path / "student.onnx")
    made = []
    real = onnxruntime.InferenceSession

    def spy(content, options, providers):
        made.append((options.intra_op_num_threads, options.inter_op_num_threads, providers))
        return real(content, options, providers=providers)

    monkeypatch.setattr(sessions, "sums_saturate", lambda: False)  # which has a session, too
    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    latency.onnxruntime(path, example)
    latency.onnxruntime(path, example, threads=2)
    assert made == [(1, 1, ["CPUExecutionProvider"]), (2, 1, ["CPUExecutionProvider"])]


def test_the_thread_pool_of_executorch_is_not_replaced_under_a_live_callable(tmp_path):
    from executorch.extension.pybindings import portable_lib as pool

    model, example = nn.Sequential(nn.Linear(3, 2)).eval(), torch.ones(1, 3)
    path = latency.to_executorch(model, example, tmp_path / "linear.pte")
    gc.collect()  # callables of other tests
    run = latency.executorch(path, example)
    assert pool._threadpool_get_thread_count() == 1
    with pytest.raises(RuntimeError, match=r"2 threads are asked .* callable with 1 is alive"):
        latency.executorch(path, example, threads=2)
    assert pool._threadpool_get_thread_count() == 1
    torch.testing.assert_close(run(), model(example).detach())
    del run
    run = latency.executorch(path, example, threads=2)
    assert pool._threadpool_get_thread_count() == 2
    torch.testing.assert_close(run(), model(example).detach())
    del run
    latency.executorch(path, example, threads=1)
    assert pool._threadpool_get_thread_count() == 1


@pytest.mark.parametrize(
    ("adapter", "missing", "install"),
    [
        ("onnxruntime", "onnxruntime", r'pip install "slimcnn\[onnx\]"'),
        ("onnxruntime", "onnx", r'pip install "slimcnn\[onnx\]"'),
        ("executorch", "executorch.runtime", "pip install executorch"),
        ("executorch", "executorch.exir", "pip install executorch"),
    ],
)
def test_a_missing_runtime_says_what_to_install(monkeypatch, adapter, missing, install):
    monkeypatch.setitem(sys.modules, missing, None)  # the import fails
    with pytest.raises(export.MissingRuntimeError, match=install) as caught:
        getattr(latency, adapter)(nn.Linear(2, 2), torch.ones(1, 2))
    assert isinstance(caught.value, ImportError)
    assert f"{missing.split('.')[0]} cannot be imported" in str(caught.value)
