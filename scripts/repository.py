"""Set the repository's address everywhere (`make repository URL=https://github.com/OWNER/NAME`).

    python scripts/repository.py URL        set the address, rewrite what is derived from it
    python scripts/repository.py            rewrite it for the address that is set already
    python scripts/repository.py --check    say which page disagrees; exit 1 if any does

The address stands in `_config.yml` (repository.url) and the version in `pyproject.toml`;
derived from the two are the setup cells of lessons and assignments, links and badges in pages,
CITATION.cff, the package's metadata and the README's table of lessons. No notebook is executed.
"""

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import assignments
import lesson
import notebooks
import setup_cell
from lesson import ROOT
from setup_cell import PLACEHOLDER

BRANCH = "main"
NAME = PLACEHOLDER.rsplit("/", 1)[1]

# Where an address may stand. Code and tests of the machinery itself are not pages.
PAGES = (
    *("*.md", "*.cff", "pyproject.toml", "package.json", "_config.yml", "_toc.yml"),
    *("book/**/*.md", "book/**/*.html", "book/**/*.bib", "book/_ext/*.py"),
    *("chapters/**/*.py", "chapters/**/*.md", "utils/**/*.py", ".github/**/*.yml"),
    "assignments/source/**/*.py",
)

_HUB = "https://github.com/"
_COLAB_ROOT = "https://colab.research.google.com/github/"

_CONFIG_URL = re.compile(
    r"(?m)^(repository:\n(?:[ \t]+.*\n|[ \t]*#.*\n|\n)*?[ \t]+url:[ \t]*)(\S+)"
)
_PROJECT_VERSION = re.compile(r'(?m)^version = "([^"]+)"')
_COLAB = re.compile(re.escape(_COLAB_ROOT) + r"[^/\s]+/[^/\s)\"'>]+")
_LESSONS = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.DOTALL)
_SETUP = re.compile(r'(?m)^# %%[^\n]*"setup"[^\n]*\n(?:(?!# %%).*\n?)*')
_GITHUB = re.compile(
    r"https://github\.com/[A-Za-z0-9](?:-?[A-Za-z0-9])*/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}"
)


class RepositoryError(RuntimeError):
    """The address cannot be used, or a file lacks the place where it belongs."""


def validate(url: str) -> str:
    """The address without a trailing slash or `.git`.

    Raises:
        RepositoryError: it is not `https://github.com/owner/name` or `https://host/…/name`.
    """
    clean = url.strip().rstrip("/").removesuffix(".git")
    if clean == PLACEHOLDER:
        return clean
    parts = urlsplit(clean)
    if parts.netloc.lower() in ("github.com", "www.github.com"):
        right = _GITHUB.fullmatch(clean)
    else:
        right = re.fullmatch(
            r"https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?(/~?[A-Za-z0-9_][A-Za-z0-9._-]*){2,}",
            clean,
        )
    if not right or "/slim_cnns/" in clean:
        raise RepositoryError(
            f"{url!r} is not the address of a repository. Allowed are https://github.com/OWNER/NAME"
            " and https://HOST/OWNER/NAME (as `git clone` takes it, without user or password)."
            " Nothing was changed."
        )
    if len(f'REPOSITORY = "{clean}"') > 88:
        raise RepositoryError(
            f"{url!r} has {len(clean)} characters; at most 73 fit on a line of a lesson."
            " Nothing was changed."
        )
    return clean


def address(root: Path = ROOT) -> str:
    """The repository's address, from `_config.yml`."""
    found = _CONFIG_URL.search((root / "_config.yml").read_text("utf-8"))
    if not found:
        raise RepositoryError("_config.yml has no `repository:` section with a `url:`")
    return found[2].strip("\"'")


def version(root: Path = ROOT) -> str:
    """The book's version, from `pyproject.toml`."""
    found = _PROJECT_VERSION.search((root / "pyproject.toml").read_text("utf-8"))
    if not found:
        raise RepositoryError('pyproject.toml has no line `version = "…"`')
    return found[1]


def derived(root: Path, new: str, release: str) -> dict[Path, str]:
    """The text that each page should have for an address and a version.

    Pages in which nothing depends on the two come out as they are on disk.
    """
    texts = {}
    old = address(root)
    for path in sorted({p for pattern in PAGES for p in root.glob(pattern) if p.is_file()}):
        text = _links(path.read_text("utf-8"), old, new)
        name = path.relative_to(root).as_posix()
        text = re.sub(r"(git\+https://\S+@v)\d+\.\d+\.\d+", rf"\g<1>{release}", text)
        if name == "_config.yml":
            text = _CONFIG_URL.sub(rf"\g<1>{new}", text)
        elif name == "README.md":
            text = _LESSONS.sub(lambda m: m[1] + lesson_table(root, new) + m[2], text)
        elif name == "pyproject.toml":
            text = _PROJECT_VERSION.sub(f'version = "{release}"', text, count=1)
        elif name == "CITATION.cff":
            text = re.sub(r"(?m)^version: .*$", f"version: {release}", text)
        elif name == "utils/slimcnn/__init__.py":
            text = re.sub(r"(?m)^__version__ = .*$", f'__version__ = "{release}"', text)
        elif name.startswith(("chapters/", "assignments/")) and path.suffix == ".py":
            cell = setup_cell.percent_cell(new, release) + "\n"
            text = _SETUP.sub(lambda _, cell=cell: cell, text)
        texts[path] = text
    return texts


def lesson_table(root: Path, url: str) -> str:
    """The README's table of lessons, one row each, with a Colab button where the host allows it."""
    rows = ["| chapter | lesson | |", "|---|---|---|"]
    for source in _published(root):
        title = re.search(r"(?m)^# # (.+)$", source.read_text("utf-8"))
        notebook = source.with_suffix(".ipynb").relative_to(root).as_posix()
        number, _, topic = source.parent.name.partition("-")
        chapter = f"{int(number)} {topic.replace('-', ' ').capitalize()}"
        heading = title[1] if title else source.stem
        rows.append(f"| {chapter} | [{heading}]({notebook}) | {_button(url, notebook)} |")
    return "\n".join(rows) + "\n"


def _published(root: Path) -> list[Path]:
    """The lessons' sources in the order of the table of contents (all, where there is none)."""
    contents = root / "_toc.yml"
    if not contents.exists():
        return sorted((root / "chapters").glob("*/*.py"))
    named = re.findall(r"(?m)^\s*- file: (chapters/\S+)", contents.read_text("utf-8"))
    return [root / f"{name}.py" for name in named if (root / f"{name}.py").exists()]


def disagreements(root: Path = ROOT) -> list[str]:
    """Every page whose text is not what the address and the version make of it."""
    wrong = []
    for path, text in derived(root, address(root), version(root)).items():
        if text != path.read_text("utf-8"):
            wrong.append(path.relative_to(root).as_posix())
    return wrong


def apply(root: Path, new: str, release: str) -> list[Path]:
    """Write every page that differs, and the notebooks of the lessons among them.

    Returns:
        The files that were written.

    Raises:
        LessonError: a notebook is not up to date with its source; nothing was written.
    """
    changes = {p: t for p, t in derived(root, new, release).items() if t != p.read_text("utf-8")}
    lessons = [path for path in changes if path.parent.parent.name == "chapters"]
    for path in lessons:
        reason = notebooks.check(path)
        if reason and path.with_suffix(".ipynb").exists():
            raise lesson.LessonError(
                f"{lesson.shown(path, root)}: {reason}; run `make notebooks` first."
                " Nothing was changed."
            )
    written = list(changes)
    for path, text in changes.items():
        lesson.write(path, text)
    for path in lessons:
        target = path.with_suffix(".ipynb")
        if target.exists():
            text, _ = notebooks.build(path)  # the setup cell is no part of the code's fingerprint
            lesson.write(target, text)
            written.append(target)
    for path in changes:
        if path.is_relative_to(root / "assignments"):
            written += assignments.write(path, root / "assignments")
    return written


def main() -> int:
    """Set or show the address; the exit status is 1 on a problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", nargs="?", help="https://github.com/OWNER/NAME")
    parser.add_argument("--check", action="store_true", help="only say what disagrees")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            wrong = disagreements()
            for name in wrong:
                print(f"{name} disagrees with {address()}; run `make repository`", file=sys.stderr)
            return int(bool(wrong))
        new = validate(arguments.url or address())
        written = apply(ROOT, new, version())
    except (RepositoryError, lesson.LessonError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in written:
        print(f"rewritten: {path.relative_to(ROOT)}")
    print(f"the repository's address is {new}; {len(written)} files changed")
    if written and not new.startswith(_HUB):
        print("Colab opens notebooks from GitHub only, so the README now has no Colab buttons.")
    return 0


def _links(text: str, old: str, new: str) -> str:
    """Point every link to the book's repository, website and Colab pages to the new address."""
    if new.startswith(_HUB):
        text = _COLAB.sub(_COLAB_ROOT + new.removeprefix(_HUB), text)
        for site in {_website(old), _website(PLACEHOLDER)} - {""}:
            text = re.sub(rf"{re.escape(site)}(?![\w-])", _website(new), text)
    ours = rf"{re.escape(old)}|https://[\w.:-]+/[\w.~-]+/{NAME}"
    return re.sub(rf"(?:{ours})(?![\w-])", new, text)


def _website(url: str) -> str:
    """Where GitHub Pages publishes a repository; empty for other hosts."""
    if not url.startswith(_HUB):
        return ""
    owner, _, name = url.removeprefix(_HUB).partition("/")
    return f"https://{owner.lower()}.github.io/{name}"


def _button(url: str, notebook: str) -> str:
    """A Colab button for one notebook, or nothing where Colab cannot reach it."""
    if not url.startswith(_HUB):
        return ""
    page = f"{_COLAB_ROOT}{url.removeprefix(_HUB)}/blob/{BRANCH}/{notebook}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})"


if __name__ == "__main__":
    sys.exit(main())
