"""The agent as a process: started in a group of its own, watched, and ended with all its descendants.

What it is spoken to by differs: `PipedAgent` has pipes, `TerminalAgent` a terminal.

The supervisor is a child subreaper (Linux): whatever the agent starts, however detached, becomes our child when its
parent ends, so the whole tree is "our descendants", and every death of an orphan reaches us as SIGCHLD.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from hapi import clock, procs
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.ids import ProcessId

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_RECHECK_S = 0.25
_prctl = ctypes.CDLL(None, use_errno=True).prctl if procs.LINUX else None  # once, before the fork

logger = logging.getLogger(__name__)


class Rung(msgspec.Struct, frozen=True):
    """One step of the stop ladder: what it is called, and how long it may take in seconds."""

    name: str
    wait_s: float


EOF = Rung("eof", 1.5)
HANG_UP = Rung("hangup", 1.5)
TERMINATE = Rung("terminate", 3.0)
KILL = Rung("kill", 3.0)
LADDER_S = max(EOF.wait_s, HANG_UP.wait_s) + TERMINATE.wait_s + KILL.wait_s


class Launch(msgspec.Struct, frozen=True):
    """How to run an agent. `umask` is the user's, not ours. `parent_dies`: the signal it gets when we do (Linux)."""

    argv: list[str]
    directory: str
    environment: dict[str, str]
    umask: int = 0o022
    parent_dies: int = 0


def run(launch: Launch, **child: Any) -> subprocess.Popen[bytes]:
    """Start a process with `child` as further arguments. Raises HapiError: agent_unavailable, bad_directory, bad_request."""
    try:
        return subprocess.Popen(
            launch.argv,
            cwd=launch.directory,
            env=launch.environment,
            umask=launch.umask,
            **child,
        )
    except OSError as error:
        code = ErrorCode.BAD_DIRECTORY if error.filename == launch.directory else ErrorCode.AGENT_UNAVAILABLE
        message = f"Cannot run {launch.argv[0]} in {launch.directory}: {error.strerror}."
        raise HapiError(code, message, "Run it by hand there to see why.") from None
    except ValueError as error:  # a NUL among its words
        raise HapiError(ErrorCode.BAD_REQUEST, f"This cannot be run: {error}.") from None


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: a code, or the signal that killed it."""

    code: int | None
    signal: int | None

    def words(self) -> str:
        """For people: `exit code 3`, `SIGKILL`."""
        if self.signal is None:
            return f"exit code {self.code}"
        return procs.signal_name(self.signal)


def become_subreaper() -> None:
    """Make orphans below us our own children. Does nothing outside Linux."""
    if _prctl is not None and _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        logger.warning("cannot become a subreaper: %s", os.strerror(ctypes.get_errno()))


class AgentProcess(ABC):
    """A running agent. End it with `stop`, also after it has exited by itself. Lives on the running event loop.

    `on_child` is called with pid and wait status of every other child that was waited for, `on_wait` now and then while
    a stop waits for what it has told to end.
    """

    first_rung: Rung

    def __init__(self, process: subprocess.Popen[bytes], spare: Callable[[int], bool]) -> None:
        """A stop leaves alone what `spare` names."""
        self._process = process
        self._spare = spare
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._reaping = True
        self.on_child: Callable[[int, int], object] | None = None
        self.on_wait: Callable[[], None] | None = None
        self.pid = process.pid
        self.identity: ProcessId | None = procs.identity(process.pid)
        self.exit: Exit | None = None

    @abstractmethod
    async def tail(self, wait_s: float = 0.2) -> str:
        """The last lines that it wrote for people; waits briefly for what is still on its way."""

    @abstractmethod
    def take_leave(self) -> None:
        """The first rung: tell the agent, the way it is spoken to, that nobody is there any more."""

    def remind(self) -> None:
        """A stop waits, and something does not end: tell those again who may have missed it the first time."""
        if self.on_wait is not None:
            self.on_wait()

    def reap(self) -> None:
        """Collect every child that has ended; call on SIGCHLD. Keeps no zombies."""
        while self._reaping:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.pid:
                self._exited(status)
            elif self.on_child is not None:
                self.on_child(pid, status)
        self._changed.set()

    def stop_reaping(self) -> None:
        """From now on children are somebody else's, who wants their exit status. For after the agent's end."""
        self._reaping = False

    async def exited(self) -> Exit:
        """Wait for the agent's own process to end (its descendants may live on)."""
        await self._gone.wait()
        return self.exit or Exit(None, None)

    async def stop(self, *, at_once: bool = False) -> tuple[str | None, list[int]]:
        """End the agent and all its descendants; at most 7.5 s. `at_once`: do not wait for what the first rung does.

        Returns the rung that was needed (None: all were gone already) and the pids that survived even that.
        """
        if not self._tree():
            return None, []
        self.take_leave()
        if not at_once and await self._tree_gone(self.first_rung.wait_s):
            return self.first_rung.name, []
        for rung, number in ((TERMINATE, signal.SIGTERM), (KILL, signal.SIGKILL)):
            crash_point("supervisor.stop.rung")
            self._signal_tree(number)
            if await self._tree_gone(rung.wait_s, repeat=number):
                return rung.name, []
        return KILL.name, self.pids()

    def pids(self) -> list[int]:
        """Every living process of the agent's tree."""
        return [process.pid for process in self._tree()]

    async def tree_ended(self) -> None:
        """Wait until nothing is left of what survived a stop, however long the kernel holds on to it."""
        while not await self._tree_gone(KILL.wait_s, repeat=signal.SIGKILL):
            logger.debug("still there: %s", self._tree())

    def _exited(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.exit = Exit(None, -code) if code < 0 else Exit(code, None)
        self._process.returncode = code
        self._gone.set()

    def _tree(self) -> list[ProcessId]:
        """Every living descendant of ours; with a subreaper that is all that the agent ever started.

        A runner that the agent started (see hapi.kin) is not among them.
        """
        if procs.LINUX:  # an orphan that becomes ours while we look is seen nowhere the first time
            return procs.descendants(os.getpid(), self._spare) or procs.descendants(os.getpid(), self._spare)
        own = [self.identity] if self.identity is not None and procs.is_alive(self.identity) else []
        return [*own, *procs.descendants(self.pid, self._spare)]

    def _signal_tree(self, number: signal.Signals) -> None:
        for process in self._tree():
            procs.send_signal(process, number)
            if number is signal.SIGTERM:  # a stopped process hears of it only when it goes on
                procs.send_signal(process, signal.SIGCONT)

    async def _tree_gone(self, wait_s: float, repeat: signal.Signals | None = None) -> bool:
        deadline = clock.monotonic() + wait_s
        while self._tree():
            left = deadline - clock.monotonic()
            if left <= 0:
                return False
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, _RECHECK_S))
            except TimeoutError:  # deaths below a living child raise no signal here: look again
                self.remind()
            if repeat is signal.SIGKILL:
                self._signal_tree(repeat)
        return True


def follow_parent(number: int) -> Callable[[], None] | None:
    """What a child does before it becomes the agent, to get that signal at our death; None for nothing."""
    if not number or _prctl is None:
        return None
    prctl = _prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) and None
