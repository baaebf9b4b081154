"""Screens under whatever programs may write: nothing raises, cuts do not matter, a replay is the same screen."""

from dataclasses import asdict

from hypothesis import given, settings
from hypothesis import strategies as st

from hapi.terminal.screen import Screen

NUMBER = st.sampled_from(["", "0", "1", "2", "3", "5", "9", "30"])
TEXT = st.text(st.sampled_from("abc xyz.-é日本😀\u0301\u0323\t\r\n\b\x0e\x0f"), min_size=1, max_size=30)
LINES = st.lists(st.text(st.sampled_from("ab \tä"), max_size=45), min_size=5, max_size=60).map(
    lambda lines: "".join(f"{line}\r\n" for line in lines)
)
CONTROLS = st.builds(
    lambda a, b, final: f"\x1b[{a};{b}{final}", NUMBER, NUMBER, st.sampled_from("ABCDEFGHIJKLMPSTXZ@`adfr")
)
COLOURS = st.sampled_from(
    ["0", "", "1", "4:3", "7", "22", "31", "44", "39", "38;5;7", "48;2;1;2;3", "58:5:1", "38:2::9:9:9"]
).map("\x1b[{}m".format)
MODES = st.builds(
    lambda mode, on: f"\x1b[{mode}{on}",
    st.sampled_from(
        [
            "?1",
            "?5",
            "?7",
            "?25",
            "?1000",
            "?1002",
            "?1003",
            "?1006",
            "?1004",
            "?2004",
            "?2026",
            "?1007",
            "4",
            "?47",
            "?1047",
            "?1049",
        ]
    ),
    st.sampled_from("hl"),
)
OTHERS = st.sampled_from(
    [
        "\x1b7",
        "\x1b8",
        "\x1bM",
        "\x1bD",
        "\x1bE",
        "\x1bH",
        "\x1b[3g",
        "\x1b(0",
        "\x1b(B",
        "\x1b)0",
        "\x1b=",
        "\x1b>",
        "\x1b[>1u",
        "\x1b[<u",
    ]
    + [
        "\x1b]2;title\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x1b]8;;\x1b\\",
        "\x1b[4 q",
        "\x1b[22;0t",
        "\x1bPq123\x1b\\",
        "\x1b[c",
        "\x1b[!p",
        "\x1bc",
    ]
)
OUTPUT = st.lists(st.one_of(TEXT, LINES, CONTROLS, CONTROLS, COLOURS, MODES, OTHERS), max_size=25).map("".join)
TINY = st.tuples(st.integers(1, 3), st.integers(1, 3))
SIZES = st.tuples(st.integers(2, 40), st.integers(1, 8))


def state(screen):
    """All of a screen that a program or a person can notice, but for where lines were broken."""
    inner = screen._screen
    grids = {"main": inner.main, "shown": inner.grid}
    rows = {
        name: [grid.drawn(row, inner.looks).rstrip(" ") for row in range(inner.rows)] for name, grid in grids.items()
    }
    facts = (
        "x",
        "y",
        "pen",
        "top",
        "bottom",
        "left",
        "right",
        "charsets",
        "shift",
        "tabs",
        "title",
        "alternate_mode",
        "saved",
    )
    return (
        rows
        | asdict(inner.modes)
        | {name: getattr(inner, name) for name in facts}
        | {"text": "".join(screen.text().split())}
    )


def whole(screen):
    inner = screen._screen
    for grid in {inner.main, inner.grid}:
        assert (len(grid.cells), len(grid.inks), len(grid.wraps)) == (screen.rows,) * 3
        assert {len(row) for row in grid.cells + grid.inks} == {screen.cols}
    assert 0 <= inner.x <= screen.cols and 0 <= inner.y < screen.rows


@settings(max_examples=150, deadline=None)
@given(OUTPUT, SIZES, SIZES)
def test_a_replay_is_the_same_screen(output, size, other):
    screen = Screen(*size)
    screen.feed(output.encode())
    for _ in range(2):
        again = Screen(*size)
        again.feed(b"\x1b[?1049h\x1b[31mother\x1b[2;3r\x1b[?6h\x1b[?25l\x1b(0\x1b]8;;x\x1b\\\x1b[")
        again.feed(screen.replay())
        assert state(again) == state(screen)
        whole(screen)
        size = other
        screen.resize(*size)


@settings(max_examples=100, deadline=None)
@given(OUTPUT, st.one_of(SIZES, TINY), st.integers(1, 7))
def test_where_output_is_cut_does_not_matter(output, size, cut):
    data = output.encode()
    at_once, in_pieces = Screen(*size), Screen(*size)
    at_once.feed(data)
    for at in range(0, len(data), cut):
        in_pieces.feed(data[at : at + cut])
    assert in_pieces.replay() == at_once.replay()
    assert in_pieces.answers() == at_once.answers()
    assert in_pieces.bells == at_once.bells


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=50), OUTPUT.map(str.encode)), max_size=5),
    SIZES,
    st.sampled_from(["feed", "skip"]),
)
def test_nothing_raises(pieces, size, work):
    screen = Screen(*size)
    for piece in pieces:
        getattr(screen, work)(piece)
        whole(screen)
        screen.resize(size[1], size[0])
        whole(screen)
        size = size[::-1]
    Screen(*size).feed(screen.replay())
    assert isinstance(screen.text(), str)
