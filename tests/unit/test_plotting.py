"""slimcnn.plotting: the style, the size of figures, and where texts go."""

import struct

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from slimcnn import plotting


@pytest.fixture
def axes():
    with plotting.style():
        figure, axes = plt.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    yield axes
    plt.close(figure)


def test_style_ends_with_its_block_and_use_style_does_not():
    before = dict(mpl.rcParams)
    with plotting.style():
        assert mpl.rcParams["figure.facecolor"] == "white"
        assert mpl.rcParams["figure.figsize"] == [6.4, 3.6]
        colors = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
        assert tuple(colors) == plotting.PALETTE
    assert dict(mpl.rcParams) == before
    with mpl.rc_context():
        plotting.use_style()
        assert mpl.rcParams["figure.dpi"] == 110
        assert mpl.rcParams["savefig.facecolor"] == "white"
    assert dict(mpl.rcParams) == before


def lightness(color):
    """CIE L* of an sRGB color, 0 to 100."""
    channels = np.array(mpl.colors.to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


def test_colors_differ_and_can_be_seen_on_white():
    assert len(set(plotting.PALETTE)) == len(plotting.PALETTE) == len(plotting.MARKERS) == 7
    assert len(set(plotting.MARKERS)) == 7
    assert max(lightness(color) for color in plotting.PALETTE) < 75
    # In print without color the first two can be told apart.
    first, second = plotting.PALETTE[:2]
    assert abs(lightness(first) - lightness(second)) > 5


def test_png_of_a_figure_has_its_size_and_repeats(axes):
    axes.plot([1, 5, 9], [1, 8, 3])
    axes.set(xlabel="cost (kB)", ylabel="accuracy (%)")
    content = plotting.figure_bytes(axes.figure)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert abs(width - 6.4 * 110) < 15  # "tight" cuts and pads by a few pixels
    assert abs(height - 3.6 * 110) < 15
    assert content == plotting.figure_bytes(axes.figure)
    assert b"Software" not in content
    assert len(content) < plotting.FIGURE_LIMIT == 60_000


def test_a_figure_that_is_too_large_is_refused(axes):
    axes.imshow(np.random.default_rng(0).random((400, 700)), aspect="auto", extent=(0, 10, 0, 10))
    with pytest.raises(ValueError, match="at most 60,000 are allowed; show fewer"):
        plotting.figure_bytes(axes.figure)
    assert len(plotting.figure_bytes(axes.figure, limit=10**7)) > 60_000
    content = plotting.figure_bytes(axes.figure, limit=10**7)
    assert plotting.figure_bytes(axes.figure, limit=len(content)) == content
    with pytest.raises(ValueError, match=f"takes {len(content):,} bytes"):
        plotting.figure_bytes(axes.figure, limit=len(content) - 1)


def overlaps(a, b):
    return min(a.x1, b.x1) > max(a.x0, b.x0) and min(a.y1, b.y1) > max(a.y0, b.y0)


def test_labels_do_not_cover_points_or_each_other_or_leave_the_axes(axes):
    # Five points, two of them close, two at the edges.
    x, y = [2, 2.3, 9.9, 5, 0.1], [5, 5.2, 5, 9.9, 0.1]
    axes.plot(x, y, "o")
    names = ["first", "second", "at the right edge", "at the top", "in the corner"]
    plotting.place_labels(axes, x, y, names)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == names
    frame = axes.get_window_extent()
    pixels = axes.transData.transform(np.column_stack([x, y]))
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
        assert not any(box.contains(*pixel) for pixel in pixels)
        assert not any(overlaps(box, other) for other in boxes[:i])


def test_labels_keep_clear_of_lines_and_of_the_legend(axes):
    axes.plot([5], [5], "o", label="point")
    alone = [5], [5], ["a label"]
    plotting.place_labels(axes, *alone)
    usual = axes.texts[0].get_window_extent()
    axes.texts[0].remove()
    # A line through where the label went, given by its end points only.
    height = axes.transData.inverted().transform((usual.x0, (usual.y0 + usual.y1) / 2))[1]
    line = [0, 10], [height, height]
    plotting.place_labels(axes, *alone, lines=[line])
    moved = axes.texts[0].get_window_extent()
    level = axes.transData.transform((5, height))[1]
    assert usual.y0 < level < usual.y1
    assert not moved.y0 < level < moved.y1
    axes.texts[0].remove()
    axes.legend(loc="center left", bbox_to_anchor=(0.52, 0.55))
    axes.figure.draw_without_rendering()
    assert overlaps(axes.get_legend().get_window_extent(), usual)
    plotting.place_labels(axes, *alone)
    assert not overlaps(axes.get_legend().get_window_extent(), axes.texts[0].get_window_extent())


def test_empty_labels_are_left_out(axes):
    plotting.place_labels(axes, [1, 2], [1, 2], ["", "b"])
    assert [text.get_text() for text in axes.texts] == ["b"]


@pytest.mark.parametrize("free", ["lower right", "upper left", "lower left", "upper right"])
def test_the_legend_goes_to_the_free_corner(axes, free):
    corners = {"lower left": (1, 1), "lower right": (9, 1), "upper left": (1, 9)}
    corners["upper right"] = (9, 9)
    taken = [point for name, point in corners.items() if name != free]
    x, y = [p[0] for p in taken], [p[1] for p in taken]
    axes.plot(x, y, "o", label="points")
    plotting.place_legend(axes, x, y)
    box = axes.transData.inverted().transform_bbox(axes.get_legend().get_window_extent())
    center = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    target = corners[free]
    assert abs(center[0] - target[0]) < 2.5
    assert abs(center[1] - target[1]) < 2.5


def test_the_legend_keeps_clear_of_lines_and_puts_last_what_is_last(axes):
    axes.plot([0, 10], [1, 1], label="front")
    axes.errorbar([5], [5], yerr=[1], fmt="o", label="points")
    plotting.place_legend(axes, [5], [5], lines=[([0, 10], [1, 1])], last=["front"])
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["points", "front"]
    box = axes.transData.inverted().transform_bbox(legend.get_window_extent())
    assert box.y0 > 5  # an upper corner: the line runs through both lower ones
