"""slimcnn.deploy.measurements: what is saved comes back, and what was not measured is a dash."""

import json
from dataclasses import replace

import pytest

from slimcnn.deploy.measurements import (
    Measurement,
    load_measurements,
    runtime_table,
    save_measurements,
)
from slimcnn.record import RecordedLatency, RecordError

ONE = RecordedLatency(0.5, 0.4, 0.6, 1.0, False, 100, 1, "Some Runtime", "a processor")
TWO = replace(ONE, median_ms=0.3, threads=2)
FULL = Measurement(
    network="A",
    technique="dense",
    runtime="Some Runtime",
    kind="int8",
    bytes=12345,
    inputs="10 images",
    difference=0.25,
    error=0.0123,
    agreement=99.0,
    sure=100.0,
    accuracy=94.125,
    latency=ONE,
    alone=(replace(ONE, median_ms=0.4), TWO),
    first_ms=12.4,
    peak_bytes=3_456_000,
    provenance={"command": "c"},
    parts={"cat": 90.0},
)
WRITTEN = replace(
    FULL,
    **dict.fromkeys(
        ("inputs", "difference", "error", "agreement", "sure", "accuracy", "first_ms", "peak_bytes")
    ),
    latency=None,
    alone=(),
    parts=None,
)


def test_what_is_saved_comes_back(tmp_path):
    path = save_measurements([FULL, WRITTEN], tmp_path / "a.json")
    assert load_measurements(path) == [FULL, WRITTEN]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_latency_is_found_by_threads():
    assert FULL.median == 0.5
    assert [FULL.median_alone(threads) for threads in (1, 2, 4)] == [0.4, 0.3, None]
    assert (WRITTEN.median, WRITTEN.median_alone()) == (None, None)


def test_the_table_has_every_number_in_its_unit():
    columns = ("network", "kind", "bytes", "accuracy", "agreement", "sure", "error", "difference")
    columns += ("latency", "alone", "alone 2", "first", "peak")
    found = runtime_table([FULL, WRITTEN], columns, "Some files.")
    assert found.rows[0] == (
        *("A", "int8", "12,345", "94.12", "99.0", "100.0", "1.2", "0.25"),
        *("0.500", "0.400", "0.300", "12", "3.5"),
    )
    assert found.rows[1] == ("A", "int8", "12,345", *("–",) * 10)
    assert found.numeric == (False, False, *(True,) * 11)
    assert found.caption == "Some files."


def test_a_table_of_nothing_or_of_another_column_is_refused():
    with pytest.raises(ValueError, match="no measurements"):
        runtime_table([])
    with pytest.raises(ValueError, match="no column 'speed'; there are network"):
        runtime_table([FULL], ("network", "speed"))


@pytest.mark.parametrize("content", ["{", "[1]", '[{"network": "A"}]', '[{"latency": []}]'])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(RecordError, match="no list of measurements"):
        load_measurements(path)


def test_a_missing_file_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"measure_runtimes\.py"):
        load_measurements(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="nothing of the kind"):
        load_measurements("nothing of the kind")


def test_numbers_that_json_lacks_are_refused(tmp_path):
    path = save_measurements([FULL], tmp_path / "a.json")
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_measurements([replace(FULL, error=float("nan"))], path)
    assert path.read_text() == before
    assert json.loads(before)[0]["network"] == "A"
