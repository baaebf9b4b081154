"""One session at the hub: its row, its own connection, and what flows both ways.

Level-triggered: the newest Snapshot is what the hub is to show, and `_work` writes the difference whenever something
changed or the connection came back. The session's supervisor holds the truth; nothing here needs to survive a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable

import msgspec

from hapi import wire
from hapi.crashpoints import crash_point
from hapi.lifecycle import BUSY, READY, EndReason, Phase
from hapi.workers.hub import describe, translate
from hapi.workers.hub.backoff import Backoff
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Door
from hapi.workers.hub.hearing import Hearing
from hapi.workers.hub.inbox import Inbox
from hapi.workers.hub.keeper import Keeper
from hapi.workers.hub.outbox import LiveFeed, Outbox
from hapi.workers.hub.problems import HubProblem, Offline, Rejected
from hapi.workers.hub.row import Row
from hapi.workers.hub.rpc import RpcTable
from hapi.workers.hub.schema import EndWord, Ping, SessionEnd, SessionReady
from hapi.workers.hub.session_rpc import SessionRpc
from hapi.workers.hub.stopping import stop_session
from hapi.workers.hub.terminals import Terminals
from hapi.workers.hub.timing import cancelled, pause, within

GREETING_TIMEOUT_S = 10.0
END_TIMEOUT_S = 8.0
LINGER_S = 3.0
HANDOVER_S = 25.0  # the hub takes a session for inactive after 30 s of silence
WITHDRAW_TIMEOUT_S = 2.0

_log = logging.getLogger("hapi.hub")


class SessionLink:
    """Created asleep; the first Snapshot that is ready (or ended) starts it. `on_gone` is called once, at its end."""

    def __init__(self, context: Context, session_id: str, on_gone: Callable[[SessionLink], None]) -> None:
        self._context = context
        self.session_id = session_id
        self._on_gone = on_gone
        self.newest: wire.Snapshot | None = None
        self.successor: wire.Snapshot | None = None
        self.outbox = Outbox(context, session_id)
        self.established = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._inbox = Inbox(context, session_id)
        auth = {"clientType": "session-scoped", "sessionId": session_id}
        self._rpc = RpcTable(session_id, SessionRpc(context, session_id, self).methods(), context.counters)
        hearing = Hearing(session_id, self._rpc, self._inbox, context.counters, self._refused)
        self._door = self._inbox.door = Door(context.site, auth, hearing.receive)
        self._terminals = hearing.terminals = Terminals(context, session_id, self._door)
        self._live = LiveFeed(context, session_id, self._door)
        self._keeper = Keeper(self._door, self, context.slots)
        self._row = Row(context, session_id)
        self._wake = asyncio.Event()
        self._greeted = False
        self._backfilled = False
        self._quiet = False  # archived by the hub while we were away: do not revive it
        self._end: EndWord | None = None
        self._archive = False
        self._handoff = False
        self._end_said = asyncio.Event()
        self._succeeded = asyncio.Event()
        self._shown: bytes = b""
        self._written: wire.Snapshot | None = None  # the one that the hub's row shows

    # ------------------------------------------------------------------------------------------ from the session

    async def update(self, snapshot: wire.Snapshot) -> None:
        """The session's newest state."""
        if self.newest is not None and snapshot.info.generation < self.newest.info.generation:
            return
        if self._is_newer(snapshot.info):
            if snapshot.info.phase is not Phase.STARTING:
                self._succeed(snapshot)
            return
        if self._end is not None and snapshot.info.phase in READY:
            return
        self.newest = snapshot
        if snapshot.info.phase is Phase.ENDED:
            self._begin_end(describe.end_word(snapshot.info), archive=describe.was_stopped(snapshot.info))
        if self.task is None:
            self._start_if_due(snapshot)
        else:
            await self._beat(only_if_changed=True)
        self._wake.set()

    def lose(self, info: wire.SessionInfo, left: list[wire.NumberedEvent]) -> None:
        """The session's supervisor is gone; `left` is what its journal still has for the hub."""
        if self.newest is not None and self.newest.info.generation > info.generation:
            return
        last_seq = left[-1].seq if left else 0
        if self._is_newer(info):
            base = self.successor or wire.Snapshot(info=info, worktree=info.worktree)
            self.take_events(left)
            self._succeed(msgspec.structs.replace(describe.lost(base, info), last_seq=last_seq))
            return
        if self.newest is None and not left:
            self._row.must_exist = True  # the hub may know it, but there is nothing to show to one that does not
        base = self.newest or wire.Snapshot(info=info, worktree=info.worktree)
        self.newest = msgspec.structs.replace(describe.lost(base, info), last_seq=last_seq)
        self._begin_end(describe.end_word(info), archive=describe.was_stopped(info))
        if left:
            self.take_events(left)
        self._start()

    def take_events(self, events: list[wire.NumberedEvent]) -> None:
        """Chat events for the hub."""
        if self._row.deleted:
            self.outbox.discard(events)
            return
        self._live.finish(events)
        self.outbox.offer(events)
        self._wake.set()

    @property
    def told(self) -> bool:
        """Whether the hub knows all there is to know of a session that has ended."""
        newest = self.newest
        if newest is None or newest.info.phase is not Phase.ENDED:
            return False
        if newest.info.reason == EndReason.SPAWN_FAILED and self.task is None:
            return True  # whoever asked has been told; the hub never heard of it
        known = newest.last_seq is not None and self.outbox.delivered >= newest.last_seq
        return known and self._end_said.is_set()

    @property
    def deleted(self) -> bool:
        """Whether the user deleted the session at the hub."""
        return self._row.deleted

    def take_live(self, live: wire.LiveReasoning) -> None:
        """Thinking as it grows; only worth showing while there is a connection."""
        if self._greeted and not self._quiet:
            self._live.offer(live)

    def probe(self) -> None:
        """The machine slept: find out whether the connection still stands."""
        self._keeper.nudge()
        if self._greeted:
            self._context.start(self._door.probe(), "probe")

    # --------------------------------------------------------------------------------------- the keeper's owner

    async def ready(self) -> None:
        await self._context.gate.wait()

    async def prepare(self) -> None:
        self._written = None
        await self._row.load(self.snapshot())
        if self._row.deleted:
            self._wake.set()
            raise HubProblem("The session was deleted at the hub.")
        if self._end is None and not self._quiet and self._row.archived_since(self.snapshot().info.started_at):
            self._quiet = True
            self._context.start(self._obey_archive(), "archive")

    async def greet(self) -> None:
        for registration in self._rpc.registrations():
            await self._door.emit(registration)
        if self._end is None and not self._quiet:
            now = self._context.hub_clock.now_ms()
            await self._door.emit(describe.alive(self.snapshot(), now))
            await self._door.emit(SessionReady(sid=self.session_id, time=now))
        await self._door.call(Ping(), GREETING_TIMEOUT_S)
        self._context.counters["session_connects"] += 1
        self._backfilled = False
        self._greeted = True
        self._terminals.connected(agent_found=self._was_here())
        self.established.set()
        self._wake.set()

    def gone(self) -> None:
        self._greeted = False
        self._terminals.disconnected()

    def failed(self, problem: HubProblem, delay_s: float) -> None:
        self._greeted = False
        self._terminals.disconnected()
        self._context.counters["session_connect_failures"] += 1
        _log.info("session %s: %s Next try in %.1f s.", self.session_id, problem, delay_s)

    # ------------------------------------------------------------------------------------------------- its life

    def _is_newer(self, info: wire.SessionInfo) -> bool:
        """Whether this is of a generation that came while we still end an older one."""
        return self._end is not None and self.newest is not None and info.generation > self.newest.info.generation

    def _succeed(self, snapshot: wire.Snapshot) -> None:
        """It was resumed, and has perhaps ended again; of the old generation no further news is of interest."""
        self.successor = snapshot
        self._succeeded.set()
        self._wake.set()

    def _start_if_due(self, snapshot: wire.Snapshot) -> None:
        if snapshot.info.reason == EndReason.SPAWN_FAILED:
            self._on_gone(self)
        elif snapshot.info.phase in READY or snapshot.info.phase is Phase.ENDED:
            self._start()

    def _start(self) -> None:
        if self.task is None:
            if self._end is None:
                self._context.ticker.add(self.session_id, self._beat)
            self.task = self._context.start(self._live_on(), f"session {self.session_id}")
        self._wake.set()

    async def _live_on(self) -> None:
        backoff = Backoff(1.0, 60.0)
        while True:
            try:
                await self._once()
                break
            except Exception:
                if cancelled():
                    raise  # a TaskGroup in which something fails while it is cancelled raises that, not the cancel
                _log.exception("the link of session %s failed", self.session_id)
                self._context.counters["session_link_bugs"] += 1
                self._greeted = False
                await pause(backoff.next_s())
        self._context.ticker.remove(self.session_id)
        self._terminals.disconnected()
        self._on_gone(self)

    async def _once(self) -> None:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(self._keeper.run()), group.create_task(self._inbox.run())]
            await self._work()
            await self._withdraw()
            for task in others:
                task.cancel()

    async def _work(self) -> None:
        while not self._row.deleted:
            if self._end_said.is_set() and not await self._lingers():
                return
            await self._wake.wait()
            self._wake.clear()
            if not self._greeted:
                continue
            try:
                await self._reconcile()
                if self._end is not None and not self._end_said.is_set():
                    await self._finish(self._end)
            except Offline:
                continue  # the next greeting wakes us
            except Rejected as problem:
                self._context.counters["rejected"] += 1
                _log.error("session %s: %s", self.session_id, problem)
            except HubProblem as problem:
                _log.warning("session %s: %s Reconnecting.", self.session_id, problem)
                await self._door.close()
        self._context.ticker.remove(self.session_id)
        self._context.counters["sessions_deleted"] += 1
        if self._end is None:
            await self._end_deleted()

    async def _end_deleted(self) -> None:
        """A person deleted it at the hub: it is to end here as well."""
        stopped = await stop_session(self._context, self.session_id)
        if stopped is None or stopped.status == "still_alive":
            _log.error("session %s was deleted at the hub and could not be stopped here", self.session_id)

    async def _reconcile(self) -> None:
        if not self._backfilled:
            await self._inbox.backfill(self.snapshot().info.started_at)
            self._backfilled = True
        archived = self._quiet or (self._end is not None and self._archive)
        if self._end is None and self._written is not self.newest:
            newest = self.newest
            await self._row.write(self._door, self.snapshot(), archived=archived)
            self._written = newest
        taken = await self.outbox.send_batch(self._door)
        if taken and self.snapshot().info.phase not in BUSY:
            # the hub takes a session for busy from a person's message on, until a keepalive denies it
            await self._beat()
        if not self.outbox.empty:
            self._wake.set()

    async def _finish(self, word: EndWord) -> None:
        while not self.outbox.empty:
            await self.outbox.send_batch(self._door)
        if await self._goes_on():
            self._end_said.set()
            return
        now = self._context.hub_clock.now_ms()
        await self._door.emit(SessionEnd(sid=self.session_id, time=now, reason=word))
        crash_point("connector.stop.said")
        await self._row.write(self._door, self.snapshot(), archived=self._archive)
        await self._door.call(Ping(), GREETING_TIMEOUT_S)
        self._end_said.set()

    async def _goes_on(self) -> bool:
        """Handed over between chat and terminal here, a session goes on: to the hub it is active all the time, and keeps
        the messages that wait. An end would make the hub forget them.
        """
        here = self.snapshot().info.reason == EndReason.HANDED_OVER and not self._handoff
        return here and await within(self._succeeded, HANDOVER_S)

    async def _withdraw(self) -> None:
        """No more RPCs: once the hub knows, those that came before are answered, and the connection can go."""
        with contextlib.suppress(HubProblem):
            for withdrawal in self._rpc.withdrawals() if self._greeted else ():
                await self._door.emit(withdrawal)
            await self._door.call(Ping(), WITHDRAW_TIMEOUT_S)

    async def _lingers(self) -> bool:
        """Whether more is to be done after the end: the supervisor's last events may come behind its last word."""
        return self.successor is None and not self.told and await within(self._wake, LINGER_S)

    def _begin_end(self, word: EndWord, *, archive: bool) -> None:
        if self._end is None:
            self._context.ticker.remove(self.session_id)
            self._end = "handoff" if self._handoff else word
            self._archive = archive and not self._handoff
            self._wake.set()

    # ------------------------------------------------------------------------------------------- for its RPCs

    def expect_handoff(self, *, expected: bool) -> None:
        """The end that may come now is one for another client to go on from."""
        self._handoff = expected

    async def say_end(self) -> bool:
        """The session is proven gone: tell the hub, and answer whether it knows."""
        self._begin_end("terminated", archive=True)
        return await within(self._end_said, END_TIMEOUT_S)

    async def remark(self, words: str) -> None:
        """Say something in the chat that is an error to people, if there is a connection."""
        with contextlib.suppress(HubProblem):
            for notice in translate.remark(self.session_id, str(uuid.uuid4()), words):
                await self._door.emit(notice)

    async def _obey_archive(self) -> None:
        stopped = await stop_session(self._context, self.session_id)
        if stopped is None or stopped.status == "still_alive":
            self._quiet, self._written = False, None  # it lives, whatever the hub was told
            self._wake.set()
        elif stopped.status == "already_gone":
            self._begin_end("terminated", archive=True)

    # --------------------------------------------------------------------------------------------- on the wire

    async def _beat(self, *, only_if_changed: bool = False) -> None:
        door = self._alive_door()
        if door is None or self._quiet or self._end is not None:
            return
        now = self._context.hub_clock.now_ms()
        shown = msgspec.json.encode(describe.alive(self.snapshot(), 0))
        if only_if_changed and shown == self._shown:
            return
        self._shown = shown
        try:
            await door.emit(describe.alive(self.snapshot(), now))
        except Offline:
            self._shown = b""

    def _was_here(self) -> bool:
        """Whether browsers may watch the agent's terminal since before this connection."""
        info = self.snapshot().info
        return info.driver == "pty" and (self.established.is_set() or info.started_at < self._context.started_at)

    def _alive_door(self) -> Door | None:
        """Where the keepalive goes: while our own connection is down the session lives on, and the machine says so."""
        if self._greeted:
            return self._door
        machine = self._context.machine_door
        known = self.established.is_set() and not self._row.deleted
        return machine if known and machine is not None and machine.connected else None

    def _refused(self) -> None:
        if self._greeted and not self._end_said.is_set():
            self._greeted = False
            self._context.start(self._door.close(), "close")  # `prepare` finds out what became of the row

    def snapshot(self) -> wire.Snapshot:
        """The session's newest state; only for a link that was started."""
        if self.newest is None:
            raise RuntimeError("a session's link started without a snapshot")
        return self.newest
