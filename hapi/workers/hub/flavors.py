"""What the hub's own tables say about each agent flavor. Data; an unknown flavor is treated like claude for modes."""

from __future__ import annotations

_SANDBOX_MODES = ("default", "read-only", "safe-yolo", "yolo")
MODES: dict[str, tuple[str, ...]] = {
    "claude": ("default", "acceptEdits", "auto", "bypassPermissions", "plan"),
    "codex": _SANDBOX_MODES,
    "gemini": _SANDBOX_MODES,
    "kimi": _SANDBOX_MODES,
    "copilot": _SANDBOX_MODES,
    "grok": ("default", "auto", "plan", "bypassPermissions"),
    "opencode": ("default", "plan", "yolo"),
    "cursor": ("default", "plan", "ask", "debug", "autoReview", "yolo"),
    "agy": ("request-review", "always-proceed"),
    "pi": (),
    "dsh": (),
}
EFFORT = frozenset({"claude", "grok", "pi", "agy"})
REASONING_EFFORT = frozenset({"codex", "opencode"})
NATIVE_ID_KEYS = {flavor: f"{flavor}SessionId" for flavor in MODES if flavor != "dsh"}
OPTIONS: dict[str, frozenset[str]] = {
    "serviceTier": frozenset({"fast", "standard"}),
    "collaborationMode": frozenset({"default", "plan"}),
    "copilotAgentMode": frozenset({"interactive", "plan", "autopilot"}),
}


def allowed_mode(flavor: str, mode: str | None) -> str | None:
    """`mode` if the hub knows it for that flavor. Any other would poison the session's metadata."""
    return mode if mode in MODES.get(flavor, MODES["claude"]) else None
