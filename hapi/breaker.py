"""The circuit breaker of version handoffs: `handoffs.json` remembers the recent ones, so that they cannot storm.

Per window one handoff may happen by itself (heartbeat, session command), and MAX_ASKED in all when a person says
`hapi runner start`. Times are the wall clock's, in Unix milliseconds; one that lies in the future counts for nothing,
so a clock that is set back locks nobody out.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hapi.clock import iso
from hapi.files import FileLock, quarantine, write_atomic
from hapi.handoff import Cause

MAX_ASKED = 5
_KEPT = 20


class Handoff(msgspec.Struct, frozen=True, kw_only=True):
    """One replacement of a runner by another version: when, on whose account, from what to what."""

    at: int
    by: str
    old: str
    new: str


class _History(msgspec.Struct):
    handoffs: list[Handoff]


def recent(history: list[Handoff], now_ms: int, window_ms: int) -> list[Handoff]:
    """The handoffs of the last window, oldest first."""
    return sorted((item for item in history if now_ms - window_ms < item.at <= now_ms), key=lambda item: item.at)


def again_at(history: list[Handoff], by: Cause, now_ms: int, window_ms: int) -> int | None:
    """When the next handoff for that cause is allowed; None: now."""
    counted = recent(history, now_ms, window_ms)
    limit = MAX_ASKED if by == "start" else 1
    return counted[-limit].at + window_ms if len(counted) >= limit else None


class Breaker:
    """The breaker of one namespace. What it cannot read or write counts as tripped, but for a person's word."""

    def __init__(self, path: Path, window_ms: int) -> None:
        self._path = path
        self._window_ms = window_ms

    def recent(self, now_ms: int) -> list[Handoff]:
        """The handoffs of the last window; [] when the file cannot be read."""
        history, _ = self._read()
        return recent(history, now_ms, self._window_ms)

    def again_at(self, by: Cause, now_ms: int) -> int | None:
        """When a handoff for that cause is allowed again; None when the window does not forbid it."""
        history, _ = self._read()
        return again_at(history, by, now_ms, self._window_ms)

    def refusal(self, by: Cause, now_ms: int) -> str | None:
        """Why no handoff may happen for that cause now, in words; None when it may."""
        history, trouble = self._read()
        if trouble and by != "start":
            return f"{trouble}; hapi runner start puts it right"
        until = again_at(history, by, now_ms, self._window_ms)
        if until is None:
            return None
        count = len(recent(history, now_ms, self._window_ms))
        times = "once" if count == 1 else f"{count} times"
        way = "hapi runner restart" if by == "start" else "hapi runner start"
        return f"it was replaced {times} within {_span(self._window_ms)}; again from {iso(until)}, or now: {way}"

    def claim(self, handoff: Handoff, by: Cause) -> str | None:
        """Count a handoff that is about to happen; says why it must not, or returns None. Blocks 50 ms at most."""
        lock = FileLock(self._path.with_name(f"{self._path.name}.lock"))
        try:
            if not lock.acquire():
                return "another process is replacing the runner"
            try:
                refusal = self.refusal(by, handoff.at)
                if refusal is None:
                    self._add(handoff)
                return refusal
            finally:
                lock.release()
        except OSError as error:
            return None if by == "start" else f"{self._path.name} cannot be written: {error.strerror}"

    def _add(self, handoff: Handoff) -> None:
        history, trouble = self._read()
        if trouble:  # a person's word: begin anew, and keep what was there
            quarantine(self._path)
        data = msgspec.json.encode(_History([*history, handoff][-_KEPT:]))
        write_atomic(self._path, msgspec.json.format(data) + b"\n", durable=False)

    def _read(self) -> tuple[list[Handoff], str | None]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_History).handoffs, None
        except FileNotFoundError:
            return [], None
        except OSError as error:
            return [], f"{self._path.name} cannot be read: {error.strerror}"
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [], f"{self._path.name} is damaged"


def _span(ms: int) -> str:
    return f"{ms / 60_000:g} min" if ms >= 60_000 else f"{ms / 1000:g} s"
