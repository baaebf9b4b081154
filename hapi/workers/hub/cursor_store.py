"""Where Cursor keeps a chat on this machine. Blocking: call it in a thread.

Cursor's program keeps `~/.cursor/chats/<hash of the workspace>/<id>/store.db`; as an ACP server,
`~/.cursor/acp-sessions/<id>/store.db`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def status(home: Path, chat: str) -> dict[str, Any]:
    """The answer to `cursor-chat-store-status` for the chat of that id: which store has it, if any has."""
    store = _find(home / ".cursor", chat) if _ID.fullmatch(chat) else None
    return {"onDisk": store is not None, "store": store}


def _find(place: Path, chat: str) -> str | None:
    if (place / "acp-sessions" / chat / "store.db").is_file():
        return "acp"
    legacy = (workspace / chat / "store.db" for workspace in _directories(place / "chats"))
    return "legacy" if any(path.is_file() for path in legacy) else None


def _directories(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []
