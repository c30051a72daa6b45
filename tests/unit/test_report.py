"""slimcnn.report: a model's record, and the trade-off figure."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from slimcnn import metrics, plotting, provenance, report
from slimcnn.data import Split
from slimcnn.latency import Latency
from slimcnn.record import Record, RecordedLatency, RecordError

LATENCY = RecordedLatency(0.5, 0.4, 0.7, 0.98, False, 50, 1, "onnxruntime", "A CPU")
PROVENANCE = {
    "command": "c",
    "commit": None,
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3", "torch": "2", "slimcnn": "0"},
    "hardware": {"cpu": "cpu", "cores": 2, "threads": 1},
}
DENSE = Record(
    *("resnet14", "dense", 0, "final", "test", 94.0, 700_000, 700_000, 22_000_000, 2_800_000),
    latency=LATENCY,
    provenance=PROVENANCE,
)


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 6), dtype=torch.uint8, generator=generator)
    return Split("validation[40]", images, torch.arange(40) % 10)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)
    )
    with torch.no_grad():
        model[0].weight[0] = 0
    return model


def test_measure_model_by_hand(model, split, tmp_path):
    made = report.measure_model(
        model,
        name="tiny",
        technique="masked",
        seed=3,
        split=split,
        stage="screen",
        settings={"sparsity": 0.25},
        command="python scripts/tiny.py",
    )
    assert (made.model, made.technique, made.seed) == ("tiny", "masked", 3)
    assert (made.stage, made.split) == ("screen", "validation[40]")
    assert made.settings == {"sparsity": 0.25}
    assert made.parameters == 4 * 9 + 960 + 10
    assert made.nonzeros == 3 * 9 + 960 + 10
    assert made.macs == 4 * 9 * 6 * 4 + 960  # one image of 8 x 6 pixels
    with torch.no_grad():
        normal = (split.images.float() / 255 - 0.2860) / 0.3530
        right = (model(normal).argmax(1) == split.labels).sum().item()
    assert made.accuracy == pytest.approx(100 * right / 40)
    assert made.bytes == metrics.saved_bytes(model)
    assert made.latency is None
    assert made.provenance["command"] == "python scripts/tiny.py"

    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"x" * 1234)
    again = report.measure_model(
        model, name="tiny", technique="masked", seed=3, split=split, path=path
    )
    assert (again.bytes, again.stage, again.settings) == (1234, "final", {})


def test_measure_model_keeps_the_latency(model, split):
    arguments = {"name": "tiny", "technique": "dense", "seed": 0, "split": split}
    timed = Latency(2.0, 1.0, 4.0, (1.0, 2.0, 4.0), 0.5, True, 2)
    made = report.measure_model(model, **arguments, latency=timed, runtime="executorch")
    assert made.latency == RecordedLatency(
        2.0, 1.0, 4.0, 0.5, True, 3, 2, "executorch", provenance.cpu_name()
    )
    for wrong in ({"latency": timed}, {"runtime": "eager"}):
        with pytest.raises(RecordError, match="latency and runtime belong together"):
            report.measure_model(model, **arguments, **wrong)


def test_measure_model_leaves_the_model_alone(split):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report.measure_model(model, name="m", technique="dense", seed=0, split=split)
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_measure_model_refuses(model, split, tmp_path):
    arguments = {"name": "tiny", "technique": "dense", "seed": 0, "split": split}
    with pytest.raises(RecordError, match="stage is 'draft'; allowed"):
        report.measure_model(model, **arguments, stage="draft")
    with pytest.raises(FileNotFoundError):
        report.measure_model(model, **arguments, path=tmp_path / "absent")


# The figure.


def several():
    """Two seeds of three recipes: (size, accuracies) as below."""
    recipes = [
        ("resnet14", "dense", {}, 2_800_000, (94.0, 94.2)),
        ("resnet14", "pruning", {"sparsity": 0.5}, 1_400_000, (93.0, 93.4)),
        ("resnet14", "pruning", {"sparsity": 0.9}, 300_000, (93.2, 93.6)),
    ]
    return [
        replace(
            DENSE,
            model=model,
            technique=technique,
            settings=settings,
            bytes=size,
            accuracy=accuracy,
            seed=seed,
        )
        for model, technique, settings, size, accuracies in recipes
        for seed, accuracy in enumerate(accuracies)
    ]


def drawn(figure):
    """Points by technique: x, y and half the height of the error bars."""
    points = {}
    for bars in figure.axes[0].containers:
        line, _, (*_, vertical) = bars
        heights = [(s[1][1] - s[0][1]) / 2 for s in vertical.get_segments()]
        points[bars.get_label()] = (*np.array(line.get_data(), float), heights)
    return points


def test_tradeoff_draws_means_deviations_and_the_front():
    figure = report.tradeoff(several(), title="Pruning")
    (axes,) = figure.axes
    points = drawn(figure)
    assert list(points) == ["dense", "pruning"]
    np.testing.assert_allclose(points["dense"][:2], [[2800], [94.1]])
    np.testing.assert_allclose(points["pruning"][:2], [[1400, 300], [93.2, 93.4]])
    np.testing.assert_allclose(points["dense"][2], [np.std([94.0, 94.2], ddof=1)])
    np.testing.assert_allclose(points["pruning"][2], [np.std([93.0, 93.4], ddof=1)] * 2)
    (front,) = [line for line in axes.lines if line.get_label() == "Pareto front"]
    # Sparsity 0.5 is beaten by 0.9, so the step goes from 0.9 to the dense network.
    np.testing.assert_allclose(front.get_xdata(), [300, 2800, 2800, axes.get_xlim()[1]])
    np.testing.assert_allclose(front.get_ydata(), [93.4, 93.4, 94.1, 94.1])
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "size of the file (kB), log scale"
    assert axes.get_ylabel() == "accuracy, test split (%)"
    assert axes.get_title(loc="left") == "Pruning"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["dense", "pruning", "Pareto front"]
    assert [text.get_text() for text in axes.texts] == ["sparsity 0.5", "sparsity 0.9"]
    assert len(plotting.figure_bytes(figure)) < 60_000


@pytest.mark.parametrize(
    ("cost", "x", "label"),
    [
        ("bytes", 2800, "size of the file (kB), log scale"),
        ("macs", 22, "multiply-accumulates for one image (millions), log scale"),
        ("parameters", 700, "parameters (thousands), log scale"),
        ("nonzeros", 350, "non-zero parameters (thousands), log scale"),
        ("latency", 0.5, "latency (ms), onnxruntime, 1 thread, A CPU, log scale"),
    ],
)
def test_each_cost_has_its_unit(cost, x, label):
    figure = report.tradeoff([replace(DENSE, nonzeros=350_000)], cost)
    assert drawn(figure)["dense"][0] == pytest.approx([x])
    assert figure.axes[0].get_xlabel() == label


def test_latency_has_its_quartiles():
    figure = report.tradeoff([DENSE], "latency")
    _, _, (horizontal, _) = figure.axes[0].containers[0]
    np.testing.assert_allclose(horizontal.get_segments()[0], [[0.4, 94.0], [0.7, 94.0]])


def test_models_are_named_only_if_there_are_several():
    records = [*several()[:2], replace(DENSE, model="student", bytes=200_000, accuracy=92.5)]
    figure = report.tradeoff(records)
    assert [text.get_text() for text in figure.axes[0].texts] == ["resnet14", "student"]
    figure = report.tradeoff(records, label=lambda row: f"{row.accuracy:.1f}")
    assert [text.get_text() for text in figure.axes[0].texts] == ["94.1", "92.5"]


def test_screens_say_so():
    figure = report.tradeoff([replace(DENSE, stage="screen", split="validation")])
    assert figure.axes[0].get_ylabel() == "accuracy, validation split (a screen) (%)"


def test_techniques_differ_in_color_and_marker_and_a_baseline_is_a_black_star():
    records = [replace(DENSE, technique=f"t{i}", bytes=1000 * (i + 1)) for i in range(6)]
    figure = report.tradeoff([*records, DENSE])
    lines = [bars[0] for bars in figure.axes[0].containers]
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == 7
    assert (lines[-1].get_color(), lines[-1].get_marker()) == ("black", "*")
    assert len({color for color, _ in looks}) == 7


def test_ticks_are_plain_numbers():
    figure = report.tradeoff(several())
    figure.draw_without_rendering()
    axes = figure.axes[0]
    shown = [t.get_text() for t in axes.get_xticklabels() if t.get_text()]
    assert {"500", "1,000", "2,000"} <= set(shown)
    wide = [replace(DENSE, bytes=10**n, model=f"m{n}") for n in (3, 6)]
    axes = report.tradeoff(wide).axes[0]
    axes.figure.draw_without_rendering()
    assert {"1", "10", "100", "1,000"} <= {t.get_text() for t in axes.get_xticklabels()}


def test_the_figure_is_closed_and_the_callers_style_is_left_alone():
    before, open_before = dict(mpl.rcParams), plt.get_fignums()
    figure = report.tradeoff(several())
    assert plt.get_fignums() == open_before
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches().tolist() == [6.4, 3.6]
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("records", "cost", "error", "message"),
    [
        ([DENSE], "flops", ValueError, "cost is 'flops'; allowed are bytes, macs, latency"),
        ([], "bytes", RecordError, "no records"),
        ([DENSE, replace(DENSE, seed=1, stage="screen")], "bytes", RecordError, "screens"),
        ([replace(DENSE, macs=0)], "macs", RecordError, "resnet14, dense, {}: macs is 0"),
        ([replace(DENSE, latency=None)], "latency", RecordError, "latency is None"),
        (
            [DENSE, replace(DENSE, model="b", latency=replace(LATENCY, runtime="eager"))],
            "latency",
            RecordError,
            "latencies come from eager, 1 thread, A CPU and onnxruntime, 1 thread",
        ),
    ],
)
def test_what_cannot_be_drawn(records, cost, error, message):
    open_before = plt.get_fignums()
    with pytest.raises(error, match=message):
        report.tradeoff(records, cost)
    assert plt.get_fignums() == open_before


def test_a_disturbed_latency_is_marked():
    figure = report.tradeoff([replace(DENSE, latency=replace(LATENCY, disturbed=True))], "latency")
    assert "A CPU, partly disturbed" in figure.axes[0].get_xlabel()


def test_everything_a_lesson_needs_is_here():
    for name in report.__all__:
        assert hasattr(report, name)
