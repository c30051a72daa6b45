"""Puts the committed results that lessons read into the wheel, as slimcnn/records/.

Everything else about the package stands in pyproject.toml. A checkout installed with
`pip install -e .` needs no copy: there the package reads results/ itself.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Records, predictions, and the finalists that chapter 6 (weight sharing) goes on with.
PATTERNS = ("*.json*", "*-predictions.safetensors", "weights/gradual-90-seed0.safetensors")


class BuildWithRecords(build_py):
    """The usual build, then a copy of the records beside the package's own files."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "slimcnn", "records")
        self.mkpath(str(target / "weights"))
        for pattern in PATTERNS:
            for found in sorted(Path("results").glob(pattern)):
                self.copy_file(str(found), str(target / found.relative_to("results")))


setup(cmdclass={"build_py": BuildWithRecords})
