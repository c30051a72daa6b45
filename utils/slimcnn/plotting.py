"""One style for all figures: white ground, colors that color-blind readers tell apart.

Figures stay white in the dark site too (they sit on a white card), and small: what a
notebook stores of one is at most 60 kB.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

# Okabe and Ito (2008), "Color universal design", in an order that keeps neighbors apart.
# Their yellow is left out: it cannot be seen on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GRAY = "#6B6B6B"
# A marker for each color, so that no figure depends on color alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# What a notebook may store of one figure, bytes.
FIGURE_LIMIT = 60_000

_STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": "black",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same figure on every machine
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
}

# Where a label may sit: (x, y) in points from its point, horizontal and vertical alignment.
_PLACES = (
    (7, 3, "left", "bottom"),
    (-7, 3, "right", "bottom"),
    (7, -3, "left", "top"),
    (-7, -3, "right", "top"),
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (16, 11, "left", "bottom"),
    (-16, 11, "right", "bottom"),
    (16, -11, "left", "top"),
    (-16, -11, "right", "top"),
)


def use_style() -> None:
    """Give every later Matplotlib figure of this process the style of the book."""
    mpl.rcParams.update(_STYLE)


@contextmanager
def style() -> Iterator[None]:
    """Give the figures made within a block the style of the book; nothing else changes."""
    with mpl.rc_context(_STYLE):
        yield


def figure_bytes(figure: Figure, limit: int = FIGURE_LIMIT) -> bytes:
    """The figure as PNG, as a notebook stores it: cut to its contents, at its own dpi.

    The same figure gives the same bytes: no date and no version is stored.

    Raises:
        ValueError: the image is larger than `limit` bytes.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    content = buffer.getvalue()
    if len(content) > limit:
        raise ValueError(
            f"the figure takes {len(content):,} bytes, at most {limit:,} are allowed; show"
            " fewer points or panels, or lower its dpi (figure.set_dpi)"
        )
    return content


def place_legend(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    *,
    lines: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
    last: Sequence[str] = (),
) -> None:
    """Put the legend into the corner where it covers as little as possible.

    Args:
        axes: what is to be explained is drawn there already, with labels.
        x, y, lines: what to keep clear of, as in `place_labels`.
        last: labels that come after all others.
    """
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: (labels[i] in last, i))
    entries = [handles[i] for i in order], [labels[i] for i in order]

    def covered(corner: str) -> float:
        axes.legend(*entries, loc=corner)
        obstacles = _obstacles(axes, x, y, lines)
        return sum(_overlap(axes.get_legend().get_window_extent(), box) for box in obstacles)

    corners = ("lower right", "upper left", "lower left", "upper right")
    axes.legend(*entries, loc=min(corners, key=covered))


def place_labels(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    *,
    lines: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> None:
    """Write a small text beside each point, where it covers as little as possible.

    Greedy, from the first point to the last: of twelve places around the point it takes
    the one with the least overlap with points, lines, texts placed before, the legend, and
    the outside of the axes. Call it last, when limits and scales are final.

    Args:
        axes: the points are drawn there already.
        x, y: of the points, data coordinates, shape (N,).
        texts: N texts; an empty one is left out.
        lines: corner points (x, y) of lines to keep clear of, data coordinates.
    """
    obstacles = _obstacles(axes, x, y, lines)
    if axes.get_legend() is not None:
        obstacles.append(axes.get_legend().get_window_extent())
    inside = axes.get_window_extent()
    for index, text in enumerate(texts):
        if not text:
            continue
        label = axes.annotate(
            text, (x[index], y[index]), (0, 0), textcoords="offset points", fontsize=8
        )
        best = min(_PLACES, key=lambda place: _cost(label, place, obstacles, inside))
        obstacles.append(_put(label, best))


def _obstacles(axes: Axes, x, y, lines) -> list[Bbox]:
    """Boxes around points and along lines, pixels."""
    figure = axes.figure
    figure.draw_without_rendering()  # fixes the layout, so that positions in pixels are final
    scale = figure.dpi / 72
    points = axes.transData.transform(np.column_stack([x, y]))
    boxes = [_box(point, 5 * scale) for point in points]
    for line_x, line_y in lines:
        corners = axes.transData.transform(np.column_stack([line_x, line_y]))
        boxes += [_box(point, 2 * scale) for point in _dense(corners, 4 * scale)]
    return boxes


def _put(label, place: tuple[float, float, str, str]) -> Bbox:
    """Move a label to a place and return its box, pixels."""
    label.set_position(place[:2])
    label.set_horizontalalignment(place[2])
    label.set_verticalalignment(place[3])
    return label.get_window_extent().padded(1)


def _cost(label, place, obstacles: list[Bbox], inside: Bbox) -> float:
    """Pixels that the label would cover at a place; outside of the axes they count thrice."""
    box = _put(label, place)
    outside = box.width * box.height - _overlap(box, inside)
    return 3 * outside + sum(_overlap(box, other) for other in obstacles)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)


def _box(center: np.ndarray, radius: float) -> Bbox:
    return Bbox([center - radius, center + radius])


def _dense(corners: np.ndarray, step: float) -> np.ndarray:
    """Points at most `step` apart along the line through `corners`, shape (M, 2)."""
    pieces = [corners[:1]]
    for start, end in zip(corners[:-1], corners[1:], strict=True):
        count = max(1, int(np.ceil(np.hypot(*(end - start)) / step)))
        pieces.append(start + (end - start) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(pieces)
