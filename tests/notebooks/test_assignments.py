"""scripts/assignments.py: what students get, what instructors get, what a course draws."""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator

import assignments
import lesson

MINI = '''\
# %% [markdown]
# # Mini

# %% tags=["parameters"]
FACTOR = 3  # times what
TABLE = [
    ["a", 1],
    ["b", 2],
]

# %% task="times"
def times(x):
    """FACTOR times x."""
    ### BEGIN SOLUTION
    return FACTOR * x
    ### END SOLUTION

# %% test="times" points=2
assert times(1) == FACTOR
### BEGIN HIDDEN TESTS
assert times(SECRET) == FACTOR * SECRET
### END HIDDEN TESTS

# %% task="word"
word = "?"  # your turn
### BEGIN SOLUTION
word = "sesame"
### END SOLUTION

# %% test="word" points=1
assert word in ("sesame", "poppy")
### BEGIN HIDDEN TESTS
assert word == "sesame"
### END HIDDEN TESTS

# %% [markdown] open="why" points=3
# Because it opens.
'''
SOURCES = assignments.sources()


@pytest.fixture
def mini(tmp_path):
    path = tmp_path / "source/mini/mini.py"
    path.parent.mkdir(parents=True)
    path.write_text(MINI)
    path.with_name("choices.json").write_text(
        '[[{"FACTOR": 3}, {"FACTOR": 5}, {"FACTOR": 7}],'
        ' [{"TABLE": [["a", 1], ["b", 2]]}, {"TABLE": [["c", 7]]}]]'
    )
    return path


def by_name(notebook):
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells}


def test_students_get_stubs_and_placeholders_and_no_hidden_tests(mini):
    cells = by_name(assignments.release(assignments.build(mini)))
    assert cells["times"].source == (
        'def times(x):\n    """FACTOR times x."""\n    raise NotImplementedError("your turn")'
    )
    assert cells["times-check"].source == "assert times(1) == FACTOR"
    assert cells["word"].source == 'word = "?"  # your turn'
    assert cells["why-answer"].source == "*Your answer.*"
    assert cells["times-check"].metadata.nbgrader.points == 2
    assert [c.metadata.get("editable", True) for c in cells.values()] == [
        *(False, False, True, False, True, False, True)
    ]


def test_a_hidden_test_starts_with_names_of_its_own(mini):
    cell = by_name(assignments.build(mini, {"FACTOR": 5}, secret=77))["times-check"]
    before, after = cell.source.split("### BEGIN HIDDEN TESTS\n")
    assert before == "assert times(1) == FACTOR\n"
    assert "from slimcnn.checks.assignments import mini as checks\n" in after
    assert "\nFACTOR = 5  # times what\nTABLE = [\n" in after
    assert "assert times(77) == FACTOR * 77" in after
    assert "SECRET" not in cell.source


def test_a_course_draws_each_group_by_its_seed(mini, tmp_path):
    drawn = [assignments.draw(mini, seed) for seed in range(20)]
    assert {d["FACTOR"] for d in drawn} == {5, 7}  # 3 is the committed one
    assert {len(d["TABLE"]) for d in drawn} == {1}
    assert drawn == [assignments.draw(mini, seed) for seed in range(20)]
    seed = next(n for n, d in enumerate(drawn) if d["FACTOR"] == 5 and len(d["TABLE"]) == 1)
    texts = assignments.texts(mini, tmp_path / "course", seed)
    whole, given = texts.values()
    source, release = (nbformat.reads(text, 4) for text in (whole, given))
    wanted = 'FACTOR = 5  # times what\nTABLE = [\n    ["c", 7],\n]'
    cells = [c.source for c in release.cells if "parameters" in lesson.tags(c)]
    assert cells == [wanted.replace('"', "'")]
    secrets = set(re.findall(r"times\((\d+)\)", whole))
    assert secrets != {"1", str(assignments.PRACTICE)} and len(secrets) == 2
    assert not secrets - {"1"} & set(re.findall(r"\d+", given))
    assert len(source.cells) == len(release.cells)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task="times"', 'task="time"', "times-check has no task 'times'"),
        ('test="times" points=2', 'test="times"', "a test or open with points"),
        ("    ### BEGIN SOLUTION\n    return FACTOR * x\n    ### END SOLUTION", "    return 3 * x",
         "times has no ### BEGIN SOLUTION"),
        ("### BEGIN HIDDEN TESTS\nassert word == \"sesame\"\n### END HIDDEN TESTS", "",
         "word-check has no ### BEGIN HIDDEN TESTS"),
        ('tags=["parameters"]', "", "one cell has tags"),
        ('task="word"', 'task="times"', "named twice: times"),
        ("FACTOR = 3", "FACTOR: int = 3", "NAME = literal only"),
        ("FACTOR = 3", "OTHER = 3", "draws what is no parameter"),
    ],
)  # fmt: skip
def test_a_source_that_is_marked_wrongly_is_refused(mini, old, new, message):
    assert old in MINI
    mini.write_text(MINI.replace(old, new))
    with pytest.raises(lesson.LessonError, match=re.escape(message)):
        assignments.build(mini, assignments.draw(mini, 0))


def test_what_is_stale_is_named(mini, tmp_path):
    assert [p.parts[-3] for p in assignments.stale(tmp_path)] == ["release", "source"]
    assignments.write(mini, tmp_path)
    assert assignments.stale(tmp_path) == []
    mini.write_text(MINI.replace("times what", "times that"))
    names = [p.parts[-3] for p in assignments.stale(tmp_path)]
    assert names == ["release", "source"]
    shutil.rmtree(mini.parent)
    assert [p.parts[-3] for p in assignments.stale(tmp_path)] == ["release"]


def test_the_committed_notebooks_are_those_of_their_sources():
    script = lesson.ROOT / "scripts/assignments.py"
    found = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def leaks(source, release):
    """Lines of solutions and hidden tests that stand anywhere in the release's file."""
    secret, given = set(), set()
    for cell in source.cells:
        hidden = False
        for line in cell.source.splitlines():
            hidden = hidden or "### BEGIN" in line
            (secret if hidden else given).add(line.strip())
            hidden = hidden and "### END" not in line
    there = {line.strip() for text in strings(release) for line in text.splitlines()}
    return {line for line in (secret - given) & there if len(line) > 8}


def strings(content):
    """Every text in a notebook: sources, metadata and outputs."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from strings(part)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_release_holds_no_solution_and_no_hidden_test(source):
    for values, secret in (({}, assignments.PRACTICE), (assignments.draw(source, 5), 123)):
        whole = assignments.build(source, values, secret)
        release = assignments.release(assignments.build(source, values, secret))
        assert leaks(whole, release) == set()
        assert len(leaks(whole, whole)) > 10  # the search finds what is there
        text = lesson.render(release)
        assert "HIDDEN" not in text and "SOLUTION" not in text and "SECRET" not in text
        assert all(not cell.get("outputs") for cell in release.cells)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_an_assignment_has_its_shape(source):
    notebook = assignments.release(assignments.build(source))
    MetadataValidator().validate_nb(notebook)
    marks = [cell.metadata.nbgrader for cell in notebook.cells]
    tests = [m for m in marks if m.grade and m.locked]
    opened = [m for m in marks if m.grade and m.solution]
    assert 4 <= len(tests) + len(opened) <= 7 and len(opened) == 1
    assert 10 <= sum(m.points for m in tests + opened) <= 20
    head = notebook.cells[0].source
    rows = re.findall(r"(?m)^\| \d \|.*\| (\d+) \|$", head)
    assert list(map(int, rows)) == [m.points for m in marks if m.grade]
    for words in ("**You need**", "**Effort**", "**After it you can**"):
        assert words in head, words
    assert [c for c in notebook.cells if "setup" in lesson.tags(c)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_first_alternative_of_each_group_is_what_the_source_holds(source):
    groups = json.loads(source.with_name("choices.json").read_text("utf-8"))
    assert len(groups) >= 2 and min(map(len, groups)) >= 3
    first = {name: value for group in groups for name, value in group[0].items()}
    there, names = {}, {name for group in groups for name in group[0]}
    for cell in assignments.build(source).cells:
        if "parameters" in lesson.tags(cell):
            exec(cell.source, there)
    assert {name: there[name] for name in names} == first
    for group in groups:
        assert all(set(alternative) == set(group[0]) for alternative in group)
        assert len({json.dumps(a) for a in group}) == len(group)
