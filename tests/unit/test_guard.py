"""slimcnn.checks.guard: the way to the answer is closed, whatever it is called."""

import builtins
import importlib
import inspect
import math
import queue
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch

from slimcnn import pruning
from slimcnn.checks import check, guard
from slimcnn.checks.assignments import quantization


def double(x):
    """Two times."""
    return 2 * x


def reference(x):
    """Two times, by adding."""
    return x + x


CASES = [(1.0,), (3.0,)]
alias = double


def by_name(x):
    return double(x)


def by_alias(x):
    return alias(x)


def by_import(x):
    return importlib.import_module(__name__).double(x)


def by_copied_code(x):
    return COPY(x)


def by_renamed_code(x):
    return RENAMED(x)


def by_source(x):
    space = {}
    exec(textwrap.dedent(inspect.getsource(double)), space)
    return space["double"](x)


def by_thread(x):
    found = []
    thread = threading.Thread(target=lambda: found.append(double(x)))
    thread.start()
    thread.join()
    return found[0] if found else 2 * x


asked, answered = queue.Queue(), queue.Queue()


def by_a_thread_from_before(x):
    asked.put(x)
    return answered.get(timeout=5)


def work():
    while True:
        x = asked.get()
        try:
            answered.put(double(x))
        except Exception:
            answered.put(2 * x)


threading.Thread(target=work, daemon=True).start()


def and_catch(x):
    try:
        return double(x)
    except Exception:
        return 2 * x


def and_switch_off(x):
    before = sys.getprofile()
    sys.setprofile(None)
    found = double(x)
    sys.setprofile(before)
    return found


def and_switch_off_and_catch(x):
    try:
        sys.setprofile(None)
    except Exception:
        return double(x)


def by_the_checks_own(x):
    frame = sys._getframe()
    while "reference" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["reference"](x)


COPY = types.FunctionType(double.__code__, {})
RENAMED = types.FunctionType(double.__code__.replace(co_name="mine", co_filename="mine.py"), {})
WAYS = [
    *(by_name, by_alias, by_import, by_copied_code, by_renamed_code, by_source, by_thread),
    by_a_thread_from_before,
    *(and_catch, and_switch_off, and_switch_off_and_catch, by_the_checks_own),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_the_answer_is_closed(way):
    verdict = check(way, reference, CASES, closed=[double])
    assert not verdict.passed
    assert "which is what you are to write" in verdict.message or "watched" in verdict.message
    assert sys.getprofile() is None


def test_the_same_idea_written_by_someone_else_is_welcome():
    def mine(x):
        return 2 * x

    assert check(mine, reference, CASES, closed=[double]).passed
    assert check(by_name, reference, CASES).passed


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("average", lambda *a: quantization._averages(*a)["right"]),
        ("power_of_two", lambda *a: quantization._powers(*a, math.ceil)),
        ("shared_bytes", lambda *a: quantization._shared(*a)["right"]),
    ],
)
def test_the_checks_own_helpers_are_closed(task, answer):
    verdict = getattr(quantization, task)(answer)
    assert not verdict.passed and "which is what you are to write" in verdict.message


def test_nor_is_the_answer_in_the_callers_frame():
    def looks_up(x):
        try:
            raise ValueError
        except ValueError as error:
            return error.__traceback__.tb_frame.f_back.f_locals["expected"]

    assert not check(looks_up, reference, CASES).passed


@pytest.mark.parametrize(
    ("tool", "name"),
    [(torch, "allclose"), (torch.Tensor, "sum"), (torch.Tensor, "scatter_"), (np, "median"),
     (builtins, "min"), (torch.nn.functional, "relu"), (math, "ceil")],
)  # fmt: skip
def test_what_judges_is_not_replaced(tool, name):
    before = getattr(tool, name)

    def replaces(x):
        setattr(tool, name, lambda *a, **k: True)
        return 2 * x

    verdict = check(replaces, reference, CASES)
    assert not verdict.passed
    assert f"replaces {tool.__name__}.{name}" in verdict.message
    assert getattr(tool, name) is before


def test_codes_come_back_when_a_function_raises():
    def fails(x):
        raise KeyError

    assert not check(fails, reference, CASES, closed=[double]).passed
    assert double(2) == reference(2) == 4


def test_functions_of_the_package_are_closed_with_all_that_calls_them():
    weight = torch.arange(8.0)
    with guard.closed(pruning.mask_of) as watched, pytest.raises(guard.ClosedFunction):
        pruning.layerwise_masks({"a": weight}, 0.5)
    assert "mask_of" in watched.broken
    assert int(pruning.mask_of(weight, 0.5).sum()) == 4  # open again
    with pytest.raises(TypeError, match="has no Python code"), guard.closed(len):
        pass


def test_a_profiler_that_was_there_comes_back():
    def profiler(frame, event, argument):
        pass

    sys.setprofile(profiler)
    try:
        with guard.closed(double):
            reference(1)
        found = sys.getprofile()
    finally:
        sys.setprofile(None)
    assert found is profiler
