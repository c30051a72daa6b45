"""A submission before it runs: refused where it cannot be graded, restored where it was edited."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy

import nbformat
from nbformat import NotebookNode

from .assignment import Assignment
from .common import Refused

MOST_CELLS = 1000
# fmt: off
SUSPICIOUS = [
    "_getframe", "settrace", "setprofile", "get_objects", "get_referrers", "showtraceback",
    "set_custom_exc", "displayhook", "excepthook", "run_cell", "ast_transformers", "ctypes",
    "subprocess", "importlib", "__code__", "__globals__", "__builtins__", "inspect", "os.system",
    "f_locals", "f_back", "tb_frame", "gi_frame", "__self__", "__closure__", "__defaults__",
    "__eq__", "__dict__", "builtins", "threading", "_thread", "multiprocessing", "concurrent",
    "jit", "make_fx", "input_transformers_post", "input_transformers_cleanup",
    "input_transformer_manager",
]
# fmt: on
# A function of a module that is replaced; the images that nothing may be chosen on.
_PATTERNS = (
    r"^[ \t]*(?:torch|np|numpy|math|pathlib|Path|checks|quant|slimcnn|training|report|data|deploy"
    r"|metrics|checkpoints|models|pruning|sparsity|distillation|lowrank|coding)"
    r"(?:\.\w+)*\.(?!_)\w+[ \t]*=(?!=)",
    r"load\([ \t]*[\"']test[\"']",
)
_MEND = (
    " To mend it: download the assignment's notebook anew, copy each of your answers into the cell"
    " that belongs to it, run everything once, save, and hand in that file."
)


def parse(content: bytes) -> NotebookNode:
    """A notebook from a file's bytes, in the current format.

    Raises:
        Refused: it is none.
    """
    try:
        raw = json.loads(content.decode("utf-8-sig"))
        if not isinstance(raw, dict) or not {"cells", "worksheets"} & raw.keys():
            raise ValueError("it has no cells")
        notebook = nbformat.convert(nbformat.from_dict(raw), 4)
        for cell in notebook.cells:
            _repair(cell)
    except RecursionError:
        raise Refused("this is no notebook: it is nested too deeply.") from None
    except Exception as error:  # whatever a damaged file makes nbformat raise
        raise Refused(
            f"this is no notebook ({type(error).__name__}: {str(error)[:200]}). To mend it: in"
            " Jupyter or Colab save or download the notebook as .ipynb and hand in that file."
        ) from error
    if len(notebook.cells) > MOST_CELLS:
        raise Refused(f"this notebook has {len(notebook.cells)} cells; at most {MOST_CELLS} run.")
    return notebook


def inspect(notebook: NotebookNode, assignment: Assignment) -> None:
    """Refuse a notebook whose points could not be told.

    Raises:
        Refused: it is another assignment's, or cells are missing, doubled or without their marks.
    """
    present = Counter(name for cell in notebook.cells if (name := mark(cell)))
    missing = [name for name in assignment.needed if name not in present]
    others = [name for name in present if name not in assignment.cells]
    stated = notebook.metadata.get("slimcnn")
    stated = stated.get("assignment") if isinstance(stated, Mapping) else None
    if missing and isinstance(stated, str) and stated != assignment.topic:
        raise Refused(
            f"this is the notebook of the assignment {stated[:60]!r}, not of {assignment.topic!r};"
            " hand in the other file."
        )
    if len(missing) == len(assignment.needed) and others:
        raise Refused(
            f"this is another assignment's notebook: its cells are called {_list(others)}, those of"
            f" {assignment.topic} {_list(assignment.needed)}."
        )
    lost = [name for name in missing if _recognized(name, notebook, assignment)]
    gone = [name for name in missing if name not in lost]
    problems = []
    if lost:
        problems.append(
            f"the cells {_list(lost)} are there but have lost the marks by which they are graded"
            " (their metadata; some editors and converters remove it)."
        )
    if gone:
        problems.append(f"cells that are graded or hold an answer are missing: {_list(gone)}.")
    if problems:
        raise Refused(" ".join(problems) + _MEND)
    if twice := [name for name in assignment.needed if present[name] > 1]:
        raise Refused(
            f"the cells {_list(twice)} are there more than once, so which one counts cannot be"
            " told (a cell was copied with its marks). To mend it: delete the copies, or paste"
            " their text into a new cell; save, and hand in again."
        )


def restore(notebook: NotebookNode, assignment: Assignment) -> tuple[NotebookNode, list[str]]:
    """The notebook that is run: the student's answers, our tests and read-only cells.

    Returns:
        The notebook, without outputs, and notes on what was put back.
    """
    cells, edited, seen = [], [], set()
    for cell in notebook.cells:
        name = mark(cell)
        known = name in assignment.cells and name not in seen
        source, like = cell.source, cell
        if known:
            seen.add(name)
            like = assignment.cells[name]
            if assignment.locked(name):
                if _text(cell.source) not in (_text(assignment.public(name)), _text(like.source)):
                    edited.append(name)
                source = like.source
        cells.append(_cell(like.cell_type, source, like.metadata if known else {}, cell))
    deleted = _put_back(cells, seen, assignment)
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    notes = []
    if edited:
        notes.append(f"edited cells were put back: {_list(edited)}")
    if deleted:
        notes.append(f"deleted read-only cells were put back: {_list(deleted)}")
    metadata = deepcopy(assignment.notebook.metadata)
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata), notes


def flags(notebook: NotebookNode, assignment: Assignment) -> list[str]:
    """Names in the student's code that an instructor should look at; no points are lost."""
    code = "\n".join(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code"
        and not (mark(cell) in assignment.cells and assignment.locked(mark(cell)))
    )
    found = [name for name in SUSPICIOUS if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code)]
    matches = (match for form in _PATTERNS for match in re.finditer(form, code, re.MULTILINE))
    return [*found, *dict.fromkeys(" ".join(match[0].split()) for match in matches)]


def mark(cell: NotebookNode) -> str | None:
    """The grade_id of a cell, where it has a usable one."""
    marks = cell.metadata.get("nbgrader")
    name = marks.get("grade_id") if isinstance(marks, Mapping) else None
    return name if isinstance(name, str) else None


def _recognized(name: str, notebook: NotebookNode, assignment: Assignment) -> bool:
    """Whether a cell that lost its marks is there, by its id, its text or its first line."""
    cell = assignment.cells[name]
    released = assignment.released.cells if assignment.released else []
    ids = {c.get("id") for c in (cell, *(r for r in released if mark(r) == name))} - {None}
    texts = {_text(assignment.public(name)), _text(cell.source)}
    start = next((line for line in cell.source.splitlines() if line.startswith("def ")), None)
    return any(
        found.get("id") in ids
        or _text(found.source) in texts
        or (start is not None and start in found.source.splitlines())
        for found in notebook.cells
        if mark(found) is None
    )


def _put_back(cells: list[NotebookNode], seen: set[str], assignment: Assignment) -> list[str]:
    """Insert read-only cells that are missing, each after the cell that it follows."""
    deleted, previous = [], None
    for name, like in assignment.cells.items():
        if name not in seen:
            at = next((i + 1 for i, c in enumerate(cells) if mark(c) == previous), 0)
            cells.insert(at if previous else 0, _cell(like.cell_type, like.source, like.metadata))
            deleted.append(name)
        previous = name
    return deleted


def _cell(
    kind: str, source: str, metadata: Mapping, old: NotebookNode | None = None
) -> NotebookNode:
    new = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }[kind](source)
    new.metadata = nbformat.from_dict(deepcopy(dict(metadata)))
    if kind == "markdown" and old is not None and isinstance(old.get("attachments"), Mapping):
        new["attachments"] = old["attachments"]
    return new


def _repair(cell: NotebookNode) -> None:
    """Give a cell what every cell has; raise where that cannot be done."""
    if cell.get("cell_type") not in ("code", "markdown", "raw"):
        raise ValueError(f"a cell is of the unknown type {cell.get('cell_type')!r}")
    source = cell.get("source", "")
    cell["source"] = source if isinstance(source, str) else "".join(map(str, source))
    cell["source"] = cell["source"].encode("utf-8", "replace").decode()
    if not isinstance(cell.get("metadata"), Mapping):
        cell["metadata"] = NotebookNode()


def _text(source: str) -> str:
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


def _list(names: list[str]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
