"""How long to wait before the next try: doubling, capped, jittered."""

from __future__ import annotations

import random


class Backoff:
    """Delays between tries: each is drawn from the upper half of a span that doubles from `first_s` to `cap_s`."""

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._span_s = first_s

    def next_s(self) -> float:
        """The next delay in seconds; never more than the cap."""
        span = self._span_s
        self._span_s = min(self._cap_s, span * 2)
        return span * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret

    def reset(self) -> None:
        """Begin again with short delays."""
        self._span_s = self._first_s
