"""When the code that is installed takes over from the one that runs, by itself. Pure: builds and times in, effects out.

Installed code must have been seen twice in the same state, the breaker must allow it, a pre-flight must succeed, and
the broker must be at rest, for RESTLESS_S at most.
"""

from __future__ import annotations

import logging

from hapi.broker.effects import CheckInstalled, HandOver
from hapi.handoff import Build

RESTLESS_S = 30.0
_LOOK_AGAIN_S = 0.25

logger = logging.getLogger(__name__)


class Upgrade:
    """One broker's view of what is installed. `reason`: why that does not run, None when it does or soon will."""

    def __init__(self, running: Build, *, disabled: bool = False, retry_s: float = 300.0) -> None:
        """`retry_s`: after which time code that failed its pre-flight is tried again unchanged."""
        self.running = running
        self.installed = running
        self.reason: str | None = None
        self._disabled = disabled
        self._retry_s = retry_s
        self._checking: Build | None = None
        self._failed: Build | None = None
        self._retry_at = 0.0
        self._ready_since: float | None = None
        self._look_at = 0.0

    def heard(self, build: Build, now: float) -> list[CheckInstalled | HandOver]:
        """What the reaper found installed."""
        settled = build == self.installed
        self.installed = build
        if build == self.running or not settled:
            self.reason = self._ready_since = None
            return []
        standstill = self._standstill(now)
        if standstill is not None:
            self._note(standstill)
            return []
        if self._checking is not None or self._ready_since is not None:
            return []
        self._checking = build
        return [CheckInstalled(build)]

    def _standstill(self, now: float) -> str | None:
        """Why nothing is tried at all."""
        if not self.installed:
            return "it cannot be read"
        if self._disabled:
            return "the runner was started with HAPI_DISABLE_VERSION_HANDOFF=1; hapi runner restart replaces it"
        return self.reason if self._failed == self.installed and now < self._retry_at else None

    def held(self, reason: str) -> None:
        """The breaker does not allow it; it is asked again at the next heartbeat."""
        self._checking = None
        self._note(reason)

    def checked(self, trouble: str | None, now: float) -> None:
        """The pre-flight is over. Code that failed it is tried again when it changes, or after `retry_s`."""
        build, self._checking = self._checking, None
        if build != self.installed:
            return
        if trouble is None:
            self.reason = None
            self._ready_since = self._look_at = now
            return
        self._failed, self._retry_at = build, now + self._retry_s
        self._note(trouble)

    def due(self, now: float, *, busy: bool) -> list[CheckInstalled | HandOver]:
        """The handoff, once it is ready and nothing is under way that it would break off."""
        if self._ready_since is None:
            return []
        if busy and now < self._ready_since + RESTLESS_S:
            self._look_at = now + _LOOK_AGAIN_S
            return []
        self._ready_since = None
        return [HandOver(self.installed)]

    def deadline(self) -> float | None:
        """When to call `due`."""
        return None if self._ready_since is None else self._look_at

    def warnings(self) -> list[str]:
        """For `hapi runner status`: what is installed, and why it does not run."""
        if self.installed == self.running:
            return []
        version = self.installed.version
        other = f"Version {version}" if version != self.running.version else f"Other code of version {version}"
        what = f"{other} is installed; this is {self.running.version}" if self.installed else "The installation changed"
        return [f"{what}. {f'Not replaced: {self.reason}' if self.reason else 'It takes over soon'}."]

    def _note(self, reason: str) -> None:
        if reason != self.reason:
            logger.warning("installed is %s, not replaced: %s", self.installed.version or "nothing readable", reason)
        self.reason = reason
