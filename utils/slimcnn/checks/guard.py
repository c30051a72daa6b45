"""While a reader's function runs, the functions that would solve the task for it are closed.

Chapter: the assignments. A name is no protection (an alias, `importlib`, a copied code object lead
to the same code), so the guard looks at the code that is about to run.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType


class ClosedFunction(RuntimeError):
    """A function was called that does what the reader was asked to write."""


class Guard:
    """What a guarded call did.

    Attributes:
        broken: how the rule was broken, or None while it was kept. It stays set when the reader's
            function catches the error.
    """

    def __init__(self, functions: tuple[Callable, ...]) -> None:
        self.broken: str | None = None
        self._codes = {_fingerprint(f.__code__): f.__qualname__ for f in functions}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """The profile function of the interpreter: called before every call."""
        if frame.f_code is closed.__wrapped__.__code__:  # the block's own end
            return
        if event == "call" and (name := self._codes.get(_fingerprint(frame.f_code))):
            self.broken = f"it calls {name.rpartition('.')[2]}, which is what you are to write"
        elif event == "c_call" and argument in (sys.setprofile, sys.settrace):
            self.broken = "it changes how calls are watched"
        else:
            return
        raise ClosedFunction(self.broken)


@contextmanager
def closed(*functions: Callable) -> Iterator[Guard]:
    """Inside the block, a call of one of `functions` raises and is remembered.

    Args:
        functions: written in Python; methods and partial objects are not.

    Raises:
        TypeError: one of them has no Python code.
    """
    for function in functions:
        if not hasattr(function, "__code__"):
            raise TypeError(f"{function!r} has no Python code; give a function")
    guard, before = Guard(functions), sys.getprofile()
    threading.setprofile(guard)
    sys.setprofile(guard)
    try:
        yield guard
    finally:
        # An error from the guard itself has taken it off already.
        if guard.broken is None and sys.getprofile() is not guard:
            guard.broken = "it changes how calls are watched"
        sys.setprofile(before)
        threading.setprofile(None)


def _fingerprint(code: CodeType) -> tuple:
    """Equal for a code object and its copies, whatever they are called.

    The table of lines and columns tells a copy from the same idea written by someone else.
    """
    return code.co_code, code.co_consts, code.co_names, code.co_linetable
