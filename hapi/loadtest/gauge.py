"""Weighing the runner while it is under load: memory and processor time by kind of process, and our own."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sys
from collections import Counter
from urllib.parse import urlsplit

import msgspec
import psutil

from hapi import footprint, wire
from hapi.clock import monotonic
from hapi.errors import HapiError
from hapi.footprint import Use
from hapi.loadtest.line import Line
from hapi.loadtest.report import HUB_SERVER, Burn, Sample

_SAMPLED = 8  # of each kind of which there are many


class Look(msgspec.Struct, frozen=True):
    """Processor time so far: by pid, and our own."""

    seconds: dict[int, float]
    own_s: float


class Gauge:
    """Looks at the runner behind `line`, and at the hub behind `hub_url` if that is on this machine.

    Every method may raise HapiError(timeout), when the broker does not answer within `patience_s`.
    """

    def __init__(self, line: Line, hub_url: str | None, patience_s: float) -> None:
        self._line = line
        self._patience_s = patience_s
        self._hub_server = listener(hub_url) if hub_url else None

    async def memory(self) -> dict[str, Use]:
        """What every process has, by kind. Takes some milliseconds of a core for each."""
        return await asyncio.to_thread(footprint.measure, await self._processes())

    async def look(self) -> Look:
        """For `burnt`, later."""
        pids = await self._processes()
        return Look(await asyncio.to_thread(footprint.cpu, pids), _own_cpu())

    async def burnt(self, before: Look, wall_s: float) -> Burn:
        """The processor time since `before`, in a phase of `wall_s` seconds."""
        own = _own_cpu()
        pids = await self._processes()
        after = await asyncio.to_thread(footprint.cpu, pids)
        return Burn(wall_s=wall_s, by_kind=footprint.spent(pids, before.seconds, after), own_s=own - before.own_s)

    async def sample(self, samples: list[Sample], every_s: float) -> None:
        """Add to `samples`, until cancelled: the workers, and a few of the sessions; all would be a load of its own."""
        start = monotonic()
        while True:
            try:
                use = await asyncio.to_thread(footprint.measure, _some(await self._processes()))
            except HapiError:
                use = {}  # the runner was killed, and comes back
            if use:
                pss = {kind: one.pss // one.count for kind, one in use.items()}
                samples.append(Sample(at_s=monotonic() - start, pss=pss))
            await asyncio.sleep(every_s)

    async def _processes(self) -> dict[int, str]:
        status = await self._line.ask(wire.GetStatus(), wire.Status, self._patience_s)
        sessions = await self._line.ask(wire.ListSessions(), wire.SessionList, self._patience_s)
        found = await asyncio.to_thread(footprint.processes, status, sessions.sessions)
        return found | ({self._hub_server: HUB_SERVER} if self._hub_server else {})


def machine() -> str:
    """What the figures were taken on."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    return int(psutil.virtual_memory().available)


def open_files_limit() -> int:
    """How many files one process of ours may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize


def listener(url: str) -> int | None:
    """The process that listens at the port of a url on this machine, if we may know; None otherwise."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return None
    return next((one.pid for one in found if one.pid and one.laddr.port == port), None)


def _some(pids: dict[int, str]) -> dict[int, str]:
    """The workers, and a few of each kind of which there are many."""
    seen: Counter[str] = Counter()
    chosen = {}
    for pid, kind in pids.items():
        seen[kind] += 1
        if seen[kind] <= _SAMPLED:
            chosen[pid] = kind
    return chosen


def _own_cpu() -> float:
    times = os.times()
    return times.user + times.system
