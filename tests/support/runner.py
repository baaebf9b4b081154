"""A runner as a user has it: a home, the real CLI, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil

from hapi import config, procs, wire
from hapi.control import Control
from hapi.errors import NotRunning
from hapi.ids import ProcessId
from hapi.lifecycle import Phase
from tests.support.hub import OfficialHub, WebClient
from tests.support.wait import until

COMMAND_S = 40
LEAVING_S = 15  # a supervisor that no broker gave an order leaves by itself after 10 s
_Reply = TypeVar("_Reply", bound=wire.ControlReply)
_OURS = ("HAPI_", "CLI_API_", "NO_COLOR", "XDG_RUNTIME_DIR")


class Done:
    """A finished command."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Runner:
    """A home directory and commands in it. Leaving it ends all that was started there and proves it gone."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.project = home.parent / "project"
        self.project.mkdir(exist_ok=True)
        self.token = ""
        self.namespace = "default"
        self.wrapper: list[str] = []  # a command that runs each `hapi`, to take rights from it
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
        self.environment["HAPI_HOME"] = str(home)
        self.settings(agents={"claude": {"use": "demo"}})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        cleaned = self.hapi("doctor", "clean", "--yes")
        try:
            until(lambda: not self.processes(), LEAVING_S, "nothing is left running after doctor clean")
        except AssertionError as error:
            left = {process.pid: command_line(process.pid) for process in self.processes()}
            raise AssertionError(f"{error}; left: {left}; doctor clean: {cleaned!r}") from None
        finally:
            for process in self.processes():
                procs.send_signal(process, signal.SIGKILL)

    # ------------------------------------------------------------------------------------------ the user's side

    command = (sys.executable, "-m", "hapi")

    def hapi(self, *arguments: str, check: int | None = None, **more: Any) -> Done:
        """Run `hapi ARGUMENTS`; with `check`, its exit status must be that."""
        done = Done(
            subprocess.run(
                [*self.wrapper, *self.command, *arguments],
                env=self.environment | more.pop("env", {}),
                cwd=more.pop("cwd", self.project),
                capture_output=True,
                text=True,
                check=False,
                timeout=more.pop("timeout", COMMAND_S),
                **more,
            )
        )
        assert check is None or done.code == check, f"hapi {' '.join(arguments)}: {done!r}"
        return done

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin `hapi ARGUMENTS`; its output is dropped."""
        return subprocess.Popen(
            [sys.executable, "-m", "hapi", *arguments],
            env=self.environment,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def settings(self, **values: Any) -> None:
        """Set keys of settings.json."""
        path = self.home / "settings.json"
        path.write_text(json.dumps(self.read_settings() | values))
        path.chmod(0o600)

    def read_settings(self) -> dict[str, Any]:
        """What settings.json holds."""
        path = self.home / "settings.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def attach(self, hub: OfficialHub, namespace: str = "default") -> None:
        """Configure the hub, by settings.json as a user would."""
        self.namespace = namespace
        self.token = hub.token if namespace == "default" else f"{hub.token}:{namespace}"
        self.settings(apiUrl=hub.url, cliApiToken=self.token)

    # ------------------------------------------------------------------------------------------ short cuts

    def start(self, *arguments: str) -> Any:
        """`hapi runner start`; returns the status."""
        self.hapi("runner", "start", *arguments, check=0)
        return self.status()

    def status(self) -> Any:
        return self.hapi("runner", "status", "--json").json

    def ask(self, body: wire.ControlRequest, kind: type[_Reply]) -> _Reply:
        """The broker's answer without the detour of a command. Raises NotRunning."""
        return Control(config.load(environ=self.environment)).ask(body, kind)

    def info(self, session_id: str) -> wire.SessionInfo | None:
        """The session as the broker has it, also an ended one; None when it has none, or there is no broker."""
        try:
            found = self.ask(wire.ListSessions(ended=True), wire.SessionList).sessions
        except NotRunning:
            return None
        return next((info for info in found if info.session_id == session_id), None)

    def ensure(self) -> None:
        """`hapi runner start`, if none runs."""
        try:
            self.ask(wire.GetStatus(), wire.Status)
        except NotRunning:
            self.hapi("runner", "start", check=0)

    def ended(self, session_id: str) -> wire.SessionInfo:
        """The session's record, once it says that it has ended."""
        found = until(lambda: _if_ended(self.info(session_id)), 15, f"session {session_id} has ended")
        assert found is not None
        return found

    def sessions(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.hapi("runner", "list", "--json", *arguments, check=0).json
        return found

    def spawn(self, *arguments: str, agent: str = "demo") -> dict[str, Any]:
        """Spawn in the project's directory; returns the session as spawn's JSON has it."""
        done = self.hapi("runner", "spawn", str(self.project), "--agent", agent, "--json", *arguments, check=0)
        spawned: dict[str, Any] = done.json
        return spawned

    def session(self, session_id: str) -> dict[str, Any] | None:
        """The session as `list --ended` shows it now."""
        return next((s for s in self.sessions("--ended") if s["sessionId"] == session_id), None)

    def wait_phase(self, session_id: str, *phases: str, deadline_s: float = 15) -> dict[str, Any]:
        """Wait until the session is in one of the phases."""

        def probe() -> dict[str, Any] | None:
            found = self.session(session_id)
            return found if found is not None and found["phase"] in phases else None

        found = until(probe, deadline_s, f"session in phase {phases}")
        assert found is not None
        return found

    def wait_online(self, web: WebClient) -> dict[str, Any]:
        """Wait until the hub lists our machine; returns it."""
        return until(web.machines, 15, "the hub lists the machine")[0]

    @property
    def root(self) -> Path:
        """The directory of this namespace."""
        return self.home if self.namespace == "default" else self.home / "namespaces" / self.namespace

    def events(self, session_id: str) -> list[Any]:
        """The chat events that the session's journal holds (those the hub has not confirmed)."""
        from hapi.journal import Journal

        copy = self.home / f"journal-{session_id}"
        copy.write_bytes((self.root / "sessions" / session_id / "journal").read_bytes())
        journal = Journal(copy)
        journal.close()
        return [numbered.event for numbered in journal.state.unconfirmed.values()]

    def processes(self) -> list[ProcessId]:
        """Every living process of this home: ours hold a file there open, agents have it in their environment."""
        ours = [pid for pid in psutil.pids() if any(path.startswith(f"{self.home}/") for path in open_paths(pid))]
        found = {who.pid: who for pid in ours if (who := procs.identity(pid)) is not None}
        return list(found.values()) + [p for p in procs.marked("HAPI_HOME", str(self.home)) if p.pid not in found]


def _if_ended(info: wire.SessionInfo | None) -> wire.SessionInfo | None:
    return info if info is not None and info.phase is Phase.ENDED else None


def identity(pid: int) -> ProcessId:
    """Who runs under `pid`; fails when nobody does."""
    found = procs.identity(pid)
    assert found is not None, f"no process {pid}"
    return found


def gone(process: ProcessId, deadline_s: float = 10) -> None:
    """Wait until that very process is gone."""
    until(lambda: not procs.is_alive(process), deadline_s, f"process {process.pid} is gone")


def open_paths(pid: int) -> list[str]:
    """What the process has open; [] when it is gone."""
    try:
        return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def command_line(pid: int) -> str:
    """What `ps` shows; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
