"""Make the finished site lighter, and mend the markup that the theme and docutils write.

Loaded by `_config.yml` after the theme. When all pages are written, `finish` tidies each of
them and takes out of the large stylesheets what no page uses (see stylesheets.py).
"""

import re
from pathlib import Path

import stylesheets
from sphinx.application import Sphinx

_FONT_AWESOME_SCRIPT = re.compile(r"\s*<script[^>]*fontawesome\.js[^>]*></script>")
_SCRIPT_PRELOAD = re.compile(r'\s*<link rel="preload" as="script"[^>]*>')
_IMPORTING_SHEET = re.compile(r"/styles/theme\.css(?:\?[^\"]*)?(?=\")")
_BLOCKING_SCRIPT = re.compile(
    r"<script (?![^>]*\b(?:async|defer)\b)(?![^>]*documentation_options\.js)(?=[^>]*\bsrc=)"
)
_SEARCH_FIELD = re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"')
_EQUATION = re.compile(
    r'(<div class="math [^>]*>\s*(?:<span class="eqno">.*?</span>)?)([^<]+)(?=</div>)', re.DOTALL
)
_EMPTY_HEADER = re.compile(r"<th[^>]*>(?:<p></p>)?</th>")
_SUMMARY = '<summary aria-label="Toggle hidden content">'
_SIDEBAR = '<div id="pst-primary-sidebar" '


def tidy(page: str) -> str:
    """Make one page of the theme lighter and mend its markup; changing it twice is harmless.

    - theme.css does nothing but import basic.css: link that one, one round trip earlier.
    - Font Awesome's script costs 1.5 MB and draws what its web fonts draw already.
    - Preloaded scripts would compete with the stylesheets that the first paint waits for.
    - Scripts with a source are deferred: they keep their order and let the page show first.
      One is not: inline scripts use what the small documentation_options.js defines.
    - The labels of the search button and of folded cells hide their visible text from voice
      control (axe: label-content-name-mismatch); the text is a good name.
    - A displayed equation scrolls inside itself where it is wider than the page; a keyboard
      can do it only if the box takes the focus (axe: scrollable-region-focusable).
    - An empty corner of a table is no header (axe: empty-table-header).
    - The works of a bibliography are items of a list (axe: aria-allowed-role).
    - The logo lies outside of every landmark (axe: region); the sidebar becomes one.
    """
    page = _FONT_AWESOME_SCRIPT.sub("", page)
    page = _SCRIPT_PRELOAD.sub("", page)
    page = _IMPORTING_SHEET.sub("/basic.css", page)
    page = _BLOCKING_SCRIPT.sub("<script defer ", page)
    page = _SEARCH_FIELD.sub(r"\1", page)
    page = _EQUATION.sub(r'\1<div class="equation" tabindex="0">\2</div>', page)
    page = _EMPTY_HEADER.sub("<td></td>", page)
    page = page.replace(_SUMMARY, "<summary>")
    page = page.replace('role="doc-biblioentry"', 'role="listitem"')
    if "role=" not in page.partition(_SIDEBAR)[2].partition(">")[0]:
        page = page.replace(_SIDEBAR, f'{_SIDEBAR}role="navigation" aria-label="Book" ', 1)
    return page


# The two stylesheets of which a book uses a small part.
_LARGE_SHEETS = ("styles/pydata-sphinx-theme.css", "sphinx-design.min.css")


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Tidy every page and the large stylesheets in the folder of the finished site."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    used: set[str] = set()
    for path in out.rglob("*.html"):
        if not path.is_relative_to(static):
            page = tidy(path.read_text(encoding="utf-8"))
            path.write_text(page, encoding="utf-8")
            used |= stylesheets.names(page)
    for path in static.glob("scripts/fontawesome.js*"):
        path.unlink()
    for path in static.rglob("*.js"):
        if not path.is_relative_to(static / "vendor"):
            used |= stylesheets.names(path.read_text(encoding="utf-8"))
    for sheet in (static / name for name in _LARGE_SHEETS):
        sheet.write_text(stylesheets.prune(sheet.read_text(encoding="utf-8"), used), "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of the build."""
    app.connect("build-finished", finish, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
