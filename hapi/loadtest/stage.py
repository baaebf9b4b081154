"""A home, a namespace and a runner for one load test, of which nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from hapi import config as configuration
from hapi import control, launch, procs, settings, wire
from hapi.agents.built_in import FLAVORS
from hapi.clock import monotonic
from hapi.config import Config
from hapi.errors import NotRunning
from hapi.ids import ProcessId, split_token

_NOT_OURS = ("HAPI_NAMESPACE", "HAPI_API_URL", "CLI_API_TOKEN", "HAPI_EXTRA_HEADERS_JSON", "HAPI_RUNNER_SUPERVISED")
_SHORT = "/tmp"  # noqa: S108 - made by mkdtemp; the sockets' paths must be short
_LEAVING_S, _PAUSE_S, _UP_S = 5.0, 0.05, 10.0
Sweep = Callable[[], list[str]]


class Hub(msgspec.Struct, frozen=True):
    """Which hub to go through; `token` without a namespace."""

    url: str
    token: str
    headers: dict[str, str]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Which agent, with which settings of agents; in a namespace of that name (made up if ""); `keep` the directory."""

    agent: str
    agents: dict[str, Any] = {}
    namespace: str = ""
    keep: bool = False


class Stage:
    """While it is entered, HAPI_HOME of this process is a new directory, and `config` a namespace in it.

    `sweep` ends whatever runs below HAPI_HOME and names what it found. It is called on leaving, before the directory is
    removed: after a good test there is nothing to find.
    """

    def __init__(self, hub: Hub | None, setting: Setting, sweep: Sweep) -> None:
        self.namespace = setting.namespace or f"loadtest-{secrets.token_hex(4)}"
        self.survivors: list[str] = []
        self._hub = hub
        self._keep = setting.keep
        stand_in = {} if setting.agent in FLAVORS else {"claude": {"use": setting.agent}}
        self._agents = {**setting.agents, **stand_in}
        self._sweep = sweep
        self._environment = dict(os.environ)

    def __enter__(self) -> Self:
        self.path = Path(tempfile.mkdtemp(prefix="hapi-l-", dir=_SHORT if os.access(_SHORT, os.W_OK) else None))
        try:
            self._furnish()
        except BaseException:
            self._restore()
            raise
        return self

    def _furnish(self) -> None:
        self.project = self.path / "project"
        self.project.mkdir()
        for name in _NOT_OURS:  # they would win over the settings that we write
            os.environ.pop(name, None)
        home = self.path / "h"
        home.mkdir(mode=0o700)
        os.environ["HAPI_HOME"] = str(home)
        values: dict[str, Any] = {"agents": self._agents} if self._agents else {}
        if self._hub is not None:
            values |= {"apiUrl": self._hub.url, "cliApiToken": self.token, "extraHeaders": self._hub.headers}
        settings.update(home / "settings.json", values)
        self.config: Config = configuration.load(self.namespace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.survivors += self._sweep()
        finally:
            self._restore()

    def _restore(self) -> None:
        """As it was before."""
        if self._keep:
            (self.path / "h" / "settings.json").unlink(missing_ok=True)  # the hub's token is in it
        elif not _removed(self.path):
            self.survivors.append(f"directory {self.path}")
        os.environ.clear()
        os.environ.update(self._environment)

    @property
    def token(self) -> str:
        """The hub's token for the namespace of the test."""
        base = split_token(self._hub.token)[0] if self._hub is not None else ""
        return f"{base}:{self.namespace}"

    async def start_runner(self) -> float:
        """Start the runner; seconds until it answers. Raises HapiError(start_failed)."""
        start = monotonic()
        await asyncio.to_thread(launch.start, self.config)
        return monotonic() - start

    async def stop_runner(self) -> float:
        """Stop it; seconds until its process is gone. What it leaves is waited for, and named if it stays.

        Raises HapiError(still_alive).
        """
        start = monotonic()
        await asyncio.to_thread(control.stop, self.config)
        took = monotonic() - start
        self.survivors += await asyncio.to_thread(self._stayed)
        return took

    def _stayed(self) -> list[str]:
        """What is not gone after _LEAVING_S (nobody tells us of their ends) is killed, with all below it, and named.

        So goes also a runner that no command finds any more: somebody who tidies up has removed its directory.
        """
        deadline = monotonic() + _LEAVING_S
        while (left := self._processes()) and monotonic() < deadline:
            select.select([], [], [], _PAUSE_S)
        for victim in [below for who, _ in left for below in (*procs.descendants(who.pid), who)]:
            procs.send_signal(victim, signal.SIGKILL)
        return [f"{title} (pid {who.pid}, killed)" for who, title in left]

    def _processes(self) -> list[tuple[ProcessId, str]]:
        """Our processes of this home, by their titles and the files that they hold open there, with their titles."""
        found = []
        for pid in procs.everyone():
            title = control.command_line(pid)
            ours = title.startswith("hapi: ") and f"[{self.namespace}]" in title
            if ours and any(path.startswith(f"{self.path}/") for path in procs.open_files(pid)):
                who = procs.identity(pid)
                found += [(who, title)] if who is not None else []
        return found

    async def status(self) -> wire.Status:
        """What the runner says of itself. Raises NotRunning, HapiError(timeout)."""
        return await asyncio.to_thread(control.Control(self.config).ask, wire.GetStatus(), wire.Status)

    async def machine_id(self) -> str | None:
        """The machine's id at the hub, once the connector has one."""
        return (await self.status()).hub.machine_id

    async def kill(self, worker: str) -> None:
        """SIGKILL to one of the runner's processes; a broker is started again, the others it starts itself.

        One that is down, because of the kill before this one for instance, is waited for. Raises HapiError(not_running).
        """
        who = await self._running(worker)
        procs.send_signal(who, signal.SIGKILL)
        await asyncio.to_thread(procs.wait_gone, who, 10.0)
        if worker == "broker":
            await self.start_runner()

    async def _running(self, worker: str) -> ProcessId:
        deadline = monotonic() + _UP_S
        while True:
            status = await self.status()
            who = procs.identity(status.pid if worker == "broker" else status.workers[worker].pid)
            if who is not None:
                return who
            if monotonic() > deadline:
                raise NotRunning(f"The runner's {worker} is to be killed, and has not run for {_UP_S:g} s.", "")
            await asyncio.sleep(_PAUSE_S)


def _removed(path: Path) -> bool:
    """Remove a directory in which a process that is ending may still write; whether it is gone."""
    deadline = monotonic() + _LEAVING_S
    while True:
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return True
        if monotonic() > deadline:
            return False
        select.select([], [], [], _PAUSE_S)
