"""The runner as the connector sees it: who it is, and the contract of the bus that leads to its sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from hapi import __version__, wire
from hapi.clock import now_ms


class Bus(Protocol):
    """The connector's connection to the broker: `hapi.workers.link.Link`, or a test's double."""

    connected: bool

    def send(self, to: str, body: Any) -> bool:
        """Send without waiting; False (and counted there) when it cannot go out now."""

    async def request(self, to: str, body: Any, timeout_s: float) -> Any:
        """The reply's body. Raises HapiError: the peer's Failure, or timeout."""

    def reply(self, header: wire.Header, body: Any) -> bool:
        """Answer a request."""

    async def receive(self) -> tuple[wire.Header, Any]:
        """The next message for us that is not a reply."""


class RunnerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the connector is told about the runner it belongs to. `broker_pid` is what the hub shows."""

    broker_pid: int
    workspace_roots: list[str] = []
    supervised: bool = False
    started_at: int = msgspec.field(default_factory=now_ms)
    fingerprint: str = ""
    version: str = __version__
    set_title: Callable[[str], None] | None = None
