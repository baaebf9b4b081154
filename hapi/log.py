"""Logging for the daemons: one bounded file per process, one line per event, times in UTC."""

from __future__ import annotations

import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 5 * 1024 * 1024
BACKUPS = 2

_FORMATTER = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(process)d %(message)s", "%Y-%m-%dT%H:%M:%S")
_FORMATTER.converter = time.gmtime


def set_up(path: Path, level: int = logging.INFO) -> None:
    """Send this process's log to `path`, at most (1 + BACKUPS) times MAX_BYTES; replaces earlier handlers.

    Raises OSError when the file cannot be opened. Called by entry points only.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=False)
    path.chmod(0o600)
    handler.setFormatter(_FORMATTER)
    tear_down()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    for noisy in ("asyncio", "socketio", "engineio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def tear_down() -> None:
    """Close this process's log; until the next `set_up` only warnings are seen, on stderr."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
