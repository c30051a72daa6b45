"""What the tests of the site share: the built site, its pages, a server, a browser, axe.

The site is `_build/html`, or the folder that the variable SITE names. What is missing on a
machine (Chromium, npm's packages) is skipped by name; with CI=true it is a failure.
"""

import functools
import http.server
import importlib.util
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No request of the browser's own may blur the test for outside requests.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def toc_pages() -> list[str]:
    """The names of all pages in _toc.yml, without suffix, the home page first."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `page` or `theme` once for each of them."""
    for name, values in (("page", toc_pages()), ("theme", ["light", "dark"])):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


def _missing(what: str) -> None:
    """Skip for lack of something on this machine; in CI, where it belongs, fail."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(what)


def _load(path: Path):
    """Import a Python file that is in no package, its neighbors within reach."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def config() -> dict:
    """The contents of _config.yml."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def check_links():
    """scripts/check_links.py as a module."""
    return _load(ROOT / "scripts" / "check_links.py")


@pytest.fixture(scope="session")
def vendor():
    """scripts/vendor.py as a module."""
    return _load(ROOT / "scripts" / "vendor.py")


@pytest.fixture(scope="session")
def draw():
    """book/figures/draw.py as a module."""
    return _load(ROOT / "book" / "figures" / "draw.py")


@pytest.fixture(scope="session")
def book_pages():
    """book/_ext/book_pages.py as a module."""
    return _load(ROOT / "book" / "_ext" / "book_pages.py")


@pytest.fixture(scope="session")
def book_assets():
    """book/_ext/book_assets.py as a module."""
    return _load(ROOT / "book" / "_ext" / "book_assets.py")


@pytest.fixture(scope="session")
def stylesheets():
    """book/_ext/stylesheets.py as a module."""
    return _load(ROOT / "book" / "_ext" / "stylesheets.py")


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    folder = Path(os.environ.get("SITE", ROOT / "_build" / "html")).resolve()
    if not (folder / "index.html").is_file():
        pytest.fail(
            f"there is no built site in {folder}: build it with `make book`"
            " (jupyter-book build . --all -n -W --keep-going)"
        )
    return folder


@pytest.fixture(scope="session")
def allowed_outside(site: Path, book_pages) -> set[str]:
    """Addresses elsewhere that pages may load: MathJax's, if the site has no copy of its own."""
    own = site / "_static" / book_pages.MATHJAX_COPY
    return set() if own.is_file() else {book_pages.MATHJAX_CDN}


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="session")
def runtime(site: Path) -> Path:
    """The site's copy of ONNX Runtime Web, from npm."""
    folder = site / "_static" / "vendor" / "onnxruntime-web"
    if not folder.is_dir():
        _missing("no ONNX Runtime Web: run `npm ci --ignore-scripts` and build the site again")
    return folder


@pytest.fixture(scope="session")
def base_url(site: Path):
    """The address of the site, served on this machine alone."""
    handler = functools.partial(_QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: the variable CHROMIUM, else one on the path."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else CHROMIUM_NAMES
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        _missing("no Chromium: install it, or name one in the variable CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, from npm."""
    path = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        _missing("no axe-core: run `npm ci --ignore-scripts`")
    return path.read_text(encoding="utf-8")
