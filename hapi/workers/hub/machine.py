"""This machine at the hub: its row, its runnerState, its keepalive, its RPCs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from hapi.clock import now_ms
from hapi.errors import HapiError
from hapi.workers.hub import incoming
from hapi.workers.hub.bus import RunnerInfo
from hapi.workers.hub.code_age import CodeAge
from hapi.workers.hub.context import Context, Host
from hapi.workers.hub.door import Door
from hapi.workers.hub.keeper import Keeper
from hapi.workers.hub.problems import Denied, HubProblem, Offline, Refused, Rejected
from hapi.workers.hub.rpc import Rpc, RpcTable
from hapi.workers.hub.schema import Health, MachineAlive, MachineUpdateMetadata, MachineUpdateState, Ping
from hapi.workers.hub.versioned import Cell

CAPABILITIES = ["agent-availability", "cursor-chat-store-status", "stop-runner"]
GREETING_TIMEOUT_S = 10.0
GOODBYE_TIMEOUT_S = 1.0  # the broker waits 3 s for all of us
SPAWN_ERROR_CHARS = 2_000
KEY = "machine"

Report = Callable[..., None]
_log = logging.getLogger("hapi.hub")


def metadata(base: dict[str, Any], host: Host, runner: RunnerInfo, code: dict[str, int]) -> dict[str, Any]:
    """The machine's metadata: ours laid over `base`, whose `displayName` is the user's. `code`: see `CodeAge.look`."""
    ours: dict[str, Any] = {
        "host": host.name,
        "platform": host.platform,
        "happyCliVersion": host.version,
        "homeDir": host.home,
        "happyHomeDir": host.hapi_home,
        "workspaceRoots": runner.workspace_roots or None,
        "capabilities": CAPABILITIES,
        "supervisedRestart": runner.supervised,
        "startedCliMtimeMs": code.get("startedCliMtimeMs"),
        "installedCliMtimeMs": code.get("installedCliMtimeMs"),
    }
    return {key: value for key, value in {**base, **ours}.items() if value is not None}


def health(now: int) -> Health:
    """How the machine feels at `now` by the hub's clock; values that cannot be had are left out."""
    import psutil

    return Health(
        collected_at=now,
        cpu_count=os.cpu_count() or 1,
        load1m=max(0.0, os.getloadavg()[0]),
        cpu_percent=_percent(_processor_load()),
        memory_percent=_percent(psutil.virtual_memory().percent),
        uptime_seconds=max(0, now_ms() // 1000 - int(psutil.boot_time())),
    )


def _processor_load() -> float:
    """How busy the processors were since this was asked last, in per cent."""
    import psutil

    return float(psutil.cpu_percent())


def _percent(value: float) -> float:
    return min(100.0, max(0.0, value))


class Machine:
    """Owns the machine's connection. `report(online=…, reason=…, refused=…, retry_at=…)` tells the broker."""

    def __init__(self, context: Context, report: Report) -> None:
        self._context = context
        self._report = report
        self._machine_id = context.host.machine_id
        auth = {"clientType": "machine-scoped", "machineId": self._machine_id}
        self._door = context.machine_door = Door(context.site, auth, self._received)
        self._keeper = Keeper(self._door, self, asyncio.Semaphore(1))
        self._rpc = RpcTable(self._machine_id, {}, context.counters)
        self._metadata = Cell(0, None)
        self._state = Cell(0, None)
        self._wanted: dict[str, Any] = {
            "status": "running",
            "pid": context.runner.broker_pid,
            "startedAt": context.runner.started_at,
            "lastSpawnError": None,
            "capabilities": {"piExistingSessionResume": True},
        }
        self._code_age = CodeAge(context.runner.fingerprint, context.runner.started_at)
        self._code: dict[str, int] = {}
        self._writing_metadata = asyncio.Lock()
        self._changed = asyncio.Event()
        self._greeted = False
        self._beats = 0
        context.on_wake.append(self._probe)

    def offer(self, methods: dict[str, Rpc]) -> None:
        """Set the RPCs to register; before `run`."""
        self._rpc = RpcTable(self._machine_id, methods, self._context.counters)

    async def run(self) -> None:
        """Keep the machine known and its state written, until cancelled."""
        _processor_load()  # the first answer covers no time, and is nought
        self._context.ticker.add(KEY, self._beat)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.run())
                group.create_task(self._write_changes())
        finally:
            self._context.ticker.remove(KEY)

    def spawn_failed(self, error: HapiError) -> None:
        """Show the web why the last spawn failed."""
        self._change(lastSpawnError={"message": error.words[:SPAWN_ERROR_CHARS], "at": now_ms()})

    def spawn_succeeded(self) -> None:
        """Take the last spawn's error off the web."""
        self._change(lastSpawnError=None)

    async def say_goodbye(self, source: str) -> None:
        """Tell the hub, briefly, that the runner stops. Never raises."""
        self._wanted.update(status="shutting-down", shutdownRequestedAt=now_ms(), shutdownSource=source)
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await self._write_state()
        except (HubProblem, TimeoutError) as error:
            _log.info("the hub was not told of the shutdown: %s", error)

    # --------------------------------------------------------------------------------------- the keeper's owner

    async def ready(self) -> None:
        """The machine's connection is always wanted."""

    async def prepare(self) -> None:
        context = self._context
        self._code = await asyncio.to_thread(self._code_age.look)
        ours = metadata({}, context.host, context.runner, self._code)
        state = {**self._wanted, "status": "offline"}
        row = await context.rest.register_machine(self._machine_id, ours, state)
        context.machine_created_at = row.created_at
        self._metadata = Cell(row.metadata_version, row.metadata)
        self._state = Cell(row.runner_state_version, row.runner_state)

    async def greet(self) -> None:
        for registration in self._rpc.registrations():
            await self._door.emit(registration)
        await self._write_state()
        await self._write_metadata()
        await self._say_alive()
        await self._door.call(Ping(), GREETING_TIMEOUT_S)
        self._greeted = True
        self._changed.set()  # for what changed while we greeted
        self._context.counters["machine_connects"] += 1
        self._context.gate.set()
        self._report(online=True)
        _log.info("online at %s as machine %s", self._context.site.url, self._machine_id)

    def gone(self) -> None:
        self._lost()
        self._report(online=False, reason="The connection to the hub was lost.")

    def failed(self, problem: HubProblem, delay_s: float) -> None:
        self._lost()
        self._context.counters["machine_connect_failures"] += 1
        retry_at = now_ms() + int(delay_s * 1000)
        refused = isinstance(problem, Refused)
        self._report(online=False, reason=self._reason(problem), refused=refused, retry_at=retry_at)
        _log.warning("%s Next try in %.1f s.", problem, delay_s)

    def _lost(self) -> None:
        self._greeted = False
        self._context.gate.clear()

    def _reason(self, problem: HubProblem) -> str:
        if isinstance(problem, Refused):
            return "The hub refuses the token. Set another one: hapi auth login"
        if isinstance(problem, Denied):
            return (
                f"Machine id {self._machine_id} belongs to another namespace of this hub. Remove machineId from "
                f"{self._context.config.paths.settings} to get a new one, then: hapi runner restart"
            )
        return str(problem)

    # -------------------------------------------------------------------------------------------------- writing

    def _change(self, **values: Any) -> None:
        self._wanted.update(values)
        self._changed.set()

    async def _write_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._greeted:
                continue  # greeting writes everything
            try:
                await self._write_state()
            except Rejected as problem:
                _log.error("runnerState: %s", problem)
            except HubProblem as problem:
                _log.warning("runnerState: %s Reconnecting.", problem)
                await self._door.close()

    async def _write_state(self) -> None:
        """Not for two at once: the greeting, the change writer and the goodbye follow one another."""
        wanted = {**self._wanted}
        await self._state.write(
            self._door,
            lambda _: wanted,
            lambda version, value: MachineUpdateState(
                machine_id=self._machine_id, expected_version=version, runner_state=value
            ),
        )

    async def _write_metadata(self) -> None:
        def ours(base: dict[str, Any]) -> dict[str, Any]:
            kept = {key: value for key, value in base.items() if key != "workspaceRoots"}
            return metadata(kept, self._context.host, self._context.runner, self._code)

        async with self._writing_metadata:
            await self._metadata.write(
                self._door,
                ours,
                lambda version, value: MachineUpdateMetadata(
                    machine_id=self._machine_id, expected_version=version, metadata=value
                ),
            )

    async def _look_at_code(self) -> None:
        """Show the web when other code was installed than runs."""
        found = await asyncio.to_thread(self._code_age.look)
        if found == self._code or not self._greeted:
            return
        self._code = found
        try:
            await self._write_metadata()
        except HubProblem as problem:
            _log.warning("the machine's metadata: %s", problem)  # the next greeting writes it

    async def _beat(self) -> None:
        self._beats += 1
        if not self._greeted or self._beats % 2:  # the ticker beats every 10 s, the machine every 20 s
            return
        try:
            await self._say_alive()
        except Offline:
            self._lost()
        else:
            self._context.start(self._look_at_code(), "code age")

    async def _say_alive(self) -> None:
        now = self._context.hub_clock.now_ms()
        await self._door.emit(MachineAlive(machine_id=self._machine_id, time=now, health=health(now)))

    # ----------------------------------------------------------------------------------------------- on the wire

    def _received(self, event: str, data: Any) -> Coroutine[Any, Any, Any] | None:
        if event == "rpc-request":
            return self._rpc.answer(data)
        if event == "error":
            self._error_received(data)
        return None

    def _error_received(self, data: Any) -> None:
        try:
            note = incoming.read(data, incoming.ErrorNote)
        except msgspec.ValidationError:
            self._context.counters["malformed"] += 1
            return
        _log.warning("the hub says %s %s", note.code, note.message)
        if note.scope == "machine" and note.id == self._machine_id and self._greeted:
            self._lost()
            self._context.start(self._door.close(), "close")  # connecting again registers again

    def _probe(self) -> None:
        self._keeper.nudge()
        if self._greeted:
            self._context.start(self._door.probe(), "probe")
