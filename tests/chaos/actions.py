"""What a user does: on the control socket, with commands, and in the web app. Each writes down what it was answered."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import quote

from hapi import wire
from hapi.errors import ErrorCode, HapiError
from tests.chaos.arena import Arena
from tests.chaos.asked import Message, Spawn, Stop

MOST_SESSIONS = 14
FEWEST_SESSIONS = 4
SPAWN_TIMEOUT_S = 25.0
_LOST_ANSWER = {ErrorCode.TIMEOUT, ErrorCode.NOT_RUNNING, ErrorCode.SHUTTING_DOWN, ErrorCode.PROTOCOL_MISMATCH}
_HUB_LOST_ANSWER = ("timed out", "disconnect", "unreachable", "has ended", "did not answer", "not answer")

Dice = tuple[float, ...]


class Actions:
    """`do` carries out one step of the plan; it never raises for what a fault may cause."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._asked = arena.asked
        self._log = arena.log
        self._kinds: dict[str, Callable[[Dice], None]] = {
            "spawn by control": self._spawn_by_control,
            "spawn twice": self._spawn_twice,
            "spawn by command": self._spawn_by_command,
            "spawn by hub": self._spawn_by_hub,
            "message by hub": self._message_by_hub,
            "message by command": self._message_by_command,
            "answer permissions": lambda dice: self.answer_permissions(deny=dice[0] < 0.2),
            "abort": self._abort,
            "crash the agent": self._crash,
            "stop by command": self._stop_by_command,
            "archive by hub": self._archive_by_hub,
            "runner restart": lambda _: self._command("runner", "restart"),
            "runner stop": self._runner_stop,
            "look around": self._look_around,
        }

    def do(self, kind: str, dice: Dice) -> None:
        """One action; spawns become stops when there are many sessions, and stops spawns when there are few."""
        count = len(self._arena.live_sessions())
        if kind.startswith("spawn") and count >= MOST_SESSIONS:
            kind = "stop by command" if dice[5] < 0.5 else "archive by hub"
        elif kind in {"stop by command", "archive by hub", "crash the agent"} and count <= FEWEST_SESSIONS:
            kind = "spawn by control"
        self._log.write("action", kind=kind)
        self._kinds[kind](dice)

    # ------------------------------------------------------------------------------------------------- spawns

    def _new_spawn(self, by: str, *, with_id: bool = True) -> Spawn:
        directory = self._arena.place / "w" / f"{self._arena.number('spawns asked')}"
        directory.mkdir(parents=True)
        spawn = Spawn(by, str(directory), str(uuid.uuid4()) if with_id else None)
        self._asked.spawns.append(spawn)
        return spawn

    def _spawn_by_control(self, dice: Dice) -> None:
        self._ask_until_answered(self._new_spawn("control"), tries=1 + int(dice[0] * 4))

    def _spawn_twice(self, dice: Dice) -> None:
        """The same id from several at once, as an impatient script does."""
        spawn = self._new_spawn("control, twice")
        askers = [
            threading.Thread(target=self._ask_until_answered, args=(spawn, 1 + int(dice[1] * 3)))
            for _ in range(2 + int(dice[0] * 3))
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()

    def _ask_until_answered(self, spawn: Spawn, tries: int) -> None:
        """Spawn; lost answers are asked again under the same id."""
        for _ in range(tries):
            outcome, detail = self._ask(spawn)
            self._log.write("spawned", id=spawn.session_id, outcome=outcome, detail=detail)
            if outcome == "started" or spawn.outcome != "started":
                spawn.outcome, spawn.detail = outcome, detail
            if outcome != "unknown":
                return
            self._command("runner", "start")

    def _ask(self, spawn: Spawn) -> tuple[str, str]:
        assert spawn.session_id is not None
        order = wire.Spawn(
            session_id=spawn.session_id, directory=spawn.directory, agent="demo", started_by="terminal",
            env=self._arena.runner.environment,
        )  # fmt: skip
        try:
            self._arena.control().ask(order, wire.Spawned, SPAWN_TIMEOUT_S)
        except HapiError as error:
            lost = error.code in _LOST_ANSWER | {ErrorCode.SESSION_ENDED}  # the latter: it was, and is over
            return "unknown" if lost else "failed", f"{error.code}: {error.message}"
        return "started", ""

    def _spawn_by_command(self, _: Dice) -> None:
        spawn = self._new_spawn("command")
        arguments = ("--agent", "demo", "--id", str(spawn.session_id), "--json")
        done = self._arena.hapi("runner", "spawn", spawn.directory, *arguments)
        if done is not None and done.code == 0:
            spawn.outcome = "started"
        elif done is not None:
            spawn.detail = f"{done.json['error']['code']}: {done.json['error']['message']}"
            spawn.outcome = "unknown" if done.json["error"]["code"] in _LOST_ANSWER else "failed"

    def _spawn_by_hub(self, _: Dice) -> None:
        spawn = self._new_spawn("hub", with_id=False)
        order = {"directory": spawn.directory, "agent": "claude"}
        answer, trouble = self._arena.at_web(lambda: self._arena.web.spawn(self._arena.machine_id, **order))
        if trouble is not None:
            spawn.detail = trouble
        elif answer.get("type") == "success":
            spawn.outcome, spawn.session_id = "started", answer["sessionId"]
        else:
            spawn.detail = str(answer.get("message"))
            lost = any(words in spawn.detail for words in _HUB_LOST_ANSWER)
            spawn.outcome = "unknown" if lost else "failed"
        self._log.write("spawned by hub", id=spawn.session_id, directory=spawn.directory, answer=answer or trouble)

    # ----------------------------------------------------------------------------------------------- messages

    def _pick(self, die: float) -> str | None:
        sessions = self._arena.live_sessions()
        return sessions[int(die * len(sessions))] if sessions else None

    def _text(self, marker: str, die: float) -> str:
        forms = (
            (0.45, f"hello there, this is {marker}"),
            (0.60, f"/slow {0.3 + die:.1f} 5 ; /say done {marker}"),
            (0.68, f"/slow 3 20 ; /say done {marker}"),
            (0.76, f"/tool build ok ; /plan a | b ; /say built {marker}"),
            (0.86, f"/ask tool-{marker} ; /say asked {marker}"),
            (0.91, f"/child setsid ignore ; /say child {marker}"),
            (0.95, f"/child ; /think about it ; /say child {marker}"),
            (1.01, f"/spew 60000 stderr ; /say spewed {marker}"),
        )
        return next(text for below, text in forms if die < below)

    def _message_by_hub(self, dice: Dice) -> None:
        session_id = self._pick(dice[0])
        if session_id is None:
            return
        marker = f"m{self._arena.number('messages asked'):04d}"
        message = Message("hub", session_id, self._text(marker, dice[1]), marker, f"chaos-{marker}")
        self._send(message, tries=1 + int(dice[2] * 3), again=dice[3] < 0.1)

    def _send(self, message: Message, tries: int, *, again: bool = False) -> None:
        """Post it; lost answers are posted again under the same local id, and sometimes answered ones as well."""
        self._asked.messages.append(message)
        for _ in range(tries):
            _, trouble = self._arena.at_web(
                lambda: self._arena.web.send(message.session_id, message.text, message.local_id)
            )
            self._log.write("message", marker=message.marker, id=message.session_id, text=message.text, trouble=trouble)
            if trouble is None:
                message.outcome = "accepted"
                if not again:
                    return
                again = False
            elif trouble in {"409", "404"}:  # inactive, unknown
                message.outcome = "refused" if message.outcome == "unknown" and tries == 1 else message.outcome
                return
            self._arena.pause(0.5)

    def _message_by_command(self, dice: Dice) -> None:
        session_id = self._pick(dice[0])
        if session_id is None:
            return
        marker = f"m{self._arena.number('messages asked'):04d}"
        message = Message("cli", session_id, f"from the terminal: {marker}", marker)
        self._asked.messages.append(message)
        done = self._arena.hapi("send", session_id, message.text, "--json")
        if done is not None and done.code == 0:
            message.outcome = "accepted"
        elif done is not None and done.json["error"]["code"] not in _LOST_ANSWER | {ErrorCode.INTERNAL}:
            message.outcome = "refused"

    def answer_permissions(self, *, deny: bool = False) -> None:
        """Answer every permission request that the hub shows."""
        web = self._arena.web
        answer = web.deny if deny else web.approve
        for session_id, request_id in self._requests():
            _, trouble = self._arena.at_web(partial(answer, session_id, request_id))
            self._log.write("permission", id=session_id, request=request_id, deny=deny, trouble=trouble)
            if trouble is None:
                self._arena.count("permissions answered")

    def _requests(self) -> Iterator[tuple[str, str]]:
        summaries, _ = self._arena.at_web(self._arena.web.sessions)
        for summary in summaries or []:
            if summary.get("pendingRequestsCount"):
                session, _ = self._arena.at_web(partial(self._arena.web.session, summary["id"]))
                for request_id in ((session or {}).get("agentState") or {}).get("requests") or {}:
                    yield summary["id"], request_id

    def _abort(self, dice: Dice) -> None:
        session_id = self._pick(dice[0])
        if session_id is not None:
            self._cut(session_id, "abort")
            _, trouble = self._arena.at_web(lambda: self._arena.web.abort(session_id))
            self._log.write("abort", id=session_id, trouble=trouble)
            self._arena.count("aborts")

    def _crash(self, dice: Dice) -> None:
        session_id = self._pick(dice[0])
        if session_id is not None:
            self._cut(session_id, "crash")
            how = ("exit 3", "signal KILL", "signal SEGV", "exit 0")[int(dice[1] * 4)]
            marker = f"m{self._arena.number('messages asked'):04d}"
            text = f"/child setsid ignore ; /crash {how} ; /say {marker}"
            self._send(Message("hub", session_id, text, marker, f"chaos-{marker}"), tries=1)

    # -------------------------------------------------------------------------------------------------- stops

    def _cut(self, session_id: str, what: str) -> None:
        self._asked.cuts.append((session_id, what))

    def _stop_by_command(self, dice: Dice) -> None:
        session_id = self._pick(dice[0])
        if session_id is None:
            return
        stop = Stop("command", session_id)
        self._cut(session_id, "stop")
        self._asked.stops.append(stop)
        done = self._arena.hapi("runner", "stop-session", session_id, "--json")
        if done is not None:
            stop.outcome = done.json.get("status", "failed")

    def _archive_by_hub(self, dice: Dice) -> None:
        session_id = self._pick(dice[0])
        if session_id is None:
            return
        stop = Stop("hub", session_id)
        self._cut(session_id, "archive")
        self._asked.stops.append(stop)
        _, trouble = self._arena.at_web(lambda: self._arena.web.archive(session_id))
        stop.outcome = "archived" if trouble is None else "unknown"
        self._log.write("archive", id=session_id, trouble=trouble)

    # ------------------------------------------------------------------------------------------------- runner

    def _command(self, *arguments: str) -> None:
        self._arena.hapi(*arguments)

    def _runner_stop(self, dice: Dice) -> None:
        self._command("runner", "stop")
        self._arena.pause(dice[0] * 3)
        self._command("runner", "start")

    def _look_around(self, dice: Dice) -> None:
        self._command(*(("runner", "list", "--json"), ("runner", "status"), ("doctor",))[int(dice[0] * 3)])
        session_id = self._pick(dice[1])
        if session_id is not None:
            self._arena.at_web(lambda: self._arena.web.get(f"/api/sessions/{quote(session_id)}"))
