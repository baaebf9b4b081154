"""Where it happens: a private home, a real runner, a hub of our own, and who of them runs now."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from hapi import config
from hapi.control import Control
from tests.chaos.asked import Asked, Log
from tests.chaos.facts import Process
from tests.chaos.init import descendants
from tests.chaos.observe import read_process
from tests.support.hub import OfficialHub, WebClient, WebError
from tests.support.runner import Done, Runner

HEARTBEAT_MS = 3000
ROLES = ("broker", "hub", "reaper", "nursery", "session")
WEB_TROUBLE = (OSError, WebError, HTTPException, ValueError)


class Arena:
    """The stage and the stage-hands. Methods are thread-safe."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.log = Log(place / "chaos.log", seed)
        self.asked = Asked()
        self.runner = Runner(place / "h")
        self.runner.settings(agents={"claude": {"use": "demo"}})
        self.runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = str(HEARTBEAT_MS)
        self.runner.environment["PYTHONPATH"] = str(Path(__file__).parents[2])  # this tree, whatever is installed
        self.hub = OfficialHub(place / "hub")
        self.over = threading.Event()
        self._ended: set[str] = set()
        self._ids = threading.Lock()

    def open(self) -> None:
        """Start hub and runner and wait until the hub lists the machine."""
        self.hub.start()
        self.runner.attach(self.hub)
        self.runner.start()
        self.web = WebClient(self.hub.url, self.hub.token)
        self.machine_id: str = self.runner.wait_online(self.web)["id"]
        self.settings = config.load(environ=self.runner.environment)

    def control(self) -> Control:
        """The control socket."""
        return Control(self.settings)

    def number(self, what: str) -> int:
        """The next number of its kind."""
        with self._ids:
            self.asked.counts[what] += 1
            return self.asked.counts[what]

    def count(self, what: str) -> None:
        """One more of these, for the summary."""
        self.number(what)

    def hapi(self, *arguments: str) -> Done | None:
        """A command; None, and on record as hung, when it does not end in time."""
        try:
            done = self.runner.hapi(*arguments)
        except TimeoutExpired:
            self.asked.hung.append(" ".join(arguments))
            self.log.write("hung", arguments=arguments)
            return None
        self.log.write("command", arguments=arguments, code=done.code, said=(done.out + done.err)[-300:])
        return done

    def pause(self, seconds: float) -> None:
        """Let time pass, as part of a fault; cut short when the run is over."""
        self.over.wait(seconds)

    # ------------------------------------------------------------------------------------------ who is there

    def live_sessions(self) -> list[str]:
        """The sessions that the disk calls live and ready, oldest name first."""
        found = []
        for path in sorted((self.runner.root / "sessions").glob("*/state.json")):
            if path.parent.name not in self._ended:
                phase = _phase(path)
                if phase == "ended":
                    self._ended.add(path.parent.name)
                elif phase in {"idle", "working", "waiting"}:
                    found.append(path.parent.name)
        return found

    def processes(self) -> list[Process]:
        """What runs below our init now, without the driver and the hub."""
        found = (read_process(pid) for pid in descendants(os.getppid(), leave_out=os.getpid()))
        return [process for process in found if process is not None and process.state != "Z"]

    def of_role(self, role: str) -> list[Process]:
        """The processes whose title says so."""
        return [process for process in self.processes() if process.title.startswith(f"hapi: {role} [")]

    def agents(self) -> list[Process]:
        """The demo agents themselves, not what they left behind."""
        return [process for process in self.processes() if process.title.endswith("agents/demo.py")]

    def signal(self, process: Process, number: signal.Signals) -> bool:
        """Signal that very process."""
        now = read_process(process.pid)
        if now is None or now.ticks != process.ticks:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
            return True
        return False

    def session_of(self, supervisor: Process) -> str | None:
        """The session whose supervisor this is, by its record."""
        for path in (self.runner.root / "sessions").glob("*/state.json"):
            with contextlib.suppress(OSError, ValueError):
                who = json.loads(path.read_bytes()).get("supervisor") or {}
                if who.get("pid") == supervisor.pid and who.get("start_ticks") == supervisor.ticks:
                    return path.parent.name
        return None

    def at_web(self, ask: Callable[[], Any]) -> tuple[Any, str | None]:
        """(the hub's answer, None) or (None, what was wrong)."""
        try:
            return ask(), None
        except WebError as error:
            return None, f"{error.status}"
        except WEB_TROUBLE as error:
            return None, type(error).__name__


def _phase(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["phase"])
    except (OSError, ValueError, KeyError):
        return None
