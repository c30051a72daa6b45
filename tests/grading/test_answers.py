import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.answers import COLUMNS, Answer, merge
from grading.common import GradingError, csv_text, harmless


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.csv"


def fill(path, student, points, comment="", delimiter=","):
    """What an instructor does in a spreadsheet."""
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    for row in rows:
        if row["student"] == student:
            row |= {"points": points, "comment": comment}
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue())


def test_points_are_taken_and_kept(path):
    assert merge(path, [Answer("ada", "why", "Because.", 3)])["ada", "why"].points is None
    fill(path, "ada", "2,5", "Say more.", ";")
    filled = path.read_bytes()
    for _ in range(2):
        given_to = merge(path, [Answer("ada", "why", "Because.", 3)])["ada", "why"]
        assert (given_to.points, given_to.comment) == (2.5, "Say more.")
        assert path.read_bytes() == filled


def test_new_students_are_added_and_old_rows_stay(path):
    merge(path, [Answer("ada", "why", "A", 3)])
    fill(path, "ada", "3")
    merged = merge(path, [Answer("bob", "why", "B", 3)])
    assert list(merged) == [("bob", "why")]
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    assert [(r["student"], r["points"]) for r in rows] == [("ada", "3"), ("bob", "")]


def test_a_changed_answer_is_read_again(path):
    merge(path, [Answer("ada", "why", "A", 3)])
    fill(path, "ada", "3", "Good.")
    again = merge(path, [Answer("ada", "why", "Another", 3)])["ada", "why"]
    assert again.points is None
    assert again.comment == "[the answer changed; the one before got 3] Good."
    assert "the one before got 3" in path.read_text("utf-8-sig")


@pytest.mark.parametrize("points", ["4", "-1", "good", "nan"])
def test_wrong_points_are_refused(path, points):
    merge(path, [Answer("ada", "why", "A", 3)])
    fill(path, "ada", points)
    filled = path.read_bytes()
    with pytest.raises(GradingError, match=r"row 2 \(ada, why\).*not a number from 0 to 3"):
        merge(path, [Answer("ada", "why", "A", 3), Answer("bob", "why", "B", 3)])
    assert path.read_bytes() == filled


def test_lost_columns_are_refused(path):
    path.write_text("student,task,points\nada,why,3\n")
    with pytest.raises(GradingError, match="lacks the column"):
        merge(path, [Answer("ada", "why", "A", 3)])
    assert path.read_text() == "student,task,points\nada,why,3\n"


def test_formulas_are_harmless(path):
    merge(path, [Answer("ada", "why", '=HYPERLINK("http://x")', 3)])
    row = next(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    assert row["answer"] == '\'=HYPERLINK("http://x")'
    assert harmless("+1") == "'+1"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_no_cell_is_a_formula(text):
    content = csv_text(["a"], [[text]]).removeprefix("\ufeff")
    cell = list(csv.reader(io.StringIO(content, newline="")))[1]
    assert not "".join(cell).startswith(("=", "+", "-", "@", "\t", "\r"))
