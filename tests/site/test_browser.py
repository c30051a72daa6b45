"""The built site in a browser: console, network, accessibility, phone width, equations, search.

Every page is opened once in each theme, with all outside addresses blocked, as a reader without
a network would see it; the tests then ask about that visit.
"""

from dataclasses import dataclass, field

import pytest

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}

# What sticks out to the right of the window and is not inside something that scrolls.
STICKING_OUT = """async () => {
  await Promise.allSettled(document.getAnimations().map((motion) => motion.finished));
  const scrolls = (node) => {
    for (let n = node.parentElement; n && n !== document.body; n = n.parentElement) {
      if (getComputedStyle(n).overflowX !== "visible") return true;
    }
    return false;
  };
  const out = [...document.querySelectorAll("body *")].filter((n) => {
    const box = n.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.right > innerWidth + 1
      && getComputedStyle(n).visibility !== "hidden" && !scrolls(n);
  });
  return {
    width: document.documentElement.scrollWidth,
    elements: out.map((n) => n.tagName.toLowerCase() + "." + n.className).slice(0, 5),
  };
}"""

# Equations wait until they come near the window: typeset all of them, then count.
EQUATIONS = """async () => {
  await window.MathJax?.startup?.promise;
  await window.MathJax?.startup?.document?.lazyTypesetAll();
  return {
    written: document.querySelectorAll(".math.notranslate").length,
    typeset: document.querySelectorAll(".math.notranslate mjx-container > mjx-math").length,
    errors: [...document.querySelectorAll("mjx-merror")].map((n) => n.textContent),
  };
}"""

AXE = """() => axe.run(document, {runOnly: [
  "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})"""


@dataclass
class Visit:
    """What was seen on one page in one theme."""

    theme: str = ""
    console: list[str] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    equations: dict = field(default_factory=dict)
    phone: dict = field(default_factory=dict)


def _open(context, url: str, base_url: str, allowed: set[str], visit: Visit):
    """Open a page with the outside blocked, and note what it says and asks for."""
    page = context.new_page()
    page.set_default_timeout(90_000)  # ms; a busy machine is no fault of the page

    def gate(route) -> None:
        url = route.request.url
        if not url.startswith((base_url, "data:", "blob:")) and url not in allowed:
            visit.outside.add(url)
        route.continue_() if url.startswith(base_url) else route.abort()

    def note(message) -> None:
        if message.type == "error" and message.location.get("url") not in allowed:
            visit.console.append(message.text)

    def respond(response) -> None:
        if response.status >= 400:
            visit.failed.append(f"{response.status} {response.url}")

    page.route("**/*", gate)
    page.on("console", note)
    page.on("pageerror", lambda error: visit.console.append(str(error)))
    page.on("response", respond)
    page.goto(url, wait_until="load")
    return page


@pytest.fixture(scope="module")
def opened(browser, base_url, allowed_outside):
    """Each page in each theme, opened once: `opened(page, theme)` gives a Visit and the tab."""
    contexts = {
        theme: browser.new_context(viewport=DESKTOP, color_scheme=theme)
        for theme in ("light", "dark")
    }
    seen: dict[tuple[str, str], tuple[Visit, object]] = {}

    def visit(name: str, theme: str):
        if (name, theme) not in seen:
            result = Visit()
            url = f"{base_url}{name}.html"
            tab = _open(contexts[theme], url, base_url, allowed_outside, result)
            result.theme = tab.evaluate("() => document.documentElement.dataset.theme")
            result.equations = tab.evaluate(EQUATIONS)
            tab.set_viewport_size(PHONE)
            result.phone = tab.evaluate(STICKING_OUT)
            tab.set_viewport_size(DESKTOP)
            seen[name, theme] = result, tab
        return seen[name, theme]

    yield visit
    for context in contexts.values():
        context.close()


def test_page_follows_the_theme_and_says_no_error(page, theme, opened):
    visit, _ = opened(page, theme)
    assert visit.theme == theme
    assert visit.console == []


def test_page_asks_for_nothing_elsewhere_and_finds_all_it_asks_for(page, theme, opened):
    visit, _ = opened(page, theme)
    assert visit.outside == set()
    assert visit.failed == []


def test_page_does_not_scroll_sideways_on_a_phone(page, theme, opened):
    visit, _ = opened(page, theme)
    assert visit.phone == {"width": PHONE["width"], "elements": []}


def test_equations_are_typeset(page, opened, allowed_outside):
    visit, _ = opened(page, "light")
    assert visit.equations["errors"] == []
    if not allowed_outside:
        assert visit.equations["typeset"] == visit.equations["written"]


def test_page_is_accessible(page, theme, opened, axe):
    _, tab = opened(page, theme)
    tab.evaluate(axe)
    found = [
        f"{violation['id']}: {node['html'][:120]}"
        for violation in tab.evaluate(AXE)["violations"]
        for node in violation["nodes"]
    ]
    assert found == []


def test_search_finds_a_term(browser, base_url, allowed_outside):
    visit = Visit()
    with browser.new_context(viewport=PHONE) as context:
        url = f"{base_url}search.html?q=roofline"
        tab = _open(context, url, base_url, allowed_outside, visit)
        tab.wait_for_selector("#search-results li a")
        links = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any("glossary.html" in link for link in links)
    assert visit.console == []


def test_root_leads_to_the_home_page(browser, base_url, config, root):
    with browser.new_context() as context:
        tab = context.new_page()
        tab.set_default_timeout(90_000)
        tab.goto(base_url)
        tab.wait_for_selector(".hero")
        assert tab.url == f"{base_url}book/index.html"
        assert tab.inner_text("h1").startswith(config["title"])
