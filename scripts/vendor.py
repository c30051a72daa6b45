"""Copy what the site takes from npm into book/_static/vendor/ (ignored by git).

    npm ci --ignore-scripts && python scripts/vendor.py

Without node_modules/ the site loads MathJax from a CDN instead, and its page that runs networks
in the browser does without; this says so in so many words, and the exit status is 0 either way.
Nothing is downloaded here.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# By package: what the site needs of it, and the folder in which npm has that.
PACKAGES = {
    # The parts that _config.yml (mathjax3_config) loads, what they need themselves, and the TeX
    # packages that a page can ask for on the way.
    "mathjax": (
        "es5/startup.js",
        "es5/core.js",
        "es5/input/tex.js",
        "es5/input/tex/extensions",
        "es5/output/chtml.js",
        "es5/output/chtml/fonts",
        "es5/a11y/assistive-mml.js",
        "es5/ui/lazy.js",
        "LICENSE",
    ),
    # The smallest build, without WebGPU; its first file has the second's glue code in it.
    "onnxruntime-web": ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
}
WITHOUT = {
    "mathjax": "pages with equations will load it from a CDN",
    "onnxruntime-web": "the page that runs networks in the browser can only say so",
}


def vendor(package: str, node_modules: Path, target: Path) -> bool:
    """Replace `target`/package by a fresh copy from `node_modules`; False if npm has none.

    Raises:
        FileNotFoundError: the package is there but lacks a file that the site needs.
    """
    source, target = node_modules / package, target / package
    if target.exists():
        shutil.rmtree(target)
    if not (source / "package.json").is_file():
        return False
    for name in PACKAGES[package]:
        origin, copy = source / name, target / name.removeprefix("es5/").removeprefix("dist/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, copy)
        else:
            shutil.copy2(origin, copy)
    return True


def add_license(target: Path) -> None:
    """Put ONNX Runtime's license beside its copy: npm's package has none, the Python one has."""
    package = Path(importlib.util.find_spec("onnxruntime").origin).parent
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copy2(package / name, target / "onnxruntime-web" / name)


def main() -> int:
    """Copy and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the root of the book")
    root = parser.parse_args().root
    target = root / "book" / "_static" / "vendor"
    for package, loss in WITHOUT.items():
        if vendor(package, root / "node_modules", target):
            print(f"{package}: copied from node_modules; the site hosts it itself")
        else:
            print(
                f"{package}: npm's copy is not here, so {loss}.\n"
                "         To host it with the site: npm ci --ignore-scripts, and run this again."
            )
    if (target / "onnxruntime-web").is_dir():
        add_license(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
