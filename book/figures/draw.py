"""Draw the figures of the book's own pages as SVG: the map, and one sign for each chapter.

    python book/figures/draw.py          writes map.svg and chapter-1.svg … chapter-7.svg here

Each figure stands on no background of its own. Text lies inside filled boxes and lines are
mid-tones, so that one file reads on a white page and on a dark one, and at phone width.
"""

from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

TEAL, AMBER, LINE = "#0f8f99", "#d9822b", "#7d8b99"  # at least 3:1 on white and on #11181f
BOX, RECORD, ENDS = "#0b6673", "#8f4d0a", "#2b4a63"  # white text on them is at least 6:1
WHITE, PALE, WARM = "#ffffff", "#9fe3e2", "#ffc777"

# What each chapter is called on the map, and in a few words what it does.
CHAPTERS = {
    1: ("Measuring", "one record"),
    2: ("Pruning", "drop weights or whole filters"),
    3: ("Sparsity", "what the zeros are worth"),
    4: ("Distillation", "teach a smaller network"),
    5: ("Low-rank factorization", "split a layer into thin ones"),
    6: ("Quantization", "fewer bits for each number"),
    7: ("Deployment", "in a runtime, on a phone, in the browser"),
}


def rect(x: float, y: float, w: float, h: float, fill: str, r: float = 2, extra: str = "") -> str:
    """One rounded rectangle."""
    place = f'x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{r:g}"'
    return f'<rect {place} fill="{fill}"{" " if extra else ""}{extra}/>'


def hollow(x: float, y: float, w: float, h: float, color: str, r: float = 2) -> str:
    """A rounded rectangle of which only the dashed outline is left: something removed."""
    dashed = f'stroke="{color}" stroke-width="1.6" stroke-dasharray="2.4 2.4"'
    return rect(x + 0.8, y + 0.8, w - 1.6, h - 1.6, "none", r, dashed)


def text(
    x: float, y: float, words: str, size: float, weight: int = 400, anchor: str = "start"
) -> str:
    """One line of white text; `y` is its baseline."""
    style = f'font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" fill="{WHITE}" {style}>{words}</text>'


def path(points: str, color: str, width: float = 3) -> str:
    """An unfilled path."""
    stroke = f'stroke="{color}" stroke-width="{width:g}"'
    return (
        f'<path d="{points}" fill="none" {stroke} stroke-linecap="round" stroke-linejoin="round"/>'
    )


# The signs. Each is drawn in a 48 × 48 field from a main color and an accent.


def measuring(main: str, accent: str) -> str:
    """Four bars against an axis: the four numbers of a record."""
    bars = [(8, 30), (18, 14), (28, 24), (38, 8)]
    axis = path("M4 4V44", main, 3)
    return axis + "".join(
        rect(9, y - 4, length, 7, accent if i == 0 else main) for i, (y, length) in enumerate(bars)
    )


def pruning(main: str, accent: str) -> str:
    """A 3 × 3 kernel with weights cut out."""
    removed = {(0, 1), (1, 2), (2, 0), (2, 1)}
    cells = []
    for row in range(3):
        for column in range(3):
            x, y = 3 + 15 * column, 3 + 15 * row
            shape = hollow(x, y, 12, 12, accent) if (row, column) in removed else ""
            cells.append(shape or rect(x, y, 12, 12, main))
    return "".join(cells)


def sparsity(main: str, accent: str) -> str:
    """Four rows of a 2:4 pattern: two of every four weights are zero."""
    kept = ({0, 2}, {1, 2}, {0, 3}, {1, 3})
    cells = []
    for row in range(4):
        for column in range(4):
            x, y = 3 + 11 * column, 3 + 11 * row
            full = column in kept[row]
            cells.append(rect(x, y, 9, 9, main) if full else rect(x + 3, y + 3, 3, 3, accent, 1.5))
    return "".join(cells)


def distillation(main: str, accent: str) -> str:
    """A large network hands its answers to a small one."""
    layers = rect(3, 4, 5, 40, main) + rect(11, 9, 5, 30, main) + rect(19, 14, 5, 20, main)
    arrow = path("M28 24H35M32 20.5L35.5 24L32 27.5", LINE if main == TEAL else WHITE, 2.4)
    return layers + arrow + rect(38.5, 16, 3, 16, accent, 1.5) + rect(43, 19, 3, 10, accent, 1.5)


def low_rank(main: str, accent: str) -> str:
    """A matrix as a tall thin factor times a flat wide one."""
    outline = hollow(17, 17, 28, 28, main, 3)
    return rect(3, 17, 9, 28, main) + rect(17, 3, 28, 9, accent) + outline


def quantization(main: str, accent: str) -> str:
    """A straight line and the staircase that replaces it."""
    return path("M4 44L44 4", accent, 2.4) + path("M4 44V37H14V27H24V17H34V7H44", main, 3.4)


def deployment(main: str, accent: str) -> str:
    """A phone with a network in it."""
    case = rect(12.5, 3.5, 23, 41, "none", 4, f'stroke="{main}" stroke-width="3"')
    bars = rect(18, 13, 3, 18, accent, 1.5) + rect(23, 16, 3, 12, accent, 1.5)
    return case + bars + rect(28, 19, 3, 6, accent, 1.5) + path("M22 39.5H26", main, 2)


SIGNS: dict[int, Callable[[str, str], str]] = {
    1: measuring,
    2: pruning,
    3: sparsity,
    4: distillation,
    5: low_rank,
    6: quantization,
    7: deployment,
}


def sign(chapter: int) -> str:
    """The sign of one chapter as a file of its own."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48" width="48" height="48">\n'
        f"{SIGNS[chapter](TEAL, AMBER)}\n</svg>\n"
    )


def placed(shape: str, x: float, y: float, size: float = 48) -> str:
    """A sign moved to (x, y) and scaled from its 48 × 48 field."""
    return f'<g transform="translate({x:g} {y:g}) scale({size / 48:.4g})">{shape}</g>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight arrow, to the right or down."""
    head = f"M{x2 - 8:g} {y2 - 7:g}L{x2:g} {y2:g}L{x2 - 8:g} {y2 + 7:g}"
    if x1 == x2:
        head = f"M{x2 - 7:g} {y2 - 8:g}L{x2:g} {y2:g}L{x2 + 7:g} {y2 - 8:g}"
    return path(f"M{x1:g} {y1:g}L{x2:g} {y2:g}{head}", LINE, 3.5)


def book_map() -> str:
    """One network and one data set go through every technique; all end in one record."""
    parts = []
    for x, title, detail in (
        (4, "One network", "ResNet-14"),
        (324, "One data set", "Fashion-MNIST"),
    ):
        parts += [rect(x, 4, 312, 84, ENDS, 14), text(x + 156, 40, title, 25, 700, "middle")]
        parts.append(text(x + 156, 70, detail, 21, anchor="middle"))
    parts += [arrow(208, 94, 208, 126), arrow(544, 94, 544, 126)]

    top, height, gap = 134, 76, 12
    for row, chapter in enumerate(range(2, 7)):
        y = top + row * (height + gap)
        title, detail = CHAPTERS[chapter]
        parts += [rect(4, y, 408, height, BOX, 14), placed(SIGNS[chapter](PALE, WARM), 18, y + 14)]
        parts += [text(84, y + 33, f"{chapter} {title}", 23, 700), text(84, y + 61, detail, 20)]
        parts.append(arrow(418, y + height / 2, 444, y + height / 2))
    bottom = top + 5 * height + 4 * gap

    x, width = 452, 184
    title, detail = CHAPTERS[1]
    parts += [rect(x, top, width, bottom - top, RECORD, 14)]
    parts.append(placed(measuring(WHITE, WARM), x + width / 2 - 26, top + 24, 52))
    parts.append(text(x + width / 2, top + 118, f"1 {title}", 23, 700, "middle"))
    parts.append(text(x + width / 2, top + 148, detail, 20, anchor="middle"))
    for i, number in enumerate(("accuracy", "bytes", "MACs", "latency")):
        y = top + 174 + i * 60
        parts.append(rect(x + 20, y, width - 40, 46, "#6f3a05", 10))
        parts.append(text(x + width / 2, y + 31, number, 22, 600, "middle"))

    parts.append(arrow(320, bottom + 6, 320, bottom + 38))
    y, (title, detail) = bottom + 46, CHAPTERS[7]
    parts += [rect(4, y, 632, 84, ENDS, 14), placed(deployment(PALE, WARM), 100, y + 18)]
    parts += [text(166, y + 37, f"7 {title}", 25, 700), text(166, y + 67, detail, 20)]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {y + 88:g}" width="640"'
        f' height="{y + 88:g}" font-family="{FONT}">\n{body}\n</svg>\n'
    )


def figures() -> dict[str, str]:
    """Every file that this script writes: its name and its text."""
    return {"map.svg": book_map()} | {f"chapter-{n}.svg": sign(n) for n in SIGNS}


if __name__ == "__main__":
    for name, content in figures().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
