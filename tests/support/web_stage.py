"""A runner, its hub and its web app for the tests of a whole module; each test ends what it started."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.hub import OfficialHub, WebClient, unique
from tests.support.runner import Runner
from tests.support.wait import until

SOON = 20
DIES = [sys.executable, "-c", "import sys; sys.exit('no key, no agent')"]


class Stage:
    """One runner for all tests of a module, in a namespace of its own, and its web app; flavors are the demo agent."""

    def __init__(self, hub: OfficialHub, home: Runner, namespace: str) -> None:
        self.hub = hub
        self.home = home
        self.namespace = unique(namespace)
        home.attach(hub, self.namespace)
        home.environment |= {"HAPI_DEMO_HOME": str(home.home / "demo"), "HOME": str(home.home)}
        home.settings(
            agents={
                "claude": {"use": "demo"},
                "opencode": {"use": "demo", "env": {"HAPI_DEMO_RESUME": "resume"}},
                "copilot": {"use": "demo", "env": {"HAPI_DEMO_RESUME": "none"}},
                "codex": {"use": "demo"},
                "cursor": {"use": "demo"},
                "pi": {"use": "demo"},
                "kimi": {"command": "/nowhere/kimi acp"},
                "grok": {"command": DIES},
            }
        )
        self.root = home.project.parent
        home.start("--workspace-root", str(self.root))
        self.web = WebClient(hub.url, home.token)
        self.machine = home.wait_online(self.web)

    def order(self, **more: Any) -> dict[str, Any]:
        """What the web is answered to "create session"."""
        return self.web.spawn(self.machine["id"], **({"directory": str(self.home.project), "agent": "claude"} | more))

    def new(self, **more: Any) -> str:
        result = self.order(**more)
        assert result["type"] == "success", result
        session: str = result["sessionId"]
        return session

    def say(self, session: str, text: str) -> str:
        """Say something and wait for the answer."""
        before = len(self.said(session))
        self.web.send(session, text)
        until(lambda: len(self.said(session)) > before, SOON, f"an answer to {text}")
        until(lambda: self.info(session).phase == "idle", SOON, "the turn is over")
        return self.said(session)[-1]

    def said(self, session: str) -> list[str]:
        """The agent's texts that the web shows."""
        rows = [row["content"] for row in self.web.messages(session)]
        contents = [row["content"] for row in rows if row["role"] == "agent"]
        return [c["data"]["message"] for c in contents if c["type"] == "codex" and c["data"]["type"] == "message"]

    def notes(self, session: str) -> str:
        return str([row["content"] for row in self.web.messages(session) if row["content"]["role"] == "agent"])

    def info(self, session: str) -> Any:
        return self.home.info(session)

    def row(self, session: str) -> dict[str, Any]:
        return self.web.session(session)

    def lifecycle(self, session: str) -> tuple[bool, str]:
        row = self.row(session)
        return row["active"], row["metadata"].get("lifecycleState", "none")

    def resume(self, session: str, **body: Any) -> Any:
        return self.web.post(f"/api/sessions/{session}/resume", **body)

    def reopen(self, session: str) -> Any:
        return self.web.post(f"/api/sessions/{session}/reopen")

    def crash(self, session: str) -> None:
        """The agent ends by itself: inactive, and not archived."""
        self.web.send(session, "/crash exit 0")
        until(lambda: self.lifecycle(session) == (False, "running"), SOON, "inactive")

    def error(self) -> Any:
        """What the web shows as the machine's last spawn error."""
        return self.web.machines()[0]["runnerState"].get("lastSpawnError")

    def forget(self, session: str) -> None:
        """Lose the local record, as after a reinstallation: the broker's memory and the disk's."""
        with self.down():
            shutil.rmtree(self.home.root / "sessions" / session)

    def down(self) -> Down:
        return Down(self)


class Down:
    """The runner is stopped inside, and started again and online behind."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._stage.home.hapi("runner", "stop", check=0)

    def __exit__(self, *_: object) -> None:
        self._stage.home.start("--workspace-root", str(self._stage.root))
        until(lambda: self._stage.home.status()["hub"]["online"], SOON, "online again")


@contextmanager
def on_stage(hub: OfficialHub, namespace: str) -> Iterator[Stage]:
    """A stage in a place of its own; all that runs there ends with it."""
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as home:
        yield Stage(hub, home, namespace)
    shutil.rmtree(path, ignore_errors=True)


def end_all(stage: Stage) -> None:
    """Stop every session that a test left."""
    for session in stage.home.sessions():
        stage.home.hapi("runner", "stop-session", session["sessionId"])
