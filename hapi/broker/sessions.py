"""The broker's picture of the sessions, and how a person's word finds one. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict

from hapi.errors import ErrorCode, HapiError
from hapi.ids import ProcessId
from hapi.lifecycle import Phase
from hapi.wire import SessionInfo

ENDED_KEPT = 1_000
_SHORTEST_PREFIX = 4


class Sessions:
    """Live sessions, all of them, and the newest `ENDED_KEPT` ended ones."""

    def __init__(self) -> None:
        self.live: dict[str, SessionInfo] = {}
        self.ended: OrderedDict[str, SessionInfo] = OrderedDict()

    def put(self, info: SessionInfo) -> None:
        """Take in news of a session."""
        if info.phase is Phase.ENDED:
            self.live.pop(info.session_id, None)
            self.ended[info.session_id] = info
            self.ended.move_to_end(info.session_id)
            if len(self.ended) > ENDED_KEPT:
                self.ended.popitem(last=False)
        else:
            self.ended.pop(info.session_id, None)
            self.live[info.session_id] = info

    def listed(self, *, ended: bool) -> list[SessionInfo]:
        """Sessions for a list, oldest first."""
        found = [*self.live.values(), *(self.ended.values() if ended else ())]
        return sorted(found, key=lambda info: (info.started_at, info.session_id))

    def phases(self) -> dict[str, int]:
        return dict(Counter(info.phase.value for info in self.live.values()))

    def resolve(self, target: str) -> SessionInfo:
        """The session meant by an id, a unique prefix of one (4 characters at least), or PID-n.

        Live sessions win over ended ones. Raises HapiError: unknown_session or ambiguous_session.
        """
        text = target.strip().lower()
        for group in (self.live, self.ended):
            if text in group:
                return group[text]
            matches = _matches(list(group.values()), text)
            if len(matches) == 1:
                return matches[0]
            if matches:
                names = ", ".join(info.session_id[:13] for info in matches[:5])
                raise HapiError(ErrorCode.AMBIGUOUS_SESSION, f"{target!r} fits {len(matches)} sessions: {names}")
        raise HapiError(
            ErrorCode.UNKNOWN_SESSION,
            f"No session {target!r}.",
            "hapi runner list --ended shows them all. At least 4 characters of an id are needed.",
        )


def _matches(sessions: list[SessionInfo], text: str) -> list[SessionInfo]:
    if text.startswith("pid-"):
        return [info for info in sessions if text[4:] and text[4:] in {_pid(info.supervisor), _pid(info.agent_process)}]
    if len(text) < _SHORTEST_PREFIX:
        return []
    return [info for info in sessions if info.session_id.startswith(text)]


def _pid(process: ProcessId | None) -> str:
    return "" if process is None else str(process.pid)


def pids(info: SessionInfo) -> list[int]:
    """The pids on a session's record: its supervisor's and its agent's."""
    return [process.pid for process in (info.supervisor, info.agent_process) if process is not None]
