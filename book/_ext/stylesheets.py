"""Take out of a stylesheet the rules that no page of the site can use.

The theme's stylesheet holds all of Bootstrap and all of Font Awesome; a page waits for it before
it shows anything. Of 310 kB, about two thirds are for classes that occur nowhere in the book.
"""

import re
from collections.abc import Iterator

# A comment, a string, a brace or semicolon, or a run of anything else.
_TOKEN = re.compile(
    r"""/\*.*?\*/ | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [{};] | (?:\\.|[^{};"'/\\])+ | .""",
    re.DOTALL | re.VERBOSE,
)
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_CLASS = re.compile(r"\.((?:[\w-]|\\.)+)")
_ATTRIBUTE = re.compile(r"\[[^\]]*\]")
_INNER_PARENTHESES = re.compile(r"\([^()]*\)")

# Bootstrap's script puts names with this prefix together from parts.
COMPOSED = "bs-"


def names(text: str) -> set[str]:
    """Every word of a page or a script that could be the name of a class."""
    return set(_NAME.findall(text))


def prune(css: str, used: set[str]) -> str:
    """The stylesheet without the selectors that need a class outside of `used`.

    A selector stays if all its classes are used; what stands in parentheses, as in
    `:not(.class)`, is not asked for. Rules without a selector left go; rules for elements,
    attributes and ids, other at-rules (such as @font-face) and licenses (`/*! … */`) stay.
    """
    kept = []
    for prelude, body in _blocks(css):
        if body is None or (prelude.startswith("@") and not _nests(prelude)):
            kept.append(prelude if body is None else f"{prelude}{{{body}}}")
            continue
        if _nests(prelude):
            body = prune(body, used)
        else:
            prelude = ",".join(s for s in _selectors(prelude) if _usable(s, used))
        if prelude and body:
            kept.append(f"{prelude}{{{body}}}")
    return "".join(kept)


def _nests(prelude: str) -> bool:
    """Whether an at-rule holds rules of its own."""
    return prelude.startswith(("@media", "@supports", "@layer", "@container"))


def _blocks(css: str) -> Iterator[tuple[str, str | None]]:
    """The parts of a stylesheet: (prelude, body), or (text, None) for what has no body."""
    prelude: list[str] = []
    body: list[str] = []
    depth = 0
    for token in _TOKEN.findall(css):
        if depth == 0 and token.startswith("/*"):
            if token.startswith("/*!"):
                yield token, None
        elif depth == 0 and token == ";":
            yield "".join(prelude).strip() + ";", None
            prelude = []
        elif depth == 1 and token == "}":
            yield "".join(prelude).strip(), "".join(body)
            prelude, body, depth = [], [], 0
        elif depth == 0 and token == "{":
            depth = 1
        else:
            depth += {"{": 1, "}": -1}.get(token, 0)
            (body if depth else prelude).append(token)


def _selectors(prelude: str) -> list[str]:
    """The selectors of a rule, split at the commas outside of parentheses."""
    parts, depth = [""], 0
    for character in prelude:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _usable(selector: str, used: set[str]) -> bool:
    """Whether a page could have all classes that a selector asks for."""
    bare, removed = _ATTRIBUTE.sub("", selector), 1
    while removed:
        bare, removed = _INNER_PARENTHESES.subn("", bare)
    return all(
        name in used or name.startswith(COMPOSED) or "\\" in name for name in _CLASS.findall(bare)
    )
