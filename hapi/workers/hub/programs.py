"""Running git and rg for the web: bounded in time and output, in a process group of their own, without our secrets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from hapi.errors import ErrorCode, HapiError

TIMEOUT_S = 10.0
MAX_OUTPUT = 8 << 20
MAX_COMPLAINT = 64 << 10
KILL_TIMEOUT_S = 2.0
_PIECE = 1 << 16
_KEPT = ("HOME", "LOGNAME", "TMPDIR", "USER", "XDG_CONFIG_HOME")


class Ran(msgspec.Struct, frozen=True):
    """A program that has ended by itself."""

    code: int
    out: bytes
    err: str


def find(name: str) -> str | None:
    """Where the program is; None when there is none. A PATH entry that is relative is passed over: it would be looked
    for in the directory of a session.
    """
    return shutil.which(name, path=_search_path())


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a program gets to see: nothing that steers git or rg, no secret, and a language of which we know the words."""
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return {**kept, "PATH": _search_path(), "LC_ALL": "C", **extra}


@contextlib.asynccontextmanager
async def in_time(name: str) -> AsyncIterator[None]:
    """What is run inside is killed after TIMEOUT_S in all. Raises HapiError(timeout)."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except TimeoutError:
        raise HapiError(ErrorCode.TIMEOUT, f"{name} took longer than {TIMEOUT_S:g} s.") from None


async def run(command: Sequence[str], directory: str, extra: Mapping[str, str], limit: int = MAX_OUTPUT) -> Ran:
    """Run it and return how it ended; on every other way out its process group is killed. To be used `in_time`.

    Raises HapiError: too_large for more than `limit` bytes of output, missing_tool, bad_directory.
    """
    name = os.path.basename(command[0])
    try:
        process = await _started(command, directory, extra)
    except OSError as error:
        if error.filename == directory:  # it could not even go there
            raise HapiError(ErrorCode.BAD_DIRECTORY, f"{directory}: {error.strerror}.") from None
        raise HapiError(ErrorCode.MISSING_TOOL, f"{name} cannot be run: {error.strerror}.") from None
    try:
        return await _finish(process, name, limit)
    finally:
        await _end(process)


async def _started(command: Sequence[str], directory: str, extra: Mapping[str, str]) -> asyncio.subprocess.Process:
    """Start it. Cancelled meanwhile, the start is seen through: asyncio would kill the program and not its group."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            cwd=directory,
            env=environment(extra),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise


async def _finish(process: asyncio.subprocess.Process, name: str, limit: int) -> Ran:
    if process.stdout is None or process.stderr is None:  # pragma: no cover - they were asked for
        raise RuntimeError("no pipes")
    complaint = asyncio.create_task(_read(process.stderr, MAX_COMPLAINT))
    try:
        out = bytearray()
        while piece := await process.stdout.read(_PIECE):
            out += piece
            if len(out) > limit:
                raise HapiError(ErrorCode.TOO_LARGE, f"{name} has more than {limit >> 20} MiB to say.")
        err = await complaint
        return Ran(await process.wait(), bytes(out), err.decode(errors="replace").strip())
    finally:
        complaint.cancel()


async def _read(stream: asyncio.StreamReader, limit: int) -> bytes:
    """The first `limit` bytes; the rest is read and dropped, so that the writer goes on."""
    kept = bytearray()
    while piece := await stream.read(_PIECE):
        kept += piece[: limit - len(kept)]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the group, unless all of it ended by itself: while a pipe is open, somebody holds it."""
    if process.returncode is not None and all(pipe.at_eof() for pipe in (process.stdout, process.stderr) if pipe):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    transport = getattr(process, "_transport", None)
    if transport is not None:  # or the pipes stay open as long as one who left the group holds them
        transport.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await process.wait()


def _search_path() -> str:
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if os.path.isabs(entry))
