"""What is allowed without asking, and which of the agent's options means what. Pure.

Modes and their meaning: the hub's protocol, §5.11. Options are told apart by kind, never by id: every agent has its own ids.
"""

from __future__ import annotations

from typing import Any, Literal

Decision = Literal["approved", "approved_for_session", "denied", "abort"]

AGENTS_OWN = frozenset({"auto", "ask", "debug", "autoReview"})  # only the agent knows what these mean

_FOR_SESSION = frozenset({"yolo", "bypassPermissions", "always-proceed"})
_APPROVE_ALL = _FOR_SESSION | {"safe-yolo"}
_READING_KINDS = frozenset({"read", "search", "think", "fetch"})
_EDITING_KINDS = frozenset({"edit", "delete", "move"})
_ACTING_KINDS = _EDITING_KINDS | {"execute", "fetch"}
_GRANTED = {"read-only": _READING_KINDS, "acceptEdits": _EDITING_KINDS}
_HARMLESS = frozenset({"change_title", "think", "save_memory", "skill_lookup", "list_peers"})
_KINDS: dict[Decision, tuple[str, ...]] = {
    "approved": ("allow_once", "allow_always"),
    "approved_for_session": ("allow_always", "allow_once"),
    "denied": ("reject_once", "reject_always"),
    "abort": (),
}


def grants_all(mode: str | None) -> bool:
    """Whether in that mode nobody is ever asked."""
    return mode in _APPROVE_ALL


def grants_no_more(mode: str | None, than: str | None) -> bool:
    """Whether `mode` lets pass nothing for which `than` would have asked."""
    if than in _APPROVE_ALL:
        return True
    return mode not in _APPROVE_ALL and _granted(mode) <= _granted(than)


def automatic(
    mode: str | None,
    kind: str | None,
    tool: str = "",
    *,
    allowed_before: bool = False,
    plan_denies: bool = False,
) -> Decision | None:
    """The answer that the permission mode gives by itself; None when a person must be asked.

    `allowed_before`: a person allowed it for the session; to the agent that is one more yes, for its own "always" might
    be wider. `plan_denies`: in plan mode it is on us to keep the agent from writing.
    """
    if mode in _FOR_SESSION:
        return "approved_for_session"
    if mode == "plan" and plan_denies and kind not in _READING_KINDS and not harmless(tool, kind):
        return "denied"
    granted = allowed_before or mode == "safe-yolo" or harmless(tool, kind) or kind in _granted(mode)
    return "approved" if granted else None


def harmless(tool: str, kind: str | None) -> bool:
    """Whether a tool only concerns the conversation; a server's name may stand before its own (`mcp__x__think`).

    A title is the agent's word: what says that it executes or writes is not believed to be one of these.
    """
    return kind not in _ACTING_KINDS and tool.strip().lower().rpartition("__")[2] in _HARMLESS


def _granted(mode: str | None) -> frozenset[str]:
    return _GRANTED.get(mode or "", frozenset())


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
