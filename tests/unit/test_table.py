"""slimcnn.table: the text, the HTML, and what the caption says."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from slimcnn.record import Record, RecordedLatency, RecordError
from slimcnn.summary import summarize
from slimcnn.table import Table, table

LATENCY = RecordedLatency(0.5712, 0.55, 12.34, 0.98, False, 50, 1, "onnxruntime", "A CPU")
PROVENANCE = {
    "command": "c",
    "commit": None,
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3", "torch": "2", "slimcnn": "0"},
    "hardware": {"cpu": "cpu", "cores": 2, "threads": 1},
}
DENSE = Record(
    *("resnet14", "dense", 0, "final", "test", 94.046, 696_042, 696_000, 22_130_000, 2_807_345),
    provenance=PROVENANCE,
)
RECORDS = [
    DENSE,
    replace(DENSE, seed=1, accuracy=94.246),
    replace(
        DENSE,
        model="student",
        technique="distillation",
        accuracy=93.1,
        parameters=54_346,
        nonzeros=54_346,
        macs=2_900_000,
        bytes=217_000,
    ),
]


def test_text_of_a_small_table():
    assert str(table(RECORDS)).splitlines() == [
        "model     technique              accuracy, %  parameters  non-zeros  MACs, M  size, kB",
        "--------  ------------  --------------------  ----------  ---------  -------  --------",
        "resnet14  dense         94.15 ± 0.14 (n = 2)     696,042    696,000    22.13   2,807.3",
        "student   distillation         93.10 (n = 1)      54,346     54,346     2.90     217.0",
        "Accuracy on the test split; mean ± standard deviation over n seeds.",
    ]
    assert repr(table(RECORDS)) == str(table(RECORDS))


def test_records_and_their_summaries_give_the_same_table():
    assert table(summarize(RECORDS)) == table(RECORDS)


def test_latency_and_its_conditions():
    timed = [replace(DENSE, latency=LATENCY)]
    made = table(timed, columns=["model", "latency"])
    assert made.header == ("model", "latency, ms")
    assert made.rows == (("resnet14", "0.571 (0.550 to 12.3)"),)
    assert made.caption == "Latency: median (quartiles), onnxruntime, 1 thread, A CPU."
    assert table(timed).header[-1] == "latency, ms"

    other = replace(LATENCY, median_ms=1.5, q1_ms=1, q3_ms=2, runtime="eager", disturbed=True)
    mixed = [*timed, replace(DENSE, model="b", latency=other), replace(DENSE, model="c")]
    made = table(mixed, columns=["latency"])
    assert made.rows == (
        ("0.571 (0.550 to 12.3), onnxruntime",),
        ("1.50† (1.00 to 2.00), eager",),
        ("–",),
    )
    assert made.caption == (
        "Latency: median (quartiles), 1 thread, A CPU."
        " † Disturbed by other work: not to be relied on."
    )
    threads = replace(DENSE, model="b", latency=replace(LATENCY, threads=2))
    made = table([*timed, threads], columns=["latency"])
    assert [row[0].rpartition(", ")[2] for row in made.rows] == ["1 thread", "2 threads"]


def test_settings_that_differ_get_columns():
    pruned = [
        replace(DENSE, technique="pruning", settings={"sparsity": s, "epochs": 5, "scope": "all"})
        for s in (0.5, 0.9)
    ]
    made = table(pruned)
    assert made.header[:4] == ("model", "technique", "sparsity", "accuracy, %")
    assert [row[2] for row in made.rows] == ["0.5", "0.9"]
    assert made.numeric[:4] == (False, False, True, True)
    made = table(pruned, columns=["settings.scope", "settings.epochs", "settings.none", "settings"])
    assert made.header == ("scope", "epochs", "none", "settings")
    assert made.rows[1] == ("all", "5", "", "sparsity 0.9")
    assert made.numeric == (False, True, True, False)


def test_one_column_for_settings_that_only_some_rows_have():
    quantized = replace(DENSE, technique="quantization", settings={"bits": 8, "rounds": 0.25})
    made = table([DENSE, quantized])
    assert made.header[:3] == ("model", "technique", "settings")
    assert [row[2] for row in made.rows] == ["", "bits 8, rounds 0.25"]


def test_captions():
    screen = replace(DENSE, stage="screen", split="validation")
    assert table([screen], caption="Ranks.").caption == (
        "Ranks. Accuracy on the validation split, a screen; n = number of seeds."
    )
    assert table([DENSE], columns=["model", "seeds"]).caption == ""


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        ([], RecordError, "no records"),
        ([DENSE, replace(DENSE, seed=1, stage="screen")], RecordError, "screens and final runs"),
        ([DENSE, replace(DENSE, seed=1, split="x")], RecordError, "different images"),
    ],
)
def test_what_cannot_stand_in_one_table(records, error, message):
    with pytest.raises(error, match=message):
        table(records)


def test_summaries_of_two_splits_are_refused_too():
    other = replace(DENSE, split="validation")
    for change, message in ((other, "different images"), (replace(DENSE, stage="screen"), "scre")):
        with pytest.raises(RecordError, match=message):
            table(summarize([DENSE]) + summarize([change]))


def test_unknown_columns():
    with pytest.raises(ValueError, match="no column 'flops'; there are model, technique, accuracy"):
        table([DENSE], columns=["flops"])
    with pytest.raises(ValueError, match="no columns are asked for"):
        table([DENSE], columns=[])


def test_html_is_well_formed_accessible_and_escaped():
    hostile = replace(DENSE, model="<script>alert('&')</script>", technique='"quoted"')
    made = table([hostile, DENSE], caption="<b>Caption</b> & more.")
    text = made._repr_html_()
    assert "<script>" not in text
    assert "<b>" not in text
    region = ElementTree.fromstring(text)
    assert region.tag == "div"
    assert region.attrib["role"] == "region"
    assert region.attrib["tabindex"] == "0"
    assert region.attrib["aria-label"] == made.caption
    assert "overflow-x:auto" in region.attrib["style"]
    (grid,) = region
    assert [part.tag for part in grid] == ["caption", "thead", "tbody"]
    assert grid[0].text == made.caption
    head = list(grid.find("thead/tr"))
    assert [cell.text for cell in head] == list(made.header)
    assert {(cell.tag, cell.attrib["scope"]) for cell in head} == {("th", "col")}
    for row, expected in zip(grid.findall("tbody/tr"), made.rows, strict=True):
        assert [cell.text or "" for cell in row] == list(expected)
        assert (row[0].tag, row[0].attrib["scope"]) == ("th", "row")
        assert {cell.tag for cell in row[1:]} == {"td"}
        aligned = [cell.attrib["style"] for cell in row]
        assert aligned == [f"text-align:{'right' if n else 'left'}" for n in made.numeric]


def test_a_table_can_be_made_by_hand():
    made = Table("Two.", ("a", "long title"), (("wide cell", "1"),), (False, True))
    assert str(made) == (
        "a          long title\n---------  ----------\nwide cell           1\nTwo."
    )
