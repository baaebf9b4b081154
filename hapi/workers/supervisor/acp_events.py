"""From an agent's ACP updates to our chat events. Pure; one `Turn` per session, fed with raw JSON objects.

Foreign JSON is read tolerantly: agents differ, unknown kinds are counted and passed over (docs/architecture.md).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec

from hapi.wire import AgentText, Event, Plan, PlanEntry, Reasoning, SlashCommand, ToolCall, ToolResult, Usage

TEXT_LIMIT = 48_000
TOTAL_LIMIT = 256_000
_PRIORITIES = {"high", "medium", "low"}
_STATUSES = {"pending", "in_progress", "completed"}
_FINAL = {"completed", "failed"}


class Turn:
    """Collects what an agent says: text and thought in blocks, tool calls by id. `flush` ends a block."""

    def __init__(self, generation: int = 1) -> None:
        self._generation = generation
        self.unknown: Counter[str] = Counter()
        self.commands: list[SlashCommand] | None = None
        self.mode: str | None = None
        self.title: str | None = None
        self.config_options: list[Any] | None = None
        self._text: list[str] = []
        self._thought: list[str] = []
        self._blocks = 0
        self._tools: dict[str, dict[str, Any]] = {}

    @property
    def thinking(self) -> tuple[str, str] | None:
        """The growing block of thought: its id and its text so far."""
        return (self._block, _clipped_text("".join(self._thought))) if self._thought else None

    @property
    def _block(self) -> str:
        """An id that no other block of thought of this session has, over all its generations."""
        return f"thought-{self._generation}-{self._blocks}"

    def update(self, update: dict[str, Any]) -> list[Event]:
        """Events that became complete by this update."""
        kind = update.get("sessionUpdate")
        match kind:
            case "agent_message_chunk":
                return self._chunk(self._text, update, other=self._thought)
            case "agent_thought_chunk":
                return self._chunk(self._thought, update, other=self._text)
            case "tool_call" | "tool_call_update":
                return [*self.flush(), *self._tool(update)]
            case "plan":
                return [*self.flush(), Plan(_plan(update.get("entries")))]
            case "usage_update":
                return _usage_update(update)
            case _:
                self._note(str(kind), update)
        return []

    def flush(self) -> list[Event]:
        """End the open blocks of text and thought."""
        events: list[Event] = []
        if self._thought:
            events.append(Reasoning(self._block, _clipped_text("".join(self._thought))))
            self._thought.clear()
            self._blocks += 1
        if self._text:
            text = "".join(self._text)
            events += [AgentText(text[at : at + TEXT_LIMIT]) for at in range(0, len(text), TEXT_LIMIT)]
            self._text.clear()
        return events

    def finish(self, stop_reason: str) -> list[Event]:
        """The prompt is answered: end blocks, and close tool calls that the agent left open."""
        events = self.flush()
        words = "cancelled" if stop_reason == "cancelled" else "the agent did not report the end of this call"
        events += [ToolResult(call_id, words, is_error=True) for call_id in self._tools]
        self._tools.clear()
        return events

    def describe(self, call: dict[str, Any]) -> tuple[str, Any, str | None]:
        """(name, input, kind) of a tool call as far as it is known; agents ask permission with bare ids too."""
        merged = {**self._tools.get(str(call.get("toolCallId")), {}), **_present(call)}
        return _tool_name(merged), clipped(_tool_input(merged)), _string(merged.get("kind"))

    def _chunk(self, block: list[str], update: dict[str, Any], other: list[str]) -> list[Event]:
        events = self.flush() if other else []
        text = _text_of(update.get("content"))
        if text:
            block.append(text)
        return events

    def _tool(self, update: dict[str, Any]) -> list[Event]:
        call_id = str(update.get("toolCallId") or "")
        if not call_id:
            self.unknown["tool_call without id"] += 1
            return []
        merged = {**self._tools.get(call_id, {}), **_present(update)}
        status = _string(merged.get("status"))
        if status in _FINAL:
            known = self._tools.pop(call_id, None)
            started: list[Event] = [] if known is not None else [_tool_call(call_id, merged)]
            return [*started, ToolResult(call_id, clipped(_output(merged)), is_error=status == "failed")]
        self._tools[call_id] = merged
        return [_tool_call(call_id, merged)]

    def _note(self, kind: str, update: dict[str, Any]) -> None:
        match kind:
            case "available_commands_update":
                self.commands = _commands(update.get("availableCommands"))
            case "current_mode_update":
                self.mode = _string(update.get("currentModeId"))
            case "session_info_update":
                self.title = _string(update.get("title")) or self.title
            case "config_option_update":
                options = update.get("configOptions")
                self.config_options = options if isinstance(options, list) else None
            case "user_message_chunk":
                pass  # an echo, or the history that a resume replays: the hub has it
            case _:
                self.unknown[kind] += 1


def usage(result: dict[str, Any], model: str | None) -> list[Event]:
    """The tokens of a prompt, from its answer; [] when the agent does not tell."""
    meta = result.get("_meta")
    quota = meta.get("quota") if isinstance(meta, dict) else None
    found = result.get("usage") or (quota.get("token_count") if isinstance(quota, dict) else None)
    if not isinstance(found, dict):
        return []
    return [
        Usage(
            model=model,
            input_tokens=_number(found, "inputTokens", "input_tokens") or 0,
            output_tokens=_number(found, "outputTokens", "output_tokens") or 0,
            total_tokens=_number(found, "totalTokens"),
            thought_tokens=_number(found, "thoughtTokens"),
            cached_input_tokens=_number(found, "cachedReadTokens"),
            cache_write_tokens=_number(found, "cachedWriteTokens"),
        )
    ]


def _usage_update(update: dict[str, Any]) -> list[Event]:
    used, size = _number(update, "used"), _number(update, "size")
    if used is None and size is None:
        return []
    return [Usage(context_tokens=used, context_window=size)]


def _tool_call(call_id: str, call: dict[str, Any]) -> ToolCall:
    status: Literal["pending", "in_progress"] = "in_progress" if call.get("status") == "in_progress" else "pending"
    title, kind = _string(call.get("title")), _string(call.get("kind"))
    return ToolCall(call_id, _tool_name(call), clipped(_tool_input(call)), status, title, kind)


def clipped(value: Any) -> Any:
    """Foreign JSON cut to a size that the bus, the journal and the hub take: long texts lose their middle.

    The hub keeps 49,152 characters of a text at most (its protocol, §9); what is over TOTAL_LIMIT in all becomes text.
    """
    try:
        small = _clipped_texts(value)
        encoded = msgspec.json.encode(small)
    except RecursionError:
        return "… nested too deeply to show …"
    return small if len(encoded) <= TOTAL_LIMIT else _clipped_text(encoded.decode(errors="replace"))


def _clipped_texts(value: Any) -> Any:
    if isinstance(value, str):
        return _clipped_text(value)
    if isinstance(value, dict):
        return {key: _clipped_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clipped_texts(item) for item in value]
    return value


def _clipped_text(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    head, tail = TEXT_LIMIT * 3 // 4, TEXT_LIMIT // 4
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"


def _tool_name(call: dict[str, Any]) -> str:
    diff = _diff(call)
    if diff is not None:
        return "Edit" if diff.get("oldText") else "Write"
    raw = call.get("rawInput")
    named = (raw.get("name") or raw.get("tool")) if isinstance(raw, dict) else None
    for candidate in (call.get("title"), named, call.get("kind")):
        if isinstance(candidate, str) and candidate:
            return candidate
    return "Tool"


def _tool_input(call: dict[str, Any]) -> Any:
    diff = _diff(call)
    if diff is None:
        raw = call.get("rawInput")
        return raw if raw is not None else {}
    if diff.get("oldText"):
        return {"file_path": diff.get("path"), "old_string": diff["oldText"], "new_string": diff.get("newText")}
    return {"file_path": diff.get("path"), "content": diff.get("newText")}


def _diff(call: dict[str, Any]) -> dict[str, Any] | None:
    content = call.get("content")
    for item in content if isinstance(content, list) else ():
        if isinstance(item, dict) and item.get("type") == "diff":
            return item
    return None


def _output(call: dict[str, Any]) -> Any:
    if call.get("rawOutput") is not None:
        return call["rawOutput"]
    content = call.get("content")
    items = content if isinstance(content, list) else []
    parts = [_text_of(item.get("content")) for item in items if isinstance(item, dict)]
    return "\n".join(part for part in parts if part) or "done"


def _text_of(content: Any) -> str:
    if isinstance(content, dict) and content.get("type") == "text":
        return str(content.get("text") or "")
    if isinstance(content, dict) and content.get("type") == "resource_link":
        return f"[{content.get('name')}]({content.get('uri')})"
    return ""


def _plan(entries: Any) -> list[PlanEntry]:
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [
        PlanEntry(
            str(entry.get("content") or ""),
            entry["priority"] if _string(entry.get("priority")) in _PRIORITIES else "medium",
            entry["status"] if _string(entry.get("status")) in _STATUSES else "pending",
        )
        for entry in found
    ]


def _commands(commands: Any) -> list[SlashCommand]:
    found = [item for item in commands if isinstance(item, dict)] if isinstance(commands, list) else []
    return [SlashCommand(str(item["name"]), _string(item.get("description"))) for item in found if item.get("name")]


def _present(update: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in update.items() if value is not None and key != "sessionUpdate"}


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(source: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        if isinstance(source.get(key), int):
            number: int = source[key]
            return number
    return None
