"""Whether other code is installed than runs, in the hub's two time stamps: the web app compares them (§4.2)."""

from __future__ import annotations

from hapi.installed import Installed


class CodeAge:
    """Of the runner that was started at `started_at` (ms) with the code of that digest; "" when it does not say."""

    def __init__(self, fingerprint: str, started_at: int, installed: Installed | None = None) -> None:
        self._fingerprint = fingerprint
        self._started = started_at
        self._installed = installed or Installed()

    def look(self) -> dict[str, int]:
        """The two stamps, equal as long as the content is the same; {} when nothing can be said. Reads files."""
        build = self._installed.look()
        if not build or not self._fingerprint:
            return {}
        newest = self._installed.newest_ms
        if build.digest == self._fingerprint:
            self._started = newest
        elif self._started == newest:
            self._started -= 1  # they must differ, and what runs is the older one
        return {"startedCliMtimeMs": self._started, "installedCliMtimeMs": newest}
