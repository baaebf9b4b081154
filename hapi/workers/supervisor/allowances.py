"""What a person allowed for the rest of the session: whole tools, and single commands of a tool. Pure.

The web names them as `Tool` or `Bash(command)`; `Bash(git add:*)` stands for every command that begins so.
"""

from __future__ import annotations

import re
from typing import Any

from hapi.workers.supervisor.acp_tools import NAME_LIMIT

COMMAND_LIMIT = 40_000  # characters; well below where a text is cut: two that were cut may look the same
_RULE = re.compile(r"(?P<tool>[^()]+)\((?P<command>.+)\)", re.DOTALL)
_ANY_REST = ":*"
_CHAINS = re.compile(r"[;&|<>`\n\r(]")


class Allowances:
    """Rules that only grow. A rule for a command never allows another command of that tool."""

    def __init__(self) -> None:
        self._tools: set[str] = set()
        self._calls: set[tuple[str, str]] = set()
        self._beginnings: set[tuple[str, str]] = set()

    def add(self, rule: str, asked: Any = None) -> None:
        """Take a rule as the web writes it; `asked`: the arguments of the call for which it was said.

        A command of that call that itself ends in `:*` is meant as it stands.
        """
        match = _RULE.fullmatch(rule)
        if match is None:
            self._tools.add(rule)
            return
        command = match["command"]
        if command.endswith(_ANY_REST) and command != command_of(asked):
            self._beginnings.add((match["tool"], command.removesuffix(_ANY_REST)))
        else:
            self._calls.add((match["tool"], command))

    def add_call(self, tool: str, arguments: Any) -> None:
        """Allow from now on: of a tool that runs commands this one only, of any other each call that runs none.

        A call of which not all is known is not remembered: the next one would only look the same.
        """
        command = command_of(arguments)
        if command is not None and len(tool) <= NAME_LIMIT:
            self._calls.add((tool, command))

    def allows(self, tool: str, arguments: Any) -> bool:
        """Whether a rule covers this call."""
        if tool in self._tools:
            return True
        command = command_of(arguments)
        if command is None:
            return False
        return (tool, command) in self._calls or any(
            name == tool and _begins(command, start) for name, start in self._beginnings
        )


def names_command(rule: str) -> bool:
    """Whether the rule is about a command, and not a whole tool."""
    return _RULE.fullmatch(rule) is not None


def command_of(arguments: Any) -> str | None:
    """The command that a call runs; "" for a call that runs none, None when that cannot be told."""
    if not isinstance(arguments, dict):
        return None  # it was cut
    found = arguments.get("command") or arguments.get("cmd") or ""
    if isinstance(found, list) and all(isinstance(word, str) for word in found):
        found = "\0".join(found)
    return found if isinstance(found, str) and len(found) <= COMMAND_LIMIT else None


def _begins(command: str, start: str) -> bool:
    """Whether the command is that one with more words behind it, and not with another command."""
    rest = command.removeprefix(start)
    return command.startswith(start) and rest[:1] in {"", " "} and _CHAINS.search(rest) is None
