"""What the agents offer before there is a session (§4.6): the real agent is asked, in a short-lived process.

`hapi.workers.supervisor.probe` starts it as a session would; it stays out of this process, as does all that it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hapi import remains
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.ids import SESSION_MARK, new_session_id
from hapi.wire import Choice
from hapi.workers.hub import browse, incoming, models
from hapi.workers.hub.context import Context
from hapi.workers.hub.rpc import Rpc

DEADLINE_S = 25.0  # the hub gives up after 30 s
AT_ONCE = 2
FRESH_S = 300.0
CACHED = 64
ANSWER_BYTES = 4 * 1024 * 1024
SWEEP_S = 3.0
PROBE = "hapi.workers.supervisor.probe"

Key = tuple[str, str]  # agent, directory ("": any)
_log = logging.getLogger("hapi.hub")


class _Params(msgspec.Struct):
    cwd: str | None = None
    refresh: bool = False


class _Found(msgspec.Struct):
    models: list[Choice] = []
    model: str | None = None
    efforts: list[Choice] = []
    effort: str | None = None
    modes: list[Choice] = []
    error: str = ""


class ModelLists:
    """The machine's model lists. At most AT_ONCE agents are asked at once, each (agent, directory) once at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[Key, asyncio.Task[_Found]] = {}
        self._known: OrderedDict[Key, tuple[float, _Found]] = OrderedDict()

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        return {
            "listOpencodeModelsForCwd": partial(self._list, "opencode", _with_modes),
            "listGrokModelsForCwd": partial(self._list, "grok", _with_modes),
            "listCopilotModelsForCwd": partial(self._list, "copilot", _with_modes),
            "listOpencodeModelVariants": partial(self._list, "opencode", _variants),
            "listAgyModels": partial(self._list, "agy", _with_modes),
            "listPiModelsForMachine": partial(self._list, "pi", _with_modes),
            "listCursorModels": partial(self._list, "cursor", _with_modes),
            "listCodexModels": partial(self._list, "codex", _codex),
        }

    async def _list(self, agent: str, say: Callable[[str, _Found], Any], raw: Any) -> Any:
        asked = incoming.read(raw or {}, _Params)
        try:
            directory = await self._directory(asked.cwd)
            return say(agent, await self._offer((agent, directory), refresh=asked.refresh))
        except HapiError as error:
            self._context.counters["model_lists_failed"] += 1
            return {"success": False, "error": error.words}

    async def _directory(self, cwd: str | None) -> str:
        """The directory to ask in, "" for any. Raises HapiError: outside_workspace_roots, bad_directory."""
        if not cwd:
            return ""
        path = await asyncio.to_thread(browse.confine, cwd, self._context.runner.workspace_roots)
        if not os.path.isabs(cwd) or not await asyncio.to_thread(os.path.isdir, path):
            raise HapiError(ErrorCode.BAD_DIRECTORY, f"{cwd} is not a directory.")
        return str(path)

    async def _offer(self, key: Key, *, refresh: bool) -> _Found:
        """What is known, if it is fresh, else what the agent says. Raises HapiError(agent_failed, timeout)."""
        at, known = self._known.get(key, (0.0, None))
        if known is not None and not refresh and monotonic() - at < FRESH_S:
            return known
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key), name=f"models of {key[0]}")
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        found = await asyncio.shield(task)
        if found.error:
            raise HapiError(ErrorCode.AGENT_FAILED, found.error)
        return found

    async def _ask(self, key: Key) -> _Found:
        """One probe, from its start to the end of all that it started."""
        try:
            async with asyncio.timeout(DEADLINE_S), self._slots:
                found = await self._probe(key)
        except TimeoutError:
            return _Found(error=f"{key[0]} did not tell its models within {DEADLINE_S:g} s.")
        if not found.error:
            self._known[key] = (monotonic(), found)
            self._known.move_to_end(key)
            while len(self._known) > CACHED:
                self._known.popitem(last=False)
        return found

    async def _probe(self, key: Key) -> _Found:
        mark = f"probe-{new_session_id()}"
        self._context.counters["model_probes"] += 1
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", PROBE, key[0], self._context.config.namespace, key[1]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {SESSION_MARK: mark},
            limit=ANSWER_BYTES,
            start_new_session=True,
        )
        try:
            line = await process.stdout.readline() if process.stdout is not None else b""
            return msgspec.json.decode(line, type=_Found)
        except (msgspec.MsgspecError, ValueError):
            return _Found(error=f"{key[0]} could not be asked for its models.")
        finally:
            await asyncio.shield(self._end(process, mark))

    async def _end(self, process: asyncio.subprocess.Process, mark: str) -> None:
        """A probe that has answered is done, any other is killed; what it may have left behind goes with it."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(SWEEP_S):
                code = await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            code = await process.wait()
        if code != 0:
            ended, left = await asyncio.to_thread(remains.end, mark, None, self._context.config.home, SWEEP_S)
            await asyncio.to_thread(_tidy, mark)
            _log.warning("a model list's process ended with %d; %d processes ended, %d left", code, ended, len(left))


def _tidy(mark: str) -> None:
    """Remove the directory of a probe that was killed."""
    for left in Path(tempfile.gettempdir()).glob(f"hapi-{mark}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _choosable(agent: str, found: _Found) -> models.Choosable:
    return models.Choosable(agent, found.models, found.model, found.efforts, found.effort)


def _with_modes(agent: str, found: _Found) -> Any:
    answer = models.listing(_choosable(agent, found))
    if agent == "grok":  # no list of modes says nothing about them
        answer["autoPermissionModeSupported"] = not found.modes or "auto" in {mode.value for mode in found.modes}
    return answer


def _variants(agent: str, found: _Found) -> Any:
    return models.variants(_choosable(agent, found))


def _codex(agent: str, found: _Found) -> Any:
    return models.codex(_choosable(agent, found))
