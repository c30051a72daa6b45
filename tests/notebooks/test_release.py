"""What `make release` checks before it tags, tried in a repository of its own."""

import re
import subprocess

import pytest

import lesson
import mini
import release
import repository
import setup_cell
from release import ReleaseError


@pytest.fixture
def root(tmp_path):
    mini.tree(tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- New.\n")
    (tmp_path / "CITATION.cff").write_text('version: 0.1.0\ndate-released: "2026-01-01"\n')
    run(tmp_path, "init", "--quiet", "--initial-branch", "main")
    commit(tmp_path)
    return tmp_path


def run(root, *arguments):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def commit(root):
    run(root, "add", "--all")
    run(root, "commit", "--quiet", "--message", "x")


@pytest.mark.parametrize("version", ["", "1", "1.2", "v1.2.3", "1.2.3rc1", "01.2.3", "1.2.3.4"])
def test_a_version_has_three_numbers(root, version):
    with pytest.raises(ReleaseError, match="three numbers"):
        release.validate(version, root)


def test_a_version_is_new_and_the_newest(root):
    run(root, "tag", "v0.9.0")
    run(root, "tag", "v0.10.0")
    assert release.validate("0.10.1", root) == "0.10.1"
    with pytest.raises(ReleaseError, match=r"tagged already; the newest version is 0\.10\.0"):
        release.validate("0.9.0", root)
    with pytest.raises(ReleaseError, match=r"older than 0\.10\.0"):
        release.validate("0.9.9", root)


def test_a_version_is_written_everywhere_then_ready_once_committed(root):
    assert not release.carried("0.2.0", root)
    written = release.carry("0.2.0", root)
    assert [path.name for path in written] == ["CHANGELOG.md", "CITATION.cff", "pyproject.toml"]
    assert release.carried("0.2.0", root)
    assert repository.version(root) == "0.2.0"
    changelog = (root / "CHANGELOG.md").read_text()
    assert re.search(r"## Unreleased\n\n## 0\.2\.0 \(\d{4}-\d\d-\d\d\)\n\n- New\.", changelog)
    assert (root / "CITATION.cff").read_text().startswith("version: 0.2.0\n")
    assert "2026-01-01" not in (root / "CITATION.cff").read_text()
    with pytest.raises(ReleaseError, match="uncommitted"):
        release.ready(root)
    commit(root)
    release.ready(root)
    assert release.carry("0.2.0", root) == []


def test_without_a_changelog_nothing_is_written(root):
    (root / "CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(ReleaseError, match="write down what is new"):
        release.carry("0.2.0", root)
    assert repository.version(root) == "0.1.0"


def test_another_branch_and_a_page_that_disagrees_are_refused(root):
    run(root, "switch", "--quiet", "--create", "other")
    with pytest.raises(ReleaseError, match="releases are tagged on main"):
        release.ready(root)
    run(root, "switch", "--quiet", "main")
    mini.write(root)
    mini.edit(root / "chapters/01-mini/mini.py", setup_cell.PLACEHOLDER, "https://example.org/a/b")
    commit(root)
    with pytest.raises(ReleaseError, match=r"mini\.py"):
        release.ready(root)


def test_this_books_changelog_has_its_version():
    assert release.carried(repository.version(), lesson.ROOT)
