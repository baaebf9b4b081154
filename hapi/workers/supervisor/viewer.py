"""What a terminal knows of those who look at it and type into it."""

from __future__ import annotations

from typing import Protocol

from hapi.terminal.protocol import Ended


class Typing(Protocol):
    """Who types, and waits for room to."""

    def go_on(self) -> None:
        """There is room for input again."""


class Viewer(Typing, Protocol):
    """Who looks at a terminal, as the terminal knows it. No method blocks or raises."""

    cols: int
    rows: int
    read_only: bool
    lagging: bool
    answers: bool

    def show(self, framed: bytes, size: int) -> None:
        """An Output in its frame, `size` bytes of the program's."""

    def resized_to(self, cols: int, rows: int) -> None:
        """The terminal has another size, and not by this viewer's doing."""

    def catch_up(self) -> None:
        """It has lagged and may have the screen now."""

    def finish(self, ended: Ended) -> None:
        """The last message; a viewer that lags gets the screen before it."""
