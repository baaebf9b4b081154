"""What is typed in the web waits for its terminal within bounds, and sizes that nobody saw are not sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hapi.terminal.protocol import INPUT_CHUNK_BYTES, Attach, Input, Redraw, Resize
from hapi.workers.hub.watching import INPUT_LIMIT_BYTES, Watching

_NOBODY = cast("Any", None)


def watching() -> Watching:
    return Watching(Path("/nowhere"), Attach(), _NOBODY, _NOBODY)


def queued(of: Watching) -> list[Any]:
    return list(of._queue)


def test_a_long_paste_goes_in_pieces_in_order() -> None:
    waiting = watching()
    text = "".join(chr(0xE000 + number % 4000) for number in range(INPUT_CHUNK_BYTES))
    assert waiting.type(text)
    pieces = queued(waiting)
    assert all(isinstance(piece, Input) and len(piece.data) <= INPUT_CHUNK_BYTES for piece in pieces)
    assert b"".join(piece.data for piece in pieces).decode() == text


def test_what_is_too_much_is_refused_as_a_whole() -> None:
    waiting = watching()
    assert waiting.type("x" * INPUT_LIMIT_BYTES)
    before = len(queued(waiting))
    assert not waiting.type("y")
    assert len(queued(waiting)) == before


def test_half_a_character_does_no_harm() -> None:
    waiting = watching()
    assert waiting.type("\ud83d")
    assert queued(waiting) == [Input(b"?")]


def test_of_sizes_in_a_row_the_last_counts() -> None:
    waiting = watching()
    for message in (Resize(80, 24), Resize(81, 24), Redraw(), Resize(82, 24), Resize(83, 24)):
        waiting.send(message)
    assert queued(waiting) == [Resize(81, 24), Redraw(), Resize(83, 24)]
