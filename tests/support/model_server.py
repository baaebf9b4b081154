"""A model server on loopback that plays a script: OpenAI's Responses API, as much of it as codex needs.

The other agents' languages are in `model_dialects`; of the steps below they know `text`, `shell`, `slow` and `http`.

The script is in the prompt, as JSON after the word MOCK, one step for each answer of the model:

    MOCK[{"think": "hm", "text": "hello"}, {"shell": "echo hi > out.txt", "esc": 1}, {"slow": [50, 0.2]}, {"http": 500}]

`text` and `think` are streamed in pieces; `shell` calls the agent's shell tool, with `esc` outside of its sandbox (so
that it asks for permission); `plan` calls `update_plan`; `slow` streams [count, pause] chunks; `http` is an error. A
script that is used up answers "Mock done.", a prompt without one is echoed. The server keeps no state between
requests: which step is due follows from the number of answers after the prompt.

    with ModelServer() as server:
        server.url, server.requests, server.hung_up.wait(5)
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Self

from aiohttp import web

from tests.support import model_dialects

_USAGE = {
    "input_tokens": 1200,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 34,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1234,
}
_SHELLS = ("exec_command", "shell_command", "shell", "local_shell")


class ModelServer:
    """The server, in a thread of its own, from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.hung_up = threading.Event()
        """Set when a client went away in the middle of an answer: the turn was really cancelled."""
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise AssertionError("the model server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/v1/responses", self._responses)
        application.router.add_post("/v1/messages", self._messages)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1beta/models/{model}", self._gemini)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        step = due(turns(body.get("input") or []))
        if "http" in step:
            return web.json_response({"error": {"message": "scripted error", "type": "x"}}, status=step["http"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for pause, event in answer(step, body, len(self.requests)):
                await asyncio.sleep(pause)
                await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up.set()
            raise
        return response

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        return await self._play(request, model_dialects.read_anthropic, model_dialects.anthropic)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._play(request, model_dialects.read_chat, model_dialects.chat)

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        return await self._play(request, model_dialects.read_gemini, model_dialects.gemini)

    async def _play(self, request: web.Request, read: Any, speak: Any) -> web.StreamResponse:
        """One answer in a dialect; as events, except where a whole text is asked for (and then only "ok")."""
        body = await request.json()
        self.requests.append(body)
        conversation, tools = read(body)
        step = due(conversation) if tools else {"text": "ok"}
        if "http" in step:
            return web.json_response({"error": {"message": "scripted error"}}, status=step["http"])
        model = body.get("model") or request.match_info.get("model", "mock").partition(":")[0]
        if not (body.get("stream") or "stream" in request.match_info.get("model", "")):
            return web.json_response(_whole(speak, model, body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for pause, event in speak(step, tools, model):
                await asyncio.sleep(pause)
                name = f"event: {event['type']}\n" if "type" in event else ""
                await response.write(f"{name}data: {json.dumps(event)}\n\n".encode())
            if read is model_dialects.read_chat:
                await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up.set()
            raise
        return response


def _whole(speak: Any, model: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer in one piece, of the word "ok"."""
    if speak is model_dialects.chat:
        message = {"role": "assistant", "content": "ok"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }
    said = model_dialects.gemini_form(body) if speak is model_dialects.gemini else "ok"
    events = [event for _, event in speak({"text": said}, {}, model)]
    if speak is model_dialects.gemini:
        return dict(events[0])
    text = {"type": "text", "text": "ok"}
    return {**events[0]["message"], "content": [text], "stop_reason": "end_turn", "input_tokens": 1}


def turns(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The conversation as (who, text): who is user, assistant, tool or another role."""
    return [_turn(item) for item in items]


def _turn(item: dict[str, Any]) -> tuple[str, str]:
    kind = item.get("type", "message")
    if kind == "message":
        parts = item.get("content") or []
        text = parts if isinstance(parts, str) else "\n".join(part.get("text") or "" for part in parts)
        return item.get("role", "user"), text
    return ("tool" if kind.endswith("_output") else "assistant"), ""


def script(text: str) -> list[dict[str, Any]] | None:
    """The last script in `text`, if there is one."""
    for match in reversed(list(re.finditer(r"MOCK(?=\[)", text))):
        try:
            return json.JSONDecoder(strict=False).raw_decode(text[match.end() :])[0]
        except ValueError:
            continue
    return None


def due(conversation: list[tuple[str, str]]) -> dict[str, Any]:
    """The step that the model has to play now."""
    prompts = [at for at, (who, text) in enumerate(conversation) if who == "user" and not text.lstrip().startswith("<")]
    if not prompts:
        return {"text": "Nobody asked."}
    text = conversation[prompts[-1]][1]
    steps = script(text)
    if steps is None:
        return {"text": f"You asked: {text.strip()[-200:]}"}
    answers = sum(who == "assistant" for who, _ in groupby(who for who, _ in conversation[prompts[-1] + 1 :]))
    return steps[answers] if answers < len(steps) else {"text": "Mock done."}


def answer(step: dict[str, Any], body: dict[str, Any], number: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events of one response, each with the pause before it."""
    base = {"id": f"resp_{number}", "object": "response", "created_at": 0, "model": body.get("model"), "error": None}
    yield 0, {"type": "response.created", "response": {**base, "status": "in_progress", "output": []}}
    done = []
    for index, part in enumerate(_parts(step, body, number)):
        for pause, event in part:
            yield pause, {"output_index": index, **event}
        done.append(event["item"])
    response = {**base, "status": "completed", "output": done, "usage": _USAGE}
    yield 0, {"type": "response.completed", "response": response}


def _parts(step: dict[str, Any], body: dict[str, Any], number: int) -> Iterator[Iterator[tuple[float, dict[str, Any]]]]:
    if "think" in step:
        yield _reasoning(step["think"], f"rs_{number}")
    if "slow" in step:
        count, pause = step["slow"]
        yield _message([f"chunk {at} " for at in range(count)], f"msg_{number}", pause)
    if "text" in step:
        yield _message(_pieces(step["text"]), f"msg_{number}", 0)
    if "shell" in step:
        yield _call(*_shell(step, body), f"call_{number}")
    if "plan" in step:
        plan = [{"step": text, "status": "pending" if at else "in_progress"} for at, text in enumerate(step["plan"])]
        yield _call("update_plan", {"plan": plan}, f"call_{number}")


def _reasoning(text: str, key: str) -> Iterator[tuple[float, dict[str, Any]]]:
    item = {"type": "reasoning", "id": key, "summary": []}
    whole = {"type": "summary_text", "text": text}
    place = {"item_id": key, "summary_index": 0}
    yield 0, {"type": "response.output_item.added", "item": item}
    yield 0, {"type": "response.reasoning_summary_part.added", **place, "part": {**whole, "text": ""}}
    for piece in _pieces(text):
        yield 0, {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
    yield 0, {"type": "response.reasoning_summary_text.done", **place, "text": text}
    yield 0, {"type": "response.output_item.done", "item": {**item, "summary": [whole]}}


def _message(pieces: list[str], key: str, pause: float) -> Iterator[tuple[float, dict[str, Any]]]:
    item = {"type": "message", "id": key, "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": key, "content_index": 0}
    whole = {"type": "output_text", "text": "".join(pieces), "annotations": []}
    yield 0, {"type": "response.output_item.added", "item": item}
    yield 0, {"type": "response.content_part.added", **place, "part": {**whole, "text": ""}}
    for piece in pieces:
        yield pause, {"type": "response.output_text.delta", **place, "delta": piece}
    yield 0, {"type": "response.output_text.done", **place, "text": whole["text"]}
    yield 0, {"type": "response.output_item.done", "item": {**item, "status": "completed", "content": [whole]}}


def _call(name: str, arguments: dict[str, Any], key: str) -> Iterator[tuple[float, dict[str, Any]]]:
    text = json.dumps(arguments)
    item = {"type": "function_call", "id": f"fc_{key}", "call_id": key, "name": name, "arguments": text}
    yield 0, {"type": "response.output_item.added", "item": {**item, "arguments": "", "status": "in_progress"}}
    yield 0, {"type": "response.function_call_arguments.delta", "item_id": item["id"], "delta": text}
    yield 0, {"type": "response.function_call_arguments.done", "item_id": item["id"], "arguments": text}
    yield 0, {"type": "response.output_item.done", "item": {**item, "status": "completed"}}


def _shell(step: dict[str, Any], body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The agent's shell tool and the arguments that its schema asks for."""
    tools = {tool.get("name"): tool.get("parameters") or {} for tool in body.get("tools") or []}
    name = next((shell for shell in _SHELLS if shell in tools), "shell")
    properties = tools.get(name, {}).get("properties") or {}
    key = "cmd" if "cmd" in properties else "command"
    as_list = (properties.get(key) or {}).get("type") == "array"
    arguments: dict[str, Any] = {key: ["bash", "-lc", step["shell"]] if as_list else step["shell"]}
    if step.get("esc"):
        wants = {
            "sandbox_permissions": "require_escalated",
            "with_escalated_permissions": True,
            "justification": "test",
        }
        arguments |= {word: value for word, value in wants.items() if word in properties}
    return name, arguments


def _pieces(text: str, size: int = 12) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]
