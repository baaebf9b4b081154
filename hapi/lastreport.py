"""What the last runner wrote down of itself (`runner.state.json`): a report, believed only where nobody answers."""

from __future__ import annotations

import msgspec

from hapi import __version__, files
from hapi.config import Config
from hapi.handoff import older
from hapi.paths import Paths


class LastReport(msgspec.Struct, rename="camel"):
    """What counts of it for starting another one; the defaults where there is none."""

    pid: int = 0
    status: str = "stopped"
    supervised: bool = False
    workspace_roots: list[str] = []
    started_with_cli_version: str = ""


def read(paths: Paths) -> LastReport:
    """The report; the defaults when there is none that can be read."""
    try:
        return msgspec.json.decode(files.read_file(paths.state), type=LastReport)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return LastReport()


def is_current(config: Config) -> bool:
    """Whether a runner holds the lock and its report does not say that it is older than this code. Asks nobody."""
    try:
        held = files.is_locked(config.paths.lock)
    except OSError:
        return False
    version = read(config.paths).started_with_cli_version
    return held and not (version and older(version, __version__))
