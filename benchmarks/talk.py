"""A person's side of many chats at once, through the hub's web API: say something, and know when the answer is at the hub."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.sides import Side
from hapi.clock import monotonic
from hapi.loadtest.web import Account, Web

ANSWER_S = 60.0


class Talk:
    """Every message has words of its own, which the agent says back; `answers` counts how often each was said."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._run = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self.answers: Counter[str] = Counter()
        self.sent: list[str] = []
        account = Account(side.web.url, side.token, {})
        self.web = Web(account, side.project, self._machine, self._heard)

    async def ask(self, session: str) -> float:
        """Say something and wait for the answer; the seconds that it took. Raises TimeoutError, HapiError."""
        start = monotonic()
        async with asyncio.timeout(ANSWER_S):
            return await (await self.say(session)) - start

    async def say(self, session: str) -> asyncio.Future[float]:
        """Say something; what is returned gets the time at which the answer is seen. Raises HapiError."""
        words = f"{self._run}.{next(self._numbers)}"
        answer = self._waiting[words] = asyncio.get_running_loop().create_future()
        self.sent.append(words)
        await self.web.say(session, words, f"/say {words}", ANSWER_S)
        return answer

    def wrong(self) -> list[str]:
        """What was lost or doubled, in words."""
        lost = sum(not self.answers[words] for words in self.sent)
        doubled = sum(count > 1 for count in self.answers.values())
        return [f"{lost} of {len(self.sent)} messages lost, {doubled} answered twice"] if lost or doubled else []

    async def _machine(self) -> str:
        return self._side.machine

    def _heard(self, _session: str, said: str) -> None:
        found = re.search(rf"{self._run}\.\d+", said)
        if found is None:
            return
        words = found.group()
        self.answers[words] += 1
        waiting = self._waiting.pop(words, None)
        if waiting is not None:
            waiting.set_result(monotonic())


@asynccontextmanager
async def talk(side: Side) -> AsyncIterator[Talk]:
    """A talk with sessions of that side, which was started."""
    made = Talk(side)
    try:
        await made.web.open()
        yield made
    finally:
        await made.web.close()
