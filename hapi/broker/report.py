"""`runner.state.json`: what people and scripts may read about the runner. A report, never the truth."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from hapi.files import NotAFile, quarantine, read_file, write_atomic

logger = logging.getLogger(__name__)


class Report(msgspec.Struct, rename="camel", kw_only=True):
    """The file's content; times are ISO 8601 UTC."""

    pid: int
    control_endpoint: str
    start_time: str
    started_with_cli_version: str
    runner_log_path: str
    namespace: str
    workers: dict[str, int]
    workspace_roots: list[str]
    status: str
    supervised: bool = False
    last_heartbeat: str | None = None


def write(path: Path, report: Report) -> str | None:
    """Replace the report; a disk that is full stops nothing. Returns the trouble in words, None when written."""
    try:
        write_atomic(path, msgspec.json.format(msgspec.json.encode(report)) + b"\n", durable=False)
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error)
        return f"{path.name} cannot be written: {error.strerror}"
    return None


def set_aside_if_damaged(path: Path) -> str | None:
    """Quarantine a report that does not parse; says so, or returns None when there is nothing to say."""
    try:
        msgspec.json.decode(read_file(path), type=dict)
    except FileNotFoundError:
        return None
    except (NotAFile, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = f"{path.name} was damaged; it is kept as {quarantine(path).name} and written anew"
        logger.warning(said)
        return said
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None
