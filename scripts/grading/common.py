"""What the parts of the grader share: limits, errors, whole files, cells for a spreadsheet."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MB = 2**20


class GradingError(RuntimeError):
    """The class cannot be graded as things are; the message says what to do."""


class Refused(ValueError):
    """One submission cannot be graded; the message tells the student why and what mends it."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        cell: seconds for one cell.
        notebook: seconds for the whole notebook, restarts included.
        memory: bytes of memory, all processes together.
        processes: processes and threads, all together.
        file: bytes of one file.
        disk: bytes of all files (they live in memory and vanish afterwards).
        output: bytes of a cell's output that are kept.
    """

    cell: float = 60
    notebook: float = 240
    memory: int = 3000 * MB
    processes: int = 128
    file: int = 256 * MB
    disk: int = 512 * MB
    output: int = 100_000

    def as_dict(self) -> dict:
        """The limits by name, as the runner gets them."""
        return asdict(self)


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file or, when interrupted, nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    if isinstance(content, str):  # a file's name may hold bytes that are no text
        content = content.encode("utf-8", "backslashreplace")
    partial.write_bytes(content)
    os.replace(partial, path)


def harmless(text: str) -> str:
    """Text that a spreadsheet shows and does not compute: a leading = + - @ gets a quote."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def csv_text(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A CSV file that spreadsheets open rightly: with a byte order mark, texts made harmless."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return "\ufeff" + out.getvalue()


def number(points: float) -> str:
    """Points as people write them: 3, 2.5."""
    return f"{round(points, 4):g}"
