"""An imitation of Colab: an empty folder, no checkout, `slimcnn` installed by the setup cell.

The environment sees what this one has installed, less this checkout's `slimcnn` and what
Colab lacks. pip works without a network: the repository's address is answered by git from
a copy of the working tree, tagged as a release is, and everything else is there already.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat

import repository
from lesson import ROOT

ADDRESS = "https://github.com/example/slim-cnns"

# Colab has none of these, and the package's extras do not bring them: lessons say so and show
# the stored record instead.
LACKS = ("executorch",)

_PACKAGE = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "LICENSE-TEXT")
_OURS = re.compile(r"slimcnn|__editable__|" + "|".join(LACKS))


def copy_of_tree(folder: Path, root: Path = ROOT) -> Path:
    """A copy of what the wheel is built from."""
    for name in (*_PACKAGE, ".gitignore"):
        shutil.copy2(root / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root / "utils", folder / "utils", ignore=ignored)
    (folder / "results" / "weights").mkdir(parents=True)
    for record in (root / "results").rglob("*"):
        if record.is_file():
            shutil.copy2(record, folder / record.relative_to(root))
    return folder


def tagged(folder: Path) -> Path:
    """Commit a folder, less what git ignores, and tag it with the version that it carries."""
    who = (
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "commit.gpgsign=false",
    )
    for command in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*who, "commit", "--quiet", "--message", "the tree"),
        (*who, "tag", "--annotate", f"v{repository.version(folder)}", "--message", "release"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def dependencies(folder: Path) -> Path:
    """Links to everything that is installed beside this Python, except slimcnn and LACKS."""
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not _OURS.match(entry.name):
            (folder / entry.name).symlink_to(entry)
    return folder


class Machine:
    """One fresh machine: its own empty folder, environment and settings.

    Attributes:
        folder: where the notebook lies, and nothing else.
        python: the interpreter of the environment.
        site: its own site-packages; pip installs there and can remove nothing elsewhere.
    """

    def __init__(self, base: Path, clone: Path, installed: Path, data: Path) -> None:
        self.folder = base / "content"
        self.folder.mkdir()
        environment = base / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        self.python = environment / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = environment / "lib" / version / "site-packages"
        (self.site / "dependencies.pth").write_text(f"{installed}\n")
        cache = base / "cache"
        cache.mkdir()
        (cache / "FashionMNIST").symlink_to(data / "FashionMNIST")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIP_", "GIT_", "PYTEST_", "COV_", "SLIMCNN_"))
            and name not in ("PYTHONPATH", "MPLBACKEND", "VIRTUAL_ENV")
        }
        self.environment = kept | {
            "PYTHONPATH": str(Path(__file__).parent / "fake_colab"),
            "PYTHONNOUSERSITE": "1",
            "SLIMCNN_CACHE": str(cache),
            "TQDM_DISABLE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it so: no isolation
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{clone}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }

    def put(self, notebook: Path, address: str | None, checks: str = "") -> Path:
        """Copy a notebook here, with another address in its setup cell and `checks` at the end."""
        content = nbformat.read(notebook, as_version=4)
        for cell in content.cells:
            if address and "setup" in cell.metadata.get("tags", []):
                cell.source = re.sub(r'"https://[^"]+"', f'"{address}"', cell.source, count=1)
        if checks:
            content.cells.append(nbformat.v4.new_code_cell(checks))
        nbformat.write(content, self.folder / notebook.name)
        return self.folder / notebook.name

    def nbval(self, notebook: Path, *, cell_timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Run every cell with nbval, which compares the outputs of cells tagged for it."""
        command = [self.python, "-m", "pytest", "-c", os.devnull, "--rootdir", self.folder]
        command += ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
        command += [f"--nbval-cell-timeout={cell_timeout}", "-rA", "--color=no", notebook]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )
        done.stdout = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)  # a kernel's traceback is colored
        return done

    def own_packages(self) -> set[str]:
        """What was installed on this machine beyond what it came with."""
        return {entry.name for entry in self.site.iterdir()} - {"dependencies.pth"}
