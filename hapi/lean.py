"""Libraries without what they bring along and do not need: each costs every command, and every process its memory."""

from __future__ import annotations

import sys

_SPARED = "typing_extensions"


def import_msgspec() -> None:
    """Import msgspec on the standard library's `typing`: `typing_extensions`, which it takes where it is installed,
    brings `inspect` and `ast` along, 10 ms and 3 MB. It is there for everybody else afterwards.
    """
    if _SPARED in sys.modules:
        return
    sys.modules[_SPARED] = None  # type: ignore[assignment]  # documented: an import of it fails, as if it were absent
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[_SPARED]
