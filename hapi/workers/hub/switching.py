"""A session in a terminal goes on as a chat, for somebody who wants it so in the web."""

from __future__ import annotations

import os

from hapi import handover, wire
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub.context import Context
from hapi.workers.hub.stopping import stop_session

SPAWN_TIMEOUT_S = 60.0


async def to_chat(context: Context, info: wire.SessionInfo) -> None:
    """End the session's terminal and take its conversation up as a chat. Raises HapiError.

    What cannot be done is refused before anything is ended.
    """
    steps = handover.steps(info, "acp", context.config, os.environ, cut=True)
    if steps.stop is not None:
        stopped = await stop_session(context, info.session_id, handoff=True)
        if stopped is None or stopped.status == "still_alive":
            raise HapiError(ErrorCode.STILL_ALIVE, "The program in its terminal does not end.")
    if steps.spawn is not None:
        await context.bus.request(wire.BROKER, steps.spawn, SPAWN_TIMEOUT_S)
