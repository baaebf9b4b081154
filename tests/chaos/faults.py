"""What goes wrong: processes killed or frozen, the hub gone; at any moment, or a moment after something was asked."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.actions import Actions
from tests.chaos.arena import Arena
from tests.chaos.facts import Process

FREEZE_S = (0.3, 4.0)
HUB_AWAY_S = (0.0, 6.0)
WORKERS = ("hub", "reaper", "nursery")
AMBUSH_S = 0.3
AMBUSHED = (
    "kill broker",
    "kill hub",
    "kill hub",
    "kill reaper",
    "kill nursery",
    "kill session",
    "kill agent",
    "hub killed",
)

Dice = tuple[float, ...]


class Faults:
    """`do` carries out one fault of the plan, and what belongs to its end (SIGCONT, the hub's return, a start)."""

    def __init__(self, arena: Arena, actions: Actions) -> None:
        self._arena = arena
        self._actions = actions
        self._hub = threading.Lock()
        self._kinds: dict[str, Callable[[Dice], None]] = {
            "kill broker": self._kill_broker,
            "kill agent": self._kill_agent,
            "kill session": self._kill_session,
            "kill all workers": lambda dice: self._kill_runner(dice, ("broker", *WORKERS)),
            "kill all but agents": self._kill_all_but_agents,
            "freeze agent": lambda dice: self._freeze(self._arena.agents(), dice),
            "hub killed": lambda dice: self._hub_away(dice, self._arena.hub.kill),
            "hub stopped": lambda dice: self._hub_away(dice, self._arena.hub.stop),
        }
        for action in ("message by hub", "spawn by control", "spawn by hub", "stop by command", "archive by hub"):
            self._kinds[f"ambush {action}"] = lambda dice, action=action: self._ambush(action, dice)
        for role in WORKERS:
            self._kinds[f"kill {role}"] = lambda _, role=role: self._kill(self._arena.of_role(role))
        for role in ("broker", *WORKERS, "session"):
            self._kinds[f"freeze {role}"] = lambda dice, role=role: self._freeze(self._arena.of_role(role), dice)

    def do(self, kind: str, dice: Dice) -> None:
        """One fault."""
        self._arena.log.write("fault", kind=kind)
        self._arena.count(f"fault: {kind}")
        self._kinds[kind](dice)

    def _ambush(self, action: str, dice: Dice) -> None:
        """Have something under way, then kill one of those who carry it."""
        times = 3 if action == "message by hub" else 1
        with ThreadPoolExecutor(times) as pool:
            asked = [
                pool.submit(self._actions.do, action, tuple((die + turn * 0.37) % 1 for die in dice))
                for turn in range(times)
            ]
            self._arena.pause(dice[4] * AMBUSH_S)
            self.do(AMBUSHED[int(dice[5] * len(AMBUSHED))], dice)
            for one in asked:
                one.result()

    def _kill(self, victims: list[Process]) -> None:
        for victim in victims:
            if self._arena.signal(victim, signal.SIGKILL):
                self._arena.log.write("killed", pid=victim.pid, title=victim.title)

    def _kill_broker(self, dice: Dice) -> None:
        self._kill_runner(dice, ("broker",))

    def _kill_runner(self, dice: Dice, roles: tuple[str, ...]) -> None:
        """SIGKILL; then somebody starts it, or several at once, unless another command was faster."""
        self._kill([process for role in roles for process in self._arena.of_role(role)])
        self._arena.pause(dice[0] * dice[0] * 4)
        starters = [
            threading.Thread(target=self._arena.hapi, args=("runner", "start")) for _ in range(1 + int(dice[1] * 2.5))
        ]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()

    def _kill_all_but_agents(self, dice: Dice) -> None:
        """The whole runner and two supervisors: only the next runner can find their agents."""
        for victim in self._arena.of_role("session")[: 1 + int(dice[2] * 2)]:
            self._cut(victim)
            self._kill([victim])
        self._kill_runner(dice, ("broker", *WORKERS))

    def _kill_session(self, dice: Dice) -> None:
        supervisors = self._arena.of_role("session")
        busy = [process for process in supervisors if process.title.endswith((" working", " waiting", " starting"))]
        victim = _one(busy if dice[3] < 0.7 and busy else supervisors, dice[0])
        if victim is not None:
            self._cut(victim)
            self._kill([victim])

    def _cut(self, supervisor: Process) -> None:
        session_id = self._arena.session_of(supervisor)
        if session_id is not None:
            self._arena.asked.cuts.append((session_id, "kill supervisor"))

    def _kill_agent(self, dice: Dice) -> None:
        victim = _one(self._arena.agents(), dice[0])
        if victim is not None and victim.session is not None:
            self._arena.asked.cuts.append((victim.session, "kill agent"))
            self._kill([victim])

    def _freeze(self, candidates: list[Process], dice: Dice) -> None:
        victim = _one(candidates, dice[0])
        if victim is None:
            return
        seconds = FREEZE_S[0] + dice[1] ** 2 * (FREEZE_S[1] - FREEZE_S[0])
        if self._arena.signal(victim, signal.SIGSTOP):
            self._arena.log.write("frozen", pid=victim.pid, title=victim.title, seconds=seconds)
            self._arena.pause(seconds)
            self._arena.signal(victim, signal.SIGCONT)

    def _hub_away(self, dice: Dice, end: Callable[[], None]) -> None:
        if not self._hub.acquire(blocking=False):
            return  # it is away already
        try:
            end()
            self._arena.pause(HUB_AWAY_S[0] + dice[0] ** 2 * (HUB_AWAY_S[1] - HUB_AWAY_S[0]))
            self._arena.hub.start()
            self._arena.log.write("hub is back")
        finally:
            self._hub.release()


def _one(candidates: list[Process], die: float) -> Process | None:
    return candidates[int(die * len(candidates))] if candidates else None
