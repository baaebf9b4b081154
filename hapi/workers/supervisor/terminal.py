"""A terminal: drained always, recorded, shown to whoever looks, typed into by whoever may.

Nobody who looks can make the program wait: a viewer that does not keep up misses output and gets the screen later.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from time import thread_time
from typing import Any

from hapi import clock
from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import Ended, Output, Replay, frame
from hapi.terminal.recorder import Recorder
from hapi.terminal.screen import without_questions
from hapi.workers.supervisor.escapes import whole
from hapi.workers.supervisor.pty import Pty
from hapi.workers.supervisor.viewer import Typing, Viewer

READ_BYTES = 64 * 1024  # what one turn of the loop takes from the program
INPUT_BYTES = 1024 * 1024  # what may wait for a program that does not read
INPUT_HIGH_BYTES = 256 * 1024  # above that, viewers are not read from
INPUT_LOW_BYTES = 64 * 1024  # below that, they are again
DRAW_DELAY_S = 0.005  # after output; what answers a key is on its way by then
DRAW_S = 0.004
DRAW_BYTES = 4096
FLOOD_BYTES = 16 * 1024  # in DRAW_DELAY_S; more is a flood
REST = 9  # times what drawing all of it took, before that is done again for a viewer that lagged
HOLD_S = 0.1
_LAST_BYTES = 4 * 1024 * 1024  # what is still read of a program that has ended
_LONG_READ = 2048  # a read of so much has probably left more behind
_FOCUS_LEFT = b"\x1b[O"  # a terminal says so when its person turns to another one

logger = logging.getLogger(__name__)


class Terminal:
    """A program's terminal, from the moment the program runs. Lives on the running event loop.

    `leader` is the program's pid. `on_output` is called with the monotonic time of each piece of output, `on_drawn`
    whenever the screen shows all that was written, `on_typed` with the time of each piece of viewers' input.
    """

    def __init__(self, name: str, pty: Pty, leader: int, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self.name = name
        self.leader = leader
        self.recorder = Recorder(pty.cols, pty.rows, thread_time)
        self.end: Ended | None = None
        self.on_output: Callable[[float], None] | None = None
        self.on_drawn: Callable[[], None] | None = None
        self.on_typed: Callable[[float], None] | None = None
        self._pty = pty
        self._clock = monotonic
        self._loop = asyncio.get_running_loop()
        self._viewers: list[Viewer] = []  # whoever was active last comes last
        self._waiting: list[Typing] = []
        self._input = bytearray()
        self._drawing: asyncio.TimerHandle | None = None
        self._wrote = 0
        self._held = b""
        self._holding: asyncio.TimerHandle | None = None
        self._behind: list[Viewer] = []
        self._resting: asyncio.TimerHandle | None = None
        self._rest_until = 0.0
        self._loop.add_reader(pty.master, self._readable)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows in force."""
        return self._pty.cols, self._pty.rows

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    @property
    def crowded(self) -> bool:
        """So much input waits that no more should be read from viewers; `go_on` says when."""
        return len(self._input) > INPUT_HIGH_BYTES

    # ------------------------------------------------------------------------------------------------- viewers

    def attach(self, viewer: Viewer) -> None:
        """From now on the viewer gets what comes; unless it is read-only, the terminal takes its size."""
        self._let_go()
        self.settle()
        if viewer.read_only:
            self._viewers.insert(0, viewer)
        else:
            self._viewers.append(viewer)
            self._take_size(viewer)

    def detach(self, viewer: Viewer) -> None:
        """The viewer is gone, known or not; the size is that of who was active before it."""
        if viewer not in self._viewers:
            return
        was_active = self._active() is viewer
        self._let_go()
        self.settle()
        self._viewers.remove(viewer)
        for waiting in (self._waiting, self._behind):
            if viewer in waiting:
                waiting.remove(viewer)
        successor = self._active()
        if was_active and successor is not None and self.end is None:
            self._resize(successor.cols, successor.rows, None)

    def typed(self, viewer: Viewer, data: bytes) -> None:
        """A viewer's input. That of a read-only one is dropped."""
        if viewer.read_only or self.end is not None:
            return
        if self._viewers[-1] is not viewer and data != _FOCUS_LEFT:
            self._activate(viewer)
        if self.on_typed is not None:
            self.on_typed(self._clock())
        self._type(data)

    def resized(self, viewer: Viewer) -> None:
        """A viewer's window has another size; that of a read-only one is no matter."""
        if not viewer.read_only and self.end is None:
            self._activate(viewer)

    def wait_for_room(self, typing: Typing) -> None:
        """Tell it to go on when the program has read most of what waits."""
        self._waiting.append(typing)

    def wait_for_screen(self, viewer: Viewer) -> None:
        """Tell a viewer that has read all to catch up: when the screen is drawn, or drawing it once more at a stroke
        has become cheap beside the time since it was done last. Who reads slowly in a flood must not slow others.
        """
        rest = self._rest_until - self._loop.time()
        if rest <= 0 or not self.recorder.pending:
            viewer.catch_up()
            return
        self._behind.append(viewer)
        if self._resting is None:
            self._resting = self._loop.call_later(rest, self._catch_up)

    def replay(self, lost: int = 0, *, history: bool = True) -> Replay:
        """The screen as it is now, for a viewer that missed `lost` bytes; for one that comes, what history misses."""
        self._let_go()
        self.settle()
        lost = lost or (self.recorder.lost if history else 0)
        return Replay(data=self.recorder.screen.replay(lost=lost, history=history), lost=lost)

    # ------------------------------------------------------------------------------------------------- program

    def type(self, data: bytes) -> None:
        """Type something in. Raises HapiError: too_large when the program does not read, session_ended."""
        if self.end is not None:
            raise HapiError(ErrorCode.SESSION_ENDED, "The terminal's program has ended.")
        if len(self._input) + len(data) > INPUT_BYTES:
            message = f"The program in the terminal does not read: {len(self._input)} bytes wait for it already."
            raise HapiError(ErrorCode.TOO_LARGE, message, "Try again later.")
        self._type(data)

    def resize(self, cols: int, rows: int) -> None:
        """Give the terminal another size, whatever the viewers' windows."""
        self._resize(cols, rows, None)

    def settle(self) -> None:
        """Bring the screen up to all that was written; what is too laborious for half a second is skipped."""
        if self.recorder.pending:
            began = self._loop.time()
            self._record(self.recorder.settle)
            now = self._loop.time()
            self._rest_until = now + REST * (now - began)
            self._drawn()

    def catch_up(self) -> None:
        """Take what the program has written and nobody has read yet; 4 MiB at most. Then as `settle`."""
        if self.end is None:
            self._drain()
        self.settle()

    def hang_up(self) -> None:
        """Tell the program that its terminal is gone; what it still writes is heard."""
        if self.end is None:
            self._pty.hang_up(self.leader)

    def ended(self, end: Ended) -> None:
        """The program has ended, or nobody waits for it any more: show its last output, tell the viewers, close."""
        if self.end is not None:
            return
        self.catch_up()
        self._let_go()
        self.end = end
        if self._drawing is not None:
            self._drawing.cancel()
        self._loop.remove_reader(self._pty.master)
        self._loop.remove_writer(self._pty.master)
        self._pty.close()
        self._input.clear()
        for viewer in list(self._viewers):
            viewer.finish(end)

    # ------------------------------------------------------------------------------------------------- output

    def _readable(self) -> None:
        """Take what the program has written and pass it on, in this very turn of the loop."""
        data = self._read()
        if len(data) >= _LONG_READ:
            data = self._read_on(data)
        if data:
            self._show(data)

    def _read(self) -> bytes:
        try:
            return os.read(self._pty.master, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:  # not while we hold the other end too
            logger.warning("terminal %s: %s", self.name, error.strerror)
            self._loop.remove_reader(self._pty.master)
            return b""

    def _read_on(self, first: bytes) -> bytes:
        pieces, size = [first], len(first)
        while size < READ_BYTES and (data := self._read()):
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)

    def _drain(self) -> None:
        size = 0
        while size < _LAST_BYTES and (data := self._read_on(b"")):
            size += len(data)
            self._show(data)

    def _show(self, data: bytes) -> None:
        answering = self._answering()
        if len(self._viewers) == 1 and answering is not None and not self._held:
            answering.show(frame(Output(data)), len(data))
        elif self._viewers:
            self._show_all(data, answering)
        self._record(self.recorder.write, data)
        self._wrote += len(data)
        if self._drawing is None:
            self._drawing = self._loop.call_later(DRAW_DELAY_S, self._draw)
        if self.on_output is not None:
            self.on_output(self._clock())

    def _show_all(self, data: bytes, answering: Viewer | None) -> None:
        """A question has one answer, that of the terminal that is typed at, or ours: to the others it is not shown.

        To see a question whole, the beginning of a sequence waits for its rest, HOLD_S at most.
        """
        data = self._held + data
        end = whole(data)
        data, self._held = data[:end], data[end:]
        if self._held and self._holding is None:
            self._holding = self._loop.call_later(HOLD_S, self._let_go)
        if not data:
            return
        plain = b""
        for viewer in self._viewers:
            if viewer is answering:
                viewer.show(frame(Output(data)), len(data))
            else:
                plain = plain or frame(Output(without_questions(data)))
                viewer.show(plain, len(data))

    def _let_go(self) -> None:
        """Show what waits for its rest: none came, or the screen is drawn for somebody, which has it all."""
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        held, self._held = self._held, b""
        for viewer in self._viewers if held else ():
            viewer.show(frame(Output(held)), len(held))

    def _draw(self) -> None:
        """Draw for DRAW_S; go on when the loop has looked at its descriptors, later while output goes on.

        In a flood nothing is drawn: most of it would be skipped in the end, and the program is waiting.
        """
        wrote, self._wrote = self._wrote, 0
        more = True
        if wrote < FLOOD_BYTES:
            until = self._loop.time() + DRAW_S
            while more and self._loop.time() < until:
                more = bool(self._record(self.recorder.step, DRAW_BYTES))
            self._drawn(whole=not more)
        self._drawing = self._loop.call_later(DRAW_DELAY_S if wrote else 0.0, self._draw) if more else None

    def _record(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """A mistake of our screen costs what was on it, not the terminal."""
        try:
            return work(*arguments)
        except Exception:
            logger.exception("terminal %s: the screen is begun anew", self.name)
            self.recorder = Recorder(*self.size, thread_time)
            return None

    def _drawn(self, *, whole: bool = True) -> None:
        answers = self.recorder.screen.answers()
        answering = self._answering()
        if answers and (answering is None or answering.lagging) and self.end is None and not self.crowded:
            self._type(answers)
        if whole:
            self._catch_up()
            if self.on_drawn is not None:
                self.on_drawn()

    def _catch_up(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        behind, self._behind = self._behind, []
        for viewer in behind:
            viewer.catch_up()

    # ------------------------------------------------------------------------------------------------- input

    def _type(self, data: bytes) -> None:
        if not self._input:
            data = data[self._write(data) :]
            if not data:
                return
            self._loop.add_writer(self._pty.master, self._writable)
        self._input += data

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._pty.master, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            logger.warning("terminal %s: input lost: %s", self.name, error.strerror)
            return len(data)

    def _writable(self) -> None:
        del self._input[: self._write(self._input)]
        if not self._input:
            self._loop.remove_writer(self._pty.master)
        if len(self._input) <= INPUT_LOW_BYTES and self._waiting:
            waiting, self._waiting = self._waiting, []
            for typing in waiting:
                typing.go_on()

    # ------------------------------------------------------------------------------------------------- size

    def _active(self) -> Viewer | None:
        last = self._viewers[-1] if self._viewers else None
        return None if last is None or last.read_only else last

    def _answering(self) -> Viewer | None:
        """Who answers the program's questions; None: our screen does."""
        active = self._active()
        return active if active is not None and active.answers else None

    def _activate(self, viewer: Viewer) -> None:
        if self._viewers[-1] is not viewer:
            self._viewers.remove(viewer)
            self._viewers.append(viewer)
        self._take_size(viewer)

    def _take_size(self, viewer: Viewer) -> None:
        self._resize(viewer.cols, viewer.rows, viewer)

    def _resize(self, cols: int, rows: int, cause: Viewer | None) -> None:
        if (cols, rows) == self.size:
            return
        self.settle()
        self._pty.resize(cols, rows)
        self.recorder.resize(*self.size)
        for viewer in self._viewers:
            if viewer is not cause:
                viewer.resized_to(*self.size)
