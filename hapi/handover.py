"""How a session passes from the chat into a terminal, or back: what is asked of the runner, and what is refused. Pure.

A session that is handed over ends as `handed over` and goes on as its next generation: the same id, directory, worktree,
title and journal; another driver; the agent's own conversation, by its own id. Two steps for whoever asks: `stop`, if
there is one, then `spawn`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hapi import wire
from hapi.agents import table, terminal
from hapi.agents.built_in import Agent
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import BUSY, READY, Phase

_NAMES: dict[wire.Driver, str] = {"acp": "chat", "pty": "terminal"}


class Steps(msgspec.Struct, frozen=True):
    """What to ask the broker for, in this order. Both None: the session is already where it is wanted."""

    stop: wire.StopSession | None = None
    spawn: wire.Spawn | None = None


def steps(
    info: wire.SessionInfo, driver: wire.Driver, config: Config, environ: Mapping[str, str], *, cut: bool = False
) -> Steps:
    """How the session `info` comes to be driven by `driver`.

    `environ` is the environment that its agent will have: the agent must be found in its PATH. `cut`: a turn that runs
    is cut for it. Raises HapiError: bad_request for a session that cannot (its agent lacks the other interface, or the
    id of its conversation is not known), that is at work, or that starts or stops just now; agent_unavailable and
    bad_configuration as `table.resolve`; unknown_agent.
    """
    alive = info.phase is not Phase.ENDED
    if alive and info.phase not in READY:
        message = f"Session {info.session_id} is {info.phase} just now."
        raise HapiError(ErrorCode.BAD_REQUEST, message, "Try again in a moment.")
    if alive and info.driver == driver:
        return Steps()
    agent = _agent(info, config)
    _check(agent, info, driver)
    resolved(agent, info, driver, environ)
    if info.phase in BUSY and not cut:
        hint = f"Wait for it (hapi wait {info.session_id}), or cut its turn with --now."
        raise HapiError(ErrorCode.BAD_REQUEST, f"Session {info.session_id} is at work.", hint)
    stop = wire.StopSession(info.session_id, handoff=True) if alive else None
    return Steps(stop, _order(info, driver))


def back(info: wire.SessionInfo) -> wire.Spawn:
    """The order that takes a session up again as it was before `stop`, when `spawn` has failed."""
    return _order(info, info.driver)


def can_come(info: wire.SessionInfo, config: Config) -> bool:
    """Whether a session could go on in a terminal, as far as its record and the table of agents tell."""
    try:
        _check(_agent(info, config), info, "pty")
    except HapiError:
        return False
    return True


def can_chat(info: wire.SessionInfo, config: Config) -> bool:
    """Whether a session in a terminal could go on as a chat, as far as its record and the table of agents tell."""
    try:
        _check(_agent(info, config), info, "acp")
    except HapiError:
        return False
    return info.driver != "acp"


def resolved(agent: Agent, info: wire.SessionInfo, driver: wire.Driver, environ: Mapping[str, str]) -> list[str]:
    """The command that will be run. Raises HapiError as `table.resolve`, before anything is stopped for it."""
    if driver == "acp":
        return table.resolve(agent, None, environ=environ)
    return terminal.terminal_command(agent, terminal.TerminalOrder(resume=info.native_id), None, environ).argv


def _order(info: wire.SessionInfo, driver: wire.Driver) -> wire.Spawn:
    """Options that are in force are on the session's record; words for one interface's program mean nothing to another."""
    return wire.Spawn(
        session_id=info.session_id,
        directory=info.directory,
        agent=info.agent,
        started_by=info.started_by,
        existing=True,
        resume=info.native_id,
        driver=driver,
    )


def _agent(info: wire.SessionInfo, config: Config) -> Agent:
    try:
        return table.find(info.agent, config)
    except HapiError as error:
        if error.code is ErrorCode.UNKNOWN_AGENT:
            message = f"{info.agent} is a command, not an agent: it has a terminal and nothing else."
            raise HapiError(ErrorCode.BAD_REQUEST, message, "Run it again: hapi run -- COMMAND") from None
        raise


def _check(agent: Agent, info: wire.SessionInfo, driver: wire.Driver) -> None:
    has = terminal.has_terminal(agent) if driver == "pty" else terminal.has_chat(agent)
    if not has:
        raise HapiError(ErrorCode.BAD_REQUEST, f"{agent.title} has no {_NAMES[driver]} interface.")
    if driver == "pty" and not agent.conversation.resume:
        message = f"{agent.title} cannot take up a conversation in the terminal."
        raise HapiError(ErrorCode.BAD_REQUEST, message)
    if driver == "acp" and not agent.resume:
        raise HapiError(ErrorCode.BAD_REQUEST, f"{agent.title} cannot take up a conversation in the chat.")
    if info.native_id is None:
        message = f"{agent.title} has not told the id of its conversation; it could only begin a new one there."
        raise HapiError(
            ErrorCode.BAD_REQUEST,
            message,
            "Some agents tell it with the first message, some when they end: quit it, then resume it.",
        )
