"""A person's terminal as a window onto a session's: what is typed goes there, what the program writes comes here."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

import msgspec

from hapi.clock import monotonic
from hapi.errors import HapiError
from hapi.terminal.client import Connection, ConnectionLost
from hapi.terminal.detach import HOLD_S, Detacher, DetachKey
from hapi.terminal.notice import Notice
from hapi.terminal.protocol import Ended, Output, Redraw, Replay, Resize, Resized, ToViewer
from hapi.terminal.tty import BOTTOM, Hungup, OwnTerminal
from hapi.wire import Failure

_TYPED_BYTES = 64 * 1024  # what is read of the keyboard at once
_UNSENT_BYTES = 1024 * 1024  # above that, the keyboard is not read
_UNSHOWN_BYTES = 256 * 1024  # above that, the session is not read
_WHOLE_BYTES = 512 * 1024  # the rest of a larger Replay comes as Output, and we do not write in between
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_CAUGHT = (*_ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_INTERRUPT = b"\x03"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody looks. `greeting` is shown at the bottom for a moment; `quiet`: nothing of ours ever is."""

    key: DetachKey
    greeting: str = ""
    read_only: bool = False
    quiet: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Why the window was closed. `ended` with the program's end; `signal` with the one that we got; `lost` with why."""

    kind: Literal["detached", "ended", "lost", "hung_up", "signal"]
    ended: Ended | None = None
    signal: int = 0
    error: HapiError | None = None


class Window:
    """One look at a session's terminal, from the first Replay to whatever ends it. `run` does it all."""

    def __init__(self, connection: Connection, terminal: OwnTerminal, look: Look) -> None:
        self._connection = connection
        self._terminal = terminal
        self._look = look
        self._detacher = Detacher(look.key)
        self._poll = select.poll()
        self._wanted: dict[int, int] = {}
        self._outcome: Outcome | None = None
        self._notice = Notice()
        self._then = ""  # what to say when the notice that is shown is over
        self._size = (connection.attached.cols, connection.attached.rows)
        self._first = True  # the first Replay tells what the history misses, later ones what we have missed

    def run(self) -> Outcome:
        """Until the person detaches, the program ends, or either connection breaks. The terminal is put back then."""
        with _signals() as wakeup:
            self._poll.register(wakeup, select.POLLIN)
            try:
                self._terminal.enter()
                _, rows = self._terminal.size()
                self._terminal.write(b"\r\n" * rows)  # what stands there scrolls away, and is not overwritten
                self._hear()  # what came with the answer to our Attach
                while self._outcome is None:
                    self._turn(wakeup)
            except ConnectionLost as error:
                self._outcome = Outcome(kind="lost", error=error)
            except Hungup:
                self._outcome = Outcome(kind="hung_up")
            finally:
                self._leave()
        return self._outcome

    def _leave(self) -> None:
        ended = self._outcome.ended if self._outcome is not None else None
        in_order = ended is not None and ended.code is not None  # then it has left the cursor where the next line goes
        with contextlib.suppress(Hungup):
            self._terminal.write(self._notice.end())
        self._terminal.leave(more=b"" if in_order else BOTTOM)
        if ended is None:
            self._terminal.forget_input()

    # ------------------------------------------------------------------------------------------------- one turn

    def _turn(self, wakeup: int) -> None:
        self._want(self._connection, self._terminal.unshown < _UNSHOWN_BYTES, self._connection.unsent)
        self._want(self._terminal, self._connection.unsent < _UNSENT_BYTES, self._terminal.unshown)
        ready = dict(self._poll.poll(self._patience_ms()))
        with contextlib.suppress(BlockingIOError):  # also one that came while we were told of keys: it was first
            self._signalled(os.read(wakeup, 64))
        if self._terminal.fileno() in ready:
            self._terminal_ready(ready[self._terminal.fileno()])
        if self._connection.fileno() in ready and self._outcome is None:
            self._connection_ready(ready[self._connection.fileno()])
        if not ready and self._detacher.holds:
            self._type(self._detacher.flush())
        self._look_after_notice()

    def _want(self, end: Connection | OwnTerminal, read: bool, unwritten: int) -> None:  # noqa: FBT001
        """Ask the poll for what we can use from that end now."""
        events = (select.POLLIN if read else 0) | (select.POLLOUT if unwritten else 0)
        if self._wanted.get(end.fileno()) != events:
            self._poll.register(end, events)
            self._wanted[end.fileno()] = events

    def _patience_ms(self) -> float | None:
        """How long nothing may happen before there is something to do by itself."""
        waits = [HOLD_S] if self._detacher.holds else []
        if (due := self._notice.due) is not None:
            waits.append(max(0.0, due - monotonic()))
        return min(waits) * 1000 + 1 if waits else None

    def _look_after_notice(self) -> None:
        due, now = self._notice.due, monotonic()
        if due is None or due > now or self._outcome is not None:
            return
        if self._notice.over(now):
            self._unnotice()
            self._say_ours(self._then)
            self._then = ""
        else:
            self._terminal.write(self._notice.look(now, self._terminal.size()))

    def _terminal_ready(self, events: int) -> None:
        if events & select.POLLOUT:
            self._terminal.flush()
        if events & select.POLLIN:
            self._typed(self._terminal.read(_TYPED_BYTES))
        elif events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            raise Hungup

    def _connection_ready(self, events: int) -> None:
        if events & select.POLLOUT:
            self._connection.flush()
        if events & ~select.POLLOUT:
            self._hear()

    # ------------------------------------------------------------------------------------------------- to the program

    def _typed(self, data: bytes) -> None:
        typed = self._detacher.feed(data)
        if self._detacher.detached or (self._look.read_only and _INTERRUPT in typed):
            self._outcome = Outcome(kind="detached")
        if self._notice.due is not None and not data.startswith(b"\x1b"):  # a terminal's own words all begin so
            self._unnotice()
        self._type(typed)

    def _type(self, data: bytes) -> None:
        if data and not self._look.read_only:
            self._connection.type(data)

    # ------------------------------------------------------------------------------------------------- to the person

    def _hear(self) -> None:
        for message in self._connection.take():
            self._say(message)

    def _say(self, message: ToViewer) -> None:
        match message:
            case Output():
                self._terminal.write(self._notice.before_output(monotonic()) + message.data)
            case Replay():
                self._replay(message)
            case Resized(cols=cols, rows=rows):
                self._size = (cols, rows)
                self._say_ours(self._too_small())
                self._redraw()
            case Ended():
                self._terminal.write(self._notice.end())
                self._outcome = Outcome(kind="ended", ended=message)
            case Failure():
                self._outcome = Outcome(kind="lost", error=message.error())

    def _replay(self, replay: Replay) -> None:
        """The whole screen: the first one, one that we asked for, or the one after we were too slow."""
        self._terminal.write(replay.data)
        self._notice.redrawn()
        if self._first:
            self._say_ours(self._look.greeting)
            self._then = self._too_small()
        elif replay.lost:
            self._say_ours(f"{replay.lost / 1e6:.1f} MB of output were skipped: this terminal takes it too slowly")
        self._first = False
        if len(replay.data) < _WHOLE_BYTES:
            self._terminal.write(self._notice.look(monotonic(), self._terminal.size()))

    def _too_small(self) -> str:
        """What to say when the session's size, another viewer's, does not fit into this window."""
        (cols, rows), (own_cols, own_rows) = self._size, self._terminal.size()
        return f"cut: it has {cols}x{rows} now" if cols > own_cols or rows > own_rows else ""

    def _say_ours(self, words: str) -> None:
        if words and not self._look.quiet:
            self._notice.say(words, monotonic())

    def _unnotice(self) -> None:
        """Take our line away, and have drawn again what it covered."""
        self._terminal.write(self._notice.end())
        self._redraw()

    def _redraw(self) -> None:
        self._connection.send(Redraw(history=False))

    # ------------------------------------------------------------------------------------------------- signals

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number in _ENDING:
                self._outcome = self._outcome or Outcome(kind="signal", signal=number)
            elif number == signal.SIGTSTP:
                self._suspend()
            elif number == signal.SIGCONT:
                self._come_back()
        if signal.SIGWINCH in numbers:
            self._connection.send(Resize(*self._terminal.size()))

    def _suspend(self) -> None:
        """Somebody else stops us (Ctrl-Z is the program's): with the terminal put back. `_come_back` follows."""
        self._terminal.leave(more=BOTTOM)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _come_back(self) -> None:
        self._terminal.enter()
        self._connection.send(Resize(*self._terminal.size()))
        self._redraw()


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of the signals that matter can be read as they come; as before afterwards."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    before = {number: signal.signal(number, _note) for number in _CAUGHT}
    wakeup = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)


def _note(_number: int, _frame: FrameType | None) -> None:
    """The wakeup descriptor has it."""
