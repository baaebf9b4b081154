"""What is typed in the web waits for its terminal within bounds, and sizes that nobody saw are not sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hapi.terminal.protocol import INPUT_CHUNK_BYTES, Attach, CloseTerminal, Input, Redraw, Resize
from hapi.workers.hub.watching import INPUT_LIMIT_BYTES, Watching

_NOBODY = cast("Any", None)


def watching() -> Watching:
    return Watching(Path("/nowhere"), Attach(), _NOBODY, _NOBODY)


def sent(by: Watching) -> list[Any]:
    """What waits, in the order in which it is sent."""
    messages = []
    while by._orders or by._typed:
        messages.append(by._next())
    return messages


def test_a_long_paste_goes_in_pieces_in_order() -> None:
    waiting = watching()
    text = "".join(chr(0xE000 + number % 4000) for number in range(INPUT_CHUNK_BYTES))
    assert waiting.type(text)
    pieces = sent(waiting)
    assert all(isinstance(piece, Input) and len(piece.data) <= INPUT_CHUNK_BYTES for piece in pieces)
    assert b"".join(piece.data for piece in pieces).decode() == text


def test_what_is_too_much_is_refused_as_a_whole() -> None:
    waiting = watching()
    assert waiting.type("x" * INPUT_LIMIT_BYTES)
    assert not waiting.type("y")
    assert sum(len(piece.data) for piece in sent(waiting)) == INPUT_LIMIT_BYTES


def test_half_a_character_does_no_harm() -> None:
    waiting = watching()
    assert waiting.type("\ud83d")
    assert sent(waiting) == [Input(b"?")]


def test_however_much_is_asked_little_waits() -> None:
    """A hub that repeats itself while the session does not read. Seen to fail: with a queue of all that came."""
    waiting = watching()
    for number in range(10_000):
        waiting.send(Resize(80 + number % 7, 24))
        waiting.type("k")
        waiting.send(Redraw())
    waiting.send(CloseTerminal())
    assert sent(waiting) == [Resize(80 + 9_999 % 7, 24), Redraw(), Input(b"k" * 10_000), CloseTerminal()]
