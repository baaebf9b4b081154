"""A session in a terminal goes on as a chat, for somebody who wants it so in the web."""

from __future__ import annotations

import asyncio
import os

from hapi import handover, wire
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub.context import Context
from hapi.workers.hub.stopping import stop_session

SPAWN_GRACE_S = 10.0


async def to_chat(context: Context, info: wire.SessionInfo) -> None:
    """End the session's terminal and take its conversation up as a chat; a turn that runs is cut. Raises HapiError.

    What cannot be done is refused before anything is ended. Where the chat does not start, the terminal is started again.
    """
    steps = await asyncio.to_thread(handover.steps, info, "acp", context.config, os.environ, cut=True)
    if steps.spawn is None:
        return
    if steps.stop is not None:
        stopped = await stop_session(context, info.session_id, handoff=True)
        if stopped is None or stopped.status == "still_alive":
            raise HapiError(ErrorCode.STILL_ALIVE, "The program in its terminal does not end.")
    try:
        await _start(context, steps.spawn)
    except HapiError as error:
        raise HapiError(error.code, error.words, await _put_back(context, info)) from None


async def _start(context: Context, order: wire.Spawn) -> None:
    patience_ms = wire.MAX_LINE_MS + context.config.ready_timeout_ms
    await context.bus.request(wire.BROKER, order, patience_ms / 1000 + SPAWN_GRACE_S)


async def _put_back(context: Context, info: wire.SessionInfo) -> str:
    """Start the terminal again; what became of that, in words."""
    try:
        await _start(context, handover.back(info))
    except HapiError as error:
        return f"Its terminal could not be started again either: {error.words}"
    return "It goes on in its terminal."
