"""A small lesson that keeps every rule, for trying the machinery on."""

from pathlib import Path

import repository
import setup_cell

PROSE = "\n".join(["# We count twice and look at what comes out of it, again and again."] * 120)

LESSON = """\
# %% [markdown]
# # {title}
#
# What is twice two?

{setup}
# %% tags=["imports"]
import slimcnn

# %% [markdown]
{prose}

# %% tags=["nbval-check-output"]
twice = 2 * 2
print("twice two is", twice)

# %% [markdown]
# The version of the package:

# %%
slimcnn.__version__

# %% [markdown]
# What we claim:

# %% tags=["claims"]
assert twice == 4
"""


def tree(root: Path) -> Path:
    """The two files from which the address and the version are read, and an empty chapter."""
    (root / "_config.yml").write_text(f"repository:\n  url: {setup_cell.PLACEHOLDER}\n")
    (root / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
    (root / "chapters" / "01-mini").mkdir(parents=True)
    return root


def write(root: Path, name: str = "mini", title: str = "A mini lesson") -> Path:
    """Write the source of a lesson into a tree; its notebook is left to the pipeline."""
    setup = setup_cell.percent_cell(repository.address(root), repository.version(root))
    path = root / "chapters" / "01-mini" / f"{name}.py"
    path.write_text(LESSON.format(title=title, setup=setup, prose=PROSE))
    return path


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text("utf-8")
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new), "utf-8")
