"""Where a stream of a terminal's output may be cut: not within an escape sequence. Pure."""

from __future__ import annotations

import re

LONGEST = 256  # of a sequence that is kept together
_UNFINISHED = re.compile(
    rb"""(?:\x1b\[[0-?]*[ -/]*             # CSI without its final byte
    |\x1b[\]P_^X][^\x07\x1b]*\x1b?        # OSC, DCS, APC and the like, without their end
    |\x1b[ -/]*)\Z                        # the beginning of any
    """,
    re.VERBOSE,
)


def whole(data: bytes) -> int:
    """How many of the bytes do not end in the middle of an escape sequence; all if that one is longer than LONGEST."""
    if data.rfind(b"\x1b", -LONGEST) < 0:
        return len(data)
    found = _UNFINISHED.search(data, max(0, len(data) - LONGEST))
    return len(data) if found is None else found.start()
