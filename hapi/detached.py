"""Starting one runner process, detached, and hearing from it that it answers or why it cannot."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.ids import SESSION_MARK

if TYPE_CHECKING:
    import subprocess

_SESSION_VARIABLES = (SESSION_MARK, "HAPI_WORKTREE_")  # a runner that an agent starts is not the agent's
_KILL_S = 2.0
_TAIL_LINES = 5


class Problem(msgspec.Struct):
    """Why it cannot start."""

    code: str
    message: str
    hint: str = ""


class Report(msgspec.Struct):
    """The one line that a starting broker writes to its ready descriptor."""

    pid: int = 0
    endpoint: str = ""
    log: str = ""
    error: Problem | None = None


def run_broker(argv: Callable[[int], Sequence[str]], log: Path, patience_s: float) -> Report:
    """Start one detached runner process and return its report, within `patience_s`.

    `argv` is the command line, given the descriptor to report to; `log` the file that it logs to. A process that makes
    no report is ended, and HapiError(start_failed) raised with the last lines of that log.
    """
    import subprocess

    deadline = monotonic() + patience_s
    log_start = log.stat().st_size if log.exists() else 0
    ready, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            argv(theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(),
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        theirs = -1
        line = _read_line(ready, deadline)
        if not line:
            raise _start_failed(process, patience_s if line is None else None, log, log_start)
        if b'"error"' not in line:
            process.returncode = 0  # it lives on; it is not ours to wait for
        else:
            _end(process)
        return _decode(line, log)
    finally:
        os.close(ready)
        if theirs >= 0:
            os.close(theirs)


def _read_line(fd: int, deadline: float) -> bytes | None:
    """The line that arrives on `fd`; b"" when it is closed without one, None at the deadline."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    data = b""
    while not data.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - monotonic()) * 1000):
            return None
        chunk = os.read(fd, 65536)
        if not chunk:
            return data.strip()
        data += chunk
    return data.strip()


def _decode(line: bytes, log: Path) -> Report:
    try:
        return msgspec.json.decode(line, type=Report)
    except msgspec.MsgspecError as error:
        raise HapiError(ErrorCode.START_FAILED, f"The runner reported nonsense: {error}", f"Its log: {log}") from None


def _start_failed(process: subprocess.Popen[bytes], waited_s: float | None, log: Path, log_start: int) -> HapiError:
    """Why a runner made no report; one that was `waited_s` for in vain still runs, and is ended."""
    status = _end(process, _KILL_S if waited_s is None else 0)
    if waited_s is not None:
        why = f"The runner did not answer within {waited_s:.0f} s; it was ended"
    elif status < 0:
        why = f"The runner was killed by signal {-status} while it started"
    else:
        why = f"The runner ended while it started, with exit status {status}"
    lines = _tail(log, log_start)
    story = "".join(f"\n  {line}" for line in lines) or " (which says nothing of it)"
    hint = "Watch it start: hapi runner start-sync"
    return HapiError(ErrorCode.START_FAILED, f"{why}. Its log is {log}{':' if lines else ''}{story}", hint)


def _end(process: subprocess.Popen[bytes], patience_s: float = _KILL_S) -> int:
    """End our own child, its whole group, and return its exit status: patience, SIGTERM, SIGKILL."""
    import signal
    import subprocess

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            return process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)  # not reaped yet, so the group is still ours
            patience_s = _KILL_S
    return process.wait(_KILL_S)


def _tail(log: Path, start_at: int) -> list[str]:
    """The last lines that were added to the log after `start_at`."""
    try:
        with log.open("rb") as file:
            file.seek(max(start_at, log.stat().st_size - 65536))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return []


def environment() -> dict[str, str]:
    """Our environment; for a checkout run as `python -m hapi`, with the way back to it (the runner's cwd is /)."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_SESSION_VARIABLES)}
    root = str(Path(__file__).resolve().parent.parent)
    here = os.path.realpath(sys.path[0] or os.getcwd()) if sys.path else ""
    if here == root and root not in map(os.path.realpath, sys.path[1:]):
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH", "")]))
    return environ
