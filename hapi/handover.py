"""Between chat and terminal: whether a session's agent can go on in the other, and the order that makes it. Pure."""

from __future__ import annotations

from hapi import wire
from hapi.agents import table
from hapi.agents.terminal import has_chat
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError


def can_chat(info: wire.SessionInfo, config: Config) -> bool:
    """Whether a session in a terminal can go on as a chat."""
    try:
        to_chat(info, config)
    except HapiError:
        return False
    return True


def to_chat(info: wire.SessionInfo, config: Config) -> wire.Spawn:
    """The order that takes a session up again as a chat, to be given when its terminal has ended.

    Raises HapiError(bad_request): it is a chat already, its agent has none, or its conversation is not known.
    """
    if info.driver != "pty":
        raise HapiError(ErrorCode.BAD_REQUEST, "This session is a chat already.")
    agent = table.find(info.agent, config)
    if not has_chat(agent) or not agent.resume:
        raise HapiError(ErrorCode.BAD_REQUEST, f"{agent.title} cannot take a conversation up in a chat.")
    if info.native_id is None:
        message = f"It is not known which of its conversations {agent.title} is in."
        raise HapiError(ErrorCode.BAD_REQUEST, message, "Say something to it first.")
    return wire.Spawn(
        session_id=info.session_id,
        directory=info.directory,
        agent=info.agent,
        started_by=info.started_by,
        model=info.model,
        effort=info.effort,
        permission_mode=info.permission_mode,
        config=info.config,
        resume=info.native_id,
        existing=True,
    )
