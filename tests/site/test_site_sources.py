"""The parts that make the site, each on its own: they need no built site."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

PAGE = """<html><head>
<link href="../_static/styles/theme.css?digest=1" rel="stylesheet"/>
<script>var before = 1;</script>
<script defer src="_static/scripts/fontawesome.js?digest=1"></script>
<script src="_static/documentation_options.js?v=1"></script>
<script src="_static/doctools.js?v=2"></script>
<script async src="a.js"></script>
<link rel="preload" as="script" href="_static/scripts/bootstrap.js?digest=1" />
<link rel="preload" as="font" href="font.woff2" />
<script data-x="y" src="searchindex.js"></script>
</head><body>
<div id="pst-primary-sidebar" class="bd-sidebar-primary">
<button class="btn search-button-field search-button__button" title="Search" aria-label="Search">
<button class="btn search-button" aria-label="Search"></button>
</div>
<span class="math notranslate">\\(x\\)</span>
<div class="math notranslate" id="e">
<span class="eqno">(1)<a href="#e">#</a></span>\\[a &lt; b\\]</div>
<details><summary aria-label="Toggle hidden content">Show code</summary></details>
<div class="citation" id="id2" role="doc-biblioentry"></div>
<table><tr><th class="head"><p></p></th><th class="head"><p>ours</p></th></tr></table>
</body></html>"""


# ---- book/_ext ----


def test_tidy_mends_a_page(book_assets):
    tidied = book_assets.tidy(PAGE)
    assert '<link href="../_static/basic.css" rel="stylesheet"/>' in tidied
    assert "fontawesome.js" not in tidied
    assert "<script>var before = 1;</script>" in tidied
    assert '<script src="_static/documentation_options.js?v=1">' in tidied
    assert '<script defer src="_static/doctools.js?v=2">' in tidied
    assert '<script async src="a.js">' in tidied
    assert "bootstrap.js" not in tidied and "font.woff2" in tidied
    assert '<script defer data-x="y" src="searchindex.js">' in tidied
    assert 'search-button__button" title="Search">' in tidied
    assert '<button class="btn search-button" aria-label="Search">' in tidied
    assert '<span class="math notranslate">\\(x\\)</span>' in tidied
    assert '</a></span><div class="equation" tabindex="0">\\[a &lt; b\\]</div></div>' in tidied
    assert "<summary>Show code</summary>" in tidied
    assert '<div class="citation" id="id2" role="listitem">' in tidied
    assert '<tr><td></td><th class="head"><p>ours</p></th></tr>' in tidied
    assert '<div id="pst-primary-sidebar" role="navigation" aria-label="Book" class' in tidied


def test_tidying_twice_changes_nothing_more(book_assets):
    once = book_assets.tidy(PAGE)
    assert once != PAGE
    assert book_assets.tidy(once) == once


@pytest.mark.parametrize(
    ("css", "pruned"),
    [
        (".a{x:1}.gone{x:2}", ".a{x:1}"),
        (".a,.gone,.b .a{x:1}", ".a,.b .a{x:1}"),
        (".a .gone,.gone.a{x:1}", ""),
        ("p,#id,[data-x='.gone']{x:1}", "p,#id,[data-x='.gone']{x:1}"),
        (
            ".a:not(.gone):is(.gone,b:not(.gone)),.gone{x:1}",
            ".a:not(.gone):is(.gone,b:not(.gone)){x:1}",
        ),
        (".w-1\\.5{x:1}.bs-tooltip-top{x:2}", ".w-1\\.5{x:1}.bs-tooltip-top{x:2}"),
        (
            "@media (width>1px){.a{x:1}.gone{x:2}}@media print{.gone{x:1}}",
            "@media (width>1px){.a{x:1}}",
        ),
        ("@font-face{font-family:gone}@charset 'x';", "@font-face{font-family:gone}@charset 'x';"),
        ("@keyframes gone{from{x:1}to{x:2}}.b{x:1}", "@keyframes gone{from{x:1}to{x:2}}.b{x:1}"),
        (
            "/*! license {.gone} */ /* note */ .b{content:'}';y:url(a;b)}",
            "/*! license {.gone} */.b{content:'}';y:url(a;b)}",
        ),
        ('.b{content:"\\"}"}.gone{x:1}', '.b{content:"\\"}"}'),
    ],
)
def test_prune_drops_what_needs_an_unused_class(stylesheets, css, pruned):
    assert stylesheets.prune(css, {"a", "b"}) == pruned
    assert stylesheets.prune(pruned, {"a", "b"}) == pruned


def test_prune_keeps_everything_that_is_used(stylesheets):
    css = ".a-b{x:1}@media print{.c_d .e1{y:2}}h1:has(.f){z:3}"
    used = stylesheets.names("<p class='a-b c_d'>e1</p>")
    assert used >= {"a-b", "c_d", "e1"}
    assert stylesheets.prune(css, used) == css


def configured(book_pages, folder, address):
    """A configuration after `configure`, for a book in `folder` with that address."""
    options = {
        "repository_url": address,
        "repository_branch": "main",
        "launch_buttons": {"colab_url": "https://colab.research.google.com/"},
    }
    config = SimpleNamespace(html_theme_options=options, html_baseurl="", ogp_site_url="")
    book_pages.configure(SimpleNamespace(confdir=folder), config)
    return config


def test_mathjax_is_the_copy_if_there_is_one(book_pages, tmp_path):
    address = "https://github.com/slim_cnns/slim-cnns"
    config = configured(book_pages, tmp_path, address)
    assert config.mathjax_path == book_pages.MATHJAX_CDN
    copy = tmp_path / "book" / "_static" / book_pages.MATHJAX_COPY
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    assert configured(book_pages, tmp_path, address).mathjax_path == book_pages.MATHJAX_COPY


def test_addresses_derive_from_the_repository(book_pages, tmp_path):
    config = configured(book_pages, tmp_path, "https://github.com/ada/small-nets/")
    schemes = config.myst_url_schemes
    assert schemes["repo"]["url"] == "https://github.com/ada/small-nets/blob/main/{{path}}"
    assert schemes["colab"]["url"] == (
        "https://colab.research.google.com/github/ada/small-nets/blob/main/{{path}}"
    )
    assert config.html_baseurl == config.ogp_site_url == "https://ada.github.io/small-nets/"


def test_without_github_there_is_no_colab(book_pages, tmp_path):
    config = configured(book_pages, tmp_path, "https://git.example.org/group/ada/small-nets")
    assert config.myst_url_schemes["repo"]["url"] == (
        "https://git.example.org/group/ada/small-nets/blob/main/{{path}}"
    )
    assert "colab" not in config.myst_url_schemes
    assert config.html_theme_options["launch_buttons"] == {}
    assert config.html_theme_options["repository_provider"] == "gitlab"
    assert config.html_baseurl == ""


def test_placeholder_gives_the_site_no_address(book_pages, tmp_path, config):
    assert book_pages.PLACEHOLDER_OWNER == "slim_cnns"
    made = configured(book_pages, tmp_path, "https://github.com/slim_cnns/slim-cnns")
    assert made.html_baseurl == made.ogp_site_url == ""


def test_mathjax_version_is_the_one_of_npm(book_pages, root):
    package = json.loads((root / "package.json").read_text())
    lock = json.loads((root / "package-lock.json").read_text())
    assert package["devDependencies"]["mathjax"] == book_pages.MATHJAX_VERSION
    for name, version in package["devDependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for name, entry in lock["packages"].items() if name)
    assert "resolved" not in json.dumps(lock)


# ---- scripts/vendor.py ----


@pytest.fixture
def npm_tree(tmp_path, vendor):
    """A node_modules with a small stand-in for each part that the site needs."""
    for package, names in vendor.PACKAGES.items():
        for name in (*names, "package.json"):
            path = tmp_path / "node_modules" / package / name
            path = path if path.suffix or path.name == "LICENSE" else path / "inside.js"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return tmp_path


def files(folder):
    """The names of all files in a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_vendor_copies_what_the_site_needs(npm_tree, vendor):
    target = npm_tree / "vendor"
    (target / "mathjax").mkdir(parents=True)
    (target / "mathjax" / "stale.js").write_text("old")
    for package in vendor.PACKAGES:
        assert vendor.vendor(package, npm_tree / "node_modules", target) is True
    assert files(target / "onnxruntime-web") == {
        "ort.wasm.bundle.min.mjs",
        "ort-wasm-simd-threaded.wasm",
    }
    assert files(target / "mathjax") == {
        "startup.js",
        "core.js",
        "input/tex.js",
        "input/tex/extensions/inside.js",
        "output/chtml.js",
        "output/chtml/fonts/inside.js",
        "a11y/assistive-mml.js",
        "ui/lazy.js",
        "LICENSE",
    }


def test_without_npm_no_old_copy_is_left(npm_tree, vendor):
    target = npm_tree / "vendor"
    vendor.vendor("mathjax", npm_tree / "node_modules", target)
    assert vendor.vendor("mathjax", npm_tree / "nothing", target) is False
    assert not (target / "mathjax").exists()


@pytest.mark.parametrize(
    ("package", "file"),
    [("mathjax", "es5/startup.js"), ("onnxruntime-web", "dist/ort-wasm-simd-threaded.wasm")],
)
def test_an_incomplete_package_is_an_error(npm_tree, vendor, package, file):
    (npm_tree / "node_modules" / package / file).unlink()
    with pytest.raises(FileNotFoundError, match=file.rpartition("/")[2]):
        vendor.vendor(package, npm_tree / "node_modules", npm_tree / "vendor")


def test_vendor_says_what_it_did(npm_tree, root):
    command = [sys.executable, root / "scripts" / "vendor.py", "--root"]
    done = subprocess.run([*command, npm_tree], capture_output=True, text=True, check=True)
    assert done.stdout.count("the site hosts it itself") == 2
    copy = npm_tree / "book" / "_static" / "vendor" / "onnxruntime-web"
    assert "Microsoft Corporation" in (copy / "LICENSE").read_text(encoding="utf-8")
    empty = npm_tree / "empty"
    empty.mkdir()
    done = subprocess.run([*command, empty], capture_output=True, text=True, check=True)
    assert "from a CDN" in done.stdout and "npm ci" in done.stdout
    assert "can only say so" in done.stdout


# ---- scripts/check_links.py ----


def make_site(folder, **pages):
    """Write pages (`a__b` is the file a/b.html) and give the folder back."""
    for name, body in pages.items():
        path = folder / f"{name.replace('__', '/')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<html><body>{body}</body></html>")
    return folder


def test_sound_links_pass(tmp_path, check_links):
    site = make_site(
        tmp_path,
        index='<a href="sub/page.html#here">x</a><a href="sub/">y</a><a href="#top" id="top">z</a>'
        '<a href="https://example.org/nowhere">away</a><a href="mailto:a@example.org">m</a>',
        sub__page='<h2 id="here">x</h2><img src="../a%20b.svg?v=1" alt=""><a name="old"></a>'
        '<a href="#old">o</a>',
        sub__index="",
    )
    (tmp_path / "a b.svg").write_text("<svg/>")
    assert check_links.broken_references(site) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">x</a>', "gone.html does not exist"),
        ('<a href="other.html#gone">x</a>', "other.html#gone has no such anchor"),
        ('<a href="#gone">x</a>', "#gone has no such anchor"),
        ('<img src="gone.png">', "gone.png does not exist"),
        ('<img srcset="gone.png 2x, other.html 1x">', "gone.png does not exist"),
        ('<script src="gone.js"></script>', "gone.js does not exist"),
        ('<a href="sub/">x</a>', "sub/ does not exist"),
        ('<a href="../outside.html">x</a>', "../outside.html leads out of the site"),
        ('<a href="/other.html">x</a>', "/other.html starts at the root of the server"),
    ],
)
def test_a_broken_reference_is_found(tmp_path, check_links, root, body, fault):
    site = make_site(tmp_path / "site", index=body, other='<p id="there"></p>')
    (tmp_path / "outside.html").write_text("")
    found = check_links.broken_references(site)
    assert len(found) == 1 and found[0].startswith(f"index.html: {fault}")
    command = [sys.executable, root / "scripts" / "check_links.py", site]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and fault in done.stdout


def test_an_empty_site_is_no_success(tmp_path, root):
    command = [sys.executable, root / "scripts" / "check_links.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "make book" in done.stderr


# ---- book/figures ----


def test_figures_are_those_that_the_script_draws(draw, root):
    for name, content in draw.figures().items():
        assert (root / "book" / "figures" / name).read_text(encoding="utf-8") == content


def test_every_figure_is_on_a_page(draw, root):
    pages = "".join(p.read_text(encoding="utf-8") for p in (root / "book").glob("*.md"))
    assert all(f"figures/{name}" in pages for name in draw.figures())
