"""A session on its way to being ready: what every driver needs, and what each does its own way."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hapi import wire
from hapi.config import Config
from hapi.workers.supervisor.agent_process import AgentProcess, Launch

if TYPE_CHECKING:
    from hapi.workers.supervisor.terminals import Terminals

Spare = Callable[[int], bool]


class Program(msgspec.Struct, frozen=True):
    """What to run: its command line, and the variables that it wants besides the caller's."""

    argv: list[str]
    environment: dict[str, str] = {}


class Started(ABC):
    """A session whose agent is ready, once `open` has returned. `info` is still in phase `starting`."""

    def __init__(self, order: wire.Spawn, info: wire.SessionInfo, config: Config) -> None:
        self.order = order
        self.info = info
        self.made_worktree = False
        self.notes: list[str] = []
        self.ignores_eof = False
        self.agent: AgentProcess
        self.terminals: Terminals
        self._config = config

    @property
    def environ(self) -> dict[str, str]:
        """The caller's environment, or the runner's own where the caller gave none."""
        return dict(os.environ) if self.order.env is None else self.order.env

    @abstractmethod
    def program(self) -> Program:
        """What is to be run. Raises HapiError: unknown_agent, agent_unavailable, bad_request, bad_configuration."""

    @abstractmethod
    async def launch(self, launch: Launch, log: Path, spare: Spare) -> None:
        """Run it: from then on there is `agent`. Raises HapiError(agent_unavailable or bad_directory)."""

    @abstractmethod
    async def open(self, deadline: float) -> None:
        """Return when it takes what people say to it. Raises HapiError: agent_timeout, agent_failed."""
