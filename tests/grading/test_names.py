import re
import string
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading import names
from grading.common import GradingError


@pytest.mark.parametrize(
    ("path", "student", "copy"),
    [
        ("ada/pruning/pruning.ipynb", "ada", 0),
        ("class/ada/pruning/pruning.ipynb", "ada", 0),
        ("ada/pruning.ipynb", "ada", 0),
        ("Ada Lovelace_1234_assignsubmission_file_/pruning.ipynb", "Ada_Lovelace_1234", 0),
        ("Ada Lovelace_1234_assignsubmission_file/pruning (2).ipynb", "Ada_Lovelace_1234", 2),
        ("Ada Lovelace_1234_file_/work/pruning.ipynb", "Ada_Lovelace_1234", 0),
        ("lovelaceada_123_456_pruning.ipynb", "lovelaceada_123", 0),
        ("lovelaceada_LATE_123_456_pruning-1.ipynb", "lovelaceada_123", 1),
        ("lovelaceada_123_456_pruning-12.ipynb", "lovelaceada_123", 12),
        ("ada_pruning.ipynb", "ada", 0),
        ("ada-pruning.ipynb", "ada", 0),
        ("ada-b.c@d.org_Pruning (1).ipynb", "ada-b.c@d.org", 1),
        ("ada/Copy of pruning.ipynb", "ada", 0),
        ("ada/pruning-Copy3.ipynb", "ada", 3),
        ("Ünal Çelik/pruning.ipynb", "Ünal_Çelik", 0),
        ("李雷_pruning.ipynb", "李雷", 0),
        ("=cmd_pruning.ipynb", "cmd", 0),
    ],
)
def test_known_forms(path, student, copy):
    found = names.owner(path, "pruning")
    assert (found.student, found.copy) == (student.replace("=", ""), copy)


@pytest.mark.parametrize(
    "path",
    [
        *("pruning.ipynb", "pruning/pruning.ipynb", "ada/quantization.ipynb", "ada/pruning.txt"),
        *("ada/pruning2.ipynb", "_pruning.ipynb", "ada/mypruning.ipynb"),
    ],
)
def test_nobodys(path):
    assert names.owner(path, "pruning") is None


def test_topic_with_hyphen():
    assert names.owner("ada-low-rank.ipynb", "low-rank").student == "ada"
    assert names.owner("ada/low-rank-2.ipynb", "low-rank") == names.Owner("ada", 2)


def test_pattern():
    pattern = names.compiled(r"hw2/(?P<student>\w+)\.ipynb$")
    assert names.owner("hw2/ada.ipynb", "pruning", pattern).student == "ada"
    assert names.owner("ada/pruning.ipynb", "pruning", pattern) is None


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("(.*)", "no group called student")]
)
def test_wrong_pattern(pattern, message):
    with pytest.raises(GradingError, match=message):
        names.compiled(pattern)


word = st.text(st.characters(codec="utf-8", exclude_characters="/\\\n"), min_size=1, max_size=30)


@given(word)
def test_safe_names_are_safe(raw):
    safe = names.safe(raw)
    assert not set(safe) & set("/\\:*?[]{}'\"<>|=+ \t\0")
    assert not safe.startswith((".", "-", "@", "=", "+"))
    assert safe == unicodedata.normalize("NFC", safe)
    assert names.safe(safe) == safe


plain = st.text(string.ascii_letters, min_size=1, max_size=20)


@given(plain, st.integers(1, 9999), st.integers(1, 9999), st.integers(0, 30), st.booleans())
def test_canvas(name, user, upload, copy, late):
    suffix = f"-{copy}" if copy else ""
    path = f"{name}_{'LATE_' if late else ''}{user}_{upload}_pruning{suffix}.ipynb"
    assert names.owner(path, "pruning") == names.Owner(f"{name}_{user}", copy)


@given(word, st.integers(1, 99999))
def test_moodle(name, number):
    path = f"{name}_{number}_assignsubmission_file_/pruning.ipynb"
    found = names.owner(path, "pruning")
    if names.safe(name).strip("_"):
        assert found.student == names.safe(f"{name}_{number}")


@given(word)
@example(".")
@example("")
def test_no_name_breaks_the_forms(name):
    for path in (f"{name}/pruning.ipynb", f"{name}_pruning.ipynb", name):
        found = names.owner(path, "pruning")
        assert found is None or re.fullmatch(r"[^/\\]+", found.student)
