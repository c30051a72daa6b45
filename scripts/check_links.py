"""Check the internal links, images and anchors of a built site, without a server or a network.

    python scripts/check_links.py _build/html

Prints each broken reference with its page, and exits 1 if there is one. Addresses of other
sites are not tried.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_REFERENCES = ("href", "src", "poster")


class Page(HTMLParser):
    """The anchors and the references of one page.

    Attributes:
        anchors: every id (and `name` of an `<a>`): what a fragment can point to.
        references: every `href`, `src`, `poster`, and each address of a `srcset`, in order.
    """

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        values = {name: value for name, value in attrs if value}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "name" in values:
            self.anchors.add(values["name"])
        self.references += [values[name] for name in _REFERENCES if name in values]
        candidates = values.get("srcset", "").split(",")
        self.references += [c.split()[0] for c in candidates if c.strip()]


def read_site(site: Path) -> dict[Path, Page]:
    """Every page of the site by its path; the theme's templates in _static are none.

    Raises:
        FileNotFoundError: the folder holds no page.
    """
    site = site.resolve()
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.relative_to(site).parts
    }
    if not pages:
        raise FileNotFoundError(f"{site} holds no page; build the site with `make book`")
    return pages


def _fault(reference: str, page: Path, site: Path, pages: dict[Path, Page]) -> str | None:
    """What is wrong with one reference, or None."""
    url = urlsplit(reference)
    if url.scheme or url.netloc:
        return None
    if url.path.startswith("/"):
        return "starts at the root of the server, where the site need not lie"
    target = (page.parent / unquote(url.path)).resolve() if url.path else page
    if not target.is_relative_to(site):
        return "leads out of the site"
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "does not exist"
    anchor = unquote(url.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "has no such anchor"
    return None


def broken_references(site: Path) -> list[str]:
    """One line for each broken reference of the site: page, reference, what is wrong.

    Raises:
        FileNotFoundError: the folder holds no page.
    """
    site = site.resolve()
    pages = read_site(site)
    faults = []
    for path, page in pages.items():
        for reference in dict.fromkeys(page.references):
            fault = _fault(reference, path, site, pages)
            if fault:
                faults.append(f"{path.relative_to(site)}: {reference} {fault}")
    return faults


def main() -> int:
    """Check one site and print what is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("site", type=Path, nargs="?", default=Path("_build/html"))
    site = parser.parse_args().site
    try:
        pages, faults = read_site(site), broken_references(site)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    for fault in faults:
        print(fault)
    count = sum(len(page.references) for page in pages.values())
    print(f"{len(pages)} pages, {count} references, {len(faults)} broken")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
