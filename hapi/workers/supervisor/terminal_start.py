"""The start of an agent in a terminal: its own program for terminals, or whatever command a person wants."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hapi import wire
from hapi.agents import table
from hapi.agents.built_in import Agent
from hapi.agents.terminal import TerminalOrder, terminal_command
from hapi.clock import monotonic
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.workers.supervisor.agent_process import Launch
from hapi.workers.supervisor.pty import terminal_environment
from hapi.workers.supervisor.started import Program, Spare, Started
from hapi.workers.supervisor.terminal_agent import TerminalAgent

READY_S = 0.3  # what lives that long has started
SPOKEN_S = 0.1  # and so has what lives that long after its first words
CONTROL_C = b"\x03"


class TerminalStarted(Started):
    """A terminal, from its program's start to the moment when it is known not to fail at once."""

    def __init__(self, order: wire.Spawn, info: wire.SessionInfo, config: Config) -> None:
        super().__init__(order, info, config)
        self.agent: TerminalAgent
        self.agent_entry: Agent | None = None  # of the table; None for a command

    @property
    def interrupt(self) -> bytes:
        """The key that makes the program leave what it does."""
        return CONTROL_C if self.agent_entry is None else self.agent_entry.interrupt.encode()

    def program(self) -> Program:
        order, environ = self.order, self.environ
        if order.command:
            return Program(_command(order.command, environ.get("PATH", "")))
        agent = self.agent_entry = table.find(order.agent, self._config)
        wish = TerminalOrder(
            resume=order.resume,
            model=order.model,
            effort=order.effort,
            permission_mode=order.permission_mode,
            yolo=order.yolo,
            settings=order.config,
            args=order.args,
        )
        command = terminal_command(agent, wish, environ.get("PATH"), environ)
        info, mode = self.info, table.permission_mode(agent, order.permission_mode, yolo=order.yolo)
        info.native_id = command.native_id
        info.model, info.effort = order.model or agent.default_model, order.effort or agent.default_effort
        info.permission_mode = mode if mode in agent.terminal_flags.modes else None
        self.notes += command.notes
        return Program(command.argv, table.environment(agent, environ.get("PATH"), environ))

    async def launch(self, launch: Launch, _: Path, spare: Spare) -> None:
        launch = Launch(launch.argv, launch.directory, terminal_environment(launch.environment), launch.umask)
        self.agent = TerminalAgent.start(launch, spare, (self.order.cols, self.order.rows))

    async def open(self, deadline: float) -> None:
        """Return when the program has lived for READY_S, or for SPOKEN_S after its first output.

        A command that ends within that time was started all the same, and its exit status is its own: how long it
        takes is its business. An agent that does has failed to start. Raises HapiError(agent_failed) with the last lines
        on its screen.
        """
        spoken, terminal = asyncio.Event(), self.agent.terminal
        terminal.on_output = lambda _: spoken.set()
        exited = asyncio.ensure_future(self.agent.exited())
        heard = asyncio.ensure_future(spoken.wait())
        longest = min(READY_S, max(SPOKEN_S, deadline - monotonic()))
        try:
            await asyncio.wait({exited, heard}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exited}, timeout=SPOKEN_S)
        finally:
            terminal.on_output = None
            for task in (exited, heard):
                task.cancel()
        exit_ = self.agent.exit
        if exit_ is not None and not self.order.command:
            raise HapiError(
                ErrorCode.AGENT_FAILED, f"The program ended at once: {exit_.words()}.", await self.agent.tail()
            )


def _command(words: list[str], path: str) -> list[str]:
    """The command with its program's absolute path."""
    program = table.which(words[0], path)
    if program is None:
        hint = f"Looked for it in {path or 'an empty PATH'}." if "/" not in words[0] else "Is it there, and executable?"
        raise HapiError(ErrorCode.AGENT_UNAVAILABLE, f"There is no program {words[0]}.", hint)
    return [program, *words[1:]]
