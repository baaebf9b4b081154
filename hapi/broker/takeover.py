"""The broker's side of a version handoff: the breaker's file, the pre-flight's process. Never blocks for long."""

from __future__ import annotations

import logging
import os

from hapi import clock, wire
from hapi.breaker import Breaker, Handoff
from hapi.broker.core import Core
from hapi.command import command
from hapi.config import Config
from hapi.handoff import Build
from hapi.preflight import Preflight

logger = logging.getLogger(__name__)


class Takeover:
    """Does what `Core.upgrade` asks for, and tells it how that went."""

    def __init__(self, config: Config, core: Core) -> None:
        self._namespace = config.namespace
        self._core = core
        self._breaker = Breaker(config.paths.handoffs, config.handoff_window_ms)
        self._preflight: Preflight | None = None

    def check(self, build: Build) -> None:
        """Ask the breaker, then the installed code itself: as a child process, with the arguments it would get."""
        refusal = self._breaker.refusal("heartbeat", clock.now_ms())
        if refusal is not None:
            self._core.upgrade.held(refusal)
            return
        logger.info("version %s (%s) is installed; checking it", build.version, build.digest)
        words = command(self._namespace, self._core.settings.workspace_roots, check=True)
        self._preflight = Preflight(words, build, os.environ)

    def look(self, now: float) -> None:
        """Take the pre-flight's result, if it is there. SIGCHLD and `deadline` say when to call."""
        if self._preflight is not None and self._preflight.ended():
            preflight, self._preflight = self._preflight, None
            self._core.upgrade.checked(preflight.trouble(), now)

    def deadline(self) -> float | None:
        """When the pre-flight must have ended."""
        return None if self._preflight is None else self._preflight.deadline

    def claim(self, build: Build) -> bool:
        """Count the handoff; False when the breaker does not allow it any more."""
        running = self._core.settings.version
        handoff = Handoff(at=clock.now_ms(), by="heartbeat", old=running, new=build.version)
        trouble = self._breaker.claim(handoff, "heartbeat")
        if trouble is not None:
            self._core.upgrade.held(trouble)
            return False
        logger.info("handing over from version %s to version %s (%s)", running, build.version, build.digest)
        return True

    def abandon(self) -> None:
        """The broker ends: so does a pre-flight that is under way."""
        if self._preflight is not None:
            self._preflight.abandon()

    def status(self) -> wire.HandoffStatus:
        """For `hapi runner status`."""
        upgrade, now = self._core.upgrade, clock.now_ms()
        return wire.HandoffStatus(
            installed_version=upgrade.installed.version,
            installed_fingerprint=upgrade.installed.digest,
            recent=len(self._breaker.recent(now)),
            reason=upgrade.reason,
            again_at=self._breaker.again_at("heartbeat", now),
        )
