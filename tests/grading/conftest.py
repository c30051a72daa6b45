import threading

import course
import pytest

from grading import sandbox
from grading.common import MB, Limits
from grading.execute import execute

LIMITS = Limits(
    cell=4,
    notebook=40,
    memory=700 * MB,
    processes=60,
    file=4 * MB,
    disk=16 * MB,
    output=10_000,
)


@pytest.fixture(scope="session")
def box():
    found = sandbox.find()
    if found.mode == "plain":
        pytest.skip(found.warning.splitlines()[1].strip())
    return found


@pytest.fixture
def place(tmp_path):
    return course.write_course(tmp_path / "course")


def run(box, *cells, limits=LIMITS):
    """Outputs of code cells, each graded for one point."""
    notebook = course.graded(cells)
    return execute(notebook, limits, box, threading.Event())
