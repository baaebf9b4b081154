"""The official hub as a test's counterpart: `OfficialHub` runs it, `WebClient` plays its web app."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from hapi.agents.table import native_program
from tests.support.wait import until

_ROOT = Path(__file__).parents[2]
_START_S, _STOP_S, _REQUEST_S = 30, 10, 40
_open = build_opener(ProxyHandler({})).open  # loopback never goes through a proxy


def unique(name: str) -> str:
    """A namespace at the hub that nobody had before: machines of a namespace are listed for 45 s after their end."""
    return f"{name}-{secrets.token_hex(4)}"


def find_hub() -> Path | None:
    """The hub to test with: $HAPI_TEST_HUB, else the one in .cache/hub, else None."""
    named = os.environ.get("HAPI_TEST_HUB")
    place = Path(named) if named else _ROOT / ".cache/hub/node_modules/.bin/hapi"
    return place if os.access(place, os.X_OK) else None


class OfficialHub:
    """The hub on a free loopback port, with a home and a token of its own, in a process group of its own.

    with OfficialHub(tmp_path / "hub") as hub:
        WebClient(hub.url, hub.token).machines()
    """

    def __init__(self, home: Path, token: str | None = None) -> None:
        self.home = home
        self.token = token or secrets.token_hex(16)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "hub.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The hub's process id. Raises AssertionError when it was never started."""
        assert self._process is not None, "the hub was not started"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers. Raises AssertionError with the end of its log when it does not."""
        binary = find_hub()
        assert binary is not None, "no hub: set HAPI_TEST_HUB or install it below .cache/hub"
        self.home.mkdir(parents=True, exist_ok=True)
        program = native_program(str(binary), "@twsxtd/hapi-{platform}-{arch}/bin/hapi")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "hub"],
                env=self._environment(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(self._settled, _START_S, "the hub answers /health")
            assert self._process.poll() is None, "the hub ended"
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.log.read_text(errors='replace')[-2000:]}") from None

    def stop(self) -> None:
        """End it politely, with SIGKILL for one that will not. Does nothing when it is not running."""
        if self._process is None or self._process.poll() is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for it to be gone; connections break without a goodbye."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(_STOP_S)

    def restart(self) -> None:
        """Stop it (if it runs) and start it again: same port, home and token."""
        self.stop()
        self.start()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _settled(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or self.healthy()

    def healthy(self) -> bool:
        """Whether it answers /health now."""
        try:
            with _open(f"{self.url}/health", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("HAPI_", "CLI_API_"))}
        return {
            **ours,
            "HOME": str(self.home),
            "HAPI_HOME": str(self.home),
            "HAPI_LISTEN_HOST": "127.0.0.1",
            "HAPI_LISTEN_PORT": str(self.port),
            "HAPI_PUBLIC_URL": self.url,  # the origin from which it takes browsers' Socket.IO connections
            "CLI_API_TOKEN": self.token,
        }


class WebError(Exception):
    """The hub refused: `status` and what it said."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class WebClient:
    """What a browser does, over REST. `token` is the hub's, with `:NAMESPACE` for another than the default."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._bearer = ""
        self._bearer = self.post("/api/auth", accessToken=token)["token"]

    @property
    def jwt(self) -> str:
        """What a browser shows at each request, and to Socket.IO."""
        return self._bearer

    def get(self, path: str) -> Any:
        """GET; the decoded answer. Raises WebError."""
        return self._request("GET", path, None)

    def raw(self, path: str) -> bytes:
        """GET; the bytes as they come. Raises WebError."""
        try:
            with _open(
                Request(self.url + path, headers={"Authorization": f"Bearer {self._bearer}"}), timeout=30
            ) as got:
                return bytes(got.read())
        except HTTPError as error:
            with error:
                raise WebError(error.code, _decoded(error.read())) from None

    def post(self, path: str, /, **body: Any) -> Any:
        """POST with a JSON body; the decoded answer. Raises WebError."""
        return self._request("POST", path, body)

    def patch(self, path: str, /, **body: Any) -> Any:
        """PATCH with a JSON body; the decoded answer. Raises WebError."""
        return self._request("PATCH", path, body)

    def delete(self, path: str) -> Any:
        """DELETE; the decoded answer. Raises WebError."""
        return self._request("DELETE", path, None)

    def machines(self) -> list[dict[str, Any]]:
        """The machines that are online."""
        return self.get("/api/machines")["machines"]

    def spawn(self, machine_id: str, **body: Any) -> dict[str, Any]:
        """Start a session (`directory`, `agent`, …); the hub's result, {type: "success", sessionId} if all went well."""
        return self.post(f"/api/machines/{quote(machine_id)}/spawn", **body)

    def sessions(self) -> list[dict[str, Any]]:
        """The summaries of all sessions."""
        return self.get("/api/sessions")["sessions"]

    def session(self, session_id: str) -> dict[str, Any]:
        """One session in full."""
        return self.get(_session(session_id))["session"]

    def messages(self, session_id: str) -> list[dict[str, Any]]:
        """The newest messages of a session, oldest first."""
        return self.get(_session(session_id, "messages?limit=200"))["messages"]

    def send(self, session_id: str, text: str, local_id: str | None = None) -> Any:
        """Say something to the agent. `local_id`: the web's own id of the message, made up if absent."""
        local_id = local_id or secrets.token_hex(8)
        return self.post(_session(session_id, "messages"), text=text, localId=local_id)

    def approve(self, session_id: str, request_id: str, **body: Any) -> Any:
        """Grant a permission request (`decision`, `mode`, `answers`, …)."""
        return self.post(_session(session_id, f"permissions/{quote(request_id, safe='')}/approve"), **body)

    def deny(self, session_id: str, request_id: str, **body: Any) -> Any:
        """Refuse a permission request."""
        return self.post(_session(session_id, f"permissions/{quote(request_id, safe='')}/deny"), **body)

    def abort(self, session_id: str) -> Any:
        """Interrupt the turn."""
        return self.post(_session(session_id, "abort"))

    def archive(self, session_id: str) -> Any:
        """End the session."""
        return self.post(_session(session_id, "archive"))

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._bearer:
            headers["Authorization"] = f"Bearer {self._bearer}"
        data = json.dumps(body).encode() if body is not None else None
        try:
            with _open(Request(self.url + path, data, headers, method=method), timeout=_REQUEST_S) as response:
                return _decoded(response.read())
        except HTTPError as error:
            with error:
                raise WebError(error.code, _decoded(error.read())) from None


def _session(session_id: str, rest: str = "") -> str:
    return f"/api/sessions/{quote(session_id)}" + (f"/{rest}" if rest else "")


def _decoded(data: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(data)
    return data.decode(errors="replace")


def free_port() -> int:
    """A TCP port on loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
