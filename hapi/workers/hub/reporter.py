"""How the connector stands with the hub, as the broker and `ps` are told."""

from __future__ import annotations

from typing import Any

from hapi import wire
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub.bus import Bus, RunnerInfo


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


def unexpected(body: Any) -> wire.Failure:
    """The answer to a request that is none of the connector's."""
    error = HapiError(ErrorCode.BAD_REQUEST, f"The hub connector does not answer {type(body).__name__}.")
    return wire.failure(error)
