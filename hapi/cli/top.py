"""`hapi top`: the sessions as a table that is kept current, with keys to attach, to read along and to stop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

import typer

from hapi.cli import output
from hapi.cli.common import examples
from hapi.cli.scope import load
from hapi.clock import now_ms
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError

if TYPE_CHECKING:
    import curses

    from hapi.cli.table import Row
    from hapi.cli.watcher import Watcher

TICK_MS = 200
HELP = "↑ ↓ choose  Enter attach  l logs  x stop  q quit"
_FRAME_LINES = 4  # the summary, a blank one, the headings, the footer
_ESCAPE_MS = 25
_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add `hapi top`."""
    app.command("top", epilog=examples("hapi top", "hapi runner list --json   (for scripts)"))(top)


def top() -> None:
    """Watch the sessions: what each does and says, and what it takes. Keys: Enter attach, l logs, x stop, q quit."""
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stdout)):
        raise HapiError(ErrorCode.USAGE, "hapi top needs a terminal.", "In a script: hapi runner list --json")
    import curses  # late, as all that only this command needs

    from hapi.cli.watcher import Watcher

    config = load()
    watcher = Watcher(config)
    with output.Progress("Asking the runner …"):
        watcher.start()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    signal.signal(signal.SIGQUIT, lambda *_: None)  # the detach key, typed once more than needed
    for name in ("LINES", "COLUMNS"):
        os.environ.pop(name, None)  # curses would believe them, and not see that the window has another size
    try:
        curses.setupterm()
        if not curses.tigetstr("cup"):
            raise curses.error("it cannot move its cursor")
        curses.wrapper(lambda window: Top(window, config, watcher).run())
    except curses.error as error:
        kind = os.environ.get("TERM", "")
        raise HapiError(ErrorCode.USAGE, f"The terminal ({kind}) cannot be used: {error}", "Set TERM.") from None
    except KeyboardInterrupt:
        pass
    finally:
        watcher.stop()


def _leave(number: int, _: FrameType | None) -> None:
    """Unwind, so that the terminal is put back."""
    sys.exit(128 + number)


class Top:
    """The table on a curses window, and its keys."""

    def __init__(self, window: curses.window, config: Config, watcher: Watcher) -> None:
        import curses

        self._curses = curses
        self._window = window
        self._config = config
        self._watcher = watcher
        self._chosen = ""  # its id: rows come and go
        self._place = 0
        self._first = 0
        self._message = ""
        self._doomed = ""  # the session that a press of y stops
        self._over = False
        self._colours: dict[str, int] = {}
        self._set_up()

    def _set_up(self) -> None:
        curses = self._curses
        curses.set_escdelay(_ESCAPE_MS)
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        self._window.timeout(TICK_MS)
        signal.signal(signal.SIGTSTP, self._suspend)  # curses' own would also act while the terminal is lent
        if curses.has_colors() and not os.environ.get("NO_COLOR"):
            curses.use_default_colors()
            names = {"working": curses.COLOR_GREEN, "waiting": curses.COLOR_YELLOW, "starting": curses.COLOR_CYAN}
            for number, (phase, colour) in enumerate((names | {"stopping": curses.COLOR_YELLOW}).items(), 1):
                curses.init_pair(number, colour, -1)
                self._colours[phase] = curses.color_pair(number)

    def run(self) -> None:
        """Draw and obey until somebody leaves, or the terminal is gone."""
        terminal = select.poll()
        terminal.register(0, 0)
        while not self._over:
            self._draw()
            key = self._window.getch()
            if key >= 0:
                self._press(key)
            elif terminal.poll(0):
                return

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: with the terminal put back; drawn anew when it goes on."""
        self._curses.endwin()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._redraw()

    def _redraw(self) -> None:
        """Take the terminal again, whatever size it has by now."""
        size = os.get_terminal_size(0)
        self._curses.resizeterm(size.lines, size.columns)
        self._window.clear()

    # ------------------------------------------------------------------------------------------------- drawing

    def _rows(self) -> list[Row]:
        return self._watcher.sight.rows

    def _at(self) -> int:
        """Where the chosen row is now; if it is gone, the one that took its place."""
        ids = [row.info.session_id for row in self._rows()]
        self._place = ids.index(self._chosen) if self._chosen in ids else min(self._place, max(0, len(ids) - 1))
        return self._place

    def _draw(self) -> None:
        from hapi.cli import table

        curses, sight = self._curses, self._watcher.sight
        height, width = self._window.getmaxyx()
        picture = table.draw(sight.rows, self._at(), self._first, (width, height - _FRAME_LINES), now_ms())
        self._first = picture.first
        self._window.erase()
        self._put(0, table.summary(self._config.namespace, sight.rows), curses.A_BOLD)
        if sight.trouble:
            self._put(1, table.clip(f"! {output.clean(sight.trouble)}", width), curses.A_REVERSE)
        self._put(2, picture.headings, curses.A_DIM)
        for number, (line, phase) in enumerate(zip(picture.lines, picture.phases, strict=True)):
            here = number == picture.chosen
            self._put(3 + number, line.ljust(width) if here else line, self._look(phase, here=here))
        self._put(height - 1, table.clip(self._footer(), width), curses.A_DIM)
        self._window.refresh()

    def _look(self, phase: str, *, here: bool) -> int:
        return self._colours.get(phase, 0) | (self._curses.A_REVERSE if here else 0)

    def _footer(self) -> str:
        if self._doomed:
            return f"Stop session {self._doomed[:8]} and all that it started? y stops it, any other key does not"
        return self._message or (HELP if self._rows() else f"No sessions. {HELP}")

    def _put(self, line: int, text: str, look: int) -> None:
        height, width = self._window.getmaxyx()
        if line < height:
            with contextlib.suppress(self._curses.error):  # the last cell of a window cannot be written without it
                self._window.addnstr(line, 0, text, width, look)

    # ------------------------------------------------------------------------------------------------- keys

    def _press(self, key: int) -> None:
        curses = self._curses
        doomed, self._doomed = self._doomed, ""
        if key == curses.KEY_RESIZE:
            self._doomed = doomed
            return
        self._message = ""
        page = max(1, self._window.getmaxyx()[0] - _FRAME_LINES)
        moves = {
            curses.KEY_UP: -1, ord("k"): -1, curses.KEY_DOWN: 1, ord("j"): 1,
            curses.KEY_PPAGE: -page, curses.KEY_NPAGE: page, curses.KEY_HOME: -10**6, curses.KEY_END: 10**6,
        }  # fmt: skip
        if doomed:
            if key == ord("y"):
                self._stop(doomed)
        elif key in {ord("q"), 27}:
            self._over = True
        elif key in moves:
            self._move(moves[key])
        elif rows := self._rows():
            self._act(key, rows[self._at()])

    def _move(self, step: int) -> None:
        if rows := self._rows():
            self._chosen = rows[min(max(0, self._at() + step), len(rows) - 1)].info.session_id

    def _act(self, key: int, row: Row) -> None:
        session_id = row.info.session_id
        self._chosen = session_id
        if key == ord("x"):
            self._doomed = session_id
        elif key == ord("l"):
            self._lend("logs", session_id, "--follow", "-n", "1000")
        elif key in {10, 13, self._curses.KEY_ENTER}:
            if row.info.driver == "pty":
                self._lend("attach", session_id)
            else:
                self._message = (
                    f"This chat has no terminal: l reads along, hapi resume {session_id[:8]} takes it into one."
                )

    def _stop(self, session_id: str) -> None:
        """In the background: that may take a while, and the table shows it."""

        def work() -> None:
            self._message = self._watcher.end_session(session_id)

        self._message = f"Stopping {session_id[:8]} …"
        threading.Thread(target=work, name="stop", daemon=True).start()

    def _lend(self, *words: str) -> None:
        """Give the terminal to another command of ours until that ends."""
        curses = self._curses
        curses.def_prog_mode()
        curses.endwin()
        interrupt = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the command
        suspend = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            command = [sys.executable, "-m", "hapi", "--namespace", self._config.namespace, *words]
            if (
                subprocess.run(command, check=False).returncode not in {0, -signal.SIGINT, _INTERRUPTED}
                or words[0] == "logs"
            ):
                self._pause()
        finally:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTSTP, suspend)
            curses.reset_prog_mode()
            self._redraw()

    def _pause(self) -> None:
        """What the command said last shall be read before the table covers it."""
        output.note("Enter: back to the table")
        sys.stdin.readline()
