"""What the book's site adds to its theme: self-hosted MathJax, derived links, Colab buttons.

Loaded by `_config.yml` (`sphinx: local_extensions`). In the order of a build:

1. `configure` points MathJax to the copy that `scripts/vendor.py` made, if there is one, and
   derives the schemes `repo:` and `colab:` of Markdown links from the repository's address.
2. `adapt_page` keeps MathJax to pages with equations; `add_lesson_bar` puts a visible Colab
   button under the title of each lesson.
3. `write_root` makes the page at the root of the site, which leads to the home page.
"""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)

MATHJAX_VERSION = "3.2.2"  # as in package.json
MATHJAX_COPY = "vendor/mathjax/startup.js"  # inside book/_static
MATHJAX_CDN = f"https://cdn.jsdelivr.net/npm/mathjax@{MATHJAX_VERSION}/es5/startup.js"

HOME_TITLE = "Compressing and accelerating convolutional networks for mobile devices"

# The address that stands in _config.yml until the owner sets theirs: no link leads there.
PLACEHOLDER_OWNER = "slim_cnns"


def configure(app: Sphinx, config: Config) -> None:
    """Set what depends on the tree or on the repository's address."""
    if (Path(app.confdir) / "book" / "_static" / MATHJAX_COPY).is_file():
        config.mathjax_path = MATHJAX_COPY
    else:
        config.mathjax_path = MATHJAX_CDN
        logger.info("MathJax is not self-hosted: this site loads it from %s", MATHJAX_CDN)

    options = config.html_theme_options
    address, branch = options["repository_url"].rstrip("/"), options["repository_branch"]
    schemes = {"http": None, "https": None, "mailto": None}
    schemes["repo"] = {"url": f"{address}/blob/{branch}/{{{{path}}}}"}
    parts = urlsplit(address)
    if parts.netloc == "github.com":
        owner, name = parts.path.strip("/").split("/")
        colab = options["launch_buttons"]["colab_url"].rstrip("/")
        notebook = f"{colab}/github/{owner}/{name}/blob/{branch}/{{{{path}}}}"
        schemes["colab"] = {"url": notebook}
        if owner != PLACEHOLDER_OWNER and not config.html_baseurl:
            config.html_baseurl = config.ogp_site_url = f"https://{owner}.github.io/{name}/"
    else:  # Colab opens notebooks from GitHub only; other hosts write addresses as GitLab does
        del options["launch_buttons"]["colab_url"]
        options.setdefault("repository_provider", "gitlab")
    config.myst_url_schemes = schemes


def adapt_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give the home page a title of its own, and MathJax to pages with equations only."""
    if pagename == app.config.root_doc:
        context["title"] = HOME_TITLE
    # Sphinx gives the home page what any page of its table of contents needs.
    if not app.env.get_domain("math").data["has_equations"].get(pagename, False):
        context["script_files"] = [
            script
            for script in context["script_files"]
            if "mathjax" not in f"{script} {getattr(script, 'attributes', '')}".lower()
        ]


def add_lesson_bar(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put the theme's Colab link, which hides in a menu, under the title as well."""
    links = [
        button["url"]
        for group in context.get("header_buttons", [])
        if group.get("label") == "launch-buttons"
        for button in group["buttons"]
        if button["text"] == "Colab"
    ]
    if links and "body" in context:
        icon = context["pathto"]("_static/images/logo_colab.png", 1)
        bar = (
            f'\n<p class="lesson-bar"><a class="lesson-colab" href="{escape(links[0])}">'
            f'<img src="{icon}" alt="" width="20" height="20" class="dark-light"/>'
            "Open in Colab</a></p>"
        )
        context["body"] = context["body"].replace("</h1>", "</h1>" + bar, 1)


def _redirect(title: str, target: str) -> str:
    """The page at the root of the site: the book's home page lies one folder deeper."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{escape(title)}</title>
<meta name="description" content="{escape(title)}: the home page of the book"/>
<meta http-equiv="refresh" content="0; url={target}"/>
<link rel="canonical" href="{target}"/>
</head>
<body><main><h1>{escape(title)}</h1><p><a href="{target}">Go to the book</a></p></main></body>
</html>
"""


def write_root(app: Sphinx, exception: Exception | None) -> None:
    """Write the page at the root of the site, in place of the bare one of the toc extension."""
    if exception or app.builder.format != "html":
        return
    target = app.builder.get_target_uri(app.config.root_doc)
    page = _redirect(app.config.html_title, target)
    (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps to Sphinx's events."""
    app.connect("config-inited", configure)
    app.connect("html-page-context", adapt_page, priority=900)
    app.connect("html-page-context", add_lesson_bar, priority=900)
    app.connect("build-finished", write_root, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
