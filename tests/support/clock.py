"""A wall clock that a test turns: Debian's libfaketime, preloaded into everything a runner starts."""

from __future__ import annotations

import os
from pathlib import Path

_PLACES = ("/usr/lib", "/usr/local/lib")


def find_faketime() -> Path | None:
    """The library (its thread-safe build), None when it is not installed."""
    found = [path for place in _PLACES for path in Path(place).glob("**/libfaketimeMT.so.1")]
    return found[0] if found else None


class WallClock:
    """The wall clock of every process with `environment`, told by a file that each of them reads at every call.

    The monotonic clock stays the machine's, as it does when somebody sets the time, and during a suspend.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset: str) -> None:
        """Set the clock off the machine's, from now on: `+8h`, `-8h`, `+10y`, `+0`."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        os.replace(fresh, self._file)

    @staticmethod
    def tidy() -> None:
        """Remove the shared memory that the library leaves behind of processes that were killed."""
        for path in Path("/dev/shm").glob("*faketime_s*_*"):
            if not os.path.exists(f"/proc/{path.name.rpartition('_')[2]}"):
                path.unlink(missing_ok=True)
