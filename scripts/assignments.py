"""Write every assignment's notebooks from its source (`make assignments`).

    python scripts/assignments.py                  source and release notebooks
    python scripts/assignments.py --check          say what would change; exit 1 if anything would
    python scripts/assignments.py --course SEED    draw a course into assignments/course/

`assignments/source/TOPIC/TOPIC.py` (py:percent) is what people edit. Beside it goes the notebook
with nbgrader's metadata; `assignments/release/TOPIC/TOPIC.ipynb` is what students get: without
solutions and hidden tests. A course has other layers, budgets and constants (from `choices.json`)
and other hidden cases; its folder is not committed.
"""

import argparse
import ast
import copy
import json
import random
import re
import sys
from pathlib import Path

from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions, ComputeChecksums, LockCells
from traitlets.config import Config

import lesson
from lesson import ROOT, LessonError, shown

ASSIGNMENTS = ROOT / "assignments"
PRACTICE = 20260101  # the hidden cases of the committed assignments
HIDDEN = "### BEGIN HIDDEN TESTS"
_SECRET = re.compile(r"\bSECRET\b")
_STUB = 'raise NotImplementedError("your turn")'
_CONFIG = Config()
_CONFIG.ClearSolutions.code_stub = {"python": _STUB}
_CONFIG.ClearSolutions.text_stub = "*Your answer.*"


def sources(root: Path = ASSIGNMENTS) -> list[Path]:
    """The sources of all assignments."""
    return sorted(root.glob("source/*/*.py"))


def build(source: Path, values: dict | None = None, secret: int = PRACTICE) -> NotebookNode:
    """The instructor's notebook: solutions, hidden tests, nbgrader's metadata.

    Args:
        source: `TOPIC.py`.
        values: parameters drawn for a course, by name.
        secret: what hidden cases are drawn from.

    Raises:
        LessonError: a cell is marked wrongly, or a drawn parameter is not in the source.
    """
    notebook = lesson.read_source(source)
    notebook.metadata = NotebookNode(
        kernelspec=lesson.KERNELSPEC,
        language_info=lesson.LANGUAGE,
        slimcnn=NotebookNode(assignment=source.stem),
    )
    parameters = _parameters(notebook, source)
    parameters.source = _with_values(parameters.source, values or {}, source)
    preamble = _preamble(source.stem, parameters.source)
    for cell in notebook.cells:
        if HIDDEN in cell.source:
            before, after = cell.source.split(f"{HIDDEN}\n")
            after = _SECRET.sub(str(secret), after)
            cell.source = f"{before}{HIDDEN}\n{preamble}{after}"
        _mark(cell, source)
    _problems(notebook, source)
    return ComputeChecksums().preprocess(notebook, {})[0]


def release(notebook: NotebookNode) -> NotebookNode:
    """The students' notebook of an instructor's."""
    for step in (ClearSolutions, LockCells, ClearHiddenTests, ComputeChecksums):
        notebook, _ = step(config=_CONFIG).preprocess(notebook, {})
    for cell in notebook.cells:
        # In a function's body the stub says "not written yet"; a value has its placeholder already.
        cell.source = re.sub(rf"(?m)^{re.escape(_STUB)}\n?", "", cell.source).rstrip()
    return ComputeChecksums().preprocess(notebook, {})[0]


def draw(source: Path, seed: int) -> dict:
    """One alternative of each group of `choices.json`, by the course's seed; not the committed."""
    path = source.with_name("choices.json")
    groups = json.loads(path.read_text("utf-8")) if path.exists() else []
    code = _parameters(lesson.read_source(source), source).source
    committed = {name: ast.literal_eval(node) for name, node in _literals(code, source).items()}
    chance, drawn = random.Random(f"{seed} {source.stem}"), {}
    for group in groups:
        others = [a for a in group if any(committed.get(name) != a[name] for name in a)]
        drawn |= chance.choice(others or group)
    return drawn


def texts(source: Path, folder: Path, seed: int | None = None) -> dict[Path, str]:
    """Both notebooks of an assignment, as they should stand below a folder."""
    if seed is None:
        notebook = build(source)
    else:
        secret = random.Random(f"{seed} {source.stem} hidden").randrange(10**9)
        notebook = build(source, draw(source, seed), secret)
    where = f"{source.stem}/{source.stem}.ipynb"
    return {
        folder / "source" / where: lesson.render(notebook),
        folder / "release" / where: lesson.render(release(copy.deepcopy(notebook))),
    }


def write(source: Path, folder: Path, seed: int | None = None) -> list[Path]:
    """Write both notebooks of an assignment below a folder."""
    made = texts(source, folder, seed)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        lesson.write(path, text)
    return list(made)


def stale(root: Path = ASSIGNMENTS) -> list[Path]:
    """Notebooks that are not what their source makes of them, and those without a source."""
    wanted = {p: t for source in sources(root) for p, t in texts(source, root).items()}
    there = {p for kind in ("source", "release") for p in root.glob(f"{kind}/*/*.ipynb")}
    wrong = [p for p, text in wanted.items() if p not in there or p.read_text("utf-8") != text]
    return sorted([*wrong, *(there - set(wanted))])


def _mark(cell: NotebookNode, source: Path) -> None:
    """Turn a cell's keys (task, test, points, open) into nbgrader's metadata."""
    keys = {
        k: cell.metadata.pop(k) for k in ("task", "test", "open", "points") if k in cell.metadata
    }
    kind = next((k for k in ("task", "test", "open") if k in keys), None)
    if (kind in ("test", "open")) != ("points" in keys) or len(keys) > 2:
        raise LessonError(
            f"{shown(source)}: a cell is a task, or a test or open with points: {keys}"
        )
    identity = {"task": "{}", "test": "{}-check", "open": "{}-answer", None: "given-{}"}[kind]
    cell.metadata.nbgrader = NotebookNode(
        schema_version=3,
        grade_id=identity.format(keys.get(kind, cell.id)),
        grade=kind in ("test", "open"),
        solution=kind in ("task", "open"),
        locked=kind in ("test", None),
        task=False,
    )
    if "points" in keys:
        cell.metadata.nbgrader.points = keys["points"]


def _problems(notebook: NotebookNode, source: Path) -> None:
    """Refuse an assignment whose tasks and tests do not belong together."""
    names = [cell.metadata.nbgrader.grade_id for cell in notebook.cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise LessonError(f"{shown(source)}: named twice: {', '.join(sorted(twice))}")
    for cell in notebook.cells:
        mark = cell.metadata.nbgrader
        if mark.solution and "### BEGIN SOLUTION" not in cell.source and not mark.grade:
            raise LessonError(f"{shown(source)}: {mark.grade_id} has no ### BEGIN SOLUTION")
        if mark.grade and not mark.solution and HIDDEN not in cell.source:
            raise LessonError(f"{shown(source)}: {mark.grade_id} has no {HIDDEN}")
        task = mark.grade_id.removesuffix("-check")
        if mark.grade and not mark.solution and task not in names:
            raise LessonError(f"{shown(source)}: {mark.grade_id} has no task {task!r}")


def _parameters(notebook: NotebookNode, source: Path) -> NotebookNode:
    """The cell of the parameters."""
    cells = [c for c in notebook.cells if "parameters" in lesson.tags(c)]
    if len(cells) != 1:
        raise LessonError(f'{shown(source)}: one cell has tags=["parameters"], not {len(cells)}')
    return cells[0]


def _literals(code: str, source: Path) -> dict[str, ast.expr]:
    """Name → value of each parameter, as syntax."""
    found = {}
    for node in ast.parse(code).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise LessonError(f"{shown(source)}: the parameters' cell holds NAME = literal only")
        ast.literal_eval(node.value)
        found[node.targets[0].id] = node.value
    return found


def _with_values(code: str, values: dict, source: Path) -> str:
    """The parameters' cell with other literals."""
    lines, values = code.splitlines(), dict(values)
    for name, value in reversed(_literals(code, source).items()):
        first, last = value.lineno - 1, value.end_lineno
        if name in values:
            before = lines[first][: value.col_offset]
            after = lines[last - 1][value.end_col_offset :]
            lines[first:last] = [before + _literal(values.pop(name)) + after]
    if values:
        raise LessonError(f"{shown(source)}: choices.json draws what is no parameter: {values}")
    return "\n".join(lines)


def _literal(value: object) -> str:
    """A drawn value as code; the rows of a table one below the other."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + "".join(f"    {row!r},\n" for row in value) + "]"
    return repr(value)


def _preamble(topic: str, parameters: str) -> str:
    """What a hidden test starts with: names that a submission may have changed."""
    module = topic.replace("-", "_")
    imports = "from builtins import *\nimport importlib\n"
    imports += f"from slimcnn.checks.assignments import {module} as checks\n"
    return f"{imports}checks = importlib.reload(checks)\n{parameters}\n"


def main() -> int:
    """Write or check the notebooks; the exit status is 1 on a problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what would change")
    parser.add_argument(
        "--course", metavar="SEED", type=int, help="any whole number; keep it secret"
    )
    arguments = parser.parse_args()
    try:
        if arguments.check:
            for path in (wrong := stale()):
                print(f"{shown(path)} is not its source's; run `make assignments`", file=sys.stderr)
            return int(bool(wrong))
        folder = ASSIGNMENTS if arguments.course is None else ASSIGNMENTS / "course"
        for source in sources():
            for path in write(source, folder, arguments.course):
                print(f"written: {shown(path)}")
    except (LessonError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
