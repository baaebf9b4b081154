"""The two that are compared: ours and the official runner, each with a home and a namespace of its own, at one hub, with one agent.

The agent is our demo agent for both, found on PATH as `kimi`: the official runner starts that program as an ACP agent, as we do.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.harness import Home, own_environment, timed, wait
from hapi import footprint, procs
from hapi.agents.built_in import BUILT_IN
from hapi.agents.table import native_program
from hapi.ids import ProcessId
from tests.support.hub import OfficialHub, WebClient, WebError, find_hub

AGENT = "kimi"
OURS, PEER = "hapi", "peer"
# with COLUMNS the official runner reads process lists that `ps` has cut off, and does not find itself in them
_NOT_THEIRS = {"COLUMNS", "LINES"}
_READY_S, _COMMAND_S, _SAID_CHARS = 30.0, 60, 2000


class Side:
    """A runner as a person sees it: its command line, and the web app at the hub."""

    name: str
    command: list[str]

    def __init__(self, home: Path, project: Path, environment: dict[str, str], hub: OfficialHub) -> None:
        self.home = home
        self.project = project
        self.token = f"{hub.token}:{self.name}"
        self.environment = environment | {"HAPI_HOME": str(home), "HAPI_API_URL": hub.url, "CLI_API_TOKEN": self.token}
        self.web = WebClient(hub.url, self.token)

    def run(self, *words: str) -> str:
        """Run a command; its output. Raises RuntimeError with what it said when it fails."""
        done = subprocess.run(
            [*self.command, *words],
            env=self.environment,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=_COMMAND_S,
        )
        if done.returncode:
            said = f"{done.stdout}\n{done.stderr}"[-_SAID_CHARS:]
            raise RuntimeError(f"{self.name}: {' '.join(words)}: exit status {done.returncode}\n{said}\n{self.log()}")
        return done.stdout

    def seconds(self, *words: str) -> float:
        """Seconds that a command takes. Raises RuntimeError."""
        return timed(lambda: self.run(*words))

    def log(self) -> str:
        """The end of its newest log."""
        logs = sorted(self.home.rglob("*.log"), key=lambda path: path.stat().st_mtime)
        return logs[-1].read_text(errors="replace")[-_SAID_CHARS:] if logs else ""

    def start(self) -> float:
        """`runner start`: seconds until it has returned and the hub reaches the runner (it answers which agents it has)."""
        return timed(
            lambda: (self.run("runner", "start"), wait(self.reachable, _READY_S, f"the hub reaches {self.name}"))
        )

    def reachable(self) -> bool:
        """Whether a question of the web's is answered by the runner."""
        try:
            self.web.get(f"/api/machines/{self.machine}/agent-availability")
        except WebError:
            return False
        return True

    @cached_property
    def machine(self) -> str:
        """The id of this side's machine at the hub. Raises TimeoutError."""
        return str(wait(self.web.machines, _READY_S, f"the hub lists the machine of {self.name}")[0]["id"])

    def spawn(self) -> str:
        """A session by the web's request; its id at the hub when it is answered. Raises RuntimeError with what the hub said."""
        answer = self.web.spawn(self.machine, directory=str(self.project), agent=AGENT)
        if answer.get("type") != "success":
            raise RuntimeError(f"{self.name}: {answer}")
        return str(answer["sessionId"])

    def await_agent(self, session_id: str) -> None:
        """Wait until the session's agent is up: the hub knows the agent's own id of the conversation."""
        wait(lambda: f"{AGENT}SessionId" in (self.session(session_id)["metadata"] or {}), _READY_S, "the agent is up")

    def converse(self, session_id: str) -> None:
        """Say something, and wait for what the agent answers to be at the hub. Raises TimeoutError."""
        word = secrets.token_hex(4)
        self.web.send(session_id, f"/say {word}")
        wait(lambda: self._answered(session_id, word), _READY_S, f"{self.name} answers")

    def _answered(self, session_id: str, word: str) -> bool:
        rows = [row["content"] for row in self.web.messages(session_id)]
        return any(word in json.dumps(row) for row in rows if row.get("role") == "agent")

    def session(self, session_id: str) -> dict[str, Any]:
        """The hub's row of a session."""
        return self.web.session(session_id)

    def processes(self) -> dict[int, str]:
        """Pid → kind (`hapi.footprint.KINDS`; what is neither session nor agent belongs to the runner itself)."""
        raise NotImplementedError

    def memory(self) -> dict[str, footprint.Use]:
        """What its processes have now, by kind."""
        return footprint.measure(self.processes())

    def left(self) -> list[ProcessId]:
        """All processes that were started here and live."""
        return procs.marked("HAPI_HOME", str(self.home))

    def end(self) -> None:
        """SIGKILL to all that was started here."""
        for process in self.left():
            procs.send_signal(process, signal.SIGKILL)


class Ours(Side):
    """This repository's runner."""

    name = OURS

    def __init__(self, home: Home, environment: dict[str, str], hub: OfficialHub) -> None:
        self.command = [sys.executable, "-m", "hapi"]
        super().__init__(home.path, home.project, environment, hub)
        home.use(self.environment)
        self.local = home

    def processes(self) -> dict[int, str]:
        return footprint.processes(self.local.status(), self.local.sessions())

    def end(self) -> None:
        self.local.clean()


class Peer(Side):
    """The official runner."""

    name = PEER

    def __init__(self, place: Path, environment: dict[str, str], hub: OfficialHub) -> None:
        self.command = [official()]
        for directory in (place / "h", place / "project"):
            directory.mkdir(parents=True)
        super().__init__(place / "h", place / "project", environment, hub)

    def processes(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for process in self.left():
            words = _command_line(process.pid)
            official_one = words[:1] == self.command
            kind = "session" if AGENT in words[1:2] else "other"
            found[process.pid] = kind if official_one else "agent"
        return found


def official() -> str:
    """The official program itself, without the shim that npm puts before it. Raises FileNotFoundError."""
    found = find_hub()
    if found is None:
        raise FileNotFoundError("the official hub is not installed: make setup")
    return native_program(str(found), "@twsxtd/hapi-{platform}-{arch}/bin/hapi")


class Stage:
    """One hub and both sides at it."""

    def __init__(self, hub: OfficialHub, ours: Ours, peer: Peer) -> None:
        self.hub = hub
        self.ours = ours
        self.peer = peer
        self.sides: list[Side] = [peer, ours]  # the peer is the first row of each table


@contextmanager
def stage() -> Iterator[Stage]:
    """Both sides, not started; all processes and files of theirs are gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="hapi-b-", dir="/tmp"))
    sides: list[Side] = []
    try:
        with OfficialHub(place / "hub") as hub:
            environment = _environment(place)
            sides += [Ours(Home(place / "ours"), environment, hub), Peer(place / "peer", environment, hub)]
            try:
                yield Stage(hub, *sides)  # type: ignore[arg-type]
            finally:
                for side in sides:
                    side.end()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _environment(place: Path) -> dict[str, str]:
    """The caller's environment without our variables, a home where no agent left anything, and the stand-in first on PATH."""
    bin_directory = place / "bin"
    bin_directory.mkdir()
    program = bin_directory / AGENT
    program.write_text(f"#!/bin/sh\nexec {shlex.join(BUILT_IN['demo'].command)}\n")
    program.chmod(0o755)
    own = {key: value for key, value in own_environment().items() if key not in _NOT_THEIRS}
    return own | {"HOME": str(place), "PATH": f"{bin_directory}:{own['PATH']}"}


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
