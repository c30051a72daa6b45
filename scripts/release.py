"""Tag a version of the book (`make release VERSION=1.2.3`).

    python scripts/release.py 1.2.3               check, run all tests, tag; say what to push
    python scripts/release.py 1.2.3 --skip-tests  the same, where the tests have just passed

Where the files still carry another version, it writes the new one into all of them and stops,
so that the change can be read and committed; the second run tags that commit. It pushes nothing.
"""

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

import lesson
import repository
from lesson import ROOT
from repository import BRANCH

CHANGELOG, CITATION = "CHANGELOG.md", "CITATION.cff"


class ReleaseError(RuntimeError):
    """The version cannot be released as things are; the message says what to do."""


def git(*arguments: str, root: Path = ROOT) -> str:
    """The output of a git command."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def validate(version: str, root: Path = ROOT) -> str:
    """A version of three numbers, without a tag yet and above every tagged one.

    Raises:
        ReleaseError: it is none of that.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise ReleaseError(f"VERSION is {version!r}; three numbers are needed, as in 1.2.3")
    tags = re.findall(r"(?m)^v(\d+\.\d+\.\d+)$", git("tag", "--list", root=root))
    newest = max(tags, key=_numbers, default=None)
    if version in tags:
        raise ReleaseError(f"v{version} is tagged already; the newest version is {newest}")
    if newest and _numbers(version) < _numbers(newest):
        raise ReleaseError(f"{version} is older than {newest}, which is tagged already")
    return version


def carried(version: str, root: Path = ROOT) -> bool:
    """Whether every file carries this version already, the changelog included."""
    heading = re.search(rf"(?m)^## {re.escape(version)} ", _changelog(root))
    return repository.version(root) == version and heading is not None


def carry(version: str, root: Path = ROOT) -> list[Path]:
    """Write the version into every file that has one, and date the changelog's new section."""
    changelog, today = _changelog(root), datetime.date.today().isoformat()
    if f"\n## {version} " not in changelog:
        dated = f"## {version} ({today})"
        changed, found = re.subn(r"(?m)^## Unreleased$", f"## Unreleased\n\n{dated}", changelog)
        if found != 1:
            raise ReleaseError(
                f"{CHANGELOG} has neither a section {version} nor one called Unreleased; write"
                " down what is new. Nothing was changed."
            )
    else:
        changed = changelog
    written = repository.apply(root, repository.address(root), version)
    citation = (root / CITATION).read_text("utf-8")
    dated = re.sub(r"(?m)^date-released: .*$", f'date-released: "{today}"', citation)
    for name, old, new in ((CHANGELOG, changelog, changed), (CITATION, citation, dated)):
        if new != old:
            lesson.write(root / name, new)
            written.append(root / name)
    return sorted(set(written))


def ready(root: Path = ROOT) -> None:
    """Refuse a tree with uncommitted changes, another branch, or files that disagree."""
    if changes := git("status", "--porcelain", root=root):
        raise ReleaseError(f"commit first; there are uncommitted changes:\n{changes}")
    if (branch := git("branch", "--show-current", root=root)) != BRANCH:
        raise ReleaseError(f"the branch is {branch!r}; releases are tagged on {BRANCH}")
    if wrong := repository.disagreements(root):
        raise ReleaseError(f"not for this address and version: {', '.join(wrong)}")


def main() -> int:
    """Go through the steps; the exit status is 1 where one says no."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("version", help="three numbers, as in 1.2.3")
    parser.add_argument("--skip-tests", action="store_true", help="they have just passed")
    arguments = parser.parse_args()
    try:
        version = validate(arguments.version)
        if not carried(version):
            for path in carry(version):
                print(f"rewritten: {path.relative_to(ROOT)}")
            print(f"Read the changes, commit them, and run `make release VERSION={version}` again.")
            return 1
        ready()
        if not arguments.skip_tests:
            subprocess.run(["make", "test"], cwd=ROOT, check=True)
        git("tag", "--annotate", f"v{version}", "--message", f"Slim CNNs {version}")
    except subprocess.CalledProcessError:
        print("the tests failed, so nothing was tagged", file=sys.stderr)
        return 1
    except (ReleaseError, repository.RepositoryError, lesson.LessonError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Tagged v{version}. Lessons in Colab install it once it is pushed:")
    print(f"  git push origin {BRANCH} v{version}")
    if repository.address() == repository.PLACEHOLDER:
        print(
            "The repository's address is still the placeholder, so in Colab the lessons will stop"
            " and say so.\nSet yours with `make repository URL=…`."
        )
    return 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _changelog(root: Path) -> str:
    return (root / CHANGELOG).read_text("utf-8")


if __name__ == "__main__":
    sys.exit(main())
