"""What every part of the connector shares."""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from hapi.clock import now_ms
from hapi.config import Config
from hapi.workers.hub.bus import Bus, RunnerInfo
from hapi.workers.hub.door import Door, Site
from hapi.workers.hub.hub_clock import HubClock
from hapi.workers.hub.places import Workshop
from hapi.workers.hub.rest import Rest
from hapi.workers.hub.ticker import Ticker

CONNECTING_AT_ONCE = 32
_log = logging.getLogger("hapi.hub")


class Host(msgspec.Struct, frozen=True):
    """This machine, in the hub's words."""

    name: str
    platform: str
    home: str
    hapi_home: str
    machine_id: str
    version: str


class Context:
    """Shared by the machine and the sessions, since `started_at`. `gate` is open while the hub knows the machine;
    `machine_created_at` is when it came to know it. `machine_door` is the machine's connection, once there is one.
    """

    def __init__(self, bus: Bus, config: Config, runner: RunnerInfo, site: Site, machine_id: str) -> None:
        self.bus = bus
        self.config = config
        self.runner = runner
        self.site = site
        self.hub_clock = HubClock()
        self.rest = Rest(site, self.hub_clock)
        self.host = _host(config, runner, machine_id)
        self.gate = asyncio.Event()
        self.machine_door: Door | None = None
        self.machine_created_at = 0
        self.started_at = now_ms()
        self.slots = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self.workshop = Workshop()
        self.counters: Counter[str] = Counter()
        self.ticker = Ticker(self._woken)
        self.on_wake: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background until it ends or `stop_all`; a failure is a bug of ours, logged and counted."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counters["task_bugs"] += 1
            _log.error("%s failed", task.get_name(), exc_info=error)

    async def stop_all(self) -> None:
        """Cancel what was started and wait until it has closed its connections."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)

    def _woken(self) -> None:
        self.counters["machine_slept"] += 1
        for callback in self.on_wake:
            callback()


def _host(config: Config, runner: RunnerInfo, machine_id: str) -> Host:
    system = "win32" if sys.platform == "win32" else platform.system().lower()
    return Host(config.hostname, system, str(Path.home()), str(config.home), machine_id, runner.version)
