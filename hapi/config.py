"""The configuration, resolved once: command line, then environment, then `settings.json`, then default.

Every variable and key is described in docs/configuration.md. Values that make no sense raise
HapiError(bad_configuration) naming the variable or the key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hapi import settings
from hapi.errors import ErrorCode, HapiError
from hapi.ids import DEFAULT_NAMESPACE, namespace, split_token
from hapi.paths import Paths

DEFAULT_API_URL = "http://localhost:3006"
HEARTBEAT_MS, CONTROL_TIMEOUT_MS, READY_TIMEOUT_MS = 60_000, 10_000, 15_000
HANDOFF_WINDOW_MS = 300_000
DETACH_KEY = "Ctrl-\\ d"
_FALSE = {"", "0", "false", "no", "off"}
_TRUE = {"1", "true", "yes", "on"}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole program goes by. `sources` says where each value came from, for `hapi doctor`."""

    home: Path
    namespace: str
    api_url: str
    token: str | None
    hostname: str
    heartbeat_interval_ms: int
    control_timeout_ms: int
    ready_timeout_ms: int
    extra_headers: dict[str, str]
    supervised: bool
    handoff_disabled: bool
    handoff_window_ms: int
    create_directories: bool
    agents: dict[str, dict[str, Any]]
    sources: dict[str, str]
    detach_key: str = DETACH_KEY

    def __repr__(self) -> str:  # the token must not reach a log through a traceback
        return f"Config(home={self.home}, namespace={self.namespace}, api_url={self.api_url})"

    @property
    def paths(self) -> Paths:
        """The paths of this namespace."""
        return Paths(self.home, self.namespace)


def home_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """`HAPI_HOME` or `~/.hapi`, absolute. Raises HapiError(bad_configuration) for the home of nobody."""
    try:
        return Path(os.path.abspath(Path(environ.get("HAPI_HOME") or "~/.hapi").expanduser()))
    except RuntimeError as error:
        raise _bad("HAPI_HOME", f"cannot be resolved: {error}") from None


def load(namespace_option: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Resolve the configuration. Raises HapiError(bad_configuration). Reads at most two files, writes none."""
    reader = _Reader(environ)
    home = home_directory(environ)
    reader.sources["home"] = "HAPI_HOME" if environ.get("HAPI_HOME") else "default"
    reader.add_settings(Paths(home).settings)
    base_namespace = _pick_namespace(reader, namespace_option)
    if base_namespace != DEFAULT_NAMESPACE:
        reader.add_settings(Paths(home, base_namespace).settings)
    reader.setting_text("machine_id", "machineId")  # the connector's; a wrong one must not make a new machine of this
    return Config(
        home=home,
        namespace=base_namespace,
        api_url=_url(reader.text("api_url", "HAPI_API_URL", "apiUrl") or DEFAULT_API_URL, reader.sources["api_url"]),
        token=_token(reader.text("token", "CLI_API_TOKEN", "cliApiToken"), base_namespace),
        hostname=reader.text("hostname", "HAPI_HOSTNAME", "hostname") or os.uname().nodename,
        heartbeat_interval_ms=reader.number("heartbeat_interval_ms", "HAPI_RUNNER_HEARTBEAT_INTERVAL", HEARTBEAT_MS),
        control_timeout_ms=reader.number("control_timeout_ms", "HAPI_RUNNER_HTTP_TIMEOUT", CONTROL_TIMEOUT_MS),
        ready_timeout_ms=reader.number("ready_timeout_ms", "HAPI_RUNNER_WEBHOOK_TIMEOUT_MS", READY_TIMEOUT_MS),
        extra_headers=reader.headers(),
        supervised=reader.flag("supervised", "HAPI_RUNNER_SUPERVISED"),
        handoff_disabled=reader.flag("handoff_disabled", "HAPI_DISABLE_VERSION_HANDOFF"),
        handoff_window_ms=reader.number("handoff_window_ms", "HAPI_HANDOFF_WINDOW_MS", HANDOFF_WINDOW_MS),
        create_directories=reader.setting_flag("create_directories", "createDirectories", default=True),
        agents=reader.agents(),
        sources=reader.sources,
        detach_key=reader.text("detach_key", "HAPI_DETACH_KEY", "detachKey") or DETACH_KEY,
    )


def bare(home: Path, name: str) -> Config:
    """The defaults alone, for a namespace whose settings cannot be read: enough to find what runs there."""
    return Config(
        home=home,
        namespace=name,
        api_url=DEFAULT_API_URL,
        token=None,
        hostname=os.uname().nodename,
        heartbeat_interval_ms=HEARTBEAT_MS,
        control_timeout_ms=CONTROL_TIMEOUT_MS,
        ready_timeout_ms=READY_TIMEOUT_MS,
        extra_headers={},
        supervised=False,
        handoff_disabled=False,
        handoff_window_ms=HANDOFF_WINDOW_MS,
        create_directories=True,
        agents={},
        sources={},
    )


class _Reader:
    """Looks values up in their order of precedence and remembers where each was found."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.sources: dict[str, str] = {}
        self._settings: list[tuple[Path, dict[str, Any]]] = []

    def add_settings(self, path: Path) -> None:
        """Let the file at `path` win over those added before."""
        self._settings.insert(0, (path, settings.read(path)))

    def text(self, name: str, variable: str, key: str) -> str | None:
        value = self.environ.get(variable)
        if value:
            self.sources[name] = variable
            return value
        return self.setting_text(name, key)

    def setting_text(self, name: str, key: str) -> str | None:
        found = self._setting(name, key)
        if found is None or isinstance(found, str):
            return found or None
        raise _bad(f"{self.sources[name]}: {key}", "must be a string")

    def number(self, name: str, variable: str, default: int) -> int:
        """A positive number of milliseconds."""
        value = self.environ.get(variable)
        self.sources[name] = variable if value else "default"
        if not value:
            return default
        if not value.isascii() or not value.isdigit() or len(value) > 8 or not 1 <= int(value) <= 86_400_000:
            raise _bad(variable, f"must be a number of milliseconds from 1 to 86400000, not {value!r}")
        return int(value)

    def flag(self, name: str, variable: str) -> bool:
        value = self.environ.get(variable, "").strip().lower()
        self.sources[name] = variable if variable in self.environ else "default"
        if value in _FALSE:
            return False
        if value in _TRUE:
            return True
        raise _bad(variable, f"must be 1 or 0, not {value!r}")

    def setting_flag(self, name: str, key: str, *, default: bool) -> bool:
        value = self._setting(name, key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise _bad(f"{self.sources[name]}: {key}", "must be true or false")

    def headers(self) -> dict[str, str]:
        variable = "HAPI_EXTRA_HEADERS_JSON"
        raw = self.environ.get(variable)
        if raw:
            self.sources["extra_headers"] = variable
            try:
                return msgspec.json.decode(raw, type=dict[str, str])
            except (msgspec.MsgspecError, UnicodeError):
                raise _bad(variable, "must be a JSON object of strings") from None
        value = self._setting("extra_headers", "extraHeaders")
        headers: dict[str, str] = self._converted(
            f"{self.sources['extra_headers']}: extraHeaders", value, dict[str, str]
        )
        return headers

    def agents(self) -> dict[str, dict[str, Any]]:
        value = self._setting("agents", "agents")
        agents: dict[str, dict[str, Any]] = self._converted(
            f"{self.sources['agents']}: agents", value, dict[str, dict[str, Any]]
        )
        return agents

    def _converted(self, where: str, value: Any, kind: Any) -> Any:
        if value is None:
            return {}
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise _bad(where, str(error)) from None

    def _setting(self, name: str, key: str) -> Any:
        for path, content in self._settings:
            if content.get(key) is not None:
                self.sources[name] = str(path)
                return content[key]
        self.sources[name] = "default"
        return None


def _pick_namespace(reader: _Reader, option: str | None) -> str:
    if option:
        reader.sources["namespace"] = "--namespace"
        return namespace(option)
    if reader.environ.get("HAPI_NAMESPACE"):
        reader.sources["namespace"] = "HAPI_NAMESPACE"
        return namespace(reader.environ["HAPI_NAMESPACE"])
    token = reader.text("namespace", "CLI_API_TOKEN", "cliApiToken")
    name = split_token(token)[1] if token else DEFAULT_NAMESPACE
    if name == DEFAULT_NAMESPACE:
        reader.sources["namespace"] = "default"
    return name


def _token(raw: str | None, chosen: str) -> str | None:
    """The token for the chosen namespace: its base with that namespace's suffix."""
    if raw is None:
        return None
    base, _ = split_token(raw)
    return base if chosen == DEFAULT_NAMESPACE else f"{base}:{chosen}"


def is_address(text: str) -> bool:
    """Whether it is an http or https address with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _url(text: str, source: str) -> str:
    if not is_address(text):
        where = source if source == "HAPI_API_URL" else f"{source}: apiUrl"
        raise _bad(where, f"must be an http or https address, not {text!r}")
    return text.rstrip("/")


def _bad(where: str, why: str) -> HapiError:
    return HapiError(ErrorCode.BAD_CONFIGURATION, f"{where} {why}.", "docs/configuration.md lists all settings.")
