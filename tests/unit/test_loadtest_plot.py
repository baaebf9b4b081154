"""Plots are well-formed SVG, and their marks are where the values are."""

import math
import re
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from hapi.loadtest import plot
from hapi.loadtest.plot import Axis, Series

NS = "{http://www.w3.org/2000/svg}"
VALUES = st.floats(allow_nan=True, allow_infinity=True)


def parsed(svg):
    root = ET.fromstring(svg)
    assert root.tag == f"{NS}svg"
    return root


def circles(svg):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in parsed(svg).iter(f"{NS}circle")]


def inside(x, y):
    return -0.1 <= x <= plot.WIDTH + 0.1 and -0.1 <= y <= plot.HEIGHT + 0.1


def test_points_lie_to_scale():
    svg = plot.lines("T", Axis("s"), Axis("ms"), [Series("a", [(0, 0), (5, 50), (10, 100)], dots=True)])
    (x0, y0), (x1, y1), (x2, y2) = circles(svg)
    assert math.isclose(x1 - x0, x2 - x1, abs_tol=0.2)
    assert math.isclose(y0 - y1, y1 - y2, abs_tol=0.2)
    assert x2 > x0
    assert y2 < y0, "more is higher"


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios():
    svg = plot.lines("T", Axis("n", log=True), Axis("ms"), [Series("a", [(1, 1), (10, 1), (100, 1)], dots=True)])
    (x0, _), (x1, _), (x2, _) = circles(svg)
    assert math.isclose(x1 - x0, x2 - x1, abs_tol=0.2)


@given(st.lists(st.tuples(VALUES, VALUES), max_size=20), st.booleans(), st.booleans())
def test_whatever_the_values_it_is_an_svg_with_all_marks_inside(points, log_x, log_y):
    svg = plot.lines("T", Axis("x", log=log_x), Axis("y", log=log_y), [Series("a", points, dots=True)])
    assert all(inside(x, y) for x, y in circles(svg))


def test_names_are_escaped():
    svg = plot.lines('<b> & "', Axis("<x>"), Axis("&"), [Series("<script>", [(1, 1)]), Series("b", [(2, 2)])])
    texts = [text.text for text in parsed(svg).iter(f"{NS}text")]
    assert {'<b> & "', "<x>", "&", "<script>", "b"} <= set(texts)


def test_bars_stack_to_their_sum():
    svg = plot.bars("Memory", ["10", "20"], Axis("MB"), [[2, 2], [4, 4]], ["session", "agent"])
    heights = [float(r.get("height")) for r in parsed(svg).iter(f"{NS}rect") if r.get("rx") is None]
    assert math.isclose(heights[2], 2 * heights[0], abs_tol=0.3)
    tips = [tip.text for tip in parsed(svg).iter(f"{NS}title")]
    assert tips == ["10: session 2", "10: agent 2", "20: session 4", "20: agent 4"]


def test_a_cdf_is_in_percent():
    svg = plot.cumulative("T", Axis("ms"), [Series("a", [(1, 0.5), (2, 1.0)])])
    assert "100" in [text.text for text in parsed(svg).iter(f"{NS}text")]


def test_it_follows_dark_colours_and_needs_nothing_from_elsewhere():
    svg = plot.lines("T", Axis("x"), Axis("y"), [Series("a", [(1, 1)])])
    assert "prefers-color-scheme:dark" in svg
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


def test_ticks_are_round():
    assert [plot.number(v) for v in (0, 0.05, 2.5, 40, 12_000, 3e6)] == ["0", "0.05", "2.5", "40", "12k", "3M"]
