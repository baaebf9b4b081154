"""One chaos run, from an empty home to the verdict."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from tests.chaos import report
from tests.chaos.actions import Actions
from tests.chaos.arena import WEB_TROUBLE, Arena
from tests.chaos.checker import Problem, check, is_quiet
from tests.chaos.facts import World
from tests.chaos.faults import Faults
from tests.chaos.observe import add_states, observe
from tests.chaos.plan import Step, plan

AT_ONCE = 6
FAULTS_AT_ONCE = 2
LONGEST_ACTION_S = 150
SETTLE_S = 90
PROGRESS_S = 10
LOOK_S = 1.0


class Run:
    """`play` does it all and returns the exit status."""

    def __init__(self, place: Path, seed: int, seconds: float) -> None:
        self._seed = seed
        self._seconds = seconds
        self._arena = Arena(place, seed)
        self._asked = self._arena.asked
        self._progress = report.Progress()
        self._skipped = 0
        self._bugs: list[str] = []

    def play(self) -> int:
        """Open, break, settle, judge, close; 0 when the checker found nothing."""
        print(f"chaos: SEED={self._seed}, {self._seconds:.0f} s, log {self._arena.log.path}", flush=True)
        try:
            self._arena.open()
            self._break_things()
            world, problems = self._settle()
            problems += self._close()
        finally:
            self._arena.over.set()
            self._arena.hub.stop()
            self._arena.log.close()
        return self._judge(world, problems)

    # ------------------------------------------------------------------------------------------- the bad part

    def _break_things(self) -> None:
        watcher = threading.Thread(target=self._watch)
        watcher.start()
        pools = ThreadPoolExecutor(AT_ONCE), ThreadPoolExecutor(FAULTS_AT_ONCE)
        pending: dict[bool, set[Future[None]]] = {True: set(), False: set()}
        actions = Actions(self._arena)
        faults = Faults(self._arena, actions)
        started = time.monotonic()
        for step in plan(self._seed, self._seconds):
            self._arena.pause(max(0.0, started + step.at_s - time.monotonic()))
            pending[step.is_fault] = {future for future in pending[step.is_fault] if not future.done()}
            if len(pending[step.is_fault]) >= (FAULTS_AT_ONCE if step.is_fault else AT_ONCE):
                self._skipped += 1
                self._arena.log.write("skipped", kind=step.kind)
                continue
            do = faults.do if step.is_fault else actions.do
            pending[step.is_fault].add(pools[step.is_fault].submit(self._guarded, do, step))
        _, late = wait(pending[True] | pending[False], LONGEST_ACTION_S)
        self._asked.hung += [f"an action did not end within {LONGEST_ACTION_S} s" for _ in late]
        self._arena.over.set()
        for pool in pools:
            pool.shutdown(wait=not late)
        watcher.join()

    def _guarded(self, do: Callable[[str, tuple[float, ...]], None], step: Step) -> None:
        try:
            do(step.kind, step.dice)
        except Exception as error:  # noqa: BLE001 - a broken action must not pass for a good run
            self._bugs.append(f"{step.kind}: {error!r}")
            self._arena.log.write("bug in the chaos run", kind=step.kind, error=repr(error))

    def _watch(self) -> None:
        """While it goes on: never two agents of one session; and a line of progress."""
        due = time.monotonic() + PROGRESS_S
        while not self._arena.over.wait(LOOK_S):
            self._look_for_twins()
            if time.monotonic() >= due:
                due += PROGRESS_S
                self._progress.say(self._line())

    def _look_for_twins(self) -> None:
        agents: defaultdict[str, list[int]] = defaultdict(list)
        for process in self._arena.agents():
            if process.session is not None:
                agents[process.session].append(process.pid)
        for session_id, pids in agents.items():
            if len(pids) > 1:
                self._asked.seen_twice.append(f"{session_id}: agents {pids} at {self._arena.log.passed_s:.1f} s")

    def _line(self) -> str:
        kinds = Counter(what for what in self._asked.counts.elements() if what.startswith("fault: "))
        live, asked = len(self._arena.live_sessions()), self._asked
        said = f"{live} live of {len(asked.spawns)} sessions, {len(asked.messages)} messages, {len(asked.stops)} stops"
        return f"  {self._arena.log.passed_s:4.0f} s  {said}, {kinds.total()} faults, {self._skipped} steps skipped"

    # ------------------------------------------------------------------------------------------- the good end

    def _settle(self) -> tuple[World, list[Problem]]:
        """Mend what we broke, then look until nothing is wrong, SETTLE_S at most."""
        self._progress.say(f"  {self._arena.log.passed_s:4.0f} s  settling")
        for process in self._arena.processes():
            self._arena.signal(process, signal.SIGCONT)
        if not self._arena.hub.healthy():
            self._arena.hub.restart()
        self._arena.hapi("runner", "start")
        actions = Actions(self._arena)
        deadline = time.monotonic() + SETTLE_S
        while True:
            actions.answer_permissions()
            world = self._observe()
            problems = check(self._asked, world)
            if (not problems and is_quiet(world)) or time.monotonic() >= deadline:
                return world, problems
            self._arena.log.write("settling", problems=[str(problem) for problem in problems])
            threading.Event().wait(LOOK_S)

    def _observe(self) -> World:
        try:
            world = observe(self._arena.runner, self._arena.web, self._arena.hub.token)
            for session in world.hub.values():
                mine = [m.local_id for m in self._asked.messages if m.session_id == session.session_id and m.local_id]
                add_states(self._arena.web, session, mine)
        except WEB_TROUBLE as error:
            self._arena.log.write("cannot observe", error=repr(error))
            return World(running=False)
        return world

    def _close(self) -> list[Problem]:
        """Stop everything as a user does; nothing may be left."""
        self._arena.hapi("doctor", "clean", "--yes")
        left = self._arena.processes()
        return [Problem("orphan", f"pid {process.pid}", f"left by doctor clean: {process.title}") for process in left]

    def _judge(self, world: World, problems: list[Problem]) -> int:
        self._progress.end()
        problems += [Problem("untrue", "the chaos run itself", bug) for bug in self._bugs]
        rows = report.counts(self._asked, world, problems)
        print(report.table(rows))
        if problems:
            report.show_problems(problems, str(self._arena.place))
        print(report.sentence(self._seed, self._seconds, rows, problems), flush=True)
        return 1 if problems else 0
