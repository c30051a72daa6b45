"""slimcnn.summary: means over seeds, what may not be mixed, the Pareto front."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimcnn.record import Record, RecordedLatency, RecordError
from slimcnn.summary import pareto_front, summarize, varying_settings

LATENCY = RecordedLatency(1.0, 0.8, 1.4, 0.98, False, 50, 1, "onnxruntime", "cpu")
PROVENANCE = {
    "command": "c",
    "commit": None,
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3", "torch": "2", "slimcnn": "0"},
    "hardware": {"cpu": "cpu", "cores": 2, "threads": 1},
}
BASE = Record(
    "resnet14", "pruning", 0, "final", "test", 94.0, 100, 90, 1000, 500, provenance=PROVENANCE
)


def test_mean_and_sample_deviation_over_seeds():
    accuracies, sizes = [94.1, 93.8, 94.4], [500, 510, 523]
    records = [
        replace(BASE, seed=seed, accuracy=a, bytes=b, nonzeros=n, settings={"sparsity": 0.5})
        for seed, a, b, n in zip((2, 0, 1), accuracies, sizes, (90, 91, 95), strict=True)
    ]
    (row,) = summarize(records)
    assert row.accuracy == pytest.approx(np.mean(accuracies))
    assert row.accuracy_std == pytest.approx(np.std(accuracies, ddof=1))
    assert row.accuracy_std == pytest.approx(0.3)
    assert row.seeds == (0, 1, 2)
    assert (row.bytes, row.nonzeros, row.parameters, row.macs) == (511, 92, 100, 1000)
    assert (row.model, row.technique, row.stage, row.split) == (
        "resnet14",
        "pruning",
        "final",
        "test",
    )
    assert row.settings == {"sparsity": 0.5}
    assert row.latency is None


def test_one_seed_has_no_deviation():
    (row,) = summarize([BASE])
    assert (row.accuracy, row.accuracy_std, row.seeds) == (94.0, None, (0,))


def test_groups_by_model_technique_and_settings_in_order_of_appearance():
    records = [
        replace(BASE, settings={"a": 1, "b": 2}),
        replace(BASE, technique="dense"),
        replace(BASE, seed=1, settings={"b": 2, "a": 1}, accuracy=95.0),  # order does not matter
        replace(BASE, model="student"),
        replace(BASE, settings={"a": 1}),
    ]
    rows = summarize(records)
    assert [(r.model, r.technique, r.settings, r.seeds) for r in rows] == [
        ("resnet14", "pruning", {"a": 1, "b": 2}, (0, 1)),
        ("resnet14", "dense", {}, (0,)),
        ("student", "pruning", {}, (0,)),
        ("resnet14", "pruning", {"a": 1}, (0,)),
    ]
    assert rows[0].accuracy == 94.5


def test_grouping_by_one_setting_keeps_what_agrees():
    records = [
        replace(BASE, seed=0, settings={"sparsity": 0.5, "hours": 1, "scope": "global"}),
        replace(BASE, seed=1, settings={"sparsity": 0.5, "hours": 2, "scope": "global"}),
        replace(BASE, seed=0, settings={"sparsity": 0.9, "hours": 1, "scope": "global"}),
    ]
    assert len(summarize(records)) == 3
    rows = summarize(records, by=("model", "technique", "settings.sparsity"))
    assert [row.settings for row in rows] == [
        {"sparsity": 0.5, "scope": "global"},
        {"sparsity": 0.9, "hours": 1, "scope": "global"},
    ]


def test_latencies_are_averaged_over_the_records_that_have_one():
    second = replace(LATENCY, median_ms=3.0, q1_ms=2.0, q3_ms=4.0, cpu_wall=0.8, disturbed=True)
    records = [
        replace(BASE, seed=0, latency=LATENCY),
        replace(BASE, seed=1, latency=second),
        replace(BASE, seed=2),
    ]
    (row,) = summarize(records)
    assert row.latency == RecordedLatency(
        2.0, 1.4, 2.7, pytest.approx(0.89), True, 100, 1, "onnxruntime", "cpu"
    )


@pytest.mark.parametrize(
    ("records", "arguments", "message"),
    [
        ([], {}, "no records to summarize"),
        ([BASE, replace(BASE, stage="screen")], {}, "stage is 'final' and 'screen'; screens"),
        ([BASE, replace(BASE, split="validation")], {}, "split is 'test' and 'validation'; acc"),
        ([replace(BASE, stage="screen")], {"stage": "final"}, "screen records; final records"),
        ([BASE, BASE], {}, r"resnet14, pruning, \{\}: a seed appears twice in \[0, 0\]"),
        ([BASE, replace(BASE, model="student", seed=1)], {"by": ["technique"]}, "add 'model' to"),
        ([BASE, replace(BASE, technique="x", seed=1)], {"by": ["model"]}, "add 'technique' to"),
        ([BASE], {"by": ["seed"]}, "cannot be grouped by 'seed'; allowed are 'model'"),
        (
            [
                replace(BASE, latency=LATENCY),
                replace(BASE, seed=1, latency=replace(LATENCY, runtime="eager")),
            ],
            {},
            "runtime is 'onnxruntime' and 'eager'; .* not averaged",
        ),
        (
            [
                replace(BASE, latency=LATENCY),
                replace(BASE, seed=1, latency=replace(LATENCY, threads=2)),
            ],
            {},
            "threads is 1 and 2",
        ),
    ],
)
def test_what_is_refused(records, arguments, message):
    with pytest.raises(RecordError, match=message):
        summarize(records, **arguments)


def test_a_table_of_screens_may_be_asked_for():
    screen = replace(BASE, stage="screen")
    assert summarize([screen], stage="screen") == summarize([screen])


def test_pareto_front_by_hand():
    costs = [3, 1, 2, 4, 2, 1, 5]
    accuracies = [92, 90, 91, 92, 90.5, 90, 95]
    #              on  on  on  no(3) no(2) equal on
    assert pareto_front(costs, accuracies) == [1, 5, 2, 0, 6]
    assert pareto_front([], []) == []


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points)
def test_pareto_front_is_what_no_point_beats(points):
    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    expected = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    front = pareto_front([p[0] for p in points], [p[1] for p in points])
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[i] for i in front] == sorted(points[i] for i in expected)


def test_varying_settings():
    rows = summarize(
        [
            replace(BASE, settings={"a": 1, "b": 2, "c": 3}),
            replace(BASE, settings={"a": 1, "b": 3, "d": None}),
        ]
    )
    assert varying_settings(rows) == ["b", "c", "d"]  # an absent setting is not None
    assert varying_settings(rows[:1]) == []
    assert varying_settings([]) == []
