"""One style for all figures: white ground, colors that color-blind readers tell apart.

Figures stay white in the dark site too (they sit on a white card), and small: what a
notebook stores of one is at most 60 kB.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation
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

# The corner points of a line: all x, all y, data coordinates.
Line = tuple[Sequence[float], Sequence[float]]

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
    figure.savefig(
        buffer, format="png", dpi="figure", bbox_inches="tight", metadata={"Software": None}
    )
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
    lines: Sequence[Line] = (),
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
    # Of a marker with error bars, the marker explains enough.
    handles = [h[0] if isinstance(h, ErrorbarContainer) else h for h in handles]
    entries = [handles[i] for i in order], [labels[i] for i in order]

    obstacles = _obstacles(axes, x, y, lines)

    def covered(corner: str) -> float:
        legend = axes.legend(*entries, loc=corner)
        return _overlap(legend.get_window_extent(), obstacles)

    corners = ("lower right", "upper left", "lower left", "upper right")
    axes.legend(*entries, loc=min(corners, key=covered))


def place_labels(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    *,
    lines: Sequence[Line] = (),
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
        obstacles = np.vstack([obstacles, axes.get_legend().get_window_extent().extents])
    inside = axes.get_window_extent().extents[None]

    def covered(label: Annotation, place: tuple[float, float, str, str]) -> float:
        """Pixels that the label covers at a place; outside of the axes they count thrice."""
        box = _put(label, place)
        outside = box.width * box.height - _overlap(box, inside)
        return 3 * outside + _overlap(box, obstacles)

    for index, text in enumerate(texts):
        if text:
            label = axes.annotate(
                text, (x[index], y[index]), (0, 0), textcoords="offset points", fontsize=8
            )
            best = min(_PLACES, key=lambda place: covered(label, place))
            obstacles = np.vstack([obstacles, _put(label, best).extents])


def _obstacles(
    axes: Axes, x: Sequence[float], y: Sequence[float], lines: Sequence[Line]
) -> np.ndarray:
    """Boxes (left, bottom, right, top) around points and along lines, pixels, shape (M, 4)."""
    figure = axes.figure
    figure.draw_without_rendering()  # fixes the layout, so that positions in pixels are final
    scale = figure.dpi / 72
    points = axes.transData.transform(np.column_stack([x, y]))
    boxes = [np.hstack([points - 5 * scale, points + 5 * scale])]
    for line_x, line_y in lines:
        corners = axes.transData.transform(np.column_stack([line_x, line_y]))
        points = _dense(corners, 4 * scale)
        boxes.append(np.hstack([points - 2 * scale, points + 2 * scale]))
    return np.vstack(boxes)


def _put(label: Annotation, place: tuple[float, float, str, str]) -> Bbox:
    """Move a label to a place and return its box, pixels."""
    label.set_position(place[:2])
    label.set_horizontalalignment(place[2])
    label.set_verticalalignment(place[3])
    return label.get_window_extent().padded(1)


def _overlap(box: Bbox, others: np.ndarray) -> float:
    """Area that a box shares with other boxes (M, 4), summed over them."""
    width = np.minimum(box.x1, others[:, 2]) - np.maximum(box.x0, others[:, 0])
    height = np.minimum(box.y1, others[:, 3]) - np.maximum(box.y0, others[:, 1])
    return float((width.clip(0) * height.clip(0)).sum())


def _dense(corners: np.ndarray, step: float) -> np.ndarray:
    """Points at most `step` apart along the line through `corners`, shape (M, 2)."""
    pieces = [corners[:1]]
    for start, end in pairwise(corners):
        count = max(1, int(np.ceil(np.hypot(*(end - start)) / step)))
        pieces.append(start + (end - start) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(pieces)
