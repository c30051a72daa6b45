"""Every graded cell of every assignment, with wrong solutions and with right ones.

The cell is executed as it is graded, hidden tests included; the solution has the task's name.
"""

import importlib

import pytest

import assignments
import lesson

SEEDS = (1, 2)  # other hidden cases than the committed ones
SOURCES = {path.stem: path for path in assignments.sources()}


def variants(topic):
    return importlib.import_module(f"variants.{topic.replace('-', '_')}")


def label(solution):
    return getattr(solution, "__name__", str(solution)[:20])


def cases(which):
    for topic in SOURCES:
        for task, solutions in getattr(variants(topic), which).items():
            for n, solution in enumerate(solutions):
                name = label(solution[0] if which == "WRONG" else solution)
                yield pytest.param(topic, task, solution, id=f"{topic}-{task}-{n}-{name}")


@pytest.fixture(scope="module")
def given():
    """Names that the given cells of an assignment define, for each topic once."""
    return {}


def grade(topic, task, solution, secret, given):
    notebook = assignments.build(SOURCES[topic], secret=secret)
    if topic not in given:
        given[topic] = {}
        for cell in lesson.code_cells(notebook):
            mark = cell.metadata.nbgrader
            if mark.locked and not mark.grade and "setup" not in lesson.tags(cell):
                exec(cell.source, given[topic])
    (test,) = (c for c in notebook.cells if c.metadata.nbgrader.grade_id == f"{task}-check")
    exec(test.source, given[topic] | {task: solution})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("topic", "task", "solution"), list(cases("WRONG")))
def test_wrong_solutions_get_no_points_and_are_told_why(topic, task, solution, given):
    function, words = solution
    with pytest.raises(AssertionError) as found:
        grade(topic, task, function, SEEDS[0], given)
    assert words in str(found.value)


@pytest.mark.parametrize(("topic", "task", "solution"), list(cases("RIGHT")))
def test_right_solutions_get_their_points_however_written(topic, task, solution, given):
    for seed in SEEDS:
        grade(topic, task, solution, seed, given)


def test_each_task_has_three_mistakes_and_a_right_solution_of_another_kind():
    for topic, path in SOURCES.items():
        marks = [cell.metadata.nbgrader for cell in assignments.build(path).cells]
        tasks = {m.grade_id.removesuffix("-check") for m in marks if m.grade and m.locked}
        found = variants(topic)
        assert set(found.WRONG) == set(found.RIGHT) == tasks, topic
        assert min(map(len, found.WRONG.values())) >= 3, topic
        assert min(map(len, found.RIGHT.values())) >= 1, topic
