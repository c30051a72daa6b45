"""What was measured of networks in runtimes: one record a network, runtime and type of number.

`slimcnn.record` wants an accuracy of every network. Those of ImageNet's size have none here, only
how many of their answers agree, so runtimes have records of their own (chapter 7). They are made
by scripts/measure_runtimes.py.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slimcnn.latency import format_ms
from slimcnn.record import RecordedLatency, RecordError, places
from slimcnn.table import Table


@dataclass(frozen=True)
class Measurement:
    """One network as a file of one runtime.

    Attributes:
        network, technique: what was exported, and what had been done to it.
        runtime, kind: whose file, and "float32" or "int8".
        bytes: of all its files.
        inputs: how many, and which, the next five compare it on; None if it was not computed.
        difference, error: largest, and relative root mean square, of its outputs against the
            network's.
        agreement: share of equal answers, percent; None where answers mean nothing.
        sure: the same of those inputs to whose answer the network gives more than one half.
        accuracy: percent; None without labels.
        latency: batch 1, one thread, among all files of this network in one process.
        alone: the same in a process of its own, one entry a number of threads. Nothing else has
            used the caches in between there, as it has in an app.
        first_ms: from the file to the first answer, in a fresh process, milliseconds.
        peak_bytes: by which memory grew meanwhile, at its peak.
        provenance: command, commit, date, versions and hardware.
        parts: agreement on parts of the inputs by their names, such as photographs; or None.
    """

    network: str
    technique: str
    runtime: str
    kind: str
    bytes: int
    inputs: str | None
    difference: float | None
    error: float | None
    agreement: float | None
    sure: float | None
    accuracy: float | None
    latency: RecordedLatency | None
    alone: tuple[RecordedLatency, ...]
    first_ms: float | None
    peak_bytes: int | None
    provenance: dict
    parts: dict[str, float] | None = None

    @property
    def median(self) -> float | None:
        """Latency among others, milliseconds; None if it was not measured."""
        return self.latency and self.latency.median_ms

    def median_alone(self, threads: int = 1) -> float | None:
        """Latency alone, with so many threads, milliseconds; None if it was not measured."""
        return next((t.median_ms for t in self.alone if t.threads == threads), None)


def save_measurements(measurements: Sequence[Measurement], path: Path | str) -> Path:
    """Write a list of measurements as JSON; an existing file is replaced at once."""
    path = Path(path)
    text = json.dumps([asdict(m) for m in measurements], indent=1, allow_nan=False) + "\n"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def load_measurements(name_or_path: Path | str = "runtimes") -> list[Measurement]:
    """Read what `save_measurements` wrote.

    Args:
        name_or_path: a path that ends in .json; or a name, looked for in the checkout's results/
            and then among the records that the installed package carries.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: the file is no list of measurements.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        found = [place / f"{name_or_path}.json" for place in places()]
        path = next((file for file in found if file.is_file()), found[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; scripts/measure_runtimes.py makes it")
    try:
        return [_measurement(content) for content in json.loads(path.read_text(encoding="utf-8"))]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise RecordError(f"{path} is no list of measurements: {error}") from error


def _measurement(content: dict) -> Measurement:
    latency = content["latency"] and RecordedLatency(**content["latency"])
    alone = tuple(RecordedLatency(**t) for t in content["alone"])
    return Measurement(**content | {"latency": latency, "alone": alone})


_TITLES = {
    "network": "network",
    "technique": "technique",
    "runtime": "runtime",
    "kind": "numbers",
    "bytes": "bytes",
    "accuracy": "accuracy (%)",
    "agreement": "agreement (%)",
    "sure": "where sure (%)",
    "error": "relative error (%)",
    "difference": "largest difference",
    "latency": "latency (ms)",
    "alone": "alone (ms)",
    "alone 2": "alone, 2 threads (ms)",
    "first": "first answer (ms)",
    "peak": "peak memory (MB)",
}


def runtime_table(
    measurements: Sequence[Measurement],
    columns: Sequence[str] = ("network", "runtime", "kind", "bytes", "accuracy", "latency"),
    caption: str = "Files of runtimes, batch 1.",
) -> Table:
    """Measurements as a table; what was not measured is a dash.

    Args:
        measurements: one row each.
        columns: from "network", "technique", "runtime", "kind", "bytes", "accuracy",
            "agreement", "sure", "error", "difference", "latency", "alone", "alone 2", "first",
            "peak".
        caption: what the numbers are.

    Raises:
        ValueError: there are no measurements, or a column has another name.
    """
    if not measurements:
        raise ValueError("there are no measurements; give at least one")
    unknown = [name for name in columns if name not in _TITLES]
    if unknown:
        raise ValueError(f"there is no column {unknown[0]!r}; there are {', '.join(_TITLES)}")
    texts = list(_TITLES)[:4]
    rows = tuple(tuple(_cell(m, name) for name in columns) for m in measurements)
    header = tuple(_TITLES[name] for name in columns)
    return Table(caption, header, rows, tuple(name not in texts for name in columns))


def _cell(m: Measurement, column: str) -> str:
    if column in ("network", "technique", "runtime", "kind"):
        return getattr(m, column)
    value, text = {
        "bytes": (m.bytes, "{:,}".format),
        "accuracy": (m.accuracy, "{:.2f}".format),
        "agreement": (m.agreement, "{:.1f}".format),
        "sure": (m.sure, "{:.1f}".format),
        "error": (m.error, lambda value: f"{100 * value:.2g}"),
        "difference": (m.difference, "{:.2g}".format),
        "latency": (m.median, format_ms),
        "alone": (m.median_alone(1), format_ms),
        "alone 2": (m.median_alone(2), format_ms),
        "first": (m.first_ms, "{:.0f}".format),
        "peak": (m.peak_bytes, lambda value: f"{value / 1e6:.1f}"),
    }[column]
    return "–" if value is None else text(value)
