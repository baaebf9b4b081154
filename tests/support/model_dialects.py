"""The scripts of `model_server` in the other languages that agents speak: Anthropic's Messages, OpenAI's chat, Gemini's.

Each dialect is one function from a request to (the conversation, the names of its tools with their parameters), and
one from a scripted step to the events of the answer. What an agent asks without tools (titles, summaries) gets "ok".
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

Step = dict[str, Any]
Tools = dict[str, dict[str, Any]]
Turns = list[tuple[str, str]]
_SHELLS = ("Bash", "bash", "run_shell_command", "shell", "exec_command")
_numbers = itertools.count(1)
_REMINDER = re.compile(r"<([a-z_-]+)>.*?</\1>", re.DOTALL)  # what the agents put around a prompt


def shell_call(step: Step, tools: Tools) -> tuple[str, dict[str, Any]]:
    """The agent's shell tool and its arguments: what it requires besides the command is filled in."""
    name = next((shell for shell in _SHELLS if shell in tools), "shell")
    schema = tools.get(name) or {}
    filled = {key: _filling(schema["properties"][key]) for key in schema.get("required") or ()}
    return name, filled | {"command": step["shell"]}


def _filling(schema: dict[str, Any]) -> Any:
    by_type = {"boolean": False, "integer": 1, "number": 1}
    return (schema.get("enum") or [by_type.get(schema.get("type", ""), "test")])[0]


def text_chunks(step: Step) -> Iterator[tuple[float, str]]:
    """What the step says: (pause before it, text)."""
    count, pause = step.get("slow") or (0, 0)
    yield from ((pause, f"chunk {at} ") for at in range(count))
    if "text" in step:
        yield 0, step["text"]


def _words(content: Any) -> str:
    parts = [{"text": content}] if isinstance(content, str) else content or []
    joined = "\n".join(part.get("text") or "" for part in parts if isinstance(part, dict))
    return _REMINDER.sub("", joined).strip()


def read_anthropic(body: dict[str, Any]) -> tuple[Turns, Tools]:
    """A request to /v1/messages."""
    turns: Turns = []
    for message in body.get("messages") or []:
        content = message.get("content")
        if isinstance(content, list) and any(part.get("type") == "tool_result" for part in content):
            turns.append(("tool", ""))
        if message["role"] == "assistant" or _words(content):
            turns.append((message["role"], _words(content)))
    return turns, {tool["name"]: tool.get("input_schema") or {} for tool in body.get("tools") or [] if "name" in tool}


def anthropic(step: Step, tools: Tools, model: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Its answer, as events with a pause before each."""
    usage = {"input_tokens": 1200, "output_tokens": 34}
    key = f"msg_{next(_numbers)}"  # claude takes two messages with one id for parts of the same
    base = {"id": key, "type": "message", "role": "assistant", "model": model, "content": [], "usage": usage}
    yield 0, {"type": "message_start", "message": {**base, "stop_reason": None, "stop_sequence": None}}
    index = 0
    if "text" in step or "slow" in step:
        yield 0, {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for pause, text in text_chunks(step):
            yield pause, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        yield 0, {"type": "content_block_stop", "index": 0}
        index = 1
    if "shell" in step:
        name, arguments = shell_call(step, tools)
        block = {"type": "tool_use", "id": f"toolu_{abs(hash(step['shell']))}", "name": name, "input": {}}
        given = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
        yield 0, {"type": "content_block_start", "index": index, "content_block": block}
        yield 0, {"type": "content_block_delta", "index": index, "delta": given}
        yield 0, {"type": "content_block_stop", "index": index}
    reason = "tool_use" if "shell" in step else "end_turn"
    yield 0, {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield 0, {"type": "message_stop"}


def read_chat(body: dict[str, Any]) -> tuple[Turns, Tools]:
    """A request to /v1/chat/completions."""
    turns = [(message["role"], _words(message.get("content"))) for message in body.get("messages") or []]
    functions = [tool.get("function") or {} for tool in body.get("tools") or []]
    return turns, {function["name"]: function.get("parameters") or {} for function in functions if "name" in function}


def chat(step: Step, tools: Tools, model: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Its answer, as chunks with a pause before each."""
    base = {"id": "chat_1", "object": "chat.completion.chunk", "created": 0, "model": model}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield 0, chunk({"role": "assistant", "content": ""})
    for pause, text in text_chunks(step):
        yield pause, chunk({"content": text})
    if "shell" in step:
        name, arguments = shell_call(step, tools)
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"index": 0, "id": f"call_{abs(hash(step['shell']))}", "type": "function", "function": function}
        yield 0, chunk({"tool_calls": [call]})
    yield 0, chunk({}, "tool_calls" if "shell" in step else "stop")
    yield 0, {**base, "choices": [], "usage": {"prompt_tokens": 1200, "completion_tokens": 34, "total_tokens": 1234}}


def read_gemini(body: dict[str, Any]) -> tuple[Turns, Tools]:
    """A request to /v1beta/models/….:streamGenerateContent."""
    turns: Turns = []
    for content in body.get("contents") or []:
        parts = content.get("parts") or []
        who = "tool" if any("functionResponse" in part for part in parts) else content.get("role", "user")
        turns.append(({"model": "assistant"}.get(who, who), _words(parts)))
    declared = [function for tool in body.get("tools") or [] for function in tool.get("functionDeclarations") or []]
    schemas = {f["name"]: f.get("parametersJsonSchema") or f.get("parameters") or {} for f in declared}
    return turns, schemas


def gemini_form(body: dict[str, Any]) -> str:
    """What fits the form that a request without tools wants to have filled in: gemini chooses its model so."""
    schema = (body.get("generationConfig") or {}).get("responseJsonSchema") or {}
    filled = {key: _filling(schema["properties"][key]) for key in schema.get("required") or ()}
    return json.dumps(filled) if filled else "ok"


def gemini(step: Step, tools: Tools, model: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Its answer, as chunks with a pause before each."""
    usage = {"promptTokenCount": 1200, "candidatesTokenCount": 34, "totalTokenCount": 1234}

    def chunk(part: dict[str, Any], **more: Any) -> dict[str, Any]:
        candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, **more}
        return {"candidates": [candidate], "modelVersion": model, "usageMetadata": usage}

    parts: list[tuple[float, dict[str, Any]]] = [(pause, {"text": text}) for pause, text in text_chunks(step)]
    if "shell" in step:
        name, arguments = shell_call(step, tools)
        parts.append((0, {"functionCall": {"name": name, "args": arguments}}))
    *most, (pause, last) = parts
    for before, part in most:
        yield before, chunk(part)
    yield pause, chunk(last, finishReason="STOP")  # an empty last part would make gemini ask again
