"""What a person allowed for the rest of the session: whole tools, and single commands of a tool. Pure.

The web names them as `Tool` or `Bash(command)`; `Bash(git add:*)` stands for every command that begins so.
"""

from __future__ import annotations

import re
from typing import Any

_RULE = re.compile(r"(?P<tool>[^()]+)\((?P<command>.+)\)", re.DOTALL)
_ANY_REST = ":*"
_CHAINS = re.compile(r"[;&|<>`\n]|\$\(")


class Allowances:
    """Rules that only grow. A rule for a command never allows another command of that tool."""

    def __init__(self) -> None:
        self._tools: set[str] = set()
        self._commands: set[tuple[str, str]] = set()

    def add(self, rule: str) -> None:
        """Take a rule as the web writes it."""
        match = _RULE.fullmatch(rule)
        if match is None:
            self._tools.add(rule)
        else:
            self._commands.add((match["tool"], match["command"]))

    def add_call(self, tool: str, arguments: Any) -> None:
        """Allow this call from now on: a tool that runs commands for this command only, any other as a whole."""
        command = command_of(arguments)
        if command is None:
            self._tools.add(tool)
        else:
            self._commands.add((tool, command))

    def allows(self, tool: str, arguments: Any) -> bool:
        """Whether a rule covers this call."""
        if tool in self._tools:
            return True
        command = command_of(arguments)
        return command is not None and any(
            name == tool and _matches(rule, command) for name, rule in tuple(self._commands)
        )


def names_command(rule: str) -> bool:
    """Whether the rule is about a command, and not a whole tool."""
    return _RULE.fullmatch(rule) is not None


def command_of(arguments: Any) -> str | None:
    """The command that a call runs; None for a call that runs none."""
    found = (arguments.get("command") or arguments.get("cmd")) if isinstance(arguments, dict) else None
    if isinstance(found, list) and found and all(isinstance(word, str) for word in found):
        return "\0".join(found)
    return found if isinstance(found, str) and found else None


def _matches(rule: str, command: str) -> bool:
    if not rule.endswith(_ANY_REST):
        return rule == command
    start = rule.removesuffix(_ANY_REST)
    rest = command.removeprefix(start)
    return command.startswith(start) and rest[:1] in {"", " "} and _CHAINS.search(rest) is None
