"""slimcnn.record: exact round trips, and refusals that agree with the schema."""

import copy
import json
import resource
from dataclasses import fields, replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimcnn import provenance, record
from slimcnn.record import Record, RecordedLatency, RecordError

SCHEMA = json.loads((record.files("slimcnn") / "record.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

LATENCY = RecordedLatency(
    median_ms=0.57,
    q1_ms=0.55,
    q3_ms=0.6,
    cpu_wall=0.99,
    disturbed=False,
    rounds=50,
    threads=1,
    runtime="onnxruntime",
    cpu="a processor",
)
PROVENANCE = {
    "command": "python scripts/prune.py",
    "commit": "0123456789abcdef0123456789abcdef01234567+dirty",
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.7", "torch": "2.14.1", "slimcnn": "0.1.0"},
    "hardware": {"cpu": "a processor", "cores": 2, "threads": 1},
}


def make(**changes):
    values = {
        "model": "resnet14",
        "technique": "dense",
        "seed": 0,
        "stage": "final",
        "split": "test",
        "accuracy": 94.05,
        "parameters": 696_042,
        "nonzeros": 696_000,
        "macs": 22_000_000,
        "bytes": 2_800_123,
        "latency": LATENCY,
        "settings": {"epochs": 30, "nested": [1, 2.5, {"a": None}], "on": True},
        "provenance": PROVENANCE,
    }
    return Record(**values | changes)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Surrogates are no characters and have no UTF-8 form.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=6,
)
records = st.builds(
    make,
    model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    seed=st.integers(0),
    stage=st.sampled_from(["screen", "final"]),
    accuracy=st.floats(0, 100) | st.integers(0, 100),
    bytes=st.integers(1),
    latency=st.none() | st.builds(lambda t: replace(LATENCY, median_ms=t), st.floats(0, 1e9)),
    settings=st.dictionaries(st.text("abc"), json_values, max_size=3),
)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@given(items=st.lists(records, max_size=3))
def test_round_trip_is_exact(tmp_path_factory, suffix, items):
    path = tmp_path_factory.mktemp("records") / f"some{suffix}"
    assert record.save_records(items, path) == path
    loaded = record.load_records(path)
    assert loaded == items
    assert [repr(r) for r in loaded] == [repr(r) for r in items]  # 1 is not 1.0, -0.0 is not 0.0
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for item in items:
        VALIDATOR.validate(item.to_dict())


def test_the_schema_is_valid_and_names_the_fields_of_the_classes():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for cls, part in ((Record, SCHEMA), (RecordedLatency, SCHEMA["properties"]["latency"])):
        names = {field.name for field in fields(cls)}
        assert names == set(part["properties"]) == set(part["required"])


def test_the_schema_uses_no_keyword_that_the_check_does_not_know():
    def keywords(schema):
        found = set(schema)
        parts = list(schema.get("properties", {}).values())
        if isinstance(schema.get("additionalProperties"), dict):
            parts.append(schema["additionalProperties"])
        return found.union(*map(keywords, parts))

    notes = {"$schema", "title", "description"}
    checked = {"type", "enum", "minimum", "maximum", "minLength", "pattern"}
    checked |= {"required", "properties", "additionalProperties"}
    assert keywords(SCHEMA) - notes == checked


def paths(value, prefix=()):
    yield prefix
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*prefix, key))


ALL_PATHS = [path for path in paths(make().to_dict()) if path]
REPLACEMENTS = st.one_of(
    json_values.filter(lambda v: not (isinstance(v, float) and v.is_integer())),
    st.sampled_from([-1, 0, 1, 100, 100.5, -0.5, "", "x", "final", "screen", True, None, [], {}]),
    st.sampled_from(["0" * 40, "0" * 39, "2026-01-02T03:04:05+00:00", "2026-01-02"]),
)


@given(st.sampled_from(ALL_PATHS), REPLACEMENTS, st.sampled_from(["replace", "remove", "add"]))
def test_the_check_agrees_with_jsonschema(path, value, action):
    content = copy.deepcopy(make().to_dict())
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if action == "replace":
        parent[path[-1]] = value
    elif action == "remove":
        del parent[path[-1]]
    else:
        parent["added"] = value
    expected = VALIDATOR.is_valid(content)
    try:
        made = Record.from_dict(content)
    except RecordError as error:
        assert not expected, error
    else:
        assert expected
        assert made.to_dict() == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 100.1}, "record: accuracy is 100.1; at most 100 is allowed"),
        ({"accuracy": -0.1}, "accuracy is -0.1; at least 0 is needed"),
        ({"accuracy": float("nan")}, "accuracy is nan; a finite number is needed"),
        ({"accuracy": "94"}, r"accuracy is '94' \(str\); number is needed"),
        ({"seed": True}, r"seed is True \(bool\); integer is needed"),
        ({"macs": 1.0}, r"macs is 1.0 \(float\); integer is needed"),
        ({"stage": "draft"}, "stage is 'draft'; allowed are 'screen', 'final'"),
        ({"model": ""}, "model is empty"),
        ({"latency": "fast"}, r"latency is 'fast' \(str\); object or null is needed"),
        ({"settings": {"a": {"b": [0, float("inf")]}}}, r"settings.a.b\[1\] is inf; a finite"),
        ({"settings": {"a": (1, 2)}}, r"settings.a is \(1, 2\) \(tuple\); text, number"),
        ({"settings": {1: 2}}, "settings has the key 1; the keys of JSON are strings"),
        ({"provenance": {}}, "provenance lacks the field 'command'"),
        ({"provenance": PROVENANCE | {"commit": "main"}}, "provenance.commit is 'main'; it must"),
        ({"provenance": PROVENANCE | {"by": "x"}}, "provenance has the unknown field 'by'; there"),
    ],
)
def test_a_wrong_record_cannot_be_made(changes, message):
    with pytest.raises(RecordError, match=message):
        make(**changes)


def test_a_record_does_not_follow_later_changes():
    settings = {"rates": [1]}
    made = make(settings=settings)
    settings["rates"].append(2)
    assert made.settings == {"rates": [1]}
    made.settings["rates"] = float("nan")
    with pytest.raises(RecordError, match=r"settings.rates is nan"):
        record.save_records([made], "never.json")


def test_provenance_is_there_by_default():
    made = Record("m", "dense", 0, "final", "test", 90, 1, 1, 1, 1)
    assert made.latency is None
    assert made.settings == {}
    assert made.provenance["versions"]["slimcnn"] == "0.1.0"


def damaged(change):
    content = make().to_dict()
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("macs"), "the record lacks the field 'macs'"),
        (lambda c: c.update(flops=1), "the record has the unknown field 'flops'; there are model"),
        (lambda c: c["latency"].pop("cpu"), "latency lacks the field 'cpu'"),
        (lambda c: c["latency"].update(median_ms=-1), "latency.median_ms is -1; at least 0"),
        (lambda c: c.update(accuracy=float("nan")), "accuracy is nan; a finite number"),
        (lambda c: c["settings"].update(lr=float("-inf")), "settings.lr is -inf; a finite"),
        (lambda c: c.update(bytes=None), "bytes is None .NoneType.; integer is needed"),
    ],
)
def test_a_wrong_file_is_refused_by_file_place_and_field(tmp_path, change, message):
    contents = [make().to_dict(), damaged(change)]
    as_list, as_lines = tmp_path / "some.json", tmp_path / "some.jsonl"
    as_list.write_text(json.dumps(contents))
    as_lines.write_text("".join(json.dumps(content) + "\n" for content in contents))
    with pytest.raises(RecordError, match=f"some.json, record 2: {message}"):
        record.load_records(as_list)
    with pytest.raises(RecordError, match=f"some.jsonl, line 2: {message}"):
        record.load_records(as_lines)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "", "a.json: not JSON"),
        ("a.json", "{}", "a.json holds a JSON object; a list of records is needed"),
        ("a.json", "[1]", r"a.json, record 1: the record is 1 \(int\); object is needed"),
        ("a.json", "NaN", "a.json holds a JSON number; a list"),
        ("a.jsonl", "{}\n", "a.jsonl, line 1: the record lacks the field 'model'"),
        ("a.jsonl", "\n", "a.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"model": ', "a.jsonl, line 1: not JSON .* mend or delete it"),
    ],
)
def test_what_is_no_file_of_records(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecordError, match=message):
        record.load_records(tmp_path / name)


def test_empty_files(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.jsonl").write_text("")
    assert record.load_records(tmp_path / "a.json") == []
    assert record.load_records(tmp_path / "a.jsonl") == []


def test_append_makes_a_file_that_load_reads(tmp_path):
    path = tmp_path / "sweeps" / "grid.jsonl"
    items = [make(seed=seed, model="Zeilen\u2028trenner\x85") for seed in range(3)]
    for item in items:
        record.append_record(path, item)
    assert record.load_records(str(path)) == items
    assert path.read_bytes().count(b"\n") == 3
    record.save_records(items[:1], path)  # and one file type follows from the other
    record.append_record(path, items[2])
    assert record.load_records(path) == [items[0], items[2]]


def test_append_refuses_without_changing_anything(tmp_path):
    path = tmp_path / "grid.jsonl"
    path.write_bytes(b'{"model": "res')
    with pytest.raises(RecordError, match="ends in the middle of a line; complete or delete"):
        record.append_record(path, make())
    assert path.read_bytes() == b'{"model": "res'
    with pytest.raises(RecordError, match=r"grid.json cannot be appended to; .*\.jsonl"):
        record.append_record(tmp_path / "grid.json", make())
    with pytest.raises(RecordError, match="a dict was given; only a Record"):
        record.append_record(tmp_path / "new.jsonl", make().to_dict())
    assert [p.name for p in tmp_path.iterdir()] == ["grid.jsonl"]


def test_append_to_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "grid.jsonl"
    record.append_record(path, make())
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # room for ten bytes more
    try:
        with pytest.raises(OSError, match="only 10 of"):
            record.append_record(path, make(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert record.load_records(path) == [make()]
    assert path.stat().st_size == size


def test_save_refuses_without_changing_the_old_file(tmp_path):
    path = tmp_path / "some.json"
    record.save_records([make()], path)
    with pytest.raises(RecordError, match="a str was given; only a Record"):
        record.save_records([make(), "record"], path)
    assert record.load_records(path) == [make()]
    with pytest.raises(RecordError, match=r"some.csv is no file of records; .*\.json"):
        record.save_records([make()], tmp_path / "some.csv")


def test_the_places_that_names_are_looked_up_in():
    root = provenance.checkout()
    assert (root / "pyproject.toml").is_file()
    assert record.places() == [root / "results", root / "utils" / "slimcnn" / "records"]


def test_load_by_name(tmp_path, monkeypatch):
    results, carried = tmp_path / "results", tmp_path / "records"
    monkeypatch.setattr(record, "places", lambda: [results, carried])
    with pytest.raises(FileNotFoundError, match="no records 'baseline'; there are none"):
        record.load_records("baseline")
    record.save_records([make(seed=1)], carried / "baseline.json")
    assert record.load_records("baseline") == [make(seed=1)]
    record.save_records([make(seed=2)], results / "baseline.jsonl")
    assert record.load_records("baseline") == [make(seed=2)]  # the checkout comes first
    record.save_records([make(seed=3)], results / "baseline.json")
    with pytest.raises(RecordError, match=r"both .*baseline.json and .*baseline.jsonl are there"):
        record.load_records("baseline")
    with pytest.raises(FileNotFoundError, match="no records 'other'; there are baseline"):
        record.load_records("other")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other.json"):
        record.load_records(str(tmp_path / "other.json"))
