import os
import zipfile

import pytest

from grading.collect import LARGEST, collect
from grading.common import GradingError


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zipped(path, files, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            time = options.get(name, (2026, 1, 1, 0, 0, 0))
            archive.writestr(zipfile.ZipInfo(name, time), content)
    return path


def test_folder_and_zip_alike(tmp_path):
    files = {
        "ada/small/small.ipynb": b"1",
        "bob_12_34_small.ipynb": b"2",
        "Eve M_7_assignsubmission_file_/small.ipynb": b"3",
        "notes.txt": b"4",
        "__MACOSX/ada/._small.ipynb": b"5",
        "ada/.ipynb_checkpoints/small.ipynb": b"6",
    }
    expected = {"ada": b"1", "bob_12": b"2", "Eve_M_7": b"3"}
    for place in (write(tmp_path / "folder", files), zipped(tmp_path / "class.zip", files)):
        found = collect(place, "small")
        assert found.notebooks == expected
        assert found.unmatched == ["notes.txt"]
        assert found.refused == {}


def test_a_wrong_name_in_ones_own_folder_is_no_silence(tmp_path):
    files = {
        "Ada L_7_assignsubmission_file_/small.ipynb": b"1",
        "Ada L_7_assignsubmission_file_/notes.txt": b"2",
        "Ned_8_assignsubmission_file_/homework.ipynb": b"3",
        "readme.txt": b"4",
    }
    found = collect(write(tmp_path, files), "small")
    assert found.notebooks == {"Ada_L_7": b"1"}
    assert list(found.refused) == ["Ned_8"]
    assert "no file small.ipynb; found was homework.ipynb" in found.refused["Ned_8"]


def test_newest_copy_counts(tmp_path):
    files = {"ada_1_2_small.ipynb": b"old", "ada_1_3_small-1.ipynb": b"new"}
    found = collect(zipped(tmp_path / "a.zip", files), "small")
    assert found.notebooks == {"ada_1": b"new"}
    assert found.notes["ada_1"] == ["of 2 files the newest was taken: ada_1_3_small-1.ipynb"]


def test_later_file_counts(tmp_path):
    place = write(tmp_path, {"ada/small.ipynb": b"old", "ada_small.ipynb": b"new"})
    os.utime(place / "ada/small.ipynb", (1e9, 1e9))
    assert collect(place, "small").notebooks == {"ada": b"new"}


def test_equally_new(tmp_path):
    files = {"ada/small.ipynb": b"one", "ada_small.ipynb": b"two", "bob_small.ipynb": b"3"}
    found = collect(zipped(tmp_path / "a.zip", files), "small")
    assert found.notebooks == {"bob": b"3"}
    assert "cannot be told: ada/small.ipynb, ada_small.ipynb" in found.refused["ada"]


def test_two_names_become_one(tmp_path):
    place = write(tmp_path, {"ada b/small.ipynb": b"1", "ada+b/small.ipynb": b"2"})
    found = collect(place, "small")
    assert found.notebooks == {}
    assert found.refused["ada_b"].startswith("different names become one (ada_b): ada b, ada+b")


def test_zip_leads_nowhere_else(tmp_path):
    files = {"../../eve/small.ipynb": b"1", "/etc/small.ipynb": b"2", "ada/small.ipynb": b"3"}
    found = collect(zipped(tmp_path / "a.zip", files), "small")
    assert found.notebooks == {"ada": b"3"}
    assert found.unmatched == [
        "../../eve/small.ipynb (leads out of the zip file)",
        "/etc/small.ipynb (leads out of the zip file)",
    ]


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(b"secret")
    place = write(tmp_path / "subs", {"ada/small.ipynb": b"1"})
    (place / "eve").mkdir()
    (place / "eve/small.ipynb").symlink_to(secret)
    found = collect(place, "small")
    assert found.notebooks == {"ada": b"1"}
    assert found.unmatched == ["eve/small.ipynb (a link or no plain file)"]


def test_bomb_costs_only_its_own(tmp_path):
    files = {"ada/small.ipynb": b"1", "eve/small.ipynb": b"\0" * (LARGEST + 1)}
    found = collect(zipped(tmp_path / "a.zip", files), "small")
    assert found.notebooks == {"ada": b"1"}
    assert "at most 20 MB" in found.refused["eve"]


def test_damaged_entry_costs_only_its_own(tmp_path):
    place = zipped(tmp_path / "a.zip", {"ada/small.ipynb": b"1", "eve/small.ipynb": b"x" * 999})
    content = bytearray(place.read_bytes())
    at = content.rindex(b"eve/small.ipynb", 0, content.index(b"PK\1\2")) + 18
    content[at] ^= 0xFF
    place.write_bytes(content)
    found = collect(place, "small")
    assert found.notebooks == {"ada": b"1"}
    assert list(found.refused) == ["eve"]


def test_names_without_the_utf8_flag(tmp_path):
    place = zipped(tmp_path / "a.zip", {"Zoe/small.ipynb": b"1"})
    place.write_bytes(place.read_bytes().replace(b"Zoe", "Zö".encode()))
    assert collect(place, "small").notebooks == {"Zö": b"1"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "no such folder or zip"),
        (lambda p: write(p, {"x.zip": b"PK no zip"}) / "x.zip", "no readable zip file"),
        (lambda p: write(p, {"a/b.txt": b""}), "no file is named like.*(?s:.*)a/b.txt"),
    ],
)
def test_nothing_to_collect(tmp_path, make, message):
    with pytest.raises(GradingError, match=message):
        collect(make(tmp_path), "small")
