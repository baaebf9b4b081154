"""The command line's side of the control socket: one request, one reply, one deadline; and how a runner is stopped.

Synchronous, no asyncio: this is on the path of every command.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from hapi import files, procs, wire
from hapi.clock import monotonic
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError, NotRunning
from hapi.ids import ProcessId
from hapi.paths import Paths

if TYPE_CHECKING:
    import zmq

STOP_TIMEOUT_S = 5.0
APPEAR_S = 3.0  # how long a runner may hold its lock without a socket: while it starts, stops, or is replaced
_TICK_MS = 100
_PID_DIGITS = 10
_Reply = TypeVar("_Reply", bound=wire.ControlReply)
Waiting = Callable[[float], None]


class Control:
    """The broker of one namespace, as its clients see it. Holds nothing open between requests."""

    def __init__(self, config: Config, waiting: Waiting | None = None) -> None:
        """`waiting` is called about every 0.1 s with the seconds passed while a reply is outstanding."""
        self._config = config
        self._waiting = waiting
        self._numbers = itertools.count(1)

    def request(self, body: wire.ControlRequest, timeout_s: float | None = None) -> wire.ControlReply:
        """Ask the broker and return its reply, within `timeout_s` (the configured control timeout by default).

        Raises NotRunning at once when no broker holds the lock, or when one does without a socket for APPEAR_S;
        HapiError(timeout) when it holds the lock and does not answer, the broker's own error when it refuses, and
        HapiError(protocol_mismatch) for an answer that makes no sense. A request that timed out may still be carried
        out.
        """
        budget = self._config.control_timeout_ms / 1000 if timeout_s is None else timeout_s
        self._await_socket(min(APPEAR_S, budget))
        reply = self._exchange(next(self._numbers), body, budget)
        if isinstance(reply, wire.Failure):
            raise reply.error()
        return reply

    def ask(self, body: wire.ControlRequest, kind: type[_Reply], timeout_s: float | None = None) -> _Reply:
        """`request`, for a reply of one kind; another kind raises HapiError(protocol_mismatch)."""
        reply = self.request(body, timeout_s)
        if not isinstance(reply, kind):
            raise _mismatch(f"{type(reply).__name__} in answer to {type(body).__name__}")
        return reply

    def each(
        self, bodies: Sequence[wire.ControlRequest], at_once: int, timeout_s: float
    ) -> Iterator[tuple[int, wire.ControlReply | HapiError]]:
        """Ask many things over one connection, `at_once` of them at a time; yields (index, answer) as answers come.

        Every request is yielded exactly once: with its reply, the broker's refusal, HapiError(timeout) after
        `timeout_s` of its own, or NotRunning when the broker ends first. Raises as `request` before the first.
        """
        self._await_socket(min(APPEAR_S, timeout_s))
        with _connected(self._config.paths.control_endpoint, "DEALER") as socket:
            asked: dict[int, tuple[int, float]] = {}
            left = deque(enumerate(bodies))
            ended = False
            while asked or (left and not ended):
                while left and not ended and len(asked) < at_once:
                    index, body = left.popleft()
                    number = next(self._numbers)
                    asked[number] = index, monotonic()
                    socket.send_multipart([b"", *_frames(number, body)])
                for number, answer in self._answers(socket, asked, timeout_s):
                    ended = ended or isinstance(answer, NotRunning)
                    yield asked.pop(number)[0], answer
        for index, _ in left:
            yield index, NotRunning("The runner ended before it was asked.")

    def _answers(
        self, socket: zmq.Socket[bytes], asked: Mapping[int, tuple[int, float]], timeout_s: float
    ) -> Iterator[tuple[int, wire.ControlReply | HapiError]]:
        """The next answers to what was `asked` (number → index, when), at least within `_TICK_MS`; none is one as well."""
        now = monotonic()
        if self._waiting:
            self._waiting(now - min(at for _, at in asked.values()))
        if socket.poll(_TICK_MS):
            _, *frames = socket.recv_multipart()
            number, reply = _numbered(frames)
            if number in asked:  # else: one that was given up
                yield number, reply.error() if isinstance(reply, wire.Failure) else reply
            return
        ended = not files.is_locked(self._config.paths.lock)
        for number, (_, at) in list(asked.items()):
            if ended:
                yield number, NotRunning("The runner ended before it answered.")
            elif monotonic() - at >= timeout_s:
                yield number, HapiError(ErrorCode.TIMEOUT, f"The runner has not answered within {timeout_s:g} s.")

    def _exchange(self, number: int, body: wire.ControlRequest, budget: float) -> wire.ControlReply:
        with _connected(self._config.paths.control_endpoint, "REQ") as socket:
            socket.send_multipart(_frames(number, body))
            self._await(socket, budget)
            answered, reply = _numbered(socket.recv_multipart())
        if answered != number:
            raise _mismatch("an answer to another request")
        return reply

    def _await_socket(self, patience_s: float) -> None:
        """Return when a broker holds the lock and has its socket in place. Raises NotRunning."""
        started = monotonic()
        while not has_socket(self._config.paths):
            passed = monotonic() - started
            if passed >= patience_s:
                hint = "Try again in a moment; if it stays like this: hapi runner restart"
                raise NotRunning("The runner is starting or stopping: it holds its lock but has no socket.", hint)
            if self._waiting:
                self._waiting(passed)
            select.select([], [], [], _TICK_MS / 2000)  # a file appears or a lock goes: neither can be waited for

    def _await(self, socket: zmq.Socket[bytes], budget: float) -> None:
        """Return when a reply can be read. Raises NotRunning, HapiError(timeout)."""
        started = monotonic()
        while (passed := monotonic() - started) < budget:
            if socket.poll(min(_TICK_MS, max(1, round((budget - passed) * 1000)))):
                return
            if not files.is_locked(self._config.paths.lock):
                break  # it died: no answer will come
            if self._waiting:
                self._waiting(monotonic() - started)
        if not files.is_locked(self._config.paths.lock):
            raise NotRunning("The runner ended before it answered.")
        message = f"The runner holds its lock but has not answered within {budget:g} s."
        hint = f"See what it is doing: hapi doctor; its log: {self._config.paths.log('runner')}"
        raise HapiError(ErrorCode.TIMEOUT, message, hint)


def has_socket(paths: Paths) -> bool:
    """Whether the broker that holds the lock has its socket in place. Raises NotRunning when nobody holds the lock."""
    try:
        held = files.is_locked(paths.lock)
    except OSError as error:
        message = f"Cannot read the lock {paths.lock}: {error.strerror}"
        hint = "It must be a file of yours. Move it away; the runner makes a new one."
        raise HapiError(ErrorCode.BAD_CONFIGURATION, message, hint) from None
    if not held:
        raise NotRunning("The runner is not running: no process holds its lock.")
    return socket_path(paths).exists()


def socket_path(paths: Paths) -> Path:
    """The file of the control socket."""
    return Path(paths.control_endpoint.removeprefix("ipc://"))


@contextlib.contextmanager
def _connected(endpoint: str, kind: Literal["REQ", "DEALER"]) -> Iterator[zmq.Socket[bytes]]:
    """A socket on its way to the broker, and its end."""
    import zmq

    context = zmq.Context(io_threads=1)
    try:
        socket: zmq.Socket[bytes] = context.socket(getattr(zmq, kind))
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        socket.connect(endpoint)
        yield socket
    finally:
        context.destroy(linger=0)


def _frames(number: int, body: wire.ControlRequest) -> list[bytes]:
    return [wire.encode(wire.Header(to=wire.BROKER, sender=wire.CLI, request=number)), wire.encode(body)]


def _numbered(frames: list[bytes]) -> tuple[int, wire.ControlReply]:
    """The number of the request that is answered, and the answer. Raises HapiError(protocol_mismatch)."""
    if len(frames) != 2:
        raise _mismatch(f"a message of {len(frames)} frames")
    header = wire.decode_header(frames[0])
    if not header.reply:
        raise _mismatch("a message that answers nothing")
    try:
        return header.request, wire.decode(wire.FOR_CLI, frames[1])
    except HapiError as error:
        raise _mismatch(error.message) from None


def _mismatch(what: str) -> HapiError:
    hint = "The runner and this hapi do not fit together: hapi runner restart"
    return HapiError(ErrorCode.PROTOCOL_MISMATCH, f"The runner sent {what}.", hint)


class Stopped(msgspec.Struct, kw_only=True):
    """How a runner was stopped. `running`: there was one; `how`: asked, or the signal that it took."""

    running: bool = True
    pid: int | None = None
    sessions: int | None = None
    how: Literal["asked", "SIGTERM", "SIGKILL"] | None = None


def stop(config: Config, waiting: Waiting | None = None, source: str = "hapi-cli") -> Stopped:
    """Stop the runner; sessions live on. Returns when its process is gone, or at once when none runs.

    It is asked first; one that holds the lock without answering within the control timeout, or does not end within
    STOP_TIMEOUT_S, gets SIGTERM and then SIGKILL, each bounded by STOP_TIMEOUT_S, once its identity is verified.
    Raises HapiError(still_alive) when it cannot be ended, or not be identified (then nothing was signalled).
    """
    paths = config.paths
    who = lock_holder(paths)
    sessions = None
    try:
        control = Control(config, waiting)
        who = procs.identity(control.ask(wire.GetStatus(), wire.Status).pid) or who
        sessions = control.ask(wire.StopRunner(source), wire.RunnerStopping).sessions
    except NotRunning:
        if not files.is_locked(paths.lock):
            return Stopped(running=False)
    except HapiError as error:
        if error.code not in {ErrorCode.TIMEOUT, ErrorCode.PROTOCOL_MISMATCH, ErrorCode.SHUTTING_DOWN}:
            raise
    if who is None:
        return _unidentified(paths)
    patience = 0 if sessions is None and procs.is_alive(who) else STOP_TIMEOUT_S
    how: Literal["asked", "SIGTERM", "SIGKILL"] = "asked" if procs.wait_gone(who, patience) else force(who)
    return Stopped(pid=who.pid, sessions=sessions, how=how)


def force(who: ProcessId) -> Literal["SIGTERM", "SIGKILL"]:
    """End that very process by signals, the milder first; returns the one that did it. HapiError(still_alive)."""
    procs.send_signal(who, signal.SIGTERM)
    if procs.wait_gone(who, STOP_TIMEOUT_S):
        return "SIGTERM"
    procs.send_signal(who, signal.SIGKILL)
    if procs.wait_gone(who, STOP_TIMEOUT_S):
        return "SIGKILL"
    hint = "A process that the kernel holds, or another user's, cannot be ended from here."
    raise HapiError(ErrorCode.STILL_ALIVE, f"Process {who.pid} survives SIGKILL.", hint)


def lock_holder(paths: Paths) -> ProcessId | None:
    """The runner process that holds the lock: whom the lock's note names, else whom the kernel does.

    None unless the lock is held and that process is a runner. (The note is missing after a start on a full disk.)
    """
    try:
        if not files.is_locked(paths.lock):
            return None
        note = files.read_file(paths.lock).strip()
        pids = [int(note) if note.isdigit() and len(note) < _PID_DIGITS else None, files.kernels_holder(paths.lock)]
    except OSError:
        return None
    return next((who for pid in pids if pid and (who := _runner(pid))), None)


def _runner(pid: int) -> ProcessId | None:
    who = procs.identity(pid)
    words = command_line(pid)
    return who if "hapi.broker" in words or words.startswith("hapi: broker") else None


def command_line(pid: int) -> str:
    """What `ps` shows for `pid`; "" when it is gone or hidden."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    import psutil

    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _unidentified(paths: Paths) -> Stopped:
    """The lock's holder is unknown: fine if it let go meanwhile, else an error; nothing is signalled."""
    if not files.is_locked(paths.lock):
        return Stopped(how="asked")
    message = f"A process holds {paths.lock}, does not answer, and cannot be identified as a runner; nothing was done."
    raise HapiError(ErrorCode.STILL_ALIVE, message, "See who holds it: hapi doctor")
