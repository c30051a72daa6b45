"""Copy what the site takes from npm into book/_static/vendor/ (ignored by git).

    npm ci --ignore-scripts && python scripts/vendor.py

Without node_modules/ the site loads MathJax from a CDN instead, which this says in so many
words; the exit status is 0 either way. Nothing is downloaded here.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The parts that _config.yml (mathjax3_config) loads, what they need themselves, and the TeX
# packages that a page can ask for on the way.
MATHJAX_FILES = (
    "es5/startup.js",
    "es5/core.js",
    "es5/input/tex.js",
    "es5/input/tex/extensions",
    "es5/output/chtml.js",
    "es5/output/chtml/fonts",
    "es5/a11y/assistive-mml.js",
    "es5/ui/lazy.js",
    "LICENSE",
)


def vendor_mathjax(node_modules: Path, vendor: Path) -> bool:
    """Replace `vendor`/mathjax by a fresh copy from `node_modules`; False if npm has none.

    Raises:
        FileNotFoundError: MathJax is there but lacks a file that the site needs.
    """
    source, target = node_modules / "mathjax", vendor / "mathjax"
    if target.exists():
        shutil.rmtree(target)
    if not (source / "package.json").is_file():
        return False
    for name in MATHJAX_FILES:
        origin, copy = source / name, target / name.removeprefix("es5/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, copy)
        else:
            shutil.copy2(origin, copy)
    return True


def main() -> int:
    """Copy and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the root of the book")
    root = parser.parse_args().root
    if vendor_mathjax(root / "node_modules", root / "book" / "_static" / "vendor"):
        print("MathJax: copied from node_modules; the site hosts it itself")
    else:
        print(
            "MathJax: npm's copy is not here, so pages with equations will load it from a CDN.\n"
            "         To host it with the site: npm ci --ignore-scripts, and run this again."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
