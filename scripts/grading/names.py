"""Whose notebook a file is, from its name: nbgrader's folders, Moodle, Canvas, plain names."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

from .common import GradingError

# Browsers, Jupyter and Colab each mark a copy in their way: "x (1)", "x-1", "x-Copy1", "Copy of x".
_COPY = r"(?:\s*\((?P<browser>\d+)\)|-(?P<canvas>\d+)|\s*-\s*Copy\s*\(?(?P<jupyter>\d*)\)?)?"
_MOODLE = re.compile(r"(?P<student>.+_\d+)_(?:assignsubmission_)?file_?")
# Systems' own files, which nobody handed in.
CLUTTER = {"__MACOSX", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Owner:
    """Whose file it is.

    Attributes:
        raw: the student's name as it stands in the path.
        copy: which copy; the highest is the newest.
    """

    raw: str
    copy: int = 0

    @property
    def student(self) -> str:
        """The name made safe for files, databases and spreadsheets."""
        return safe(self.raw)


def safe(raw: str) -> str:
    """Letters, digits and ._@- stay, in one Unicode form; anything else becomes an underscore."""
    text = unicodedata.normalize("NFC", raw.strip())
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in "._@-" else "_" for c in text)
    # neither a hidden file nor an option nor a formula
    return "".join(kept).lstrip("._@-").rstrip(".")


def is_clutter(path: str) -> bool:
    """Whether an operating system or Jupyter wrote this file beside the notebooks."""
    parts = PurePosixPath(path).parts
    return any(part in CLUTTER for part in parts) or PurePosixPath(path).name.startswith("._")


def owner(path: str, topic: str, pattern: re.Pattern | None = None) -> Owner | None:
    """The owner of a file, or None where its name does not say.

    Args:
        path: relative to the folder or zip that was handed over, with `/`.
        topic: the assignment, as in `pruning`.
        pattern: searched in the path instead of the usual forms; its group `student` is the name.
    """
    if pattern is not None:
        match = pattern.search(path)
        return Owner(match["student"] or "") if match and safe(match["student"] or "") else None
    parts = PurePosixPath(path).parts or ("",)
    name = re.escape(topic)
    for form in (
        rf"(?:Copy of )?{name}{_COPY}\.ipynb",
        rf"(?P<student>.+?)_(?:LATE_)?(?P<user>\d+)_\d+_(?:Copy of )?{name}{_COPY}\.ipynb",
        rf"(?P<student>.+?)\s*[_-]\s*(?:Copy of )?{name}{_COPY}\.ipynb",
    ):
        if match := re.fullmatch(form, parts[-1], re.IGNORECASE):
            break
    else:
        return None
    found = match.groupdict()
    if found.get("user"):
        raw = f"{found['student']}_{found['user']}"
    else:
        raw = _folder(parts[:-1], topic) if "student" not in found else found["student"]
        raw = of_folder(path) or raw
    if not raw or not safe(raw):
        return None
    numbers = [found[kind] for kind in ("browser", "canvas", "jupyter") if found[kind] is not None]
    return Owner(raw, int(numbers[0] or 1) if numbers else 0)


def of_folder(path: str) -> str | None:
    """Whose folder of Moodle's a file lies in, whatever the file is called."""
    folders = PurePosixPath(path).parts[:-1]
    return next((m["student"] for p in folders if (m := _MOODLE.fullmatch(p))), None)


def compiled(pattern: str | None) -> re.Pattern | None:
    """The instructor's pattern.

    Raises:
        GradingError: it is no regular expression or has no group `student`.
    """
    if not pattern:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise GradingError(f"PATTERN {pattern!r} is no regular expression: {error}") from error
    if "student" not in expression.groupindex:
        raise GradingError(
            f"PATTERN {pattern!r} has no group called student; write the part that is the name"
            r" as (?P<student>...), for example '(?P<student>[a-z]+)_hw1\.ipynb'"
        )
    return expression


def _folder(folders: tuple[str, ...], topic: str) -> str:
    """The folder that carries the student's name: STUDENT/x.ipynb or STUDENT/TOPIC/x.ipynb."""
    while folders and folders[-1].casefold() == topic.casefold():
        folders = folders[:-1]
    return folders[-1] if folders else ""
