"""Our chat events as the hub's chat rows. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from hapi import wire
from hapi.workers.hub.schema import MessageRow, MessagesConsumed, MessagesIndeterminate, Notice

MAX_UNITS = 49_000  # of UTF-16 in one string; the hub cuts above 65,536, less kindly
_HEAD, _TAIL = 36_000, 12_000
_DEEPEST = 60

Json = dict[str, Any]


def notices(session_id: str, events: Iterable[wire.NumberedEvent]) -> list[Notice]:
    """What to emit for these events, in this order; emitting it again changes nothing at the hub.

    A row carries a `localId` made of its event's number, and MessagesConsumed behind it, or the hub would play it back:
    one for all rows up to the end, or up to a person's message that is consumed among them. The hub puts a row where it
    was consumed, and rows that were consumed together in the order of their arrival (§5.8).
    """
    made: list[Notice] = []
    rows: list[str] = []
    for numbered in events:
        event = numbered.event
        if isinstance(event, wire.Consumed):
            if event.local_ids:
                made += [*_consumed(session_id, rows), _taken(session_id, event.local_ids)]
                rows = []
        elif isinstance(event, wire.Indeterminate):
            if event.local_ids:
                made.append(MessagesIndeterminate(sid=session_id, local_ids=event.local_ids))
        elif (message := envelope(session_id, numbered)) is not None:
            rows.append(f"a:{session_id[:8]}:{numbered.seq}")
            made.append(MessageRow(sid=session_id, message=message, local_id=rows[-1], created_at=numbered.at))
    return [*made, *_consumed(session_id, rows)]


def _consumed(session_id: str, rows: list[str]) -> list[Notice]:
    """Our own rows need no delivery."""
    return [MessagesConsumed(sid=session_id, local_ids=rows)] if rows else []


def _taken(session_id: str, local_ids: list[str]) -> MessagesConsumed:
    """From here our keepalives alone say whether the session is at work. Without that the hub shows it at work for 15 s
    after a message that was sent into a turn, for its own turn may begin and end without a change to tell (§5.4).
    """
    return MessagesConsumed(sid=session_id, local_ids=local_ids, clear_queued_thinking_grace=True)


def refusal(session_id: str, message: wire.UserMessage, why: str) -> list[Notice]:
    """What to emit for a user's message that cannot be given to its session."""
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{session_id}:{message.id}"))
    notices = remark(session_id, name, f"This message was not given to the agent: {why}")
    return [*notices, _taken(session_id, [message.local_id])] if message.local_id else notices


def remark(session_id: str, name: str, words: str) -> list[Notice]:
    """What to emit for an error that is told in the chat, once per `name`."""
    data = {"type": "error", "message": cut(words)}
    content = {"role": "agent", "content": {"type": "event", "id": name, "data": data}}
    local_id = f"a:{session_id[:8]}:{name}"
    return [MessageRow(sid=session_id, message=content, local_id=local_id), _taken(session_id, [local_id])]


def live_reasoning(session_id: str, live: wire.LiveReasoning) -> MessageRow:
    """Thinking while it grows: the hub keeps only the newest row of a block, and the final one replaces it."""
    data = {"type": "reasoning", "id": live.block, "message": cut(live.text), "live": True}
    return MessageRow(sid=session_id, message=_agent(data))


def envelope(session_id: str, numbered: wire.NumberedEvent) -> Json | None:
    """The chat row of an event; None for one that is not shown."""
    event = numbered.event
    if isinstance(event, wire.UserText):
        content = {"type": "text", "text": event.text}  # the hub cuts nobody's own words
        return {"role": "user", "content": content, "meta": {"sentFrom": "cli"}}
    remark = _remark(event)
    if remark is not None:
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{session_id}:{numbered.seq}")
        return {"role": "agent", "content": {"type": "event", "id": str(name), "data": remark}}
    data = _agent_data(event)
    return None if data is None else _agent(data)


def _agent(data: Json) -> Json:
    return {"role": "agent", "content": {"type": "codex", "data": data}, "meta": {"sentFrom": "cli"}}


def _remark(event: wire.Event) -> Json | None:
    if isinstance(event, wire.Note):
        return {"type": "error" if event.is_error else "message", "message": cut(event.text)}
    if isinstance(event, wire.ModeChanged):
        return {"type": "permission-mode-changed", "mode": event.mode}
    if isinstance(event, wire.TurnEnded) and not event.more:
        return {"type": "ready"}
    return None


def _agent_data(event: wire.Event) -> Json | None:
    if isinstance(event, wire.AgentText):
        return {"type": "message", "message": cut(event.text)} if event.image is None else _image(event.image)
    if isinstance(event, wire.Reasoning):
        return {"type": "reasoning", "id": event.block, "message": cut(event.text)}
    if isinstance(event, wire.ToolCall):
        return _tool_call(event)
    if isinstance(event, wire.ToolResult):
        output = cut_deep(event.output)
        return {"type": "tool-call-result", "callId": event.call_id, "output": output, "is_error": event.is_error}
    if isinstance(event, wire.Plan):
        entries = [{"content": cut(e.content), "priority": e.priority, "status": e.status} for e in event.entries]
        return {"type": "plan", "entries": entries}
    return _token_count(event) if isinstance(event, wire.Usage) else None


def _image(image: wire.ImageRef) -> Json:
    """The web asks for the bytes by `readGeneratedImage` when somebody looks."""
    source = {"ingress": "acp", **({"toolCallId": image.call_id} if image.call_id else {})}
    return {
        "type": "generated-image",
        "id": image.image_id,
        "imageId": image.image_id,
        "fileName": image.file_name,
        "mimeType": image.mime_type,
        "source": source,
    }


def _tool_call(event: wire.ToolCall) -> Json:
    data = {
        "type": "tool-call",
        "callId": event.call_id,
        "name": event.name,
        "input": cut_deep(event.input),
        "status": event.status,
        "nativeTitle": event.title,
        "nativeKind": event.kind,
    }
    return _without_none(data, keep={"input"})


def _token_count(event: wire.Usage) -> Json:
    total = {
        "inputTokens": event.input_tokens,
        "outputTokens": event.output_tokens,
        "totalTokens": event.total_tokens,
        "thoughtTokens": event.thought_tokens,
        "cachedInputTokens": event.cached_input_tokens,
        "cacheWriteInputTokens": event.cache_write_tokens,
    }
    info = {
        "total": _without_none(total),
        "contextTokens": event.context_tokens,
        "modelContextWindow": event.context_window,
    }
    return {
        "type": "token_count",
        "usageSchema": "hapi.usage.v1",
        "inputTokenSemantics": "includes-cache",
        "model": event.model,
        "info": _without_none(info),
    }


def _without_none(data: Json, keep: set[str] | frozenset[str] = frozenset()) -> Json:
    return {key: value for key, value in data.items() if value is not None or key in keep}


def cut(text: str) -> str:
    """`text` in at most MAX_UNITS UTF-16 units: beginning and end, with a word on what is missing between them."""
    if len(text) * 2 <= MAX_UNITS or _units(text) <= MAX_UNITS:
        return text
    wide = 1 if _units(text) == len(text) else 2
    head, tail = _HEAD // wide, _TAIL // wide
    return f"{text[:head]}\n… [{len(text) - head - tail} characters left out] …\n{text[-tail:]}"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut_deep(value: Any, depth: int = 0) -> Any:
    """`value` with every string in it cut, and nothing nested deeper than the hub's JSON should be."""
    if isinstance(value, str):
        return cut(value)
    if depth >= _DEEPEST and isinstance(value, dict | list):
        return "… [nested too deeply]"
    if isinstance(value, dict):
        return {str(key): cut_deep(item, depth + 1) for key, item in value.items()}
    return [cut_deep(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value
