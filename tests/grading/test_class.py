"""The book's assignments, graded as a class's are: solutions, releases, and a class of twenty."""

import classroom
import pytest

import assignments
import lesson
from grading.pipeline import grade

SOURCES = assignments.sources()
COURSE = 20261129  # as an instructor would draw one


def points(entry):
    """Of the tasks that no person has to read."""
    return {name: value for name, value in entry.points.items() if name.endswith("-check")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [None, COURSE], ids=["practice", "course"])
def test_the_solution_gets_all_points_and_the_release_none(source, seed, tmp_path, box):
    topic, course = source.stem, tmp_path / "course"
    assignments.write(source, course, seed)
    given = tmp_path / "in"
    given.mkdir()
    for student, kind in (("solved", "source"), ("blank", "release")):
        text = (course / kind / topic / f"{topic}.ipynb").read_text("utf-8")
        lesson.write(given / f"{student}_{topic}.ipynb", text)

    found = {e.student: e for e in grade(course, topic, given, tmp_path / "out", box=box)}

    marks = [cell.metadata.nbgrader for cell in assignments.build(source).cells]
    full = {m.grade_id: float(m.points) for m in marks if m.grade and m.locked}
    assert points(found["solved"]) == full, found["solved"].notes
    assert found["solved"].status == "to be read" and found["solved"].limited == []
    assert set(found["blank"].points.values()) == {0.0} and found["blank"].status == "graded"


def test_a_class_of_twenty_gets_what_each_deserves(tmp_path, box):
    (source,) = [path for path in SOURCES if path.stem == "measuring"]
    students = classroom.classroom(source, 20)
    given = tmp_path / "in"
    given.mkdir()
    classroom.hand_in(students, source.stem, given)

    entries = grade(assignments.ASSIGNMENTS, source.stem, given, tmp_path / "out", box=box)

    found = {entry.student: entry for entry in entries}
    for student, _, expected in students:
        if expected is None:
            assert found[student].status == "refused", student
        else:
            assert points(found[student]) == expected, student
