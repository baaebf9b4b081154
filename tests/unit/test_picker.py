"""The menu, without a terminal."""

import pytest

from hapi.cli.picker import Menu

UP, DOWN, ENTER = b"\x1b[A", b"\x1b[B", b"\r"


def pressed(*keys, rows=("a", "b", "c")):
    menu = Menu(rows)
    for key in keys:
        menu.press(key)
    return menu


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ([ENTER], 0),
        ([DOWN, ENTER], 1),
        ([UP, ENTER], 2),
        ([DOWN, DOWN, DOWN, ENTER], 0),
        ([b"j", b"j", b"k", ENTER], 1),
        ([b"3"], 2),
        ([DOWN, b"\x1b"], None),
        ([b"q"], None),
        ([b"\x03"], None),
    ],
)
def test_keys(keys, taken):
    menu = pressed(*keys)
    assert menu.over
    assert menu.taken == taken


@pytest.mark.parametrize("key", [b"9", b"0", b"x", b"\x1b[C"])
def test_other_keys_do_nothing(key):
    menu = pressed(key)
    assert (menu.over, menu.at) == (False, 0)


def test_what_does_not_fit_is_scrolled():
    rows = [f"row {number}" for number in range(20)]
    menu = Menu(rows)
    seen = []
    for _ in rows:
        lines = menu.lines(80, 5)
        assert len(lines) == 5
        (chosen,) = [line for line in lines if line.startswith(">")]
        seen.append(chosen.split("  ")[-1])
        menu.press(DOWN)
    assert seen == rows
    assert "row 0" in menu.lines(80, 5)[0]


def test_lines_are_cut_and_carry_no_colours():
    menu = Menu(["\033[32mgreen\033[0m words that go on and on"])
    assert menu.lines(20, 5) == ["> 1  green words tha"[:19]]
