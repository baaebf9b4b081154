"""The demo agent, which speaks real ACP over stdio: `python -m hapi.agents.demo`. It needs no model and no key.

It echoes what it is told and obeys the commands of `/help`, among them everything that a real agent does right or
wrong: tools, permissions, crashes, floods, silence. Newcomers try the runner with it, and so do its tests.

The main thread answers the protocol and is the only one to touch signals; one thread reads stdin; each session's
prompts run one after another in a thread of the session. Standard library only, and little of it (`demo_lean`): load
tests run hundreds of these side by side.
"""

from __future__ import annotations

import os
import sys

from hapi.agents.demo_lean import Flag, Lock, SimpleQueue, dumps, interruptible, loads, start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module would be a tenth of the start-up time
    from collections.abc import Callable
    from typing import Any

USAGE = """usage: python -m hapi.agents.demo [--help]

An ACP agent (JSON-RPC 2.0, one message a line) on stdin and stdout, for trying things out. Send it /help.

HAPI_DEMO_HOME      keep sessions in this directory, so that another process can load them; default: HAPI_HOME/demo
                    in a session of the runner, else in memory
HAPI_DEMO_DELAY_MS  pause after each piece of text (default 2)
HAPI_DEMO_BUSY      refuse: no other model while a turn runs
HAPI_DEMO_RESUME    how old sessions are taken up: load (default), resume (their history is not told), none
HAPI_DEMO_START     faults at the start, joined by commas: slow:SECONDS, stderr:TEXT, exit:CODE, hang
"""
MODES = ("default", "acceptEdits", "plan", "bypassPermissions")
OPTIONS = {
    "model": ("model", ("demo-fast", "demo-slow")),
    "effort": ("thought_level", ("low", "medium", "high")),
    "service_tier": ("service_tier", ("standard", "fast")),
    "collaboration_mode": ("collaboration_mode", ("default", "plan")),
}
PARSE_ERROR, INVALID_REQUEST, NO_METHOD = -32700, -32600, -32601
INVALID_PARAMS, INTERNAL, NOT_FOUND = -32602, -32603, -32002
_SQUARE = (  # a PNG of 32 by 32
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKklEQVR42mMQqThBU8QwasGoBaMWjFowasGoBaMWjFowasGoBaMW"
    "DBULAB8sUEyjIlUYAAAAAElFTkSuQmCC"
)
_LATE_S = 0.2
_CONTEXT, _SLOW_PAUSE, _HISTORY, _STACK_BYTES, _SPEW_BYTES = 100_000, 0.05, 20, 256 * 1024, 16_000


class _Refused(Exception):
    """A request that gets a JSON-RPC error: (code, message)."""


class _Cancelled(Exception):
    """The client cancelled the turn that is running."""


class _Wire:
    """Messages out, whole lines whichever thread writes, and the replies that the client owes us."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._asked = 0
        self.replies: dict[int, SimpleQueue[Any]] = {}
        self.inbound: SimpleQueue[Any] = SimpleQueue()  # lines of stdin, and calls for the main thread

    def raw(self, data: bytes) -> None:
        try:
            with self._lock:
                _write_all(1, data)
        except BrokenPipeError:
            os._exit(0)  # nobody is left to talk to

    def send(self, **message: Any) -> None:
        self.raw(dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def update(self, session: str, kind: str, /, **fields: Any) -> None:
        self.send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": kind, **fields}})

    def ask(self, inbox: SimpleQueue[Any], method: str, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        """The client's results, asked for all at once; {} for one that a cancel (0 in `inbox`) came before."""
        with self._lock:
            numbers = range(self._asked + 1, self._asked + 1 + len(requests))
            self._asked += len(requests)
        self.replies |= dict.fromkeys(numbers, inbox)
        for number, params in zip(numbers, requests, strict=True):
            self.send(id=number, method=method, params=params)
        found: dict[int, dict[str, Any]] = {}
        while len(found) < len(numbers):
            number, result = inbox.get()
            if not number:
                break
            found[number] = result
        for number in numbers:
            del self.replies[number]
        return [found.get(number, {}) for number in numbers]

    def answered(self, message: dict[str, Any]) -> None:
        """Hand a reply to whoever waits for it; a late one is of no use to anybody."""
        number = message.get("id")
        inbox = self.replies.get(number) if isinstance(number, int) else None
        if inbox:
            inbox.put((number, message.get("result") or {}))


class _Session:
    """A conversation: what `session/load` brings back (`saved`), and the prompts that wait or run."""

    def __init__(self, wire: _Wire, key: str, cwd: str, saved: dict[str, Any] | None = None) -> None:
        self.wire, self.key, self.cwd = wire, key, cwd
        first = {name: values[0] for name, (_, values) in OPTIONS.items()} | {"effort": "medium"}
        self.saved = {"count": 0, "used": 0, "mode": "default", **first, "history": [], **(saved or {})}
        self.open: list[_Turn] = []
        self._queue: SimpleQueue[_Turn] = SimpleQueue()
        self._saving = Lock()
        start_thread(self._work, stack_bytes=_STACK_BYTES)

    def prompt(self, request: Any, text: str) -> None:
        self.saved["count"] += 1
        self.save()
        turn = _Turn(self, request, text, self.saved["count"])
        self.open.append(turn)
        self._queue.put(turn)

    def cancel(self) -> None:
        for turn in list(self.open):
            turn.cancelled.set()
            turn.inbox.put((0, {}))

    def _work(self) -> None:
        while True:
            turn = self._queue.get()
            turn.run()

    def describe(self) -> dict[str, Any]:
        """Modes, models and options as `session/new` and `session/load` answer them."""
        models = [{"modelId": model, "name": model} for model in OPTIONS["model"][1]]
        return {
            "modes": {"currentModeId": self.saved["mode"], "availableModes": [{"id": m, "name": m} for m in MODES]},
            "models": {"currentModelId": self.saved["model"], "availableModels": models},
            "configOptions": self.options(),
        }

    def options(self) -> list[dict[str, Any]]:
        return [
            {"id": name, "name": name, "category": category, "type": "select", "currentValue": self.saved[name],
             "options": [{"value": value, "name": value} for value in values]}
            for name, (category, values) in OPTIONS.items()
        ]  # fmt: skip

    def choose(self, name: str, value: str) -> None:
        """Take a value. Raises ValueError for one that there is not."""
        if value not in (MODES if name == "mode" else OPTIONS[name][1]):
            raise ValueError(f"no such {name}: {value}")
        self.saved[name] = value
        self.save()

    def save(self) -> None:
        home = os.environ.get("HAPI_DEMO_HOME")
        if home:
            path = os.path.join(home, f"{self.key}.json")
            with self._saving, open(f"{path}.new", "w", encoding="utf-8", opener=_private) as file:
                file.write(dumps(self.saved))
                file.flush()
                os.replace(f"{path}.new", path)


class _Turn:
    """One prompt, from the queue to its answer."""

    def __init__(self, session: _Session, request: Any, text: str, number: int) -> None:
        self.session, self.request, self.prompt, self.number = session, request, text, number
        self.cancelled = Flag()
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.said: list[str] = []
        self.afterwards: list[str] = []
        self._last = ""
        self._calls = 0
        delay = float(os.environ.get("HAPI_DEMO_DELAY_MS") or 2) / 1000
        self._delay = max(delay, _SLOW_PAUSE if session.saved["model"] == "demo-slow" else 0)

    def run(self) -> None:
        """Do what the prompt says and answer the request."""
        try:
            stop = self._obey()
            self.update("usage_update", used=self.session.saved["used"], size=_CONTEXT)
            history = [*self.session.saved["history"], [self.prompt, "".join(self.said)]]
            self.session.saved["history"] = history[-_HISTORY:]
            self.session.save()
        except Exception as error:  # noqa: BLE001 - the client must hear of it, whatever it is
            self._answer(error={"code": INTERNAL, "message": f"{type(error).__name__}: {error}"})
        else:
            self._answer(result={"stopReason": stop, "usage": self._usage()})
            for text in self.afterwards:
                self.cancelled.wait(_LATE_S)
                self.update("agent_message_chunk", content=_text_block(text))

    def _answer(self, **answer: Any) -> None:
        self.session.open.remove(self)
        self.session.wire.send(id=self.request, **answer)

    def _obey(self) -> str:
        parts = [part.strip() for line in self.prompt.splitlines() for part in f"{line} ".split(" ; ")]
        plain = not any(part.startswith("/") for part in parts)
        try:
            for part in [self.prompt] if plain else filter(None, parts):
                self.pause(0)
                self._step(part)
        except _Cancelled:
            return "cancelled"
        finally:
            self.session.saved["used"] += self._usage()["totalTokens"]
        return "end_turn"

    def _step(self, part: str) -> None:
        name, _, rest = part.partition(" ")
        if not name.startswith("/"):
            _think(self, "The user said something. I say it back.")
            self.text(f"You said: {part}")
        elif name[1:] not in COMMANDS:
            self.text(f"There is no command `{name}`. Try `/help`.")
        else:
            try:
                COMMANDS[name[1:]][0](self, rest.strip())
            except (ValueError, KeyError, OSError) as error:
                self.text(f"`{part[:200]}` failed: {error}")

    def _usage(self) -> dict[str, int]:
        given, made = len(self.prompt) // 4 + 1, sum(map(len, self.said)) // 4 + 1
        return {"inputTokens": given, "outputTokens": made, "totalTokens": given + made}

    def pause(self, seconds: float) -> None:
        """Let time pass. Raises _Cancelled as soon as the client cancels."""
        if self.cancelled.wait(seconds):
            raise _Cancelled

    def update(self, kind: str, /, **fields: Any) -> None:
        self._last = kind
        self.session.wire.update(self.session.key, kind, **fields)

    def chunk(self, text: str, kind: str = "agent_message_chunk") -> None:
        self.update(kind, content=_text_block(text))
        if kind == "agent_message_chunk":
            self.said.append(text)

    def text(self, text: str) -> None:
        """Stream `text` a few words at a time, as a paragraph of its own."""
        words = (("\n\n" if self._last == "agent_message_chunk" else "") + text).split(" ")
        for at in range(0, len(words), 3):
            self.chunk(" ".join(words[at : at + 3]) + (" " if at + 3 < len(words) else ""))
            self.pause(self._delay)

    def tool(self, title: str, kind: str, **more: Any) -> str:
        self._calls += 1
        call = f"call-{self.number}-{self._calls}"
        self.update("tool_call", toolCallId=call, title=title, kind=kind, status="pending", **more)
        return call

    def progress(self, call: str, status: str, *content: dict[str, Any]) -> None:
        self.update("tool_call_update", toolCallId=call, status=status, **({"content": content} if content else {}))


def _think(turn: _Turn, text: str) -> None:
    turn.chunk(text, "agent_thought_chunk")
    turn.pause(0)


def _plan(turn: _Turn, text: str) -> None:
    steps = [step.strip() for step in text.split("|")]
    for done in range(len(steps) + 1):
        status = ["completed"] * done + ["in_progress"] + ["pending"] * len(steps)
        entries = [{"content": step, "priority": "medium", "status": status[at]} for at, step in enumerate(steps)]
        turn.update("plan", entries=entries)
        turn.pause(0)


def _tool(turn: _Turn, text: str) -> None:
    name, _, result = text.partition(" ")
    call = turn.tool(name or "demo", "execute", rawInput={"command": text})
    turn.progress(call, "in_progress")
    turn.pause(0)
    turn.progress(call, "failed" if result == "fail" else "completed", _content(f"{name}: {result or 'ok'}"))


def _edit(turn: _Turn, text: str) -> None:
    name, _, new = text.partition(" ")
    root = os.path.realpath(turn.session.cwd)
    path = os.path.realpath(os.path.join(root, name))
    if path == root or os.path.commonpath([root, path]) != root:
        raise ValueError("FILE must lie in the working directory")
    old = None
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            old = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(new + "\n")
    call = turn.tool(f"Edit {name}", "edit", rawInput={"path": path}, locations=[{"path": path}])
    turn.progress(call, "completed", {"type": "diff", "path": path, "oldText": old, "newText": new + "\n"})


def _ask(turn: _Turn, text: str) -> None:
    kinds = {"allow_once": "Allow once", "allow_always": "Always allow", "reject_once": "Reject"}
    options = [{"optionId": kind, "name": label, "kind": kind} for kind, label in kinds.items()]
    calls = [(name, *_asked(turn, name, options)) for name in (part.strip() for part in (text or "demo").split("|"))]
    results = turn.session.wire.ask(turn.inbox, "session/request_permission", *(params for _, _, params in calls))
    turn.pause(0)
    for (name, call, _), result in zip(calls, results, strict=True):
        outcome = _option(result)
        turn.progress(call, "completed" if outcome.startswith("allow") else "failed", _content(f"{name}: {outcome}"))
        turn.text(f"Permission: {outcome}" if len(calls) == 1 else f"{name}: {outcome}")


def _asked(turn: _Turn, name: str, options: list[dict[str, str]], **more: Any) -> tuple[str, dict[str, Any]]:
    """A tool call and the request for leave to make it."""
    more = {"kind": "execute", "rawInput": {"command": name}, **more}
    call = turn.tool(name, **more)
    tool = {"toolCallId": call, "title": name, "status": "pending", **more}
    return call, {"sessionId": turn.session.key, "toolCall": tool, "options": options}


def _option(result: dict[str, Any]) -> str:
    return str((result.get("outcome") or {}).get("optionId", "cancelled"))


def _question(turn: _Turn, text: str) -> None:
    title, *labels = (part.strip() for part in text.split("|"))
    options = [{"optionId": f"o{at}", "name": label, "kind": "choice"} for at, label in enumerate(labels)]
    call, params = _asked(turn, title, options, kind="other", rawInput={})
    (result,) = turn.session.wire.ask(turn.inbox, "session/request_permission", params)
    turn.pause(0)
    turn.progress(call, "completed", _content(_option(result)))
    turn.text(f"Chosen: {_option(result)}")


def _form(turn: _Turn, _text: str) -> None:
    colors = {"type": "string", "title": "Color", "enum": ["red", "blue"]}
    sizes = {"type": "array", "title": "Sizes", "items": {"enum": ["S", "M", "L"]}}
    schema = {"type": "object", "properties": {"color": colors, "sizes": sizes}, "required": ["color"]}
    params = {"sessionId": turn.session.key, "mode": "form", "message": "What shall it be?", "requestedSchema": schema}
    (result,) = turn.session.wire.ask(turn.inbox, "elicitation/create", params)
    turn.pause(0)
    import json

    turn.text(f"Form: {json.dumps(result, sort_keys=True)}")


def _leave_plan(turn: _Turn, text: str) -> None:
    kinds = {"acceptEdits": "allow_always", "default": "allow_once", "plan": "reject_once"}
    options = [{"optionId": mode, "name": mode, "kind": kind} for mode, kind in kinds.items()]
    call, params = _asked(turn, "Ready to code?", options, kind="switch_mode", rawInput={"plan": text})
    (result,) = turn.session.wire.ask(turn.inbox, "session/request_permission", params)
    turn.pause(0)
    turn.progress(call, "completed" if _option(result) != "plan" else "failed")
    turn.text(f"Mode: {_option(result)}")


def _image(turn: _Turn, text: str) -> None:
    """A square of one color; or what TEXT says is an image, broken as it may be."""
    image = {"type": "image", "mimeType": "image/png", "data": text.removeprefix("tool").strip() or _SQUARE}
    if text.startswith("tool"):
        call = turn.tool("Draw", "other")
        turn.progress(call, "completed", {"type": "content", "content": image})
    else:
        turn.update("agent_message_chunk", content=image)


def _open_tool(turn: _Turn, text: str) -> None:
    turn.tool(text, "other")


def _odd(turn: _Turn, _text: str) -> None:
    odd: dict[str, dict[str, Any]] = {"from_the_future": {"x": 1}, "user_message_chunk": {"content": _text_block("an echo")},
           "plan": {"entries": 5}, "tool_call": {"toolCallId": 5, "status": []},
           "available_commands_update": {"availableCommands": "none"}}  # fmt: skip
    for kind, fields in odd.items():
        turn.update(kind, **fields)


def _slow(turn: _Turn, text: str) -> None:
    seconds, _, count = text.partition(" ")
    chunks = max(1, int(count or 10))
    pause = float(seconds) / chunks
    for at in range(chunks):
        turn.chunk(f"chunk {at + 1} of {chunks} ")
        turn.pause(pause)


def _crash(_turn: _Turn, text: str) -> None:
    how, _, what = text.partition(" ")
    if how == "signal":
        import signal

        signal.raise_signal(signal.Signals[f"SIG{what.upper().removeprefix('SIG')}"])  # this thread dies of it at once
    else:
        os._exit(int(what or 1))


def _ignore_signals(turn: _Turn, _text: str) -> None:
    done = Flag()

    def ignore(agent: _Agent) -> None:
        import signal

        agent.ignores_eof = True
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        done.set()

    turn.session.wire.inbound.put(ignore)
    done.wait()
    turn.text("From now on I ignore SIGTERM, SIGINT, SIGHUP and the end of stdin.")


def _spew(turn: _Turn, text: str) -> None:
    size, _, where = text.partition(" ")
    for left in range(int(size), 0, -_SPEW_BYTES):
        piece = ("x" * 99 + "\n") * (_SPEW_BYTES // 100)
        if where == "stdout-text":
            turn.chunk(piece[: min(left, _SPEW_BYTES)])
        else:
            _write_all(2, piece[: min(left, _SPEW_BYTES)].encode())
        turn.pause(0)


def _hang(turn: _Turn, _text: str) -> None:
    turn.chunk("From now on I say nothing.", "agent_thought_chunk")
    Flag().wait()


def _child(turn: _Turn, text: str) -> None:
    script = ("trap '' TERM; " if "ignore" in text.split() else "") + "exec sleep 3600"
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    if "setsid" not in text.split():
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, file_actions=quiet)
    else:
        pid = _grandchild(f"({script}) >{os.devnull} & echo $!", quiet)
    turn.text(f"Child process: {pid}")


def _grandchild(script: str, quiet: list[Any]) -> int:
    """Run `script` in a session of its own until it has said the pid of what it leaves behind."""
    reading, writing = os.pipe()
    say = [*quiet, (os.POSIX_SPAWN_DUP2, writing, 1)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, file_actions=say, setsid=True)
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        said = int(pipe.readline())
    os.waitpid(pid, 0)
    return said


def _title(turn: _Turn, text: str) -> None:
    turn.update("session_info_update", title=text)


def _set(turn: _Turn, text: str) -> None:
    name, _, value = text.partition(" ")
    turn.session.choose(name, value)
    if name == "mode":
        turn.update("current_mode_update", currentModeId=value)
    else:
        turn.update("config_option_update", configOptions=turn.session.options())


def _used(turn: _Turn, text: str) -> None:
    turn.session.saved["used"] = int(text)
    turn.update("usage_update", used=int(text), size=_CONTEXT)


def _late(turn: _Turn, text: str) -> None:
    turn.afterwards.append(text)


def _garbage(turn: _Turn, _text: str) -> None:
    turn.session.wire.raw(b"this line is no JSON\n123\n")


def _help(turn: _Turn, _text: str) -> None:
    lines = [f"- `/{name}{' ' + hint if hint else ''}` {text}" for name, (_, hint, text) in COMMANDS.items()]
    turn.text("One command a line, or several joined by ` ; `:\n\n" + "\n".join(lines))


COMMANDS: dict[str, tuple[Callable[[_Turn, str], None], str, str]] = {
    "help": (_help, "", "lists these commands"),
    "say": (lambda turn, text: turn.text(text), "TEXT", "says it"),
    "think": (_think, "TEXT", "thinks it"),
    "plan": (_plan, "A | B | C", "makes a plan and carries it out"),
    "tool": (_tool, "NAME [ok|fail]", "calls a tool"),
    "edit": (_edit, "FILE TEXT", "writes a file, without asking"),
    "ask": (_ask, "[TOOL | TOOL]", "asks for permission, for several at once"),
    "question": (_question, "TEXT | A | B", "asks you to choose"),
    "form": (_form, "", "asks you to fill in a form"),
    "leave-plan": (_leave_plan, "PLAN", "asks to carry out a plan"),
    "image": (_image, "[tool] [BASE64]", "shows an image"),
    "open-tool": (_open_tool, "NAME", "begins a tool call that never ends"),
    "late": (_late, "TEXT", "says it when the turn is over"),
    "odd": (_odd, "", "sends updates that nobody knows"),
    "slow": (_slow, "SECONDS [CHUNKS]", "streams that long"),
    "title": (_title, "TEXT", "names the session"),
    "set": (_set, "mode|OPTION VALUE", "changes it by myself"),
    "usage": (_used, "N", "says that N tokens are used"),
    "count": (lambda turn, _: turn.text(str(turn.number)), "", "says how many prompts there were"),
    "env": (lambda turn, text: turn.text(os.environ.get(text, "unset")), "NAME", "shows a variable"),
    "cwd": (lambda turn, _: turn.text(turn.session.cwd), "", "shows the working directory"),
    "pid": (lambda turn, _: turn.text(str(os.getpid())), "", "shows my process id"),
    "child": (_child, "[setsid] [ignore]", "leaves a process behind"),
    "spew": (_spew, "BYTES [stderr|stdout-text]", "floods"),
    "garbage": (_garbage, "", "breaks the protocol"),
    "crash": (_crash, "[exit CODE | signal NAME]", "dies"),
    "hang": (_hang, "", "never answers again"),
    "ignore-signals": (_ignore_signals, "", "survives all but SIGKILL"),
}


class _Agent:
    """The protocol: one method per request, found by its name."""

    def __init__(self, wire: _Wire) -> None:
        self.ignores_eof = False
        self._wire = wire
        self._sessions: dict[str, _Session] = {}
        self._methods: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
            "initialize": self._initialize,
            "authenticate": lambda _id, _params: {},
            "session/new": self._new,
            "session/load": self._load,
            "session/resume": self._resume,
            "session/fork": self._fork,
            "session/set_mode": self._set_mode,
            "session/set_model": lambda _id, params: self._set(params, "model", params["modelId"]),
            "session/set_config_option": lambda _id, params: self._set(params, params["configId"], params["value"]),
            "session/prompt": self._prompt,
            "session/cancel": lambda _id, params: self._session(params).cancel(),
        }

    def serve(self) -> None:
        """Work off what comes in until stdin ends."""
        while True:
            item = self._wire.inbound.get()
            if callable(item):
                item(self)
            elif item:
                self._line(item)
            elif not self.ignores_eof:
                return

    def _line(self, line: bytes) -> None:
        try:
            message = loads(line)
        except ValueError as error:
            self._wire.send(id=None, error={"code": PARSE_ERROR, "message": f"Not JSON: {error}"})
            return
        if not isinstance(message, dict):
            self._wire.send(id=None, error={"code": INVALID_REQUEST, "message": "Not an object"})
        elif "method" in message:
            self._call(message.get("id"), message["method"], message.get("params") or {})
        else:
            self._wire.answered(message)

    def _call(self, request: Any, method: str, params: dict[str, Any]) -> None:
        try:
            if method not in self._methods:
                raise _Refused(NO_METHOD, f"Method not found: {method}")
            result = self._methods[method](request, params)
        except (_Refused, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            code, text = (
                error.args if isinstance(error, _Refused) else (INVALID_PARAMS, f"{type(error).__name__}: {error}")
            )
            if request is not None:
                self._wire.send(id=request, error={"code": code, "message": text})
        else:
            if request is not None and result is not None:
                self._wire.send(id=request, result=result)

    def _initialize(self, _id: Any, _params: dict[str, Any]) -> dict[str, Any]:
        prompt = {"image": True, "audio": False, "embeddedContext": True}
        resume = os.environ.get("HAPI_DEMO_RESUME", "load")
        session: dict[str, Any] = {} if resume == "none" else {"fork": {}}
        if resume == "resume":
            session["resume"] = {}
        return {
            "protocolVersion": 1,
            "agentInfo": {"name": "hapi-demo", "title": "Demo", "version": "1"},
            "agentCapabilities": {
                "loadSession": resume == "load",
                "promptCapabilities": prompt,
                "sessionCapabilities": session,
            },
            "authMethods": [],
        }

    def _new(self, request: Any, params: dict[str, Any]) -> None:
        self._open(request, os.urandom(16).hex(), params, None)

    def _load(self, request: Any, params: dict[str, Any]) -> None:
        key = str(params["sessionId"])
        saved = self._sessions[key].saved if key in self._sessions else _stored(key)
        for role, text in (
            (role, text) for pair in saved["history"] for role, text in zip(("user", "agent"), pair, strict=True)
        ):
            self._wire.update(key, f"{role}_message_chunk", content=_text_block(text))
        self._open(request, key, params, saved)

    def _resume(self, request: Any, params: dict[str, Any]) -> None:
        key = str(params["sessionId"])
        self._open(request, key, params, self._sessions[key].saved if key in self._sessions else _stored(key))

    def _fork(self, request: Any, params: dict[str, Any]) -> None:
        saved = loads(dumps(self._session(params).saved))
        self._open(request, os.urandom(16).hex(), params, saved)

    def _open(self, request: Any, key: str, params: dict[str, Any], saved: dict[str, Any] | None) -> None:
        if not os.path.isabs(params["cwd"]):
            raise ValueError("cwd must be an absolute path")
        session = self._sessions[key] = _Session(self._wire, key, params["cwd"], saved)
        session.save()
        self._wire.send(id=request, result={"sessionId": key, **session.describe()})
        commands = [
            {"name": name, "description": text, **({"input": {"hint": hint}} if hint else {})}
            for name, (_, hint, text) in COMMANDS.items()
        ]
        self._wire.update(key, "available_commands_update", availableCommands=commands)

    def _session(self, params: dict[str, Any]) -> _Session:
        session = self._sessions.get(params["sessionId"])
        if session is None:
            raise _Refused(NOT_FOUND, f"No such session: {params['sessionId']}")
        return session

    def _set_mode(self, request: Any, params: dict[str, Any]) -> None:
        session = self._session(params)
        session.choose("mode", params["modeId"])
        self._wire.send(id=request, result={})
        self._wire.update(session.key, "current_mode_update", currentModeId=params["modeId"])

    def _set(self, params: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
        session = self._session(params)
        if name == "model" and session.open and os.environ.get("HAPI_DEMO_BUSY") == "refuse":
            raise _Refused(INTERNAL, "a turn is running")
        session.choose(name, value)
        return {"configOptions": session.options()}

    def _prompt(self, request: Any, params: dict[str, Any]) -> None:
        self._session(params).prompt(request, "\n".join(map(_words, params["prompt"])))


def _words(block: dict[str, Any]) -> str:
    """A block of the prompt as a person would say it."""
    resource = block.get("resource") or {}
    if resource.get("text"):
        return f"{resource['uri']} says {resource['text']}"
    given = f"[{block.get('type')} {block.get('mimeType')}, {len(block.get('data') or '') * 3 // 4} bytes]"
    return str(block.get("text") or block.get("uri") or given)


def _text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _content(text: str) -> dict[str, Any]:
    return {"type": "content", "content": _text_block(text)}


def _stored(key: str) -> dict[str, Any]:
    path = os.path.join(os.environ.get("HAPI_DEMO_HOME", ""), f"{key}.json")
    if not key.replace("-", "").isalnum() or not os.path.isfile(path) or "HAPI_DEMO_HOME" not in os.environ:
        raise _Refused(NOT_FOUND, f"No such session: {key}")
    with open(path, encoding="utf-8") as file:
        saved: dict[str, Any] = loads(file.read())
    return saved


def _private(path: str, flags: int) -> int:
    """For `open`: the file is its owner's only, whatever the umask."""
    return os.open(path, flags, 0o600)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _read(inbound: SimpleQueue[Any]) -> None:
    """Put every line of stdin into `inbound`, and b"" when it ends."""
    for line in sys.stdin.buffer:
        if line.strip():
            inbound.put(line)
    inbound.put(b"")


def _fault(fault: str) -> None:
    kind, _, value = fault.strip().partition(":")
    if kind == "slow":
        Flag().wait(float(value))
    elif kind == "stderr":
        _write_all(2, f"{value}\n".encode())
    elif kind == "exit":
        os._exit(int(value or 1))
    elif kind == "hang":
        Flag().wait()
    elif kind:
        sys.exit(f"HAPI_DEMO_START: no such fault: {kind}")


def _settle() -> None:
    """Find a place for conversations, as the demo agent in a terminal does: so that they can be handed over."""
    if os.environ.get("HAPI_SESSION_ID"):
        home = os.environ.get("HAPI_HOME") or os.path.expanduser("~/.hapi")
        os.environ["HAPI_DEMO_HOME"] = os.environ.get("HAPI_DEMO_HOME") or os.path.join(home, "demo")
    if os.environ.get("HAPI_DEMO_HOME"):
        os.makedirs(os.environ["HAPI_DEMO_HOME"], mode=0o700, exist_ok=True)


def main() -> None:
    """Serve ACP on stdin and stdout until stdin ends; `--help` prints how to use it."""
    if sys.argv[1:]:
        print(USAGE, end="")  # noqa: T201 - that is what it is for
        sys.exit(0 if sys.argv[1] in {"-h", "--help"} else 2)
    interruptible()
    for fault in os.environ.get("HAPI_DEMO_START", "").split(","):
        _fault(fault)
    _settle()
    wire = _Wire()
    start_thread(_read, wire.inbound, stack_bytes=_STACK_BYTES)
    _Agent(wire).serve()
