"""The line of those whose start has yet to begin. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

Asker = Literal["runner", "bus", "control"]


class Line:
    """Session ids, each once. First what the runner itself starts again; then the web (`bus`) and the commands
    (`control`) take turns, so that hundreds of the one do not keep the other waiting; each in the order of arrival.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[Asker, OrderedDict[str, None]] = OrderedDict(
            runner=OrderedDict(), bus=OrderedDict(), control=OrderedDict()
        )

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __contains__(self, session_id: str) -> bool:
        return any(session_id in queue for queue in self._queues.values())

    def join(self, session_id: str, asker: Asker) -> None:
        """Get in line, as the last one that this asker has in it. Not for who is in it already."""
        self._queues[asker][session_id] = None

    def leave(self, session_id: str) -> None:
        """Out of the line; nothing happens to who is not in it."""
        for queue in self._queues.values():
            queue.pop(session_id, None)

    def take(self) -> str:
        """The next one, taken out. Raises IndexError when nobody is in line."""
        for asker, queue in self._queues.items():
            if queue:
                if asker != "runner":
                    self._queues.move_to_end(asker)
                return queue.popitem(last=False)[0]
        raise IndexError("nobody is in line")
