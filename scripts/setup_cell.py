"""The setup cell: the first code cell of every lesson, the same in all of them.

In Colab it installs the book's package from the repository at the book's version, and pins
the torch, torchvision and numpy that are there, so that pip cannot replace them. With the
placeholder address it stops and says what to set. Outside Colab it does nothing.
"""

# Nobody can own this address: a GitHub name has no underscore.
PLACEHOLDER = "https://github.com/slim_cnns/slim-cnns"

TAGS = ["setup", "hide-input"]

TEMPLATE = """\
# Colab only: install the book's package; torch, torchvision, numpy stay as they are.
import sys

REPOSITORY = "@REPOSITORY@"
if "google.colab" in sys.modules:
    import subprocess
    from importlib.metadata import version

    if "/slim_cnns/" in REPOSITORY:
        raise RuntimeError(
            f"{REPOSITORY} is a placeholder: nothing was installed. Set REPOSITORY in"
            " this cell to the address of your copy of the book, or in all lessons at"
            " once with `make repository URL=...`."
        )
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")]
    package = f"slimcnn[lessons] @ git+{REPOSITORY}@v@VERSION@"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, *kept, package])"""


def source(repository: str, version: str) -> str:
    """The setup cell's text for one repository address and one version of the book."""
    return TEMPLATE.replace("@REPOSITORY@", repository).replace("@VERSION@", version)


def percent_cell(repository: str, version: str) -> str:
    """The same cell as it stands in a lesson's `.py` file, marker line included."""
    tags = ", ".join(f'"{tag}"' for tag in TAGS)
    return f"# %% tags=[{tags}]\n{source(repository, version)}\n"
