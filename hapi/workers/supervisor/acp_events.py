"""From an agent's ACP updates to our chat events. Pure; one `Turn` per session, fed with raw JSON objects.

Foreign JSON is read tolerantly: agents differ, unknown kinds are counted and passed over (docs/architecture.md).
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from typing import Any, Literal

import msgspec

from hapi.wire import AgentText, Event, Plan, PlanEntry, Reasoning, SlashCommand, ToolCall, ToolResult, Usage
from hapi.workers.supervisor import acp_tools
from hapi.workers.supervisor.acp_tools import Picture
from hapi.workers.supervisor.pieces import pieces

TEXT_LIMIT = 48_000  # of UTF-16 in one row of the chat; the hub cuts above 65,536 (its protocol, §9)
TOTAL_LIMIT = 256_000
TITLE_LIMIT = 200
CLOSED_KEPT = 200
UNKNOWN_KEPT = 100
MAX_PLAN, PLAN_TEXT = 200, 2_000  # entries, and characters of one
MAX_COMMANDS, COMMAND_NAME, COMMAND_TEXT = 500, 200, 1_000
_COUNTABLE = 2**53  # what is above is a number for nobody's JSON
_PACKABLE = range(-(2**63), 2**64)
_PRIORITIES = {"high", "medium", "low"}
_STATUSES = {"pending", "in_progress", "completed"}
_FINAL = {"completed", "failed"}
_KEPT = ("title", "kind", "rawInput", "status", "_meta")
_SPENT = ("inputTokens", "outputTokens", "totalTokens", "thoughtTokens", "cachedReadTokens", "cachedWriteTokens")
_NO_TITLE = re.compile(r"(Untitled|New session - .*)?", re.DOTALL)


Said = Event | Picture


class Turn:
    """Collects what an agent says: text and thought in blocks, tool calls by id. `flush` ends a block.

    Outlives its name: one per session, for what is known between prompts too (`commands`, `title`, `context`).
    """

    def __init__(self, generation: int = 1) -> None:
        self._generation = generation
        self.unknown: Counter[str] = Counter()
        self.commands: list[SlashCommand] | None = None
        self.mode: str | None = None
        self.title: str | None = None
        self.config_options: list[Any] | None = None
        self.context: Usage | None = None
        self._spent: Counter[str] = Counter()
        self._text: list[str] = []
        self._thought: list[str] = []
        self._blocks = 0
        self._tools: dict[str, dict[str, Any]] = {}
        self._closed: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._told: dict[str, ToolCall] = {}
        self._pictures: dict[str, int] = {}

    @property
    def thinking(self) -> tuple[str, str] | None:
        """The growing block of thought: its id and its text so far."""
        return (self._block, _clipped_text("".join(self._thought))) if self._thought else None

    @property
    def _block(self) -> str:
        """An id that no other block of thought of this session has, over all its generations."""
        return f"thought-{self._generation}-{self._blocks}"

    def update(self, update: dict[str, Any]) -> list[Said]:
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
                return self._usage_update(update)
            case _:
                self._note(str(kind), update)
        return []

    def flush(self) -> list[Said]:
        """End the open blocks of text and thought. What is too long for one row of the chat becomes several."""
        events: list[Said] = []
        if self._thought:
            for number, piece in enumerate(pieces("".join(self._thought), TEXT_LIMIT)):
                events.append(Reasoning(f"{self._block}-{number + 1}" if number else self._block, piece))
            self._thought.clear()
            self._blocks += 1
        if self._text:
            events += [AgentText(piece) for piece in pieces("".join(self._text), TEXT_LIMIT)]
            self._text.clear()
        return events

    def finish(self, stop_reason: str) -> list[Said]:
        """The prompt is answered: end blocks, and close tool calls that the agent left open.

        An answer that never came (`error`), or a history told again (`opened`), costs the next prompt nothing.
        """
        if stop_reason in {"error", "opened"}:
            self._spent.clear()
        events = self.flush()
        words = "cancelled" if stop_reason == "cancelled" else "the agent did not report the end of this call"
        events += [ToolResult(call_id, words, is_error=True) for call_id in self._tools]
        for call_id, call in self._tools.items():
            self._close(call_id, call)
        self._tools.clear()
        return events

    def describe(self, call: dict[str, Any]) -> tuple[str, Any, str | None]:
        """(name, input, kind) of a tool call as far as it is known; agents ask permission with bare ids too."""
        merged = {**self._tools.get(str(call.get("toolCallId")), {}), **_present(call)}
        return acp_tools.name(merged), clipped(acp_tools.arguments(merged)), _string(merged.get("kind"))

    def spent(self, answer: dict[str, Any], model: str | None) -> list[Event]:
        """The tokens of the prompt that `answer` ends: as it says, else as the chunks said; [] if nobody tells."""
        spent, self._spent = self._spent, Counter()
        found = usage(answer, model) or (usage({"usage": dict(spent)}, model) if spent else [])
        if self.context is None:
            return list(found)
        used, size = self.context.context_tokens, self.context.context_window
        return [msgspec.structs.replace(event, context_tokens=used, context_window=size) for event in found]

    def _chunk(self, block: list[str], update: dict[str, Any], other: list[str]) -> list[Said]:
        self._count(update)
        events = self.flush() if other else []
        content = update.get("content")
        image = acp_tools.picture(content)
        if image is not None:
            return [*events, *self.flush(), image]
        text = acp_tools.text(content)
        if text:
            block.append(text)
        return events

    def _count(self, update: dict[str, Any]) -> None:
        """Some agents tell in a chunk what one of the turn's calls of the model has cost."""
        meta = update.get("_meta")
        found = meta.get("usage") if isinstance(meta, dict) else None
        if isinstance(found, dict):
            self._spent.update({key: _number(found, key) or 0 for key in _SPENT})

    def _tool(self, update: dict[str, Any]) -> list[Said]:
        call_id = str(update.get("toolCallId") or "")
        if not call_id:
            self.unknown["tool_call without id"] += 1
            return []
        pictures = self._new_pictures(call_id, update)
        late = self._closed.get(call_id) if update.get("sessionUpdate") == "tool_call_update" else None
        merged = {**self._tools.get(call_id, late or {}), **_present(acp_tools.without_images(update))}
        status = _string(merged.get("status"))
        if status in _FINAL:
            self._tools.pop(call_id, None)
            started = self._started(call_id, merged, known=late is not None)
            self._close(call_id, merged)
            result = ToolResult(call_id, clipped(acp_tools.output(merged)), is_error=status == "failed")
            return [*started, result, *pictures]
        if late is not None:
            return list(pictures)  # that call is over for us: its end may still come, its progress is of no use
        self._tools[call_id] = merged
        return [*self._started(call_id, merged, known=False), *pictures]

    def _started(self, call_id: str, call: dict[str, Any], *, known: bool) -> list[Said]:
        """The call as it is to be shown now; [] when it is shown so already."""
        event, told = _tool_call(call_id, call), self._told.get(call_id)
        if known or (told is not None and _same(told, event, ended=_string(call.get("status")) in _FINAL)):
            return []
        self._told[call_id] = event
        return [event]

    def _new_pictures(self, call_id: str, update: dict[str, Any]) -> list[Picture]:
        """An update repeats the content that came before: only what is behind it is new."""
        found = acp_tools.pictures(call_id, update)
        new = found[self._pictures.get(call_id, 0) :]
        if new:
            self._pictures[call_id] = len(found)
        return new

    def _close(self, call_id: str, call: dict[str, Any]) -> None:
        self._told.pop(call_id, None)
        self._closed[call_id] = {key: call[key] for key in _KEPT if key in call}
        self._closed.move_to_end(call_id)
        while len(self._closed) > CLOSED_KEPT:
            self._pictures.pop(self._closed.popitem(last=False)[0], None)

    def _usage_update(self, update: dict[str, Any]) -> list[Said]:
        used, size = _number(update, "used"), _number(update, "size")
        new = Usage(context_tokens=used, context_window=size)
        if (used is None and size is None) or new == self.context:
            return []
        self.context = new
        return [new]

    def _note(self, kind: str, update: dict[str, Any]) -> None:
        match kind:
            case "available_commands_update":
                self.commands = _commands(update.get("availableCommands"))
            case "current_mode_update":
                self.mode = _string(update.get("currentModeId"))
            case "session_info_update":
                self.title = _title(update.get("title")) or self.title
            case "config_option_update":
                options = update.get("configOptions")
                self.config_options = options if isinstance(options, list) else None
            case "user_message_chunk":
                pass  # an echo, or the history that a resume replays: the hub has it
            case _ if len(self.unknown) < UNKNOWN_KEPT or kind in self.unknown:
                self.unknown[kind[:100]] += 1


def usage(result: dict[str, Any], model: str | None) -> list[Usage]:
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


def _tool_call(call_id: str, call: dict[str, Any]) -> ToolCall:
    status: Literal["pending", "in_progress"] = "in_progress" if call.get("status") == "in_progress" else "pending"
    title, kind = _clipped_texts(_string(call.get("title"))), _string(call.get("kind"))
    return ToolCall(call_id, acp_tools.name(call), clipped(acp_tools.arguments(call)), status, title, kind)


def _same(told: ToolCall, now: ToolCall, *, ended: bool) -> bool:
    """Whether the chat shows that already; of a call that is over the status does not count."""
    return told == (msgspec.structs.replace(now, status=told.status) if ended else now)


def clipped(value: Any) -> Any:
    """Foreign JSON cut to a size that the bus, the journal and the hub take: long texts lose their middle.

    The hub keeps 49,152 characters of a text at most (its protocol, §9); what is over TOTAL_LIMIT in all becomes text,
    and so does a whole number of more than 64 bits, which MessagePack has no room for.
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
    return str(value) if isinstance(value, int) and value not in _PACKABLE else value


def _clipped_text(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    head, tail = TEXT_LIMIT * 3 // 4, TEXT_LIMIT // 4
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"


def _plan(entries: Any) -> list[PlanEntry]:
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [
        PlanEntry(
            str(entry.get("content") or "")[:PLAN_TEXT],
            entry["priority"] if _string(entry.get("priority")) in _PRIORITIES else "medium",
            entry["status"] if _string(entry.get("status")) in _STATUSES else "pending",
        )
        for entry in found[:MAX_PLAN]
    ]


def _commands(commands: Any) -> list[SlashCommand]:
    found = [item for item in commands if isinstance(item, dict)] if isinstance(commands, list) else []
    known = [(_string(item.get("name")), _string(item.get("description"))) for item in found[:MAX_COMMANDS]]
    return [
        SlashCommand(name, words and words[:COMMAND_TEXT])
        for name, words in known
        if name and len(name) <= COMMAND_NAME
    ]


def _present(update: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in update.items() if value is not None and key != "sessionUpdate"}


def _title(value: Any) -> str | None:
    """A title that says something; agents send placeholders until they have found one."""
    title = " ".join(value.split()) if isinstance(value, str) else ""
    return None if _NO_TITLE.fullmatch(title) else title[:TITLE_LIMIT]


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(source: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        number = source.get(key)
        if type(number) is int and 0 <= number <= _COUNTABLE:
            return number
    return None
