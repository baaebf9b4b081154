"""The hub connector: the bus on one side, the hub on the other.

The hub is never needed: without a token, with a wrong one, or with no hub at all, sessions work on and the broker is
told why they are not shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import Any

import aiohttp

from hapi import settings, wire
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub.context import Bus, Context, RunnerInfo
from hapi.workers.hub.door import Site
from hapi.workers.hub.machine import Machine
from hapi.workers.hub.machine_rpc import MachineRpc
from hapi.workers.hub.sessions import Sessions

NO_TOKEN = "No hub token is configured. Set one: hapi auth login"  # noqa: S105 - a sentence, not a token
DISCONNECT_S = 1.0
_REPORT = "report"
_log = logging.getLogger("hapi.hub")


async def run_connector(bus: Bus, config: Config, runner: RunnerInfo) -> None:
    """Speak for this runner until the broker says Shutdown (answered Accepted), or until cancelled.

    Sessions are left as they are: the hub shows them inactive after a while, and active again when the next
    connector comes. Raises HapiError(bad_configuration) when the machine id cannot be kept in settings.json.
    """
    reporter = Reporter(bus, config, runner)
    if config.token is None:
        reporter.report(online=False, reason=NO_TOKEN)
        await _Offline(bus, reporter).run()
        return
    machine_id = machine_identity(config)
    reporter.status.machine_id = machine_id
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        headers = {name: value for name, value in config.extra_headers.items() if name.lower() != "origin"}
        site = Site(config.api_url, config.token, headers, http)
        await _Online(Context(bus, config, runner, site, machine_id), reporter).run()


def machine_identity(config: Config) -> str:
    """This namespace's machine id, made once and kept in its settings.json."""
    path = config.paths.settings
    known = settings.read(path).get("machineId")
    if isinstance(known, str) and known:
        return known
    fresh = str(uuid.uuid4())
    settings.update(path, {"machineId": fresh})
    return fresh


class Reporter:
    """Tells the broker, and `ps`, how we stand with the hub."""

    def __init__(self, bus: Bus, config: Config, runner: RunnerInfo) -> None:
        self._bus = bus
        self._config = config
        self._runner = runner
        self.status = wire.HubStatus(url=config.api_url)

    def report(
        self, *, online: bool, reason: str | None = None, refused: bool = False, retry_at: int | None = None
    ) -> None:
        """Set and send the status."""
        status = self.status
        status.online, status.reason, status.refused, status.retry_at = online, reason, refused, retry_at
        if self._runner.set_title is not None:
            self._runner.set_title(f"hapi: hub [{self._config.namespace}] {self._word()}")
        self.send()

    def send(self) -> None:
        """Send the status as it is."""
        self._bus.send(wire.BROKER, self.status)

    def _word(self) -> str:
        if self.status.online:
            return "online"
        if self._config.token is None:
            return "offline"
        return "refused" if self.status.refused else "retrying"


class _Offline:
    """The connector of a runner that has no token: it only says so, and keeps the broker's contract."""

    def __init__(self, bus: Bus, reporter: Reporter) -> None:
        self._bus = bus
        self._reporter = reporter

    async def run(self) -> None:
        while True:
            header, body = await self._bus.receive()
            if isinstance(body, wire.Shutdown):
                self._bus.reply(header, wire.Accepted())
                return
            if isinstance(body, wire.Refused):
                raise asyncio.CancelledError(body.reason)
            if isinstance(body, wire.Welcome):
                self._reporter.send()
            elif header.request:
                self._bus.reply(header, _unexpected(body))


class _Online:
    """The connector of a runner that has a token."""

    def __init__(self, context: Context, reporter: Reporter) -> None:
        self._context = context
        self._bus = context.bus
        self._reporter = reporter
        self._machine = Machine(context, reporter.report)
        self._sessions = Sessions(context)
        self._machine.offer(MachineRpc(context, self._machine, self._sessions).methods())

    async def run(self) -> None:
        self._reporter.report(online=False, reason="Connecting.")
        self._context.ticker.add(_REPORT, self._refresh_report)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._machine.run()), group.create_task(self._context.ticker.run())]
                header, order = await self._serve()
                await self._machine.say_goodbye(order.source)
                for task in tasks:
                    task.cancel()
            self._reporter.report(online=False, reason="The runner stops.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISCONNECT_S):
                    await self._context.stop_all()
            self._bus.reply(header, wire.Accepted())
        finally:
            await self._context.stop_all()

    async def _serve(self) -> tuple[wire.Header, wire.Shutdown]:
        while True:
            header, body = await self._bus.receive()
            if isinstance(body, wire.Shutdown):
                return header, body
            if not await self._sessions.take(header.sender, body):
                self._from_broker(header, body)

    def _from_broker(self, header: wire.Header, body: Any) -> None:
        if isinstance(body, wire.Refused):
            raise asyncio.CancelledError(body.reason)  # another connector speaks now: no goodbye from us
        if isinstance(body, wire.SessionLost):
            self._sessions.lose(body.info)
        elif isinstance(body, wire.PeerDown):
            self._sessions.forget_sleeping(body.name)
        elif isinstance(body, wire.Welcome | wire.PeerUp):
            self._reporter.send()
        elif header.request:
            self._bus.reply(header, _unexpected(body))
        else:
            self._context.counters["unexpected"] += 1

    async def _refresh_report(self) -> None:
        counters = self._context.counters
        counters["sessions"] = self._sessions.count()
        if self._reporter.status.counters != counters:
            self._reporter.status.counters = dict(counters)
            self._reporter.send()


def _unexpected(body: Any) -> wire.Failure:
    error = HapiError(ErrorCode.BAD_REQUEST, f"The hub connector does not answer {type(body).__name__}.")
    return wire.failure(error)
