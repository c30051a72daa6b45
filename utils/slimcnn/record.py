"""The record of one measured network, its JSON files, and where a record comes from.

`record.schema.json` (JSON Schema, draft 2020-12) is the only definition of what a valid
record is: the check at run time reads it, and so can any other program. The last section
of chapter 1 introduces the record that every later chapter ends with.
"""

import copy
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from slimcnn.provenance import checkout, provenance

_JSON_TYPES = {dict: "object", list: "array", str: "string", type(None): "null"}
_JSON_TYPES |= {bool: "boolean", int: "integer", float: "number"}


class RecordError(ValueError):
    """A record, or a file of records, is not as `record.schema.json` says."""


@dataclass(frozen=True)
class RecordedLatency:
    """Latency as a record keeps it: `slimcnn.latency.Latency` without its samples.

    Attributes:
        median_ms, q1_ms, q3_ms: quartiles over the rounds, milliseconds.
        cpu_wall, disturbed: CPU time ÷ wall time, and whether it spoils the measurement.
        rounds, threads: how it was measured.
        runtime, cpu: what ran the network, and on what.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    cpu_wall: float
    disturbed: bool
    rounds: int
    threads: int
    runtime: str
    cpu: str


@dataclass(frozen=True)
class Record:
    """One network, measured once; checked against the schema when it is made.

    Attributes:
        model: name of the network, such as "resnet14".
        technique: what was done to it; "dense" for nothing.
        seed: of the training.
        stage: "screen" (looks for a recipe, one seed) or "final" (may be compared).
        split: name of the split that `accuracy` was measured on.
        accuracy: percent.
        parameters, nonzeros: stored weights, and those that are not zero.
        macs: multiply-accumulates for one image.
        bytes: size of the real file.
        latency: None where it was not measured.
        settings: what the technique was given, as JSON values.
        provenance: command, commit, date, versions and hardware, from `provenance()`.

    Raises:
        RecordError: a field has the wrong type or an impossible value.
    """

    model: str
    technique: str
    seed: int
    stage: str
    split: str
    accuracy: float
    parameters: int
    nonzeros: int
    macs: int
    bytes: int
    latency: RecordedLatency | None = None
    settings: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=provenance)

    def __post_init__(self) -> None:
        _check(self.to_dict(), _schema(), "record", "")
        # Later changes to the caller's dictionaries are not changes to the record.
        object.__setattr__(self, "settings", copy.deepcopy(self.settings))
        object.__setattr__(self, "provenance", copy.deepcopy(self.provenance))
        if isinstance(self.latency, dict):
            object.__setattr__(self, "latency", RecordedLatency(**self.latency))

    def to_dict(self) -> dict:
        """The record as plain dictionaries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object, source: str = "record") -> "Record":
        """The record in a dictionary that came from JSON.

        Args:
            content: all fields and no others.
            source: where it came from; error messages start with it.

        Raises:
            RecordError: with the source, the field, its value, and what is allowed.
        """
        _check(content, _schema(), source, "")
        return cls(**content)


def save_records(records: Iterable[Record], path: Path | str) -> Path:
    """Write records to `path`: a list if it ends in .json, one a line if in .jsonl.

    An existing file is replaced at once or, on an error, left as it was.

    Raises:
        RecordError: something is not a `Record`, or the file's name has another ending.
    """
    path = _record_path(path)
    contents = [_content(record) for record in records]
    if path.suffix == ".jsonl":
        text = "".join(_line(content) for content in contents)
    else:
        text = json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(text.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def append_record(path: Path | str, record: Record) -> None:
    """Add one line to a .jsonl file, creating it if need be.

    The line is written by one system call and synced, so that a sweep killed at any moment
    leaves whole records. If the disk is full, the file is cut back to what it was.

    Raises:
        RecordError: not a `Record`, not a .jsonl file, or its last line is cut off.
        OSError: the line could not be written.
    """
    path = _record_path(path)
    if path.suffix != ".jsonl":
        raise RecordError(f"{path} cannot be appended to; name a file that ends in .jsonl")
    line = _line(_content(record)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                raise RecordError(f"{path} ends in the middle of a line; complete or delete it")
        try:
            if (written := file.write(line)) != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written to {path}")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def load_records(name_or_path: Path | str) -> list[Record]:
    """Read and check a file of records.

    Args:
        name_or_path: a path that ends in .json or .jsonl; or a name such as "baseline",
            which is looked for in the checkout's results/ and then among the records that
            the installed package carries.

    Raises:
        FileNotFoundError: no such file; for a name, the message lists those there are.
        RecordError: with the file, the record and the field that is wrong.
    """
    path = _find(name_or_path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        parts = enumerate(text.removesuffix("\n").split("\n") if text else (), 1)
        sources = [(f"{path}, line {number}", line) for number, line in parts]
        return [Record.from_dict(_parse(line, source), source) for source, line in sources]
    contents = _parse(text, str(path))
    if not isinstance(contents, list):
        raise RecordError(
            f"{path} holds a JSON {_json_type(contents)}; a list of records is needed"
        )
    return [
        Record.from_dict(content, f"{path}, record {number}")
        for number, content in enumerate(contents, 1)
    ]


@cache
def _schema() -> dict:
    return json.loads(files("slimcnn").joinpath("record.schema.json").read_text("utf-8"))


def _check(value: object, schema: dict, source: str, path: str) -> None:
    """Refuse a value that `schema` does not allow: the keywords that our schema uses."""

    def refuse(what: str) -> RecordError:
        return RecordError(f"{source}: {path or 'the record'} {what}")

    kind = _json_type(value)
    allowed = schema.get("type", kind)
    allowed = [allowed] if isinstance(allowed, str) else allowed
    if kind is None or (kind not in allowed and not (kind == "integer" and "number" in allowed)):
        wanted = " or ".join(allowed) if kind else "text, number, bool, None, list or dictionary"
        raise refuse(f"is {value!r} ({type(value).__name__}); {wanted} is needed")
    if kind == "number" and not math.isfinite(value):
        raise refuse(f"is {value}; a finite number is needed")
    if "enum" in schema and value not in schema["enum"]:
        raise refuse(f"is {value!r}; allowed are {', '.join(map(repr, schema['enum']))}")
    if kind in ("integer", "number"):
        if value < schema.get("minimum", value):
            raise refuse(f"is {value}; at least {schema['minimum']} is needed")
        if value > schema.get("maximum", value):
            raise refuse(f"is {value}; at most {schema['maximum']} is allowed")
    if kind == "string":
        if len(value) < schema.get("minLength", 0):
            raise refuse("is empty; a text is needed")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise refuse(f"is {value!r}; it must match {schema['pattern']}")
    if kind == "array":
        for index, item in enumerate(value):
            _check(item, {}, source, f"{path}[{index}]")
    if kind == "object":
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for name in schema.get("required", ()):
            if name not in value:
                raise refuse(f"lacks the field {name!r}")
        for name, item in value.items():
            if not isinstance(name, str):
                raise refuse(f"has the key {name!r}; the keys of JSON are strings")
            if name not in properties and others is False:
                known = ", ".join(properties)
                raise refuse(f"has the unknown field {name!r}; there are {known}")
            inner = properties.get(name, others if isinstance(others, dict) else {})
            _check(item, inner, source, f"{path}.{name}" if path else name)


def _json_type(value: object) -> str | None:
    """JSON's name for the type of a value; None if JSON has no such type."""
    return next((_JSON_TYPES[cls] for cls in type(value).__mro__ if cls in _JSON_TYPES), None)


def _parse(text: str, source: str) -> object:
    try:
        return json.loads(text)  # NaN passes here; the check names its field
    except json.JSONDecodeError as error:
        raise RecordError(f"{source}: not JSON ({error}); mend or delete it") from error


def _content(record: Record) -> dict:
    if not isinstance(record, Record):
        raise RecordError(f"a {type(record).__name__} was given; only a Record can be saved")
    content = record.to_dict()
    _check(content, _schema(), "record", "")  # its dictionaries may have been changed
    return content


def _line(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


def _record_path(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in (".json", ".jsonl"):
        raise RecordError(f"{path} is no file of records; its name must end in .json or .jsonl")
    return path


def places() -> list[Path]:
    """Where results are looked for: the checkout's own, then those that the wheel carries."""
    return [checkout() / "results", Path(__file__).resolve().parent / "records"]


def _find(name_or_path: Path | str) -> Path:
    if isinstance(name_or_path, Path) or str(name_or_path).endswith((".json", ".jsonl")):
        path = _record_path(name_or_path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        return path
    for place in places():
        found = [place / f"{name_or_path}{suffix}" for suffix in (".json", ".jsonl")]
        found = [path for path in found if path.is_file()]
        if len(found) == 2:
            raise RecordError(f"both {found[0]} and {found[1]} are there; give the path of one")
        if found:
            return found[0]
    names = sorted({path.stem for place in places() for path in place.glob("*.json*")})
    raise FileNotFoundError(
        f"there are no records {name_or_path!r}; there are {', '.join(names) or 'none'}"
    )
