"""What time it is at the hub, which ignores a keepalive whose time is ten minutes behind its own."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from hapi.clock import monotonic, now_ms


class HubClock:
    """This machine's clock, put right by the `Date` of the hub's answers when it is behind.

    One that is ahead is left alone: the hub takes a time in the future for now.
    """

    def __init__(self) -> None:
        self._offset_ms: float | None = None  # the hub's time less our monotonic clock's, which nobody sets

    def heard(self, date: str | None) -> None:
        """Learn from an answer's `Date` header; one that is absent or makes no sense changes nothing."""
        try:
            at = parsedate_to_datetime(date or "")
        except ValueError:
            return
        self._offset_ms = at.timestamp() * 1000 - monotonic() * 1000

    def now_ms(self) -> int:
        """Unix milliseconds, for the hub to judge how fresh something is."""
        ours = now_ms()
        return ours if self._offset_ms is None else max(ours, int(self._offset_ms + monotonic() * 1000))
