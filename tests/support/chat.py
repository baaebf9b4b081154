"""A runner at the shared hub, and what the web shows of its sessions' chats."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.hub import OfficialHub, WebClient, unique
from tests.support.runner import Runner
from tests.support.wait import until

SHOWN_S = 30


class Chat:
    """The web app at work with sessions of the demo agent. One for a module's tests; each has a session of its own."""

    def __init__(self, runner: Runner, web: WebClient) -> None:
        self.runner = runner
        self.web = web
        self.machine: str = runner.wait_online(web)["id"]

    def spawn(self, **wanted: Any) -> str:
        """A session, started from the web; its id."""
        body = {"directory": str(self.runner.project), "agent": "claude", **wanted}
        result = self.web.spawn(self.machine, **body)
        assert result["type"] == "success", result
        key: str = result["sessionId"]
        return key

    def rows(self, session: str, *kinds: str) -> list[dict[str, Any]]:
        """The data of the agent's rows of those kinds, in order."""
        contents = [row["content"] for row in self.web.messages(session)]
        data = [content["content"]["data"] for content in contents if content["role"] == "agent"]
        return [row for row in data if row["type"] in kinds]

    def said(self, session: str) -> list[str]:
        """The agent's texts."""
        return [row["message"] for row in self.rows(session, "message")]

    def hears(self, session: str, words: str) -> None:
        """Wait until the agent says that."""
        until(lambda: words in self.said(session), SHOWN_S, f"the agent says {words!r}")

    def turns(self, session: str, count: int = 1) -> None:
        """Wait until that many turns are over."""
        until(lambda: len(self.rows(session, "ready")) >= count, SHOWN_S, f"{count} turns are over")

    def state(self, session: str) -> dict[str, Any]:
        """The session's agentState."""
        return self.web.session(session).get("agentState") or {}

    def requests(self, session: str, count: int = 1) -> dict[str, Any]:
        """That many open permission requests, by id, once they are shown."""

        def probe() -> dict[str, Any] | None:
            found = self.state(session).get("requests") or {}
            return found if len(found) == count else None

        found = until(probe, SHOWN_S, f"{count} requests are shown")
        assert found is not None
        return found

    def outcome(self, session: str, request: str) -> dict[str, Any]:
        """How a request was settled, once it is."""
        return self.settles(lambda: (self.state(session).get("completedRequests") or {}).get(request))

    def queued(self, session: str, local_id: str) -> str:
        """What the hub makes of a user's message: queued, indeterminate, consumed, or lost."""
        answer = self.web.post(f"/api/sessions/{session}/messages/queued-state", localIds=[local_id])
        invoked = [row["localId"] for row in answer["invokedLocalMessages"]]
        found = {"queued": answer["queuedLocalIds"], "indeterminate": answer["indeterminateLocalIds"]}
        return next((word for word, ids in {**found, "consumed": invoked}.items() if local_id in ids), "lost")

    def message_id(self, session: str, local_id: str) -> str:
        """The hub's id of a user's message."""
        rows = {row["localId"]: row["id"] for row in self.web.messages(session)}
        found: str = rows[local_id]
        return found

    def settles(self, probe: Callable[[], Any]) -> Any:
        """Wait until the probe answers something true."""
        return until(probe, SHOWN_S, "it is shown")


@contextmanager
def chat_at(hub: OfficialHub, name: str, **environment: str) -> Iterator[Chat]:
    """A Chat in a namespace of its own; ends all it started."""
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as runner:
        runner.environment |= environment
        runner.settings(agents={"claude": {"use": "demo"}, "codex": {"use": "demo"}})
        runner.attach(hub, unique(name))
        runner.start()
        yield Chat(runner, WebClient(hub.url, runner.token))
    shutil.rmtree(path, ignore_errors=True)
