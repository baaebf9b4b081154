"""A session's directory through the web app's eyes: every route of the hub that reads, searches, compares or uploads."""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.hub import OfficialHub, WebClient
from tests.support.runner import Runner


class Desk:
    """A runner that is online, and one of its sessions: the newest that `open` began."""

    def __init__(self, runner: Runner, web: WebClient, machine: str, programs: Path) -> None:
        self.place = programs.parent
        self.runner = runner
        self._programs = programs
        self.web = web
        self.session = ""
        self._machine = machine

    def open(self, directory: Path) -> Desk:
        """Begin a session there."""
        result = self.web.spawn(self._machine, directory=str(directory), agent="claude")
        assert result["type"] == "success", result
        self.session = result["sessionId"]
        return self

    def make(self, name: str) -> Path:
        """A new directory below the runner's place."""
        directory = self.place / name
        directory.mkdir(parents=True)
        return directory

    def install(self, *programs: str, **scripts: str) -> None:
        """From now on the runner finds just these real programs, and these scripts."""
        for entry in self._programs.iterdir():
            entry.unlink()
        for name in programs:
            real = shutil.which(name)
            assert real is not None, f"{name} is not installed"
            (self._programs / name).symlink_to(real)
        for name, text in scripts.items():
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o755)

    @property
    def uploads(self) -> Path:
        """Where the session's uploads lie."""
        return self.runner.root / "sessions" / self.session / "uploads"

    def get(self, route: str, **query: Any) -> dict[str, Any]:
        """GET a route of the session; values are put into the query as they are."""
        words = f"?{urlencode(query, errors='surrogatepass')}" if query else ""
        answer: dict[str, Any] = self.web.get(f"/api/sessions/{self.session}/{route}{words}")
        return answer

    def read(self, path: str) -> bytes:
        """A file's content, which must be there."""
        answer = self.get("file", path=path)
        assert answer["success"], answer
        content = base64.b64decode(answer["content"])
        assert answer["size"] == len(content)
        return content

    def denied(self, path: str) -> bool:
        """Whether reading that path is refused in the words of the hub's protocol."""
        answer = self.get("file", path=path)
        return answer == {
            "success": False,
            "error": f"Access denied: Path '{path}' is outside the working directory",
        }

    def listed(self, path: str = "") -> dict[str, str]:
        """Name → type of a directory's entries, in order."""
        answer = self.get("directory", path=path)
        assert answer["success"], answer
        return {entry["name"]: entry["type"] for entry in answer["entries"]}

    def found(self, query: str, limit: int = 200) -> list[str]:
        """The paths that a search finds."""
        answer = self.get("files", query=query, limit=limit)
        assert answer["success"], answer
        return [file["fullPath"] for file in answer["files"]]

    def git(self, route: str, **query: Any) -> str:
        """What git printed; it must have succeeded."""
        answer = self.get(route, **query)
        assert answer["success"], answer
        assert answer["exitCode"] == 0
        return str(answer["stdout"])

    def changes(self) -> dict[str, str]:
        """Path → status letters, from `git-status` as the web app reads it."""
        lines = self.git("git-status").splitlines()
        marks = {"1": 8, "2": 9, "u": 10}
        found = {}
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "?":
                found[rest] = "?"
            elif kind in marks:
                found[rest.split(" ", marks[kind] - 1)[-1].split("\t")[0]] = rest[:2]
        return found

    def counts(self, *, staged: bool) -> dict[str, str]:
        """Path → "added/removed"."""
        lines = self.git("git-diff-numstat", staged=str(staged).lower()).splitlines()
        return {path: f"{added}/{removed}" for added, removed, path in (line.split("\t", 2) for line in lines)}

    def diff(self, path: str, *, staged: bool = False) -> str:
        return self.git("git-diff-file", path=path, staged=str(staged).lower())

    def upload(self, name: str, content: bytes, kind: str = "text/plain") -> dict[str, Any]:
        """Upload as the web app does; the hub's answer."""
        data = base64.b64encode(content).decode()
        answer: dict[str, Any] = self.web.post(
            f"/api/sessions/{self.session}/upload", filename=name, content=data, mimeType=kind
        )
        return answer

    def drop(self, path: str) -> dict[str, Any]:
        """Delete an upload; the hub's answer."""
        answer: dict[str, Any] = self.web.post(f"/api/sessions/{self.session}/upload/delete", path=path)
        return answer


@contextlib.contextmanager
def desk(hub: OfficialHub, namespace: str, **environment: str) -> Iterator[Desk]:
    """A runner in a place of its own whose PATH is what `Desk.install` put there; all is removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    programs = place / "bin"
    programs.mkdir()
    with Runner(place / "h") as home:
        home.attach(hub, namespace)
        home.environment |= {"PATH": f"{programs}:.", **environment}
        home.start()
        web = WebClient(hub.url, home.token)
        yield Desk(home, web, home.wait_online(web)["id"], programs)
    shutil.rmtree(place, ignore_errors=True)
