"""Make the finished site lighter, and mend the markup that the theme and docutils write.

Loaded by `_config.yml` after the theme. When all pages are written, `finish` tidies each of
them and takes out of the theme's stylesheet what no page uses.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

_FONT_AWESOME_SCRIPT = re.compile(r'\s*<script[^>]*fontawesome\.js[^>]*></script>')
_IMPORTING_SHEET = re.compile(r"/styles/theme\.css(?:\?[^\"]*)?(?=\")")
_BLOCKING_SCRIPT = re.compile(
    r'<script (?![^>]*\b(?:async|defer)\b)(?![^>]*documentation_options\.js)(?=[^>]*\bsrc=)'
)
_SEARCH_FIELD = re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"')
_EMPTY_HEADER = re.compile(r"<th[^>]*>(?:<p></p>)?</th>")
_SUMMARY = '<summary aria-label="Toggle hidden content">'
_SIDEBAR = '<div id="pst-primary-sidebar" '


def tidy(page: str) -> str:
    """Make one page of the theme lighter and mend its markup; changing it twice is harmless.

    - theme.css does nothing but import basic.css: link that one, one round trip earlier.
    - Font Awesome's script costs 1.5 MB and draws what its web fonts draw already.
    - Scripts with a source are deferred: they keep their order and let the page show first.
      One is not: inline scripts use what the small documentation_options.js defines.
    - The labels of the search button and of folded cells hide their visible text from voice
      control (axe: label-content-name-mismatch); the text is a good name.
    - An empty corner of a table is no header (axe: empty-table-header).
    - The works of a bibliography are items of a list (axe: aria-allowed-role).
    - The logo lies outside of every landmark (axe: region); the sidebar becomes one.
    """
    page = _FONT_AWESOME_SCRIPT.sub("", page)
    page = _IMPORTING_SHEET.sub("/basic.css", page)
    page = _BLOCKING_SCRIPT.sub("<script defer ", page)
    page = _SEARCH_FIELD.sub(r"\1", page)
    page = _EMPTY_HEADER.sub("<td></td>", page)
    page = page.replace(_SUMMARY, "<summary>")
    page = page.replace('role="doc-biblioentry"', 'role="listitem"')
    if "role=" not in page.partition(_SIDEBAR)[2].partition(">")[0]:
        page = page.replace(_SIDEBAR, f'{_SIDEBAR}role="navigation" aria-label="Book" ', 1)
    return page


_ICON_RULE = re.compile(r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"[^"]*"\}')
_ICON_NAME = re.compile(r"\bfa-[a-z0-9-]+")


def drop_unused_icons(stylesheet: str, used: set[str]) -> str:
    """Remove Font Awesome's rules for icons that are not in `used` (names such as fa-list).

    There are some 1,900 of them, a third of what a first visit has to load before it shows.
    """

    def keep(rule: re.Match[str]) -> str:
        return rule[0] if used & set(_ICON_NAME.findall(rule[0])) else ""

    return _ICON_RULE.sub(keep, stylesheet)


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Tidy every page and the theme's stylesheet in the folder of the finished site."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    used: set[str] = set()
    for path in out.rglob("*.html"):
        if "_static" not in path.relative_to(out).parts:
            page = tidy(path.read_text(encoding="utf-8"))
            path.write_text(page, encoding="utf-8")
            used.update(_ICON_NAME.findall(page))
    for path in out.glob("_static/scripts/fontawesome.js*"):
        path.unlink()
    for path in out.glob("_static/scripts/*.js"):
        used.update(_ICON_NAME.findall(path.read_text(encoding="utf-8")))
    sheet = out / "_static" / "styles" / "pydata-sphinx-theme.css"
    light = drop_unused_icons(sheet.read_text(encoding="utf-8"), used)
    sheet.write_text(light, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of the build."""
    app.connect("build-finished", finish, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
