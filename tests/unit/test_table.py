"""The picture of `hapi top`: what is in it, and that it fits every window."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from hapi.cli.table import Row, clip, draw, summary
from hapi.lifecycle import Phase
from hapi.wire import SessionInfo

AT = 1_700_000_000_000


def row(number=1, phase=Phase.WORKING, **changes):
    values = {"session_id": f"{number:08x}-0000-4000-8000-000000000001", "namespace": "default", "agent": "demo"}
    values |= {"directory": "/w/project", "phase": phase, "started_by": "runner", "started_at": AT}
    return Row(SessionInfo(**(values | changes)), cpu=12.4, memory=5 * 1024**2)


def test_a_session_is_a_line():
    picture = draw(
        [row(queued=2, last_words="All done."), row(2, Phase.IDLE, title="Mend it")], 0, 0, (120, 5), AT + 65_000
    )
    assert picture.headings.split() == ["ID", "AGENT", "PHASE", "CPU", "MEMORY", "AGE", "DIRECTORY", "LAST", "WORDS"]
    assert [" ".join(line.split()) for line in picture.lines] == [
        "00000001 demo working +2 12% 5.0 MB 1m 5s /w/project All done.",
        "00000002 demo idle 12% 5.0 MB 1m 5s /w/project Mend it",
    ]
    assert picture.phases == ["working", "idle"]


def test_what_is_not_known_yet():
    (line,) = draw([Row(row().info)], 0, 0, (120, 5), AT).lines
    assert line.split()[3] == "-"


def test_the_summary_counts():
    rows = [row(1), row(2), row(3, Phase.WAITING)]
    assert summary("work", rows) == "hapi top [work]  3 sessions · 2 working · 1 waiting · cpu 37% · memory 15.0 MB"


@pytest.mark.parametrize(
    ("chosen", "first", "shown", "cursor"),
    [
        (0, 0, range(3), 0),
        (3, 0, range(1, 4), 2),
        (9, 5, range(7, 10), 2),
        (4, 5, range(4, 7), 0),
        (99, 0, range(7, 10), 2),
    ],
)
def test_the_chosen_row_is_always_seen(chosen, first, shown, cursor):
    picture = draw([row(number) for number in range(10)], chosen, first, (120, 3), AT)
    assert [int(line.split()[0], 16) for line in picture.lines] == list(shown)
    assert picture.chosen == cursor


def test_no_sessions():
    picture = draw([], 3, 2, (80, 10), AT)
    assert (picture.lines, picture.chosen, picture.first) == ([], 0, 0)


def test_what_sessions_say_does_not_steer_the_terminal():
    (line,) = draw([row(last_words="a\x1b[2Jb", agent="x\ny", directory="/a\tb")], 0, 0, (200, 5), AT).lines
    assert "a?[2Jb" in line
    assert line.isprintable()


def test_the_end_of_a_long_path_is_shown():
    (line,) = draw([row(directory="/" + "long/" * 20 + "project")], 0, 0, (200, 5), AT).lines
    assert "…" in line
    assert line.endswith("/project")


def test_clip():
    assert [clip("漢字漢字", width) for width in (8, 7, 6, 2, 1, 0)] == ["漢字漢字", "漢字漢…", "漢字…", "…", "…", ""]


@settings(max_examples=100, deadline=None)
@example(["⚽\ue000"], 0, 0, 57, 0)  # a symbol of a private font beside a wide one
@given(
    st.lists(st.text(max_size=60), max_size=8),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(1, 150),
    st.integers(-3, 9),
)
def test_it_fits_every_window(texts, chosen, first, width, height):
    rows = [row(at, agent=text, directory=f"/{text}", last_words=text) for at, text in enumerate(texts)]
    picture = draw(rows, chosen, first, (width, height), AT)
    assert len(picture.lines) <= max(1, height)
    assert not rows or 0 <= picture.chosen < len(picture.lines)
    for line in [picture.headings, *picture.lines]:
        assert wcswidth(line) <= width
