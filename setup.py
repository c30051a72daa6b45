"""Puts the committed records and predictions of results/ into the wheel as slimcnn/records/.

Everything else about the package stands in pyproject.toml. A checkout installed with
`pip install -e .` needs no copy: there the package reads results/ itself.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecords(build_py):
    """The usual build, then a copy of the records beside the package's own files."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "slimcnn", "records")
        self.mkpath(str(target))
        for pattern in ("*.json*", "*-predictions.safetensors"):
            for record in sorted(Path("results").glob(pattern)):
                self.copy_file(str(record), str(target / record.name))


setup(cmdclass={"build_py": BuildWithRecords})
