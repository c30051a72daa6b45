"""Notebooks out of a folder or a zip: bounded in size, nothing written, nothing followed."""

import datetime
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from . import names
from .common import MB, GradingError

LARGEST = 20 * MB
ENTRIES = 50_000
# what one student's copies may add up to before they are read
ID_BYTES = 150


@dataclass(frozen=True)
class _File:
    path: str
    time: float
    size: int
    read: Callable[[], bytes]


@dataclass
class Collected:
    """What was handed in.

    Attributes:
        notebooks: student → the notebook's bytes.
        refused: student → why there is nothing to grade.
        notes: student → what the instructor should know about how it was collected.
        unmatched: files that are nobody's, by their names.
    """

    notebooks: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unmatched: list[str] = field(default_factory=list)


def collect(place: Path, topic: str, pattern: str | None = None) -> Collected:
    """All submissions of a folder or zip.

    Raises:
        GradingError: there is no such place, it is no zip, or nothing in it could be recognized.
    """
    expression = names.compiled(pattern)
    if place.is_dir():
        try:
            return _sorted_out(_folder(place), topic, expression, place)
        except GradingError:
            # one student's folder: its own name says whose
            if expression or not any(place.rglob(f"{topic}.ipynb")):
                raise
            return _sorted_out(_folder(place, place.resolve().name), topic, expression, place)
    if not place.is_file():
        raise GradingError(f"SUBMISSIONS={place}: there is no such folder or zip file")
    try:
        with zipfile.ZipFile(place) as archive:
            return _sorted_out(_archive(archive, place), topic, expression, place)
    except zipfile.BadZipFile as error:
        raise GradingError(
            f"SUBMISSIONS={place} is no readable zip file ({error}); download it again, or give"
            " a folder"
        ) from error


def _sorted_out(files: Iterator[_File], topic: str, pattern, place: Path) -> Collected:  # noqa: ANN001
    found, result = defaultdict(list), Collected()
    for file in files:
        if names.is_clutter(file.path):
            continue
        who = names.owner(file.path, topic, pattern)
        if who is None:
            result.unmatched.append(file.path)
        else:
            found[who.student.casefold()].append((who, file))
    if not found:
        shown = "".join(f"\n  {path}" for path in sorted(result.unmatched)[:10])
        raise GradingError(
            f"SUBMISSIONS={place}: no file is named like a submission of {topic!r}; known are"
            f" STUDENT/{topic}/{topic}.ipynb, STUDENT/{topic}.ipynb, STUDENT_{topic}.ipynb and the"
            " names that Moodle and Canvas give. For others set PATTERN, a regular expression"
            f" with a group (?P<student>...). Found were:{shown or ' no files'}"
        )
    for entries in found.values():
        _one(entries, result)
    result.unmatched.sort()
    for path in result.unmatched if pattern is None else ():
        student = names.safe(names.of_folder(path) or "")
        if student and student.casefold() not in found:
            result.refused[student] = (
                f"there is no file {topic}.ipynb; found was {PurePosixPath(path).name}. Hand in the"
                " assignment's notebook, under its own name"
            )
    return result


def _one(entries: list, result: Collected) -> None:
    """Take one student's newest file, or refuse."""
    student = entries[0][0].student
    raws = sorted({who.raw for who, _ in entries})
    if len({names.unicodedata.normalize("NFC", raw) for raw in raws}) > 1:
        result.refused[student] = (
            f"different names become one ({student}): {', '.join(raws)}; rename one of them"
        )
        return
    if len(student.encode()) > ID_BYTES:
        student = student[:40]
        result.refused[student] = "the name is too long for a file; rename the file"
        return
    try:
        contents = [(who.copy, file.time, file.path, _bounded(file)) for who, file in entries]
    except ValueError as error:
        result.refused[student] = str(error)
        return
    contents.sort(key=lambda entry: entry[:2])
    newest = contents[-1]
    equally_new = [entry for entry in contents if entry[:2] == newest[:2]]
    if len({entry[3] for entry in equally_new}) > 1:
        paths = ", ".join(sorted(entry[2] for entry in equally_new))
        result.refused[student] = f"which of these is the newest cannot be told: {paths}; keep one"
        return
    result.notebooks[student] = newest[3]
    if len(contents) > 1:
        result.notes[student].append(f"of {len(contents)} files the newest was taken: {newest[2]}")


def _bounded(file: _File) -> bytes:
    if file.size > LARGEST:
        raise ValueError(
            f"{file.path} has {file.size / MB:.0f} MB; at most {LARGEST // MB} MB are read. Clear"
            " the notebook's outputs, save, and hand it in again"
        )
    try:
        content = file.read()
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file.path} cannot be read: {error}") from error
    except zlib.error as error:
        raise ValueError(f"{file.path} is damaged in the zip file: {error}") from error
    if len(content) > LARGEST:
        raise ValueError(f"{file.path} unpacks to more than {LARGEST // MB} MB")
    return content


def _folder(place: Path, above: str = "") -> Iterator[_File]:
    for folder, folders, files in os.walk(place, followlinks=False):
        folders[:] = sorted(f for f in folders if f not in names.CLUTTER)
        for name in sorted(files):
            path = Path(folder, name)
            relative = Path(above, path.relative_to(place)).as_posix()
            # a link could lead to anything that the instructor may read
            if path.is_symlink() or not path.is_file():
                yield _File(f"{relative} (a link or no plain file)", 0, 0, bytes)
            else:
                status = path.stat()
                yield _File(relative, status.st_mtime, status.st_size, path.read_bytes)


def _archive(archive: zipfile.ZipFile, place: Path) -> Iterator[_File]:
    entries = archive.infolist()
    if len(entries) > ENTRIES:
        raise GradingError(f"{place} has {len(entries)} entries; at most {ENTRIES} are read")
    for entry in entries:
        if entry.is_dir():
            continue
        path = _name(entry).replace("\\", "/")
        if path.startswith("/") or ".." in path.split("/") or not path.strip("/"):
            yield _File(f"{path} (leads out of the zip file)", 0, 0, bytes)
            continue
        try:
            time = datetime.datetime(*entry.date_time).timestamp()
        except (ValueError, OverflowError, OSError):
            time = 0.0

        def read(entry: zipfile.ZipInfo = entry) -> bytes:
            # the size in the directory may lie: never read more than is allowed
            with archive.open(entry) as stream:
                return stream.read(LARGEST + 1)

        yield _File(path, time, entry.file_size, read)


def _name(entry: zipfile.ZipInfo) -> str:
    """The name in a zip; without the flag for UTF-8 it may be UTF-8 all the same."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename
