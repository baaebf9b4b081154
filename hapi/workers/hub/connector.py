"""The hub connector: the bus on one side, the hub on the other.

The hub is never needed: without a token, with a wrong one, or with no hub at all, sessions work on and the broker is
told why they are not shown.
"""

from __future__ import annotations

import asyncio
import uuid

from hapi import lean, settings, wire
from hapi.config import Config
from hapi.workers.hub.bus import Bus, RunnerInfo
from hapi.workers.hub.reporter import Reporter, unexpected

NO_TOKEN = "No hub token is configured. Set one: hapi auth login"  # noqa: S105 - a sentence, not a token


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
    lean.import_aiohttp()
    from hapi.workers.hub.online import run_online

    await run_online(bus, config, runner, machine_id, reporter)


def machine_identity(config: Config) -> str:
    """This namespace's machine id, made once and kept in its settings.json."""
    path = config.paths.settings
    known = settings.read(path).get("machineId")
    if isinstance(known, str) and known:
        return known
    fresh = str(uuid.uuid4())
    settings.update(path, {"machineId": fresh})
    return fresh


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
                self._bus.reply(header, unexpected(body))
