"""Every assignment, solved, as Colab would run it: public checks need the setup cell alone."""

import resource

import pytest
from nbgrader.preprocessors import ClearHiddenTests

import assignments
import colab
import lesson
from test_colab import CHECKS, MAXRSS_UNIT, MEMORY, clone, installed, machine

__all__ = ["clone", "installed", "machine"]  # fixtures


@pytest.mark.parametrize("source", assignments.sources(), ids=lambda path: path.stem)
def test_a_solved_assignment_passes_its_public_checks(source, machine, tmp_path):
    solved, _ = ClearHiddenTests().preprocess(assignments.build(source), {})
    lesson.write(tmp_path / f"{source.stem}.ipynb", lesson.render(solved))

    notebook = machine.put(tmp_path / f"{source.stem}.ipynb", colab.ADDRESS, CHECKS)
    result = machine.nbval(notebook)

    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_UNIT <= MEMORY
