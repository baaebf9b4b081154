"""The screen that a program draws: fed with its output, it can be drawn again in any terminal, or read as text."""

from __future__ import annotations

from hapi.terminal.screen_emulator import Emulator
from hapi.terminal.screen_modes import PASTE, RESTORE
from hapi.terminal.screen_parser import Parser
from hapi.terminal.screen_questions import without_questions
from hapi.terminal.screen_replay import SEQUENCES, replay
from hapi.terminal.screen_resize import resize

__all__ = ["HISTORY_BYTES", "RESTORE", "Screen", "without_questions"]

HISTORY_BYTES = 256 * 1024


class Screen:
    """A terminal without a window. Pure: no I/O, no clock. Bounded: two screens of cells and `history_bytes` of lines.

    `cols` and `rows` at least 1. Never raises for anything that a program writes.
    """

    def __init__(self, cols: int, rows: int, history_bytes: int = HISTORY_BYTES) -> None:
        self._screen = Emulator(cols, rows, history_bytes)
        self._parser = Parser(self._screen)

    @property
    def cols(self) -> int:
        """Columns."""
        return self._screen.cols

    @property
    def rows(self) -> int:
        """Rows."""
        return self._screen.rows

    @property
    def title(self) -> str | None:
        """As the program set it last; None if never."""
        return self._screen.title

    @property
    def bracketed_paste(self) -> bool:
        """Whether the program wants pastes marked."""
        return self._screen.modes.switches.get(PASTE, False)

    @property
    def alternate(self) -> bool:
        """Whether the alternate screen is shown, as full-screen programs do."""
        return self._screen.alternate_mode != 0

    @property
    def bells(self) -> int:
        """How often it rang."""
        return self._screen.bells

    def feed(self, data: bytes) -> None:
        """What the program wrote, cut anywhere."""
        self._parser.feed(data)

    def skip(self, data: bytes) -> None:
        """As feed, but only modes, pen, margins, screen and title are taken from it; its text is lost. Much faster."""
        self._parser.skip(data)

    def resize(self, cols: int, rows: int) -> None:
        """Another size. Lines of the main screen that were wrapped are wrapped anew; the alternate one is cropped."""
        if (cols, rows) != (self.cols, self.rows):
            resize(self._screen, cols, rows)

    def replay(self, *, history: bool = True, lost: int = 0) -> bytes:
        """What draws this screen in a terminal of the same size, whatever that shows and in whatever mode it is.

        First the lines that scrolled out, into that terminal's own scrollback, if `history`; a line above them tells of
        `lost` bytes and of what the history has let go. At the end that terminal is as ours, also in the middle of an escape sequence: the program's next
        byte may follow.
        """
        return replay(self._screen, history=history, lost=lost).encode() + self._parser.unfinished()

    def text(self, *, history: bool = True) -> str:
        """What is to be read on it, without colours: lines without spaces at their ends, no empty ones at the end."""
        screen = self._screen
        kept = b"".join(screen.history.lines).decode() if history else ""
        lines = [SEQUENCES.sub("", kept).replace("\r\n", "\n")]
        for row in range(screen.rows):
            line = screen.looks.text(screen.grid.cells[row][: screen.grid.reach(row)])
            lines.append(line if screen.grid.wrapped(row) else line.rstrip(" ") + "\n")
        return "".join(lines).rstrip("\n")

    def last_line(self) -> str:
        """The last line with anything in it, or an empty text."""
        return self.text(history=False).rpartition("\n")[2].strip() or self.text().rpartition("\n")[2].strip()

    def answers(self) -> bytes:
        """What a terminal owes the program for its questions since the last call. At most 4 KiB are kept."""
        owed = bytes(self._screen.replies)
        self._screen.replies.clear()
        return owed
