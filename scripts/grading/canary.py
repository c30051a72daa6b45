"""Cells that must fail, run after every graded cell that passed.

Student code can change how a kernel reports errors, and then wrong answers look right. Each canary
is the source of a cell that ends in an error whose text contains the word NONCE, which is replaced
by a random one; where that error does not come out, the submission is refused.
"""

import secrets

# In a space of its own, since a notebook's names are the student's.
_ALONE = "__import__('builtins').exec({source!r}, {{}})"

# A wrong function, which the book's checks must refuse, if the notebook uses them at all.
_CHECK = """\
import sys
if "slimcnn.checks" in sys.modules:
    import torch
    from slimcnn.checks import check
    check(lambda x: x + 1, lambda x: x, [(torch.zeros(2),)], explain=lambda *_: "NONCE").require()
else:
    raise RuntimeError("NONCE")"""

# Fails where all is well: no library's function was written in a cell, and no cell is rewritten.
_LIBRARIES = """\
import builtins, json, math, os, pathlib, re, sys, types
from IPython import get_ipython
def file(value):
    while "__wrapped__" in getattr(value, "__dict__", ()): value = value.__wrapped__
    return value.__code__.co_filename if isinstance(value, types.FunctionType) else ""
own = [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "slimcnn" and m]
classes = [c for m in own for c in vars(m).values() if isinstance(c, type)]
classes = [c for c in classes if c.__module__.partition(".")[0] == "slimcnn"]
others = [builtins, json, math, os, pathlib.Path, pathlib.PurePath]
if numpy := sys.modules.get("numpy"): others += [numpy]
if torch := sys.modules.get("torch"):
    others += [torch, torch.nn.functional, torch.Tensor, torch.nn.Module]
wrong = [f"{place.__name__}.{name}" for place in [*own, *classes, *others]
         for name, value in list(vars(place).items()) if "ipykernel_" in file(value)]
defined = {}
for module in own:
    for name in re.findall(r"(?m)^def (\\w+)", open(module.__file__).read()):
        for place in {module.__name__, module.__package__}:  # a package passes its modules' on
            defined.setdefault((place, name), set()).add(module.__file__)
for (place, name), files in defined.items():
    value = vars(sys.modules[place]).get(name, ...)
    if value is not ... and not isinstance(value, types.ModuleType) and file(value) not in files:
        wrong.append(f"{place}.{name}")
shell = get_ipython()
wrong += shell.ast_transformers or shell.input_transformers_post
if not wrong: raise RuntimeError("NONCE")"""

CANARIES: list[str] = [
    'assert False, "NONCE"',
    'raise RuntimeError("NONCE")',
    _ALONE.format(source=_CHECK),
    _ALONE.format(source=_LIBRARIES),
]

HIDDEN = (
    "errors do not come out of this notebook: cells that must fail seem to pass. Code in it changes"
    " how the kernel runs cells or reports errors (showtraceback, an error handler, a transformer),"
    " or replaces a function of a library or a check. Remove it and hand in again"
)


def planted() -> list[tuple[str, str]]:
    """The canaries, each with a fresh nonce."""
    pairs = []
    for source in CANARIES:
        nonce = secrets.token_hex(8)
        pairs.append((source.replace("NONCE", nonce), nonce))
    return pairs
