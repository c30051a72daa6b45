"""A lesson on disk: `name.py` (py:percent) beside `name.ipynb`, and how the two belong together.

The notebook stores two fingerprints: of the code that was executed and of the outputs that
it gave. While both still hold, a notebook is rewritten without executing anything.
"""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}

# What progress bars and first runs of libraries leave on stderr: nothing of the lesson.
# The last alternative: log lines of PyTorch, "W1124 13:38:46.329000 2646 torch/…".
_NOISE = re.compile(
    r"\d+%\||\bit/s\b|\bs/it\b|IProgress not found|from \.autonotebook|font cache"
    r"|^[IWE]\d{4} \d\d:\d\d:\d\d"
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}", re.IGNORECASE)
_WIDGET = "application/vnd.jupyter.widget-view+json"


class LessonError(RuntimeError):
    """A lesson that cannot be read, executed or stored; the message says where."""


def sources(paths: list[Path]) -> list[Path]:
    """The lesson sources under some folders or files (either of the pair names the lesson).

    Raises:
        LessonError: a path does not exist, or a notebook has no source beside it.
    """
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = [*path.rglob("*.py"), *path.rglob("*.ipynb")]
            found.update(p for p in inside if ".ipynb_checkpoints" not in p.parts)
        elif path.exists():
            found.add(path)
        else:
            raise LessonError(f"{path} does not exist; give a lesson or a folder of lessons")
    for path in found:
        if not path.with_suffix(".py").exists():
            raise LessonError(
                f"{path} has no source: write {path.with_suffix('.py').name} beside it"
            )
    return sorted({path.with_suffix(".py") for path in found})


def read_source(path: Path) -> NotebookNode:
    """The notebook that a source describes: cells, tags, stable ids; no outputs yet."""
    text = path.read_text("utf-8")
    cell_lines(path)  # refuses a file without cells
    notebook = jupytext.reads(text, fmt="py:percent")
    settings = notebook.metadata.get("slimcnn", {})
    notebook.metadata = NotebookNode(
        kernelspec=KERNELSPEC, language_info=LANGUAGE, slimcnn=NotebookNode(settings)
    )
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.source = cell.source.strip("\n")
        cell.metadata = NotebookNode(
            {key: value for key, value in cell.metadata.items() if not key.startswith("lines_to_")}
        )
        # The index counts equal cells only, so a new paragraph renames no other cell.
        content = f"{cell.cell_type}\n{cell.source}"
        index = seen[content] = seen.get(content, -1) + 1
        cell.id = hashlib.sha256(f"{index}\n{content}".encode()).hexdigest()[:12]
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def read_notebook(path: Path) -> NotebookNode | None:
    """The stored notebook, or None where there is none that can be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError):
        return None


def render(notebook: NotebookNode) -> str:
    """The notebook as text, the same for the same content on every machine."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old or the new one, never half of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def code_hash(notebook: NotebookNode) -> str:
    """Fingerprint of the code; the setup cell counts as present, whatever address it holds."""
    code = ["setup" if "setup" in tags(c) else c.source for c in code_cells(notebook)]
    return _digest(code)


def outputs_hash(notebook: NotebookNode) -> str:
    """Fingerprint of the stored outputs."""
    return _digest([[c.execution_count, c.outputs] for c in code_cells(notebook)])


def stale(source: NotebookNode, stored: NotebookNode | None) -> str | None:
    """Why a notebook must be executed again; None while its outputs belong to its source."""
    if stored is None:
        return "there is no stored notebook"
    marks = stored.metadata.get("slimcnn", {})
    if marks.get("code") != code_hash(source):
        return "its code has changed since it was executed"
    if marks.get("outputs") != outputs_hash(stored):
        return "its stored outputs are not those of the last execution"
    return None


def with_outputs(source: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """The source's notebook with the outputs of one that executed the same code."""
    for cell, old in zip(code_cells(source), code_cells(stored), strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    source.metadata.slimcnn.code = code_hash(source)
    source.metadata.slimcnn.outputs = outputs_hash(source)
    return source


def clean_outputs(notebook: NotebookNode) -> None:
    """Drop progress bars, widgets and execution times from fresh outputs, in place.

    What is printed between two figures is one output a stream, however the kernel's timing has
    cut it into messages.
    """
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        kept, printed = [], {}
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                pieces = re.split(r"[\r\n]+", output.text)
                lines = [p for p in pieces if p.strip() and not _NOISE.search(p)]
                output.text = "".join(f"{line}\n" for line in lines)
                if not lines:
                    continue
            if _WIDGET in output.get("data", {}):
                continue
            output.get("metadata", {}).pop("needs_background", None)
            if output.output_type != "stream":
                printed = {}
            elif printed.setdefault(output.name, output) is not output:
                printed[output.name].text += output.text
                continue
            kept.append(output)
        cell.outputs = kept


def unportable(notebook: NotebookNode, root: Path = ROOT) -> list[str]:
    """What in the outputs holds only on this machine: absolute paths, memory addresses."""
    temporary = Path(tempfile.gettempdir())
    places = [root, Path.home(), temporary / "ipykernel_"]
    names = [re.escape(str(place)) for place in places if len(place.parts) > 1]
    local = re.compile("|".join(names))
    found = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        texts = [_text(output) for output in cell.outputs]
        for pattern, what in ((local, "a path of this machine"), (_ADDRESS, "a memory address")):
            match = next((m for m in map(pattern.search, texts) if m), None)
            if match:
                line = match.string[max(0, match.start() - 40) : match.end() + 40]
                found.append(f"code cell {number} prints {what}: …{line!r}…")
    return found


def cell_lines(path: Path) -> list[int]:
    """For each cell of a source, the number of its first line (the one after the marker).

    Raises:
        LessonError: there is no cell, or text stands before the first one.
    """
    lines = path.read_text("utf-8").splitlines()
    start = 0
    if lines and lines[0] == "# ---":
        start = lines.index("# ---", 1) + 1 if "# ---" in lines[1:] else len(lines)
    marks = [n for n in range(start, len(lines)) if re.match(r"# %%(\s|$)", lines[n])]
    if not marks or any(line.strip() for line in lines[start : marks[0]]):
        raise LessonError(
            f"{path}:{start + 1}: every line of a lesson belongs to a cell; start the first one"
            " with `# %% [markdown]` or `# %%`"
        )
    firsts = []
    for mark in marks:
        first = mark + 1
        while first < len(lines) and not lines[first].strip():
            first += 1
        firsts.append(first + 1)
    return firsts


def shown(path: Path, root: Path = ROOT) -> str:
    """A path as messages show it: from the repository's root where it lies inside."""
    path = path.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _text(output: NotebookNode) -> str:
    """Everything readable in one output (images are left out)."""
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/png")}
    parts = [output.get("text", ""), *data.values(), *output.get("traceback", [])]
    return "\n".join(part if isinstance(part, str) else json.dumps(part) for part in parts)


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
