"""The page of all results: what stands there is what the records say."""

from dataclasses import replace

import pytest

import results_page
from sweeps import ROOT


@pytest.fixture(scope="module")
def rows():
    return results_page.rows()


def test_the_page_is_that_of_the_records(rows):
    stored = (ROOT / "book" / "results.md").read_text(encoding="utf-8")
    assert results_page.page(rows) == stored, "run python scripts/results_page.py"


def test_another_record_makes_another_page(rows):
    first = rows[0]
    better = replace(first, summary=replace(first.summary, accuracy=99.99))
    assert "99.99" in results_page.page([better, *rows[1:]])


def test_controls_and_seeds_are_told_apart(rows):
    text = results_page.page(rows)
    three, one = text.split("## On one seed")
    assert "RigL" in one and "RigL" not in three
    assert "planted fault" not in text
    spread = [line for line in three.splitlines() if line.startswith("| ResNet-14 |")]
    assert len(spread) > 10 and all(" ± " in line for line in spread)


def test_the_recipe_is_held_against_its_control():
    lines = list(results_page.tried())
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines[2:]}
    assert list(cells) == [
        *("dense", "dense, trained on", "half the MACs", "dense, int8", "half the MACs, int8"),
    ]
    dense, last = cells["dense, trained on"], cells["half the MACs, int8"]
    assert dense[2] == ""
    assert last[2].startswith(f"{float(last[1]) - float(dense[1]):+.2f} (")
    assert float(last[3]) < float(dense[3].replace(",", "")) / 10
    assert results_page.gained()["lost"] == f"{float(dense[1]) - float(last[1]):.1f}"


def test_differences_are_those_of_paired_seeds(rows):
    int8 = next(r for r in rows if r.name == "int8" and r.summary.model == "resnet14")
    baseline = rows[0].summary
    assert baseline.model == "resnet14" and rows[0].difference is None
    expected = int8.summary.accuracy - baseline.accuracy
    assert int8.difference.difference == pytest.approx(expected)
    assert int8.difference.low < int8.difference.difference < int8.difference.high


def test_what_was_timed_together_has_the_accuracy_of_its_sweep(rows):
    timed = results_page.timed(rows)
    assert len({s.latency.cpu for s in timed}) == 1
    pruned = next(s for s in timed if s.settings.get("variant") == "channels L1 25 longer")
    row = next(r for r in rows if r.name == "channels L1 25 longer")
    assert pruned.accuracy == row.summary.accuracy
    assert pruned.latency.median_ms < timed[0].latency.median_ms
