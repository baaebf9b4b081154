"""The commands that people and scripts give all day, answered without a command line parser: that alone costs more
than the command.

Only the plainest form of a command is understood here: its name, its switches, one session where it takes one.
Whatever else there is on the line, a wrong word above all, is left to the parser, whose answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hapi.cli.scope import state
from hapi.errors import EXIT_OK


class _Said(NamedTuple):
    """A command line that is understood: which command, its switches, its session ("" for none), its namespace."""

    command: str
    switches: frozenset[str]
    target: str
    namespace: str | None


_SWITCHES = {
    "list": {"--json", "--ended", "--all"},
    "status": {"--json", "--all"},
    "start": {"--json"},
    "stop": {"--json"},
    "stop-session": {"--json", "--all"},
}
_TAKE_A_SESSION = {"stop-session"}


def prepared(arguments: list[str]) -> Callable[[], int] | None:
    """The work of that command line, for `outcome.exit_of`; None when the parser has to look at it."""
    said = _understood(arguments)
    return None if said is None else lambda: _do(said)


def _understood(arguments: list[str]) -> _Said | None:
    words = list(arguments)
    plain: list[str] = []
    namespace: str | None = None
    while words:
        word = words.pop(0)
        if word == "--namespace" and words:
            namespace = words.pop(0)
        elif word.startswith("--namespace="):
            namespace = word.partition("=")[2]
        else:
            plain.append(word)
    if plain[:1] != ["runner"] or len(plain) < 2 or plain[1] not in _SWITCHES:
        return None
    command, rest = plain[1], plain[2:]
    switches = frozenset(word for word in rest if word.startswith("-"))
    others = [word for word in rest if not word.startswith("-")]
    wanted = command in _TAKE_A_SESSION and "--all" not in switches
    if switches - _SWITCHES[command] or len(others) != wanted:
        return None
    return _Said(command, switches, "".join(others), namespace)


def _do(said: _Said) -> int:
    """The exit status. Raises whatever the command raises."""
    state.namespace = said.namespace
    as_json, every = "--json" in said.switches, "--all" in said.switches
    match said.command:
        case "list" | "stop-session":
            from hapi.cli import sessions, stop_all

            if said.command == "stop-session":
                if every:
                    return stop_all.run(as_json=as_json)
                return sessions.stop_session(said.target, as_json=as_json)
            sessions.show_list(every=every, ended="--ended" in said.switches, as_json=as_json)
        case "status":
            from hapi.cli import scope, status

            return status.show_all(as_json=as_json) if every else status.show(scope.load(), as_json=as_json)
        case "start" | "stop":
            from hapi.cli import running

            running.start(None, as_json=as_json) if said.command == "start" else running.stop(as_json=as_json)
    return EXIT_OK
