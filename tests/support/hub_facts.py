"""What the installed hub is able to ask, hear and serve, read off its program: names only.

The program is one executable with its JavaScript in it, as UTF-16 or as bytes; each of the hub's own source files
begins with a comment that names it.
"""

from __future__ import annotations

import mmap
import re
from functools import cache
from pathlib import Path

from hapi.agents.table import native_program
from tests.support.hub import find_hub

_ANCHOR = "// ../hub/src/sync/rpcGateway.ts"
_SECTION = re.compile(r"^// (\.\./\S+)$", re.MULTILINE)
_METHODS = re.compile(r"RPC_METHODS = \{(.*?)\}", re.DOTALL)
_METHOD = re.compile(r'(\w+): "([\w-]+)"')
_CALL = re.compile(r"(session|machine|callPi)Rpc\(\w+, RPC_METHODS\.(\w+)")
_UNNAMED_CALL = re.compile(r'(?:session|machine)Rpc\(\w+, "([\w-]+)"')
_EVENT = re.compile(r'\.(?:on|emit|emitWithAck)\(\s*"([a-z]+(?:[:-][a-z]+)*)"|"((?:agent-)?terminal:[a-z]+)"')
_UPDATE = re.compile(r'\bt: "([a-z-]+)"')
_ROUTE = re.compile(r'\bapp\.(get|post|put|patch|delete)\("(/[^"]*)"')
_NO_EVENTS = {"connection", "disconnect", "data", "end", "close"}  # of sockets and streams, not of the protocol


def rpc_methods() -> dict[str, set[str]]:
    """What the hub calls: "session" and "machine" → names. Raises AssertionError when the program is not understood."""
    named = dict(_METHOD.findall(_found(_METHODS, _program())))
    source = _sections("../hub/src/")
    calls: dict[str, set[str]] = {"session": set(), "machine": set()}
    for kind, key in _CALL.findall(source):
        calls["machine" if kind == "machine" else "session"].add(named[key])
    assert len(calls["session"]) > 20, "the hub's calls were not found in its program"
    assert not _UNNAMED_CALL.findall(source), "the hub calls a method by a name that is not in its table"
    return calls


def events() -> set[str]:
    """The Socket.IO events that the hub hears or sends, on either namespace."""
    source = _sections("../hub/src/socket/") + _sections("../hub/src/sync/")
    found = {called or named for called, named in _EVENT.findall(source)} - _NO_EVENTS
    assert "session-alive" in found, "the hub's events were not found in its program"
    return found


def updates() -> set[str]:
    """The kinds of the event `update`."""
    found = set(_UPDATE.findall(_sections("../hub/src/socket/") + _sections("../hub/src/sync/")))
    assert "new-message" in found, "the kinds of updates were not found in the hub's program"
    return found


def routes() -> set[str]:
    """The REST routes, as "POST /api/sessions/:id/abort"."""
    found = {
        f"{method.upper()} {'/cli' if name.endswith('/cli.ts') else '/api'}{path}"
        for name, text in _named_sections("../hub/src/web/routes/")
        for method, path in _ROUTE.findall(text)
    }
    assert len(found) > 50, "the hub's routes were not found in its program"
    return found


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    assert found is not None, f"no {pattern.pattern!r} in the hub's program"
    return found.group(1)


def _sections(prefix: str) -> str:
    return "".join(text for _, text in _named_sections(prefix))


@cache
def _named_sections(prefix: str) -> list[tuple[str, str]]:
    parts = _SECTION.split(_program())
    return [(name, text) for name, text in zip(parts[1::2], parts[2::2], strict=True) if name.startswith(prefix)]


@cache
def _program() -> str:
    binary = find_hub()
    assert binary is not None, "the official hub is not installed"
    path = Path(native_program(str(binary), "@twsxtd/hapi-{platform}-{arch}/bin/hapi"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for encoding, zero in (("utf-16-le", b"\0\0"), ("utf-8", b"\0")):
            at = data.find(_ANCHOR.encode(encoding))
            if at >= 0:
                return data[_edge(data, zero, at, back=True) : _edge(data, zero, at)].decode(encoding, "replace")
    raise AssertionError("the hub's program holds no source that could be read")


def _edge(data: mmap.mmap, zero: bytes, at: int, *, back: bool = False) -> int:
    """Where the text around `at` begins or ends: at a zero character (not at half of one and half of the next)."""
    edge = at
    while True:
        edge = data.rfind(zero, 0, edge + len(zero) - 1) if back else data.find(zero, edge)
        if edge < 0:
            return 0 if back else len(data)
        if (edge - at) % len(zero) == 0:
            return edge + len(zero) if back else edge
        edge += -1 if back else 1
