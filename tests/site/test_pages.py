"""The built pages as text: links, metadata, Colab buttons, citations, where assets come from."""

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest


class Tags(HTMLParser):
    """All start tags of a page as (tag, attributes), and the text of its `<title>`."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.title = ""
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_title = self._in_title or (tag == "title" and not self.title)

    def handle_data(self, data):
        if self._in_title:
            self.title += data

    def handle_endtag(self, tag):
        self._in_title = self._in_title and tag != "title"

    def named(self, name):
        """The attributes of every tag of one name."""
        return [attributes for tag, attributes in self.tags if tag == name]


class RawTeX(HTMLParser):
    """Commands of TeX in a page's text that are not marked as an equation, nor as code."""

    VOID = frozenset(
        ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "wbr"]
    )

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self._excused: list[bool] = []  # for each open element
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            math = "math" in (dict(attrs).get("class") or "").split()
            self._excused.append(math or tag in ("code", "pre", "script", "style"))

    def handle_endtag(self, tag):
        if tag not in self.VOID and self._excused:
            self._excused.pop()

    def handle_data(self, data):
        if not any(self._excused):
            self.found += re.findall(r"\\[a-zA-Z]{2,}|\$\S[^$\n]*\S\$", data)


@pytest.fixture(scope="module")
def tags(site):
    """`tags(page)`: the parsed page."""
    return lambda page: Tags((site / f"{page}.html").read_text(encoding="utf-8"))


def description(page_tags: Tags) -> str:
    """The one meta description of a page."""
    found = [m["content"] for m in page_tags.named("meta") if m.get("name") == "description"]
    assert len(found) == 1
    return found[0]


def test_links_images_and_anchors_exist(site, check_links):
    assert check_links.broken_references(site) == []


def test_page_says_what_it_is(page, tags):
    found = tags(page)
    assert found.named("html")[0]["lang"] == "en"
    assert 50 <= len(description(found)) <= 300
    assert len(found.named("h1")) - 1 == 1  # one, and the theme's one for print
    icons = [link["href"] for link in found.named("link") if link.get("rel") == "icon"]
    assert [icon.rpartition("/")[2] for icon in icons] == ["favicon.svg"]
    assert all("alt" in image for image in found.named("img"))


def test_titles_and_descriptions_are_unique(site, tags, check_links):
    pages = [p.relative_to(site).with_suffix("") for p in check_links.read_site(site)]
    own = [tags(p) for p in pages if p.parts[0] in ("book", "chapters", "demo")]
    assert len({t.title for t in own}) == len(own)
    assert len({description(t) for t in own}) == len(own)


def test_page_loads_nothing_from_elsewhere(page, tags, allowed_outside):
    found = tags(page)
    sources = [t.get("src") for name in ("script", "img", "iframe") for t in found.named(name)]
    sources += [
        link["href"]
        for link in found.named("link")
        if link.get("rel") in ("stylesheet", "preload", "icon", "modulepreload")
    ]
    outside = {s for s in sources if s and urlsplit(s).netloc}
    assert outside <= allowed_outside


def test_no_equation_is_left_as_text(page, site):
    assert RawTeX((site / f"{page}.html").read_text(encoding="utf-8")).found == []


@pytest.mark.parametrize(
    ("html", "found"),
    [
        (r"<p>so $\mathbf{e}_1</p><ul><li>\mathbf{e}_2$</li></ul>", [r"\mathbf", r"\mathbf"]),
        ("<p>it costs $n + 1$</p>", ["$n + 1$"]),
        (r'<p><span class="math notranslate">\(\mathbf{e}\)</span><br>a</p>', []),
        (r"<p><code>\mathbf $a$</code></p><script>let $x$ = '\nn'</script>", []),
    ],
)
def test_an_equation_that_is_left_as_text_is_found(html, found):
    assert RawTeX(html).found == found


def test_page_is_light(page, tags):
    scripts = [s["src"] for s in tags(page).named("script") if s.get("src")]
    names = [urlsplit(s).path.rpartition("/")[2] for s in scripts]
    assert "fontawesome.js" not in names and "sphinx-thebe.js" not in names
    assert len(names) == len(set(names))


def colab_url(config: dict, page: str) -> str | None:
    """Where the button of a page that runs must lead: Colab opens notebooks from GitHub only."""
    repository = config["repository"]
    address = urlsplit(repository["url"])
    if address.netloc != "github.com" or not page.startswith(("chapters/", "assignments/")):
        return None
    root = config["launch_buttons"]["colab_url"]
    return f"{root}/github{address.path}/blob/{repository['branch']}/{page}.ipynb"


def test_lessons_and_assignments_and_nothing_else_open_in_colab(page, tags, config):
    links = tags(page).named("a")
    found = {a["href"] for a in links if "colab" in urlsplit(a.get("href", "")).netloc}
    buttons = [a["href"] for a in links if a.get("class") == "lesson-colab"]
    expected = colab_url(config, page)
    assert found == ({expected} if expected else set())
    assert buttons == ([expected] if expected else [])


def test_home_page_links_to_every_lesson(site, tags, config, root):
    links = {a.get("href") for a in tags("book/index").named("a")}
    lessons = sorted((root / "chapters").rglob("*.ipynb"))
    for lesson in (path.relative_to(root).with_suffix("") for path in lessons):
        assert f"../{lesson}.html" in links


def cited_keys(root) -> set[str]:
    """The keys that a source page cites, in any form of the role."""
    sources = [*(root / "book").glob("*.md"), *(root / "chapters").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    roles = re.findall(r"\{cite(?::[a-z]+)?\}`([^`]+)`", text)
    return {key.strip() for role in roles for key in role.split(",")}


def test_every_work_is_cited_and_every_citation_has_its_work(root, site):
    bib = (root / "book" / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"(?m)^@\w+\{([^,]+),", bib)
    assert len(keys) == len(set(keys)) > 0
    assert cited_keys(root) == set(keys)
    listed = (site / "book" / "bibliography.html").read_text(encoding="utf-8")
    assert listed.count('class="citation"') == len(keys)


# Whose repositories the pages on deployment cite.
CITED = ("google-ai-edge", "microsoft", "mlcommons", "pytorch", "tensorflow")


def test_repository_links_lead_to_the_configured_address(site, config, check_links):
    address = config["repository"]["url"]
    host = urlsplit(address).netloc
    for path, page in check_links.read_site(site).items():
        for reference in page.references:
            owner = urlsplit(reference).path.strip("/").partition("/")[0]
            if urlsplit(reference).netloc == host and owner not in CITED:
                assert reference.startswith(address), f"{path.name}: {reference}"
