"""Time, in one place: deadlines use the monotonic clock, records the wall clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def monotonic() -> float:
    """Seconds for measuring and for deadlines; never set back."""
    return time.monotonic()


def now_ms() -> int:
    """Unix milliseconds, for records and the hub."""
    return time.time_ns() // 1_000_000


def iso(ms: int) -> str:
    """Unix milliseconds as ISO 8601 UTC, the form of every time on disk and in JSON."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
