"""Sessions found on disk that have yet to get their verdict. Pure."""

from __future__ import annotations

import logging
from collections import Counter

import msgspec

from hapi.broker.reattach import Facts, Verdict, verdict

GRACE_S = 5.0

logger = logging.getLogger(__name__)


class Adoption:
    """The open cases. Every record gets exactly one verdict, which is logged and counted in `verdicts`."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.quarantined: set[str] = set()
        self._facts: dict[str, Facts] = {}
        self._grace_ends = 0.0

    def begin(self, now: float) -> None:
        """Give silent supervisors GRACE_S from now."""
        self._grace_ends = now + GRACE_S

    def add(self, session_id: str, facts: Facts) -> Verdict | None:
        """Open a case; its verdict, if the facts suffice for one."""
        self._facts[session_id] = facts
        return self._judge(session_id)

    def closed(self) -> None:
        """A session had ended before: its record needs no more than to be counted."""
        self.verdicts[Verdict.ENDED.value] += 1

    def heard(self, session_id: str) -> Verdict | None:
        """Its supervisor spoke; one that was put aside is taken in after all. None when there is no open case."""
        if session_id in self.quarantined:
            self.quarantined.discard(session_id)
            self.verdicts[Verdict.QUARANTINED.value] -= 1
            self.verdicts[Verdict.ADOPTED.value] += 1
            logger.info("session %s: adopted after all", session_id)
        if session_id not in self._facts:
            return None
        self._facts[session_id] = msgspec.structs.replace(self._facts[session_id], heard=True)
        return self._judge(session_id)

    def died(self, session_id: str) -> Verdict | None:
        """Its supervisor is proven dead before it spoke. None when there is no open case."""
        if session_id not in self._facts:
            return None
        self._facts[session_id] = msgspec.structs.replace(self._facts[session_id], supervisor_alive=False)
        return self._judge(session_id)

    def end_grace(self, now: float) -> list[str]:
        """Decide what is still open once the grace is over; the sessions that got their verdict now."""
        if not self._facts or now < self._grace_ends:
            return []
        self._facts = {key: msgspec.structs.replace(facts, grace_over=True) for key, facts in self._facts.items()}
        return [session_id for session_id in list(self._facts) if self._judge(session_id)]

    def deadline(self) -> float | None:
        return self._grace_ends if self._facts else None

    def is_open(self, session_id: str) -> bool:
        """Whether it is not known yet what became of that session."""
        return session_id in self._facts

    def _judge(self, session_id: str) -> Verdict | None:
        facts = self._facts[session_id]
        decided = verdict(facts)
        if decided is not None:
            del self._facts[session_id]
            self.verdicts[decided.value] += 1
            if decided is Verdict.QUARANTINED:
                self.quarantined.add(session_id)
            logger.info("session %s: %s (%s)", session_id, decided, facts)
        return decided
