"""Ending a session for the hub."""

from __future__ import annotations

import logging

from hapi import wire
from hapi.errors import HapiError
from hapi.workers.hub.context import Context

STOP_TIMEOUT_S = 19.0
BROKER_STOP_TIMEOUT_S = 5.0

_log = logging.getLogger("hapi.hub")


async def stop_session(context: Context, session_id: str, *, handoff: bool = False) -> wire.SessionStopped | None:
    """End the session for the hub: ask its supervisor, then the broker. None when neither gave an answer.

    `handoff`: it goes on elsewhere.
    """
    order = wire.StopSession(session_id, by="hub", handoff=handoff)
    peers = ((wire.session_peer(session_id), STOP_TIMEOUT_S), (wire.BROKER, BROKER_STOP_TIMEOUT_S))
    for peer, timeout_s in peers:
        try:
            reply = await context.bus.request(peer, order, timeout_s)
        except HapiError as error:
            _log.warning("%s did not stop session %s: %s", peer.partition(":")[0], session_id, error.message)
            continue
        if isinstance(reply, wire.SessionStopped):
            return reply
    return None
