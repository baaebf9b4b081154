"""The account of every message: each has a number in its session, and must be answered once, in order. Pure."""

from __future__ import annotations

import re
from array import array

import msgspec


class Totals(msgspec.Struct, kw_only=True, rename="camel"):
    """What became of the messages. `answered` once or more often; `doubled`: further answers to the same message.

    `late` were answered after the patience was over, `reread` were not heard of and found where answers are kept.
    `refused` could not be sent. `strange` answers are to messages that nobody sent. `lost` have no answer anywhere.
    """

    sent: int = 0
    answered: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    late: int = 0
    reread: int = 0
    refused: int = 0
    strange: int = 0

    def faults(self) -> list[str]:
        """What must not be, in words."""
        bad = {
            "lost": self.lost,
            "doubled": self.doubled,
            "answered out of order": self.out_of_order,
            "refused": self.refused,
            "answered though never sent": self.strange,
        }
        return [f"{count} of {self.sent} messages {what}" for what, count in bad.items() if count]


class _Account:
    """One session's messages: the last number given, when those on their way were sent, the highest one answered."""

    __slots__ = ("given", "highest", "open", "refused")

    def __init__(self) -> None:
        self.given = 0
        self.highest = 0
        self.open: dict[int, float] = {}
        self.refused: set[int] = set()


class Ledger:
    """All sessions' messages. Times are seconds of one clock; a message's text carries `mark`, a dash and its number."""

    def __init__(self, mark: str, patience_s: float) -> None:
        self.totals = Totals()
        self.sent_at = array("d")  # of every message that was answered, with the time that took
        self.round_trips = array("d")
        self._mark = mark
        self._pattern = re.compile(rf"{re.escape(mark)}-(\d{{1,9}})\b")
        self._patience_s = patience_s
        self._accounts: dict[str, _Account] = {}

    def text(self, number: int) -> str:
        """What to say to the agent, so that the answer can be told."""
        return f"Please repeat {self._mark}-{number}"

    def numbers(self, text: str) -> list[int]:
        """The numbers that an agent's words answer."""
        return [int(found) for found in self._pattern.findall(text)]

    def send(self, session_id: str, at: float) -> int:
        """A new message is on its way; its number."""
        account = self._accounts.setdefault(session_id, _Account())
        account.given += 1
        account.open[account.given] = at
        self.totals.sent += 1
        return account.given

    def refuse(self, session_id: str, number: int) -> None:
        """A message could not be sent, as far as we know."""
        account = self._accounts[session_id]
        if account.open.pop(number, None) is not None:
            account.refused.add(number)
            self.totals.refused += 1

    def answer(self, session_id: str, number: int, at: float, *, reread: bool = False) -> bool:
        """An answer was seen; whether it is the first one to that message."""
        account = self._accounts.get(session_id)
        if account is None or not 0 < number <= account.given:
            self.totals.strange += 1
            return False
        sent_at = account.open.pop(number, None)
        if sent_at is None and number not in account.refused:
            self.totals.doubled += 1
            return False
        self.totals.answered += 1
        self.totals.reread += reread
        self.totals.out_of_order += number < account.highest
        account.highest = max(account.highest, number)
        if sent_at is None:
            account.refused.discard(number)
            self.totals.refused -= 1
        elif not reread:
            self.totals.late += at - sent_at > self._patience_s
            self.sent_at.append(sent_at)
            self.round_trips.append(at - sent_at)
        return True

    def open(self) -> dict[str, list[int]]:
        """Session → numbers of its messages without an answer, those of sessions that have none left out."""
        return {session_id: list(account.open) for session_id, account in self._accounts.items() if account.open}

    def close(self) -> Totals:
        """No more answers will come: what is without one is lost."""
        self.totals.lost = sum(len(account.open) for account in self._accounts.values())
        return self.totals
