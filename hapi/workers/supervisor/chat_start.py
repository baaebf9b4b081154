"""The start of an agent that is spoken to over ACP: its server, and a conversation with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hapi import wire
from hapi.agents import table
from hapi.clock import monotonic
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.workers.supervisor import questions
from hapi.workers.supervisor.acp_driver import AcpDriver
from hapi.workers.supervisor.acp_events import Turn
from hapi.workers.supervisor.agent_process import Launch
from hapi.workers.supervisor.configuring import Configuration
from hapi.workers.supervisor.piped_agent import PipedAgent
from hapi.workers.supervisor.started import Program, Spare, Started

OnUpdate = Callable[[dict[str, Any]], None]
OnPermission = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class ChatStarted(Started):
    """A chat, from its agent's process to the open conversation."""

    def __init__(self, order: wire.Spawn, info: wire.SessionInfo, config: Config) -> None:
        super().__init__(order, info, config)
        self.turn = Turn(info.generation)
        self.agent: PipedAgent
        self.driver: AcpDriver
        self.configuration: Configuration
        self._on_update: OnUpdate | None = None
        self._on_permission: OnPermission | None = None

    def program(self) -> Program:
        order, environ = self.order, self.environ
        if order.command:
            raise HapiError(ErrorCode.BAD_REQUEST, "A command is no agent to chat with.", "Its driver must be pty.")
        agent = table.find(order.agent, self._config)
        flags = table.launch_arguments(
            agent,
            model=order.model,
            effort=order.effort,
            permission_mode=order.permission_mode,
            yolo=order.yolo,
            settings=order.config,
            args=order.args,
        )
        argv = table.resolve(agent, environ.get("PATH"), flags, environ=environ)
        return Program(argv, table.environment(agent, environ.get("PATH"), environ))

    async def launch(self, launch: Launch, log: Path, spare: Spare) -> None:
        self.agent = await PipedAgent.start(launch, log, spare)

    async def open(self, deadline: float) -> None:
        order, info = self.order, self.info
        agent = table.find(order.agent, self._config)
        driver = self.driver = AcpDriver(self.agent, self.on_update, self.on_permission)
        resume = order.resume if agent.resume else None
        opened = await driver.open(info.directory, resume, max(0.1, deadline - monotonic()))
        self.configuration = Configuration(agent, info, driver)
        info.native_id = opened.native_id
        if order.resume and not opened.resumed:
            self.notes.append("The agent could not resume its conversation; a new one began.")
        self.ignores_eof = agent.ignores_eof
        self.notes += await self.configuration.begin(order, resumed=opened.resumed)

    def route(self, on_update: OnUpdate, on_permission: OnPermission) -> None:
        """From now on the session hears the agent; what it said while opening (a replayed history) is dropped."""
        self.turn.finish("opened")
        self._on_update, self._on_permission = on_update, on_permission

    def on_update(self, update: dict[str, Any]) -> None:
        """What the agent says."""
        if self._on_update is None:
            self.turn.update(update)
        else:
            self._on_update(update)

    async def on_permission(self, params: dict[str, Any]) -> dict[str, Any]:
        """What the agent asks."""
        if self._on_permission is None:
            return questions.cancelled(params)
        return await self._on_permission(params)
