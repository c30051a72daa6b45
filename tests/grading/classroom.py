"""A made-up class: submissions of an assignment, some of them hostile, and what each must get.

python tests/grading/classroom.py measuring 200 FOLDER    writes them, with expected.json
"""

import copy
import importlib
import inspect
import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "scripts")]

import assignments
import lesson

# What is put where a solution belongs: it may cost that task and nothing else.
HOSTILE = {
    "loop": "while True:\n    pass",
    "forks": "import os\nwhile True:\n    os.fork()",
    "memory": "hoard = []\nwhile True:\n    hoard.append(b'x' * 10**8)",
    "exit": "import os\nos._exit(0)",
    "kill": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "flood": "while True:\n    print('x' * 10_000)",
    "disk": "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(10**7))",
    "shows nothing": "get_ipython().showtraceback = lambda *a, **k: None\nraise ValueError",
    "outside": "open('/usr/owned', 'w').write('x')",
    "network": "import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=9)",
}
# Refused, since nothing that this kernel says can be believed, or nothing is left to grade.
REFUSED = {
    "hides errors": "import ast\nclass Hide(ast.NodeTransformer):\n"
    "    def visit_Module(self, module):\n"
    "        handler = ast.ExceptHandler(None, None, [ast.Pass()])\n"
    "        module.body = [ast.Try(module.body, [handler], [], [])]\n"
    "        return ast.fix_missing_locations(module)\n"
    "get_ipython().ast_transformers.append(Hide())",
    "patches the check": "import torch\ntorch.allclose = lambda *args, **kwargs: True",
    "stripped": None,
}


class Submission(NamedTuple):
    """One student's notebook, and the points of each automatically graded task; None: refused."""

    student: str
    notebook: dict
    expected: dict[str, float] | None


def classroom(source: Path, count: int, seed: int = 0) -> list[Submission]:
    """A class of so many, a tenth of them hostile or to be refused."""
    chance = random.Random(seed)
    release = assignments.release(assignments.build(source))
    variants = importlib.import_module(f"variants.{source.stem.replace('-', '_')}")
    attacks = [*HOSTILE, *REFUSED]
    students = []
    for number in range(count):
        notebook, expected = copy.deepcopy(release), {}
        for cell in notebook.cells:
            mark = cell.metadata.nbgrader
            if not mark.solution or mark.grade:
                continue
            task, kind = mark.grade_id, chance.choice(["right"] * 6 + ["wrong"] * 3 + ["blank"])
            if kind != "blank":
                solutions = variants.RIGHT if kind == "right" else variants.WRONG
                chosen = chance.choice(solutions[task])
                cell.source = written(chosen[0] if kind == "wrong" else chosen, task, variants)
            points = next(
                c.metadata.nbgrader.points
                for c in notebook.cells
                if c.metadata.nbgrader.grade_id == f"{task}-check"
            )
            expected[f"{task}-check"] = float(points) if kind == "right" else 0.0
        name = f"student{number:03}"
        if number % 10 == 3:
            attack = attacks[number // 10 % len(attacks)]
            name = f"{name}-{attack.replace(' ', '-')}"
            expected = _attack(notebook, expected, attack, chance)
        students.append(Submission(name, notebook, expected))
    return students


def written(solution: object, task: str, variants: object) -> str:
    """What the student's cell holds: the function with all that it needs, or a value."""
    if not callable(solution):
        return f"import numpy as np\n{task} = {solution!r}"
    code = inspect.getsource(variants).split("\nWRONG = {")[0]
    return f"{code}\n{task} = {solution.__name__}"


def hand_in(students: list[Submission], topic: str, folder: Path) -> None:
    """Write the files as a learning platform would."""
    for student, notebook, _ in students:
        lesson.write(folder / f"{student}_{topic}.ipynb", json.dumps(notebook))


def _attack(notebook: dict, expected: dict, attack: str, chance: random.Random) -> dict | None:
    solutions = [c for c in notebook.cells if c.metadata.nbgrader.solution]
    if attack == "stripped":
        for cell in notebook.cells:
            cell.metadata = {}
        return None
    cell = chance.choice([c for c in solutions if not c.metadata.nbgrader.grade])
    if attack in REFUSED:
        cell.source = f"{REFUSED[attack]}\n{cell.source}"
        return None
    cell.source = HOSTILE[attack]
    return expected | {f"{cell.metadata.nbgrader.grade_id}-check": 0.0}


def main() -> None:
    """Write a class and what it must get."""
    topic, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    source = assignments.ASSIGNMENTS / "source" / topic / f"{topic}.py"
    students = classroom(source, count)
    (folder / "in").mkdir(parents=True)
    hand_in(students, topic, folder / "in")
    expected = {student: points for student, _, points in students}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
