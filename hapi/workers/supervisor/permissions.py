"""What is allowed without asking, and which of the agent's options means what. Pure.

Modes and their meaning: the hub's protocol, §5.11. Options are told apart by kind, never by id: every agent has its own ids.
"""

from __future__ import annotations

from typing import Any, Literal

Decision = Literal["approved", "approved_for_session", "denied", "abort"]

_APPROVE_ALL = frozenset({"yolo", "bypassPermissions", "always-proceed"})
_READING_KINDS = frozenset({"read", "search", "think", "fetch"})
_EDITING_KINDS = frozenset({"edit", "delete", "move"})
_KINDS: dict[Decision, tuple[str, ...]] = {
    "approved": ("allow_once", "allow_always"),
    "approved_for_session": ("allow_always", "allow_once"),
    "denied": ("reject_once", "reject_always"),
    "abort": (),
}


def automatic(mode: str | None, kind: str | None, *, allowed_before: bool = False) -> Decision | None:
    """The answer that the permission mode gives by itself; None when a person must be asked."""
    if allowed_before or mode in _APPROVE_ALL:
        return "approved_for_session"
    if mode == "safe-yolo":
        return "approved"
    if mode == "read-only" and kind in _READING_KINDS:
        return "approved"
    if mode == "acceptEdits" and kind in _EDITING_KINDS:
        return "approved"
    return None


def choose(options: list[dict[str, Any]], decision: Decision) -> str | None:
    """The id of the agent's option that fits the decision; None means: answer `cancelled`."""
    for wanted in _KINDS[decision]:
        for option in options:
            if option.get("kind") == wanted and isinstance(option.get("optionId"), str):
                chosen: str = option["optionId"]
                return chosen
    return None


def outcome(options: list[dict[str, Any]], decision: Decision) -> dict[str, Any]:
    """The ACP answer to a permission request."""
    chosen = choose(options, decision)
    if chosen is None:
        return {"outcome": {"outcome": "cancelled"}}
    return {"outcome": {"outcome": "selected", "optionId": chosen}}
