"""Starting a program here, an agent's or any other, in a terminal that outlives this one."""

from __future__ import annotations

import os
import shlex
from typing import Any

from hapi import files, ids, wire
from hapi.agents import table
from hapi.agents.built_in import Agent
from hapi.cli import attach, output, request
from hapi.cli.recent import recent, used
from hapi.cli.spawn import environment
from hapi.config import Config
from hapi.errors import EXIT_USER, ErrorCode, HapiError

DEMO = "demo"
MAX_LABEL = 64


def begin(config: Config) -> int:
    """Let the person pick an agent, start a session of it here, attach; the exit status."""
    attach.need_terminal("In a script write for example: hapi runner spawn DIR. All commands: hapi --help")
    name = choose(config)
    return EXIT_USER if name is None else run_agent(config, name, [])


def choose(config: Config) -> str | None:
    """The agent that the person picks among those installed, the last used first; None if they pick none.

    With one installed there is nothing to pick; with none it is the demo agent, and that is said.
    """
    found = installed(config)
    if not found:
        output.note("No agent is installed, so here is the demo agent. Which there are: docs/agents.md")
        return DEMO
    if len(found) == 1:
        return found[0].name
    from hapi.cli.picker import pick

    width = max(len(agent.name) for agent in found)
    rows = [f"{agent.name.ljust(width)}  {agent.title}" for agent in found]
    chosen: int | None = pick(f"Which agent shall work in {output.home_short(os.getcwd())}?", rows)
    return None if chosen is None else found[chosen].name


def installed(config: Config) -> list[Agent]:
    """The agents whose terminal program is on this machine, the last used first. The demo agent is not among them."""
    agents = {agent.name: agent for name in table.names(config) if name != DEMO and (agent := _usable(config, name))}
    order = [name for name in recent(config.paths) if name in agents]
    return [agents[name] for name in dict.fromkeys([*order, *agents])]


def run_agent(config: Config, name: str, words: list[str]) -> int:
    """Start a session of that agent here, with these arguments, and attach; the exit status."""
    words_hint = f" -- {shlex.join(words)}" if words else ""
    attach.need_terminal(f"In a script write: hapi runner spawn . --agent {name}{words_hint}")
    agent = table.find(name, config)
    table.resolve(agent, None, terminal=True)  # a missing program is told before a runner is started
    info = spawned(config, order(agent=name, args=words))
    used(config.paths, name)
    return look(config, info)


def command(config: Config, words: list[str], name: str | None, *, detach: bool) -> wire.SessionInfo | int:
    """Start any command here; attached, the exit status, detached, the session. Raises HapiError."""
    if not words:
        raise HapiError(ErrorCode.USAGE, "There is no command to run.", "hapi run -- COMMAND …")
    wanted = order(agent=_label(name or os.path.basename(words[0])), command=words)
    if detach:
        return spawned(config, wanted)
    attach.need_terminal(f"In a script write: hapi run --detach -- {shlex.join(words)}")
    return look(config, spawned(config, wanted))


def order(**what: Any) -> wire.Spawn:
    """A session in a terminal, in this directory, with this terminal's environment and size."""
    cols, rows = attach.own_size()
    return wire.Spawn(
        session_id=ids.new_session_id(),
        directory=_here(),
        started_by="terminal",
        env=environment(),
        umask=files.own_umask(),
        driver="pty",
        cols=cols,
        rows=rows,
        **what,
    )


def spawned(config: Config, wanted: wire.Spawn) -> wire.SessionInfo:
    """The session, started. Starts or replaces the runner where needed. Raises HapiError."""
    with output.Progress(f"Starting {output.clean(wanted.agent)} …") as progress:
        return request.spawned(config, wanted, progress).info


def look(config: Config, info: wire.SessionInfo) -> int:
    """Attach to a new session; the exit status. What ended before we came is told, with what it showed."""
    try:
        return attach.show(config, info)
    except HapiError as error:
        if error.code is not ErrorCode.SESSION_ENDED:
            raise
        return attach.afterwards(config, info, error)


def _usable(config: Config, name: str) -> Agent | None:
    try:
        agent = table.find(name, config)
        table.resolve(agent, None, terminal=True)
    except HapiError:
        return None
    return agent


def _label(text: str) -> str:
    if not text.strip() or len(text) > MAX_LABEL or not text.isprintable():
        hint = f"Use 1 to {MAX_LABEL} printable characters: hapi run --name NAME -- COMMAND"
        raise HapiError(ErrorCode.USAGE, f"Not a name for a session: {output.clean(text)!r}", hint)
    return text


def _here() -> str:
    try:
        here = os.getcwd()
        here.encode()
    except (FileNotFoundError, UnicodeEncodeError):
        hint = "It was removed, or its name is not UTF-8. Go to another one."
        raise HapiError(ErrorCode.BAD_DIRECTORY, "This directory cannot be used.", hint) from None
    return here
