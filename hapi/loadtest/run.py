"""The load test itself, phase by phase: start, spawn, idle, talk, probe, stop, clean up."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import hapi
from hapi import footprint, wire
from hapi.clock import iso, monotonic, now_ms
from hapi.errors import HapiError
from hapi.footprint import Use
from hapi.lifecycle import Phase
from hapi.loadtest import stats
from hapi.loadtest.gauge import Gauge, available_memory, machine, open_files_limit
from hapi.loadtest.ledger import Ledger
from hapi.loadtest.line import Line
from hapi.loadtest.local import Local
from hapi.loadtest.pace import Pace, each
from hapi.loadtest.plan import LIGHTEST_BYTES, Plan, check_files, check_memory
from hapi.loadtest.report import MOMENTS, RUNNER, Report, Sessions, moments, total
from hapi.loadtest.side import Heard, Side
from hapi.loadtest.stage import Hub, Stage
from hapi.loadtest.web import Account, Web

_REQUEST_S = 30.0
_LIFE_S = 60.0  # for a session to start, or to stop
_LATE_S = 20.0  # for spawns that were under way when all was to end
_SLACK_S = 5.0
_BACK_S, _GONE_S = 20.0, 1.0  # how long a broker may be away that we start again; that nobody does
_FIRST = 20  # sessions that are weighed before the rest are started
_SAMPLE_S = 5.0
_SETTLE_S, _SETTLE_STEP_S, _SETTLED_BYTES = 5.0, 0.25, 128 * 1024
_ERRORS, _ERROR_CHARS = 8, 200

Tell = Callable[[str, int, int], None]
"""(phase, done, of how many): how far it is, to be shown to people; called often."""


class LoadTest:
    """One load test on a stage that is entered. `run` once."""

    def __init__(self, plan: Plan, stage: Stage, hub: Hub | None, tell: Tell) -> None:
        self._plan = plan
        self._stage = stage
        self._hub = hub
        self._tell = tell
        self._away_s = _BACK_S if "broker" in plan.kill else _GONE_S
        self._ledger = Ledger(f"lt{secrets.token_hex(3)}", plan.patience_s)
        self._side = self._make_side(self._heard)
        self._line: Line | None = None
        self._sampled: Gauge | None = None
        self._sessions: list[str] = []
        self._spawning: set[asyncio.Task[str]] = set()
        self._waiting: dict[str, tuple[int, asyncio.Future[None]]] = {}
        self._seconds: dict[str, list[float]] = {"spawn": [], "list": [], "status": [], "stop": []}
        self._errors: Counter[str] = Counter()
        self._patience_s = min(_REQUEST_S, plan.patience_s + _SLACK_S)
        self._began = monotonic()
        self._half = asyncio.Event()
        self.leaving = False
        self.report = Report(
            version=hapi.__version__,
            machine=machine(),
            memory_is=footprint.MEASURE,
            began=iso(now_ms()),
            through=self._side.name,
            home=str(stage.config.home),
            namespace=stage.namespace,
            plan=plan,
            sessions=Sessions(asked=plan.sessions),
            messages=self._ledger.totals,
        )

    async def run(self) -> None:
        """Do all of it, and fill `report` in but for the verdict. Raises HapiError when it cannot even begin.

        Cancelled before it is `leaving`, it still ends the sessions and removes what the hub knows of them; a cancellation
        after that would leave something behind.
        """
        check_memory(self._plan.sessions, LIGHTEST_BYTES, available_memory())
        check_files(self._plan.sessions, open_files_limit())
        try:
            await self._start()
            try:
                await self._load()
            except HapiError as error:
                self.report.cut_short = error.words
        finally:
            await self._leave()
        self._conclude()

    async def _load(self) -> None:
        await self._spawn_all()
        await self._idle()
        await self._converse()
        await self._probe()
        await self._look_for_the_gone()
        await self._stop_all()

    # ---------------------------------------------------------------------------------------------- phases

    async def _start(self) -> None:
        self._tell("start", 0, 1)
        self.report.ready_s = await self._stage.start_runner()
        start = monotonic()
        self._line = Line(self._stage.config.paths.control_endpoint, self._away_s)
        self._sampled = Gauge(self._line, self._hub.url if self._hub is not None else None, self._patience_s)
        await self._side.open()
        if self._hub is not None:
            self.report.online_s = self.report.ready_s + monotonic() - start
        if self._plan.idle_s:
            self.report.memory["empty"] = await self._settled()
        self._tell("start", 1, 1)

    async def _settled(self) -> dict[str, Use]:
        """What the runner weighs when its workers are up and have loaded what they need; after _SETTLE_S as it is."""
        deadline = monotonic() + _SETTLE_S
        memory = await self._gauge.memory()
        while monotonic() < deadline:
            await asyncio.sleep(_SETTLE_STEP_S)
            before, memory = memory, await self._gauge.memory()
            if set(RUNNER) <= set(before) and total(memory) - total(before) < _SETTLED_BYTES:
                break
        return memory

    async def _spawn_all(self) -> None:
        before = await self._gauge.look()
        first = min(_FIRST, self._plan.sessions)
        pace = Pace(self._plan.spawn_rate)
        took = await self._spawn_some(first, pace)
        if self._sessions:
            await self._weigh()
        took += await self._spawn_some(self._plan.sessions - first, pace)
        self.report.cpu["spawn"] = await self._gauge.burnt(before, took)
        self._rate("spawn", len(self._sessions), took)

    async def _spawn_some(self, count: int, pace: Pace) -> float:
        start = monotonic()
        await each(range(count), self._spawn, self._plan.at_once, pace)
        return monotonic() - start

    async def _spawn(self, _: int) -> None:
        start = monotonic()
        try:
            session_id = await self._to_its_end(self._side.spawn(self._plan.agent, _LIFE_S))
        except HapiError as error:
            self._note(error)
            self.report.sessions.failed += 1
        else:
            self._seconds["spawn"].append(monotonic() - start)
            self._sessions.append(session_id)
            self.report.sessions.started += 1
        self._tell("spawn", len(self._sessions), self._plan.sessions)

    async def _to_its_end(self, spawn: Coroutine[Any, Any, str]) -> str:
        """A spawn cannot be taken back: cancelled, it goes on, for `_leave` to wait for."""
        task = asyncio.create_task(spawn)
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        return await asyncio.shield(task)

    async def _weigh(self) -> None:
        """Raises HapiError(at_capacity) when not all fit, if the others are as heavy as those that run."""
        memory = await self._gauge.memory()
        taken = sum(memory.get(kind, Use()).pss for kind in ("session", "agent"))
        check_memory(self._plan.sessions, max(1, taken // len(self._sessions)), available_memory() + taken)

    async def _idle(self) -> None:
        """Let them be, and see what that costs."""
        self.report.memory["idle"] = await self._gauge.memory()
        if not self._plan.idle_s:
            return
        before, start = await self._gauge.look(), monotonic()
        seconds = math.ceil(self._plan.idle_s)
        for second in range(1, 1 + seconds):
            await asyncio.sleep(max(0.0, start + min(second, self._plan.idle_s) - monotonic()))
            self._tell("idle", second, seconds)
        self.report.cpu["idle"] = await self._gauge.burnt(before, monotonic() - start)

    async def _converse(self) -> None:
        if self._plan.messages == 0 or not self._sessions:
            return
        before, start = await self._gauge.look(), monotonic()
        every_s = max(_SAMPLE_S, (self._plan.duration_s or 0.0) / MOMENTS)
        sampler = asyncio.create_task(self._gauge.sample(self.report.samples, every_s))
        breaker = asyncio.create_task(self._break_things())
        pace = Pace(self._plan.message_rate)
        order = random.Random(self._plan.seed).sample(self._sessions, len(self._sessions))  # noqa: S311
        end = None if self._plan.duration_s is None else start + self._plan.duration_s
        try:
            await asyncio.gather(*(self._talk(session_id, pace, end) for session_id in order))
            if self._half.is_set():
                await breaker
        finally:
            sampler.cancel()
            breaker.cancel()
            await asyncio.gather(sampler, breaker, return_exceptions=True)
        took = monotonic() - start
        self._tell("talk", self._ledger.totals.answered, self._ledger.totals.answered)
        self.report.cpu["talk"] = await self._gauge.burnt(before, took)
        await self._reread()
        self._rate("message", self._ledger.totals.answered, took)
        self.report.moments = moments(self._ledger.sent_at, self._ledger.round_trips, start)
        self.report.memory["after"] = await self._gauge.memory()

    async def _talk(self, session_id: str, pace: Pace, end: float | None) -> None:
        """One session's conversation: the next message when the last one is answered, or given up."""
        count = 0
        while self._plan.messages is None or count < self._plan.messages:
            if not await pace.turn(end):
                return
            count += 1
            if not await self._exchange(session_id):
                return

    async def _exchange(self, session_id: str) -> bool:
        """One message and its answer; False when it could not be sent."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = self._ledger.send(session_id, monotonic())
        self._waiting[session_id] = (number, answered)
        if self._ledger.totals.sent * 2 >= self._asked() > 0:
            self._half.set()
        text = self._ledger.text(number)
        try:
            await self._side.say(session_id, f"{session_id}-{number}", text, self._plan.patience_s)
            async with asyncio.timeout(self._plan.patience_s):
                await answered
        except HapiError as error:
            self._note(error)
            self._ledger.refuse(session_id, number)
            return False
        except TimeoutError:
            self._errors[f"no answer within {self._plan.patience_s:g} s"] += 1
        self._tell("talk", self._ledger.totals.answered, self._asked())
        return True

    def _heard(self, session_id: str, text: str) -> None:
        for number in self._ledger.numbers(text):
            if self._ledger.answer(session_id, number, monotonic()):
                waited_for, answered = self._waiting.get(session_id, (0, None))
                if answered is not None and waited_for == number and not answered.done():
                    answered.set_result(None)

    async def _reread(self) -> None:
        """Look for the answers that were not heard of where answers are kept."""

        async def look(missing: tuple[str, list[int]]) -> None:
            session_id, numbers = missing
            try:
                words = await self._side.reread(session_id)
            except HapiError as error:
                self._note(error)
                return
            found = Counter(number for text in words for number in self._ledger.numbers(text))
            for number in numbers:
                for _ in range(found[number]):
                    self._ledger.answer(session_id, number, monotonic(), reread=True)

        await each(self._ledger.open().items(), look, self._plan.at_once, Pace(0))

    async def _break_things(self) -> None:
        """Kill what is to be killed in the middle of the conversation: of its messages or its time, what comes first."""
        if not self._plan.kill:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.duration_s and self._plan.duration_s / 2):
                await self._half.wait()
        self._half.set()
        for worker in self._plan.kill:
            await self._stage.kill(worker)
            self.report.killed.append(worker)

    async def _probe(self) -> None:
        """List and status over a connection that stands, one after the other."""
        for done in range(self._plan.probes):
            for kind, body, reply in (
                ("list", wire.ListSessions(), wire.SessionList),
                ("status", wire.GetStatus(), wire.Status),
            ):
                start = monotonic()
                await self._control.ask(body, reply, self._patience_s)
                self._seconds[kind].append(monotonic() - start)
            self._tell("probe", done + 1, self._plan.probes)

    async def _look_for_the_gone(self) -> None:
        """Count the sessions that no longer live, or never should have been."""
        listed = (await self._control.ask(wire.ListSessions(), wire.SessionList, self._patience_s)).sessions
        alive = {info.session_id for info in listed if info.phase is not Phase.ENDED}
        self.report.sessions.gone = len(set(self._sessions) - alive)

    async def _stop_all(self) -> None:
        start = monotonic()
        await each(list(self._sessions), self._stop, self._plan.at_once, Pace(0))
        self._rate("stop", self.report.sessions.stopped, monotonic() - start)

    async def _stop(self, session_id: str) -> None:
        start = monotonic()
        try:
            await self._side.stop(session_id, _LIFE_S)
        except HapiError as error:
            self._note(error)
            self.report.sessions.not_stopped += 1
        else:
            self._seconds["stop"].append(monotonic() - start)
            self.report.sessions.stopped += 1
            self._sessions.remove(session_id)
        self._tell("stop", self.report.sessions.stopped, self.report.sessions.started)

    async def _leave(self) -> None:
        """Stop the sessions that are left, let the hub forget all, stop the runner. Whatever fails, the rest is done."""
        self.leaving = True
        self._tell("clean", 0, 1)
        if self._spawning:
            await asyncio.wait(self._spawning, timeout=_LATE_S)
        for step in (self._stop_the_rest, self._forget, self._side.close, self._stage.stop_runner):
            try:
                await step()
            except HapiError as error:
                self._note(error)
        if self._line is not None:
            self._line.close()
        self._tell("clean", 1, 1)

    async def _stop_the_rest(self) -> None:
        """After a test that was cut short: there may be more than we know of."""
        if self._line is None:
            return
        listed = (await self._control.ask(wire.ListSessions(), wire.SessionList, 5.0)).sessions

        async def stop(info: wire.SessionInfo) -> None:
            try:
                await self._control.ask(wire.StopSession(info.session_id), wire.SessionStopped, _REQUEST_S)
            except HapiError as error:
                self._note(error)

        await each(listed, stop, self._plan.at_once, Pace(0))

    async def _forget(self) -> None:
        self.report.sessions.left_at_hub = await self._side.forget(self._plan.at_once)

    def _conclude(self) -> None:
        report = self.report
        report.took_s = monotonic() - self._began
        report.messages = self._ledger.close()
        samples = {
            "spawn": self._seconds["spawn"],
            "message": self._ledger.round_trips,
            "list": self._seconds["list"],
            "status": self._seconds["status"],
            "stop": self._seconds["stop"],
        }
        report.latency = {kind: one for kind, values in samples.items() if (one := stats.summarize(values))}
        shown = {kind: samples[kind] for kind in ("spawn", "message") if samples[kind]}
        report.histograms = {kind: stats.histogram(values) for kind, values in shown.items()}
        report.distribution = {kind: stats.cdf(values) for kind, values in samples.items() if len(values)}
        report.errors = dict(self._errors.most_common(_ERRORS))
        if isinstance(self._side, Web):
            report.streams_lost = self._side.lost_stream

    def _asked(self) -> int:
        """How many messages it will be, as far as that is known; 0 where only time sets an end."""
        return len(self._sessions) * (self._plan.messages or 0)

    def _rate(self, kind: str, count: int, seconds: float) -> None:
        self.report.rates[kind] = count / seconds if seconds else 0.0

    def _note(self, error: HapiError) -> None:
        self._errors[f"{error.code}: {error.message}"[:_ERROR_CHARS]] += 1

    @property
    def _control(self) -> Line:
        assert self._line is not None, "the runner was not started"  # noqa: S101
        return self._line

    @property
    def _gauge(self) -> Gauge:
        assert self._sampled is not None, "the runner was not started"  # noqa: S101
        return self._sampled

    def _make_side(self, heard: Heard) -> Side:
        config, project = self._stage.config, self._stage.project
        if self._hub is None:
            return Local(config, project, self._away_s, heard)
        return Web(Account(self._hub.url, self._stage.token, self._hub.headers), project, self._stage.machine_id, heard)
