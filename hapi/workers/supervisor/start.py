"""From an order to a running agent: directory, worktree, environment, process, conversation. Undoes what it did on failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Any

import msgspec

from hapi import procs, wire, workspace
from hapi.clock import monotonic
from hapi.config import Config
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.kin import is_ours
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory
from hapi.workers.offload import offload
from hapi.workers.supervisor.agent_process import Launch
from hapi.workers.supervisor.chat_start import ChatStarted
from hapi.workers.supervisor.environment import agent_environment
from hapi.workers.supervisor.shells import Habitat, shell_environment
from hapi.workers.supervisor.started import Program, Started
from hapi.workers.supervisor.terminal_start import TerminalStarted
from hapi.workers.supervisor.terminals import Terminals

logger = logging.getLogger(__name__)


class Starter:
    """Starts one session. `run` either returns it ready, or raises and leaves no process and no worktree behind."""

    def __init__(self, config: Config, directory: SessionDirectory, workspace_roots: list[str], umask: int) -> None:
        """`umask` is the user's: what the session makes in the user's directories is not as private as our files."""
        self._umask = umask
        self._config = config
        self._directory = directory
        self._roots = workspace_roots
        self._started: Started | None = None
        self.kept: list[str] = []
        self.survivors: list[int] = []

    async def run(self, order: wire.Spawn, info: wire.SessionInfo) -> ChatStarted | TerminalStarted:
        """At most the configured ready time-out. Raises HapiError with the reason, its hint the agent's last words.

        Whether it fails or is cancelled, however often, it ends when all is undone; `survivors` are then the pids that
        outlived even SIGKILL, and `kept` says in words what is left.
        """
        deadline = monotonic() + self._config.ready_timeout_ms / 1000
        kind = TerminalStarted if order.driver == "pty" else ChatStarted
        started: ChatStarted | TerminalStarted = kind(order, info, self._config)
        self._started = started
        try:
            program = started.program()
            await self._prepared(started)
            crash_point("supervisor.spawn.prepared")
            await self._launch(started, program)
            crash_point("supervisor.spawn.launched")
            await started.open(deadline)
            await self._listen(started)
            crash_point("supervisor.spawn.opened")
        except BaseException as error:
            undoing = asyncio.ensure_future(self.undo())
            while not undoing.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({undoing})
            if isinstance(error, HapiError):
                error.hint = "\n".join([error.hint, *self.kept]).strip()
            raise
        return started

    async def undo(self) -> None:
        """End the agent and all it started, and remove the worktree if nothing was done in it."""
        started = self._started
        agent = getattr(started, "agent", None)
        if agent is not None:
            _, self.survivors = await agent.stop(at_once=True)
            agent.stop_reaping()
            if self.survivors:
                self._left(f"These processes survive SIGKILL: {', '.join(map(str, self.survivors))}.")
        terminals = getattr(started, "terminals", None)
        if terminals is not None:
            await terminals.close()
        worktree = started.info.worktree if started is not None and started.made_worktree else None
        if started is None or worktree is None:
            return
        if await offload(workspace.remove_unused_worktree, worktree):
            started.info.worktree = None
        else:
            self._left(f"Kept the worktree {worktree.worktree_path}: there is work in it.")

    def _left(self, words: str) -> None:
        logger.warning("%s", words)
        self.kept.append(words)

    async def _prepared(self, started: Started) -> None:
        """Prepare the directory. A thread cannot be cancelled: what it makes must be known before it is undone."""
        work = asyncio.ensure_future(offload(self._prepare, started))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            for process in procs.descendants(os.getpid()):  # git and its hooks: the thread then ends soon
                procs.send_signal(process, signal.SIGTERM)
            await asyncio.gather(work, return_exceptions=True)
            raise

    def _prepare(self, started: Started) -> None:
        ours = os.umask(self._umask)
        try:
            self._prepare_directory(started)
        finally:
            os.umask(ours)

    def _prepare_directory(self, started: Started) -> None:
        order = started.order
        wants_worktree = order.worktree is not None
        may_create = not wants_worktree and not order.existing
        create = self._config.create_directories and may_create
        try:
            path = workspace.prepare_directory(order.directory, self._roots, create=create)
        except HapiError as error:
            if error.code is ErrorCode.DIRECTORY_APPROVAL_REQUIRED and not may_create:  # nobody can approve of that
                raise _missing(order, started.info.worktree) from None
            raise
        if order.worktree is not None:
            environment = agent_environment(started.environ, order.session_id, {}, None)
            try:
                worktree = workspace.create_worktree(path, order.worktree, environment, self._announce_worktree)
            except HapiError:
                started.info.worktree = None
                raise
            started.made_worktree = True
            path = workspace.confine(worktree.worktree_path, self._roots)
        started.info.directory = str(path)

    def _announce_worktree(self, worktree: wire.WorktreeInfo) -> None:
        """Put the worktree on record before it is made: whoever closes the record after a crash removes it."""
        if self._started is None:  # pragma: no cover - it is what we start
            return
        self._started.info.worktree = worktree
        self._directory.write_state(self._started.info)

    async def _launch(self, started: Started, program: Program) -> None:
        info, home = started.info, self._config.home
        environment = agent_environment(started.environ, info.session_id, program.environment, info.worktree)
        launch = Launch(program.argv, info.directory, environment, self._umask)
        await started.launch(launch, self._directory.agent_log, lambda pid: is_ours(pid, home))
        info.agent_process = started.agent.identity
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, started.agent.reap)
        started.agent.reap()  # it may have ended before we listened

    async def _listen(self, started: Started) -> None:
        """Let viewers attach. A chat does without, if it must. Raises HapiError(disk)."""
        info = started.info
        shell = shell_environment(started.environ, info.session_id, info.worktree)
        habitat = Habitat(info.directory, shell, self._umask)
        path = self._config.paths.terminal_socket(info.session_id)
        terminals = started.terminals = Terminals(path, lambda: info, habitat)
        try:
            await terminals.open()
        except HapiError as error:
            if isinstance(started, TerminalStarted):
                raise HapiError(ErrorCode.DISK, error.message, error.hint) from None
            logger.error("no terminals for this session: %s", error.message)  # noqa: TRY400 - the words say it all
            started.notes.append(f"Terminals cannot attach to this session: {error.message}")
        started.agent.on_child = terminals.reaped
        if isinstance(started, TerminalStarted):
            terminals.agent(started.agent.terminal)


def _missing(order: wire.Spawn, worktree: wire.WorktreeInfo | None) -> HapiError:
    """Why a directory that is not there will not do, and is not made."""
    if not order.existing:
        message = f"{order.directory} does not exist; a worktree is made beside a repository."
        return HapiError(ErrorCode.WORKTREE_FAILED, message)
    hint = "Put it back, or start a new session."
    if worktree is not None:
        hint = f"It was a worktree. Bring it back with: git worktree add {worktree.worktree_path} {worktree.branch}"
    return HapiError(ErrorCode.BAD_DIRECTORY, f"The session's directory {order.directory} is gone.", hint)


def first_info(order: wire.Spawn, namespace: str, generation: int, **more: Any) -> wire.SessionInfo:
    """The record of a session that begins to start."""
    return wire.SessionInfo(
        session_id=order.session_id,
        namespace=namespace,
        agent=order.agent,
        directory=str(Path(order.directory)),
        phase=Phase.STARTING,
        started_by=order.started_by,
        generation=generation,
        driver=order.driver,
        **more,
    )


def _mode(order: wire.Spawn, previous: wire.SessionInfo) -> str | None:
    """The mode to continue in. One that the agent had gone to is no person's word, though the hub repeats it."""
    asked, granted = order.permission_mode, previous.granted_mode
    if granted is not None and asked in {None, previous.permission_mode}:
        return granted or None
    return asked or previous.permission_mode


def continued(
    order: wire.Spawn, info: wire.SessionInfo, previous: wire.SessionInfo, first: wire.Spawn | None
) -> wire.Spawn:
    """The order to continue the session of the record `previous`: what the order leaves open is as it was.

    `info`, the record of the new generation, gets what belongs to the session and not to one life of its agent.
    `first` is the order that the session began with, for one that did not end but was interrupted.
    """
    info.title, info.worktree, info.native_id = previous.title, previous.worktree, previous.native_id
    info.defaults = previous.defaults
    info.unknown_messages, info.events_lost = previous.unknown_messages, previous.events_lost
    if previous.phase is not Phase.ENDED:
        info.started_at = previous.started_at
    if first is not None:
        args = first.args if first.driver == order.driver else order.args
        order = msgspec.structs.replace(order, args=args, yolo=first.yolo, umask=first.umask)
    info.model = order.model or previous.model
    info.effort = order.effort or previous.effort
    info.permission_mode = _mode(order, previous)
    return msgspec.structs.replace(
        order,
        resume=order.resume or previous.native_id,
        model=info.model,
        effort=info.effort,
        permission_mode=info.permission_mode,
        config={**((first.config if first is not None else None) or {}), **previous.config, **order.config},
    )


def same_command(order: wire.Spawn, first: wire.Spawn | None, *, keeps_size: bool) -> wire.Spawn:
    """The order to continue a session that began with `first`: a command is run again where it was one, in a terminal
    of the same size if nobody is there who has another. It keeps its name: the hub knows agents only, and orders the
    first of them for any other.
    """
    if first is None or first.driver != "pty" or order.driver != "pty":
        return order
    size = {"cols": first.cols, "rows": first.rows} if keeps_size else {}
    same = {"command": first.command, "agent": first.agent} if first.command and not order.command else {}
    return msgspec.structs.replace(order, **same, **size)
