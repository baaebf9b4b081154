"""What `ps` shows of a supervisor, kept current."""

from __future__ import annotations

from pathlib import Path

import setproctitle

from hapi.wire import SessionInfo


def text(info: SessionInfo, home: Path) -> str:
    """`hapi: session [default] 1f0c22ab demo ~/proj working`. Pure."""
    path = Path(info.directory)
    place = f"~/{path.relative_to(home)}" if path.is_relative_to(home) and path != home else str(path)
    place = "~" if path == home else place
    return f"hapi: session [{info.namespace}] {info.session_id[:8]} {info.agent} {place} {info.phase}"


def show(info: SessionInfo) -> None:
    """Set this process's title."""
    setproctitle.setproctitle(text(info, Path.home()))


def show_starting(namespace: str, session_id: str) -> None:
    """Before the order is known."""
    setproctitle.setproctitle(f"hapi: session [{namespace}] {session_id[:8]} starting")
