"""What every lesson keeps to: sizes, lengths, order, tags. A rule returns what breaks it.

Tests apply each rule to each lesson (tests/notebooks/); the reasons are in CONTRIBUTING.md.
"""

import ast
import base64
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from nbformat import NotebookNode

import lesson
import repository
import setup_cell

FIGURE_BYTES, NOTEBOOK_BYTES = 60_000, 600_000
MEDIAN_LINES, NINTH_DECILE_LINES, MAXIMUM_LINES, COLUMNS = 8, 20, 30, 88
WORDS = (1_500, 3_500)
TAGS = {
    *("setup", "imports", "claims", "raises-exception"),
    *("hide-input", "hide-output", "hide-cell", "remove-input"),
    *("nbval-check-output", "nbval-ignore-output"),
}


class Lesson(NamedTuple):
    """One lesson: its source as a notebook, the stored notebook, and where they lie."""

    path: Path  # of the source
    source: NotebookNode
    stored: NotebookNode


def load(path: Path) -> Lesson:
    """Read both files of a lesson; without a stored notebook, the source stands in for it."""
    source = lesson.read_source(path)
    stored = lesson.read_notebook(path.with_suffix(".ipynb"))
    return Lesson(path, source, stored or lesson.read_source(path))


def notebook_belongs_to_source(item: Lesson) -> Iterator[str]:
    """Cell by cell the same, and the outputs those of this code."""
    if not item.path.with_suffix(".ipynb").exists():
        yield "there is no stored notebook; run `make notebooks`"
        return
    ours, theirs = item.source.cells, item.stored.cells
    if len(ours) != len(theirs):
        yield f"the source has {len(ours)} cells, the notebook {len(theirs)}"
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        for part in ("cell_type", "source", "id", "metadata"):
            if mine[part] != other[part]:
                yield f"cell {number}: the {part} of source and notebook differ"
    if reason := lesson.stale(item.source, item.stored):
        yield reason


def is_stored_as_generated(item: Lesson) -> Iterator[str]:
    """Nothing in the file that the generator would not write: no times, paths, versions."""
    if lesson.stale(item.source, item.stored) is None:
        text = lesson.render(lesson.with_outputs(item.source, item.stored))
        if text != item.path.with_suffix(".ipynb").read_text("utf-8"):
            yield "the file is not what `make notebooks` writes"
    yield from lesson.unportable(item.stored)


def outputs_have_no_errors(item: Lesson) -> Iterator[str]:
    """An error is stored only where the cell is there to show it."""
    for number, cell in _code(item):
        if "raises-exception" in lesson.tags(cell):
            continue
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"code cell {number} stores an error"


def is_small(item: Lesson) -> Iterator[str]:
    """A figure has at most 60 kB, a notebook 600 kB."""
    size = len(lesson.render(item.stored).encode())
    if size > NOTEBOOK_BYTES:
        yield f"the notebook has {size:,} bytes, allowed are {NOTEBOOK_BYTES:,}"
    for number, cell in _code(item):
        for output in cell.outputs:
            for kind, content in output.get("data", {}).items():
                if kind.startswith("image/"):
                    text = content.encode()
                    figure = len(text if kind == "image/svg+xml" else base64.b64decode(text))
                    if figure > FIGURE_BYTES:
                        yield f"code cell {number}: a figure of {figure:,} bytes ({FIGURE_BYTES:,})"


def code_cells_are_short(item: Lesson) -> Iterator[str]:
    """Median at most 8 lines, nine in ten at most 20, none over 30; at most 88 columns."""
    cells = [cell.source.split("\n") for _, cell in _code(item)]
    lengths = sorted(len(lines) for lines in cells)
    ninth = lengths[int(0.9 * (len(lengths) - 1))]
    for what, found, allowed in (
        ("median", statistics.median(lengths), MEDIAN_LINES),
        ("nine in ten", ninth, NINTH_DECILE_LINES),
        ("longest", lengths[-1], MAXIMUM_LINES),
    ):
        if found > allowed:
            yield f"code cells, {what}: {found:g} lines, allowed are {allowed}"
    for number, lines in enumerate(cells, start=1):
        if any(len(line) > COLUMNS for line in lines):
            yield f"code cell {number} has a line of more than {COLUMNS} columns"


def prose_has_its_length(item: Lesson) -> Iterator[str]:
    """1,500 to 3,500 words, and one first-level heading, at the top."""
    texts = [cell.source for cell in item.source.cells if cell.cell_type == "markdown"]
    words = sum(len(text.split()) for text in texts)
    if not WORDS[0] <= words <= WORDS[1]:
        yield f"{words:,} words, allowed are {WORDS[0]:,} to {WORDS[1]:,}"
    unfenced = re.sub(r"(?ms)^(```+|~~~+).*?^\1", "", "\n".join(texts))
    headings = re.findall(r"(?m)^# ", unfenced)
    first = item.source.cells[0]
    if len(headings) != 1 or not first.source.startswith("# "):
        yield f"{len(headings)} first-level headings; one is needed, on the first line"


def code_follows_prose(item: Lesson) -> Iterator[str]:
    """A paragraph stands before every code cell, except between setup and imports."""
    cells = item.source.cells
    for before, cell in zip([None, *cells], cells, strict=False):
        introduced = before is not None and (
            before.cell_type == "markdown"
            or ("setup" in lesson.tags(before) and "imports" in lesson.tags(cell))
        )
        if cell.cell_type == "code" and not introduced:
            yield f"no prose before the code cell that starts {cell.source.splitlines()[0]!r}"


def imports_come_first(item: Lesson) -> Iterator[str]:
    """The setup cell, then one cell with all imports; no star import, no change of sys.path."""
    cells = list(_code(item))
    places = [tag for _, cell in cells for tag in lesson.tags(cell) if tag in ("setup", "imports")]
    if places != ["setup", "imports"] or not _has(cells[0][1], "setup"):
        yield "the first code cell must be tagged setup, the second imports, and no other"
    for number, cell in cells:
        lines = cell.source.splitlines()
        code = "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in lines)
        nodes = list(ast.walk(ast.parse(code)))
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        if imports and not (_has(cell, "setup") or _has(cell, "imports")):
            yield f"code cell {number} imports; put it into the imports cell"
        if any(alias.name == "*" for node in imports for alias in node.names):
            yield f"code cell {number} has a star import"
        if "sys.path" in code:
            yield f"code cell {number} changes sys.path; install the package instead"


def setup_cell_is_the_books(item: Lesson) -> Iterator[str]:
    """The same setup cell in every lesson, for the address and version of the book."""
    root = item.path.resolve().parents[2]
    expected = setup_cell.source(repository.address(root), repository.version(root))
    for number, cell in _code(item):
        if _has(cell, "setup") and (
            cell.source != expected or lesson.tags(cell) != setup_cell.TAGS
        ):
            yield f"code cell {number} is not the book's setup cell; run `make repository`"


def tags_are_known(item: Lesson) -> Iterator[str]:
    """A misspelt tag checks nothing, and a tag that skips a cell is not allowed."""
    for number, cell in _code(item):
        for tag in set(lesson.tags(cell)) - TAGS:
            yield f"code cell {number} has the tag {tag!r}; known are {', '.join(sorted(TAGS))}"


def checked_outputs_exist(item: Lesson) -> Iterator[str]:
    """A lesson has claims that are asserted, and a cell whose output is compared has one."""
    cells = list(_code(item))
    for number, cell in cells:
        if _has(cell, "nbval-check-output") and not cell.outputs:
            yield f"code cell {number} is tagged nbval-check-output and has no output"
    if not any("assert" in cell.source for _, cell in cells):
        yield "no cell asserts anything; a lesson ends its experiment with a claims cell"


RULES: tuple[Callable[[Lesson], Iterator[str]], ...] = (
    notebook_belongs_to_source,
    is_stored_as_generated,
    outputs_have_no_errors,
    is_small,
    code_cells_are_short,
    prose_has_its_length,
    code_follows_prose,
    imports_come_first,
    setup_cell_is_the_books,
    tags_are_known,
    checked_outputs_exist,
)


def _code(item: Lesson) -> Iterator[tuple[int, NotebookNode]]:
    """The stored notebook's code cells, numbered from 1."""
    return enumerate(lesson.code_cells(item.stored), start=1)


def _has(cell: NotebookNode, tag: str) -> bool:
    return tag in lesson.tags(cell)
