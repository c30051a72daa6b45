"""Say what is wrong with the environment that runs this script; exit 1 if anything is.

    .venv/bin/python scripts/environment.py FOLDER            look at what is pinned
    .venv/bin/python scripts/environment.py FOLDER --forget   make pip forget broken packages

Looks for an environment that was moved or copied, another version than the pinned one,
files that are gone, and a `slimcnn` that is not this checkout's. Standard library only,
since it must run in a broken environment too.
"""

import shutil
import sys
import sysconfig
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pins(text: str) -> dict[str, str]:
    """The `name==version` lines of a requirements file."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def problems(folder: Path, requirements: Path) -> list[str]:
    """What must be repaired before the environment can be used."""
    if Path(sys.prefix).resolve() != folder.resolve():
        return [f"{folder} was moved or copied: its Python belongs to {sys.prefix}"]
    # A script holds the path where the environment was made; a moved one cannot start.
    script = folder / "bin" / "jupyter-book"
    if script.exists() and str(folder.resolve()) not in script.read_text().split("\n")[0]:
        return [f"{folder} was moved or copied: {script.name} starts another Python"]
    found = []
    for name, version in pins(requirements.read_text()).items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            found.append(f"{name} {version} is not installed")
            continue
        if (present := str(installed.metadata["Version"]).split("+")[0]) != version:
            found.append(f"{name} is {present}, pinned is {version}")
        elif missing := _missing(installed):
            found.append(f"{name} {version} lacks {missing}")
    package = find_spec("slimcnn")
    origin = Path(package.origin) if package and package.origin else None
    if origin is None or not origin.is_relative_to(ROOT / "utils"):
        found.append("the package slimcnn is not installed from this checkout")
    return found


def forget_broken() -> list[str]:
    """Remove the records of packages that lack files, so that pip installs them again."""
    forgotten = []
    for installed in distributions(path=[sysconfig.get_path("purelib")]):
        folder = Path(installed.locate_file("")) / _folder(installed)
        if folder.suffix == ".dist-info" and folder.is_dir() and _missing(installed):
            shutil.rmtree(folder)
            forgotten.append(folder.stem)
    return forgotten


def _folder(installed: Distribution) -> str:
    """The name of a package's `.dist-info` folder."""
    return Path(getattr(installed, "_path", "")).name


def _missing(installed: Distribution) -> str | None:
    """The first file of a package that is gone (compiled files come and go)."""
    if not installed.files:
        return "its list of files"
    files = (file for file in installed.files if file.suffix != ".pyc")
    return next((str(file) for file in files if not Path(file.locate()).exists()), None)


if __name__ == "__main__":
    if "--forget" in sys.argv[2:]:
        print(*forget_broken())
        sys.exit()
    wrong = problems(Path(sys.argv[1]), ROOT / "requirements.txt")
    print("\n".join(wrong[:5]))
    sys.exit(bool(wrong))
