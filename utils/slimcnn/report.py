"""From a model to its record, from records to the table and figure that end every chapter.

`measure_model` makes one record; `table` and `tradeoff` show what came out of many, seeds
joined by `summarize`. What a lesson needs of records is importable from here.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from torch import nn

from slimcnn import plotting
from slimcnn.data import Split
from slimcnn.latency import Latency
from slimcnn.provenance import cpu_name, provenance
from slimcnn.record import (
    Record,
    RecordedLatency,
    RecordError,
    append_record,
    load_records,
    save_records,
)
from slimcnn.stored import load_predictions, weights_path
from slimcnn.summary import Summary, pareto_front, summarize, varying_settings
from slimcnn.table import Table, describe, joined, table
from slimcnn.training import evaluate

__all__ = [
    "Record",
    "RecordError",
    "RecordedLatency",
    "Summary",
    "Table",
    "append_record",
    "load_predictions",
    "load_records",
    "measure_model",
    "pareto_front",
    "provenance",
    "save_records",
    "summarize",
    "table",
    "tradeoff",
    "weights_path",
]

# Techniques that mean "nothing was done": black circles in every figure.
_BASELINES = ("dense", "baseline", "none")


def measure_model(
    model: nn.Module,
    *,
    name: str,
    technique: str,
    seed: int,
    split: Split,
    stage: str = "final",
    settings: dict | None = None,
    latency: Latency | None = None,
    runtime: str | None = None,
    path: Path | str | None = None,
    command: str | None = None,
) -> Record:
    """Measure a network: accuracy on `split`, parameters, non-zeros, MACs, bytes.

    Args:
        model: it is not changed.
        name, technique, seed, stage, settings: for the record, as `Record` describes them.
        split: the images for the accuracy; MACs are those of one such image.
        latency: what `slimcnn.latency.measure` returned for this network, if anything.
        runtime: what ran it then: "eager", "onnxruntime", "executorch".
        path: the file whose size counts; without one, the weights are saved by safetensors
            to a temporary file and that one counts.
        command: see `provenance`.

    Raises:
        RecordError: a value is not as a record needs it; `latency` without `runtime`.
        FileNotFoundError: there is no file at `path`.
    """
    from slimcnn import metrics

    if (latency is None) != (runtime is None):
        raise RecordError("latency and runtime belong together; give both or neither")
    size = Path(path).stat().st_size if path is not None else metrics.saved_bytes(model)
    shape = (1, *split.images.shape[1:])
    recorded = None
    if latency is not None and runtime is not None:
        recorded = RecordedLatency(
            median_ms=latency.median,
            q1_ms=latency.q1,
            q3_ms=latency.q3,
            cpu_wall=latency.cpu_wall,
            disturbed=latency.disturbed,
            rounds=len(latency.samples),
            threads=latency.threads,
            runtime=runtime,
            cpu=cpu_name(),
        )
    return Record(
        model=name,
        technique=technique,
        seed=seed,
        stage=stage,
        split=split.name,
        accuracy=evaluate(model, split),
        parameters=metrics.count_parameters(model),
        nonzeros=metrics.count_nonzeros(model),
        macs=metrics.count_macs(model, shape),
        bytes=size,
        latency=recorded,
        settings=settings or {},
        provenance=provenance(command),
    )


def tradeoff(
    records: Iterable[Record | Summary],
    cost: str = "bytes",
    *,
    label: Callable[[Summary], str] | None = None,
    title: str | None = None,
) -> Figure:
    """Accuracy against cost, with the Pareto front: the figure that every chapter ends with.

    One point for a model, technique and settings, one color and marker for a technique.
    Bars are the standard deviation over seeds and, for latency, the quartiles. The front
    is a staircase: the best accuracy that is to be had at a cost or less.

    Args:
        records: of one stage and one split; or what `summarize` made of them.
        cost: "bytes", "macs", "latency", "parameters" or "nonzeros"; on a log axis.
        label: the text beside a point; by default the model, if there are several, and
            the settings in which points of one technique differ.
        title: above the figure.

    Returns:
        The figure; it is closed, so that a notebook shows it once.

    Raises:
        ValueError: `cost` has another name.
        RecordError: the records cannot stand in one figure (`summarize`), one lacks the
            cost or costs nothing, or latencies were measured differently.
    """
    if cost not in _COSTS:
        raise ValueError(f"cost is {cost!r}; allowed are {', '.join(_COSTS)}")
    rows = joined(records)
    axis, unit = _COSTS[cost]
    if cost == "latency":
        axis += f", {_measured_alike(rows)}"
    x = [_cost(row, cost) / unit for row in rows]
    y = [row.accuracy for row in rows]
    techniques = list(dict.fromkeys(row.technique for row in rows))
    looks = _looks(techniques)
    with plotting.style():
        figure, axes = plt.subplots()
        plt.close(figure)
        for technique in techniques:
            members = [i for i, row in enumerate(rows) if row.technique == technique]
            axes.errorbar(
                [x[i] for i in members],
                [y[i] for i in members],
                yerr=[rows[i].accuracy_std or 0.0 for i in members],
                xerr=_quartiles([rows[i] for i in members]) if cost == "latency" else None,
                linestyle="none",
                elinewidth=1,
                capsize=2.5,
                label=technique,
                zorder=3,
                **looks[technique],
            )
        axes.set_xscale("log")
        _plain_ticks(axes, min(x), max(x))
        axes.margins(y=0.12)
        front = pareto_front(x, y)
        corners = _staircase([x[i] for i in front], [y[i] for i in front], axes.get_xlim()[1])
        axes.plot(*corners, color=plotting.GRAY, linestyle="--", linewidth=1, label="Pareto front")
        axes.set_xlabel(f"{axis}, log scale")
        screen = " (a screen)" if rows[0].stage == "screen" else ""
        axes.set_ylabel(f"accuracy, {rows[0].split} split{screen} (%)")
        if title:
            axes.set_title(title)
        plotting.place_legend(axes, x, y, lines=[corners], last=["Pareto front"])
        texts = [label(row) for row in rows] if label else _labels(rows)
        plotting.place_labels(axes, x, y, texts, lines=[corners])
    return figure


# For each cost: the title of its axis, and how many of the record's units make one of it.
_COSTS = {
    "bytes": ("size of the file (kB)", 1e3),
    "macs": ("multiply-accumulates for one image (millions)", 1e6),
    "latency": ("latency (ms)", 1.0),
    "parameters": ("parameters (thousands)", 1e3),
    "nonzeros": ("non-zero parameters (thousands)", 1e3),
}


def _cost(row: Summary, cost: str) -> float:
    latency = row.latency
    value = (latency.median_ms if latency else None) if cost == "latency" else getattr(row, cost)
    if not value:
        raise RecordError(
            f"{row.model}, {row.technique}, {row.settings}: {cost} is {value}, which has no"
            " place on a log axis; leave this record out"
        )
    return value


def _measured_alike(rows: Sequence[Summary]) -> str:
    """How all latencies were measured; refused if they were not measured alike."""
    conditions = sorted({", ".join(describe(row.latency)) for row in rows if row.latency})
    if len(conditions) > 1:
        raise RecordError(
            f"latencies come from {' and '.join(conditions)}; show one of these at a time"
        )
    disturbed = any(row.latency and row.latency.disturbed for row in rows)
    return "".join(conditions) + (", partly disturbed" if disturbed else "")


def _quartiles(rows: Sequence[Summary]) -> list[list[float]]:
    latencies = [row.latency for row in rows if row.latency]
    below = [latency.median_ms - latency.q1_ms for latency in latencies]
    return [below, [latency.q3_ms - latency.median_ms for latency in latencies]]


def _looks(techniques: Sequence[str]) -> dict[str, dict]:
    """Color and marker of each technique; a baseline is a black star everywhere."""
    looks: dict[str, dict] = {}
    others = [technique for technique in techniques if technique not in _BASELINES]
    for index, technique in enumerate(others):
        color, marker = index % (len(plotting.PALETTE) - 1), index % len(plotting.MARKERS)
        looks[technique] = {"color": plotting.PALETTE[color], "marker": plotting.MARKERS[marker]}
    for technique in set(techniques) & set(_BASELINES):
        looks[technique] = {"color": "black", "marker": "*", "markersize": 10}
    return looks


def _staircase(
    x: Sequence[float], y: Sequence[float], end: float
) -> tuple[list[float], list[float]]:
    """Corners of the front: right along each point's accuracy, then up to the next."""
    corners_x, corners_y = [x[0]], [y[0]]
    for i in range(1, len(x)):
        corners_x += [x[i], x[i]]
        corners_y += [y[i - 1], y[i]]
    return [*corners_x, end], [*corners_y, y[-1]]


def _labels(rows: Sequence[Summary]) -> list[str]:
    several = len({row.model for row in rows}) > 1
    texts = []
    for row in rows:
        varying = varying_settings([r for r in rows if r.technique == row.technique])
        parts = [row.model] if several else []
        parts += [f"{name} {row.settings[name]}" for name in varying if name in row.settings]
        texts.append(", ".join(parts))
    return texts


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    """Ticks as plain numbers: 1, 2, 5, 10, … or, over a wide range, powers of ten."""
    axes.set_xlim(low / 1.35, high * 1.35)
    wide = high / low > 300
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
