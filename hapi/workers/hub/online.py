"""The connector of a runner that has a token. Brings Socket.IO and aiohttp, 10 MB: loaded by who has one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import aiohttp

from hapi import wire
from hapi.config import Config
from hapi.workers.hub.bus import Bus, RunnerInfo
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Site
from hapi.workers.hub.machine import Machine
from hapi.workers.hub.machine_rpc import MachineRpc
from hapi.workers.hub.reporter import Reporter, unexpected
from hapi.workers.hub.sessions import Sessions

DISCONNECT_S = 1.0
_REPORT = "report"


async def run_online(bus: Bus, config: Config, runner: RunnerInfo, machine_id: str, reporter: Reporter) -> None:
    """Speak to the hub that `config` names, with its token, until the broker says Shutdown, or until cancelled."""
    connector = aiohttp.TCPConnector(limit=0, ssl=tls(config.api_url))
    async with aiohttp.ClientSession(connector=connector) as http:
        headers = {name: value for name, value in config.extra_headers.items() if name.lower() != "origin"}
        site = Site(config.api_url, config.token or "", headers, http)
        await Online(Context(bus, config, runner, site, machine_id), reporter).run()


def tls(url: str) -> ssl.SSLContext | bool:
    """How to check the certificate of the hub at `url`: by the system's authorities, loaded for https alone.

    `lean.import_aiohttp` leaves aiohttp without any: a connection that this is not given to is refused.
    """
    if not url.lower().startswith("https:"):
        return True
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Online:
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
            self._bus.reply(header, unexpected(body))
        else:
            self._context.counters["unexpected"] += 1

    async def _refresh_report(self) -> None:
        counters = self._context.counters
        counters["sessions"] = self._sessions.count()
        if self._reporter.status.counters != counters:
            self._reporter.status.counters = dict(counters)
            self._reporter.send()
