"""A stand-in for any agent of the table: it is asked for by that agent's name on PATH and writes down all it sees.

`install` puts it on a PATH under the programs' names; `Stubs` reads what they wrote: argv, environment, directory and
each JSON-RPC message, in order. It answers as the agent of that name was seen to answer: what it can do, the ids and
kinds of its permission options, the form of its modes, models and options, its quirks (docs/agents.md). The prompts:

    ask         asks for permission and tells which option was chosen
    stay        works until it is cancelled
    odd         prints what no client expects: numbers, lists, noise, unknown updates, 300 KB on stderr
    keep WORD   remembers; `recall` tells it, after a session/load in another process too

Started as a program it needs the standard library only, and nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

SHARED = (("allow_always", "allow_always"), ("allow_once", "allow_once"), ("reject_once", "reject_once"))
GOOGLE = (("proceed_always", "allow_always"), ("proceed_once", "allow_once"), ("cancel", "reject_once"))
ALL = ("load", "list", "resume", "fork", "close")
ADDRESS = "https://agentclientprotocol.com/protocol/session-modes#"
PROFILES: dict[str, dict[str, Any]] = {
    "claude-agent-acp": {
        "can": ALL,
        "ask": (("allow_always", "allow_always"), ("allow", "allow_once"), ("reject", "reject_once")),
        "modes": ("default", "acceptEdits", "auto", "plan", "dontAsk", "bypassPermissions"),
        "options": {"model": ("default", "opus"), "effort": ("default", "low", "high")},
        "busy": "queue",
        "leaves_open": True,
    },
    "codex-acp": {
        "can": ("load", "list", "resume", "close"),
        "ask": (
            ("approved", "allow_once"),
            ("approved-execpolicy-amendment", "allow_always"),
            ("abort", "reject_once"),
        ),
        "modes": ("auto", "read-only", "full-access"),
        "options": {"model": ("gpt-5.5", "gpt-5.4"), "reasoning_effort": ("medium", "low", "high")},
        "busy": "silence",
        "ignores_eof": True,
        "leaves_open": True,
    },
    "copilot": {
        "can": ("load", "list", "close"),
        "ask": (("allow_once", "allow_once"), ("allow_always", "allow_always"), ("reject_once", "reject_once")),
        "modes": tuple(ADDRESS + mode for mode in ("agent", "plan", "autopilot")),
        "set_model": True,
        "busy": "cancel",
        "leaves_open": True,
    },
    "opencode": {
        "can": ALL,
        "ask": (("once", "allow_once"), ("always", "allow_always"), ("reject", "reject_once")),
        "options": {"model": ("mock/m1", "mock/m2"), "mode": ("build", "plan"), "effort": ("default", "high")},
        "asks_first": True,
        "busy": "queue",
    },
    "agent": {"can": ("load",), "ask": SHARED, "modes": ("agent", "plan", "ask"), "set_model": True, "busy": "error"},
    "grok": {"can": ("load",), "ask": SHARED, "set_model": True, "busy": "error"},
    "kimi": {"can": ("load", "list"), "ask": SHARED, "set_model": True, "busy": "error"},
    "dsh-acp-demo": {"can": (), "ask": SHARED, "busy": "error"},
    "pi-acp": {
        "can": ("load", "list"),
        "ask": (),
        "options": {"model": ("mock/m1", "mock/m2"), "effort": ("off", "high")},
        "busy": "queue",
    },
    "gemini": {
        "can": ("load",),
        "ask": GOOGLE,
        "modes": ("default", "autoEdit", "yolo", "plan"),
        "models": ("auto", "gemini-2.5-pro"),
        "set_model": True,
        "busy": "cancel",
        "quota": True,
        "ignores_eof": True,
    },
    "vibe-acp": {"can": ALL, "ask": SHARED, "modes": ("default", "plan"), "busy": "error", "echoes": True},
}
CATEGORIES = {"effort": "thought_level", "reasoning_effort": "thought_level"}


class Stubs:
    """The programs in one directory, and what they wrote. `path` goes first into a PATH."""

    def __init__(self, place: Path) -> None:
        self.path = place / "bin"
        self._said = place / "said"
        for directory in (self.path, self._said):
            directory.mkdir(parents=True)
        for name in PROFILES:
            program = self.path / name
            program.write_text(f"#!{sys.executable} -IS\n{Path(__file__).read_text()}")
            program.chmod(0o755)

    def fault(self, program: str, fault: str | None) -> None:
        """From now on `program` starts like this: `unready`, `refuses`; None: as it should."""
        place = self.path / f"{program}.fault"
        if fault is None:
            place.unlink(missing_ok=True)
        else:
            place.write_text(fault)

    def runs(self, session: str) -> list[list[dict[str, Any]]]:
        """What each process of that session wrote, oldest first; its start (argv, env, cwd, pid), then its messages."""
        files = sorted(self._said.glob(f"{session}-*.jsonl"), key=lambda file: file.stat().st_ctime_ns)
        found = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        return sorted(found, key=lambda run: run[0]["at"])

    def pids(self, program: str) -> set[int]:
        """The processes of that name that ever started, also dead ones."""
        first = [json.loads(file.read_text().split("\n", 1)[0]) for file in self._said.glob("*.jsonl")]
        return {start["pid"] for start in first if start["program"] == program}


def heard(run: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """The parameters of each message with that method, in order."""
    return [line["in"].get("params") or {} for line in run if line.get("in", {}).get("method") == method]


class _Stub:
    """The program. One thread reads, each prompt has its own."""

    def __init__(self, name: str, place: str) -> None:
        self.profile = PROFILES[name]
        session = os.environ.get("HAPI_SESSION_ID", "nobody")
        said = os.path.join(place, "said")
        self.memory = os.path.join(said, "memory.{}")
        self.record = open(os.path.join(said, f"{session}-{os.getpid()}.jsonl"), "a")  # noqa: SIM115 - for its life
        self.lock = threading.Lock()
        self.chosen = {key: values[0] for key, values in self.profile.get("options", {}).items()}
        self.cancelled: SimpleQueue[str] = SimpleQueue()
        self.replies: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.busy = False
        self.asked = 0
        start = {"program": name, "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid()}
        self.write_down(start | {"at": os.times().elapsed})

    def write_down(self, entry: dict[str, Any]) -> None:
        self.record.write(json.dumps(entry) + "\n")
        self.record.flush()

    def raw(self, text: str) -> None:
        with self.lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def send(self, **message: Any) -> None:
        self.raw(json.dumps({"jsonrpc": "2.0", **message}))

    def update(self, session: str, kind: str, /, **fields: Any) -> None:
        self.send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": kind, **fields}})

    def text(self, session: str, text: str, kind: str = "agent_message_chunk") -> None:
        self.update(session, kind, content={"type": "text", "text": text})

    def run(self, fault: str) -> None:
        if fault == "refuses":
            sys.stderr.write("Please log in first: stub login\n")
            raise SystemExit(41)
        if fault == "unready":
            self.raw("Welcome to the stub!")
        for line in sys.stdin:
            message = json.loads(line)
            self.write_down({"in": message})
            if "method" not in message:
                self.replies.put(message)
            elif fault == "unready" and message["method"] == "session/new":
                continue
            else:
                self.obey(message)
        if self.profile.get("ignores_eof"):
            threading.Event().wait()

    def obey(self, message: dict[str, Any]) -> None:
        params, request = message.get("params") or {}, message.get("id")
        match message["method"]:
            case "initialize":
                self.send(id=request, result={"protocolVersion": 1, "agentCapabilities": self.capabilities()})
            case "session/new":
                key = f"native-{os.getpid()}"
                self.send(id=request, result={"sessionId": key, **self.offers()})
            case "session/load" if "load" in self.profile["can"]:
                self.text(params["sessionId"], "what was said long ago", "user_message_chunk")
                self.text(params["sessionId"], "history told again")
                self.send(id=request, result=self.offers())
            case "session/set_mode" if params["modeId"] in self.profile.get("modes", ()):
                self.send(id=request, result={})
            case "session/set_model" if self.profile.get("set_model"):
                self.send(id=request, result={})
            case "session/set_config_option" if params["value"] in self.profile["options"][params["configId"]]:
                self.chosen[params["configId"]] = params["value"]
                self.send(id=request, result={"configOptions": self.options()})
            case "session/cancel":
                self.cancelled.put("cancel")
            case "session/prompt":
                threading.Thread(target=self.prompt, args=(request, params), daemon=True).start()
            case _:
                self.send(id=request, error={"code": -32601, "message": "Method not found"})

    def capabilities(self) -> dict[str, Any]:
        can = self.profile["can"]
        return {"loadSession": "load" in can, "sessionCapabilities": {name: {} for name in can if name != "load"}}

    def offers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        modes, models = self.profile.get("modes"), self.profile.get("models")
        if modes:
            listed = [{"id": mode, "name": mode} for mode in modes]
            found["modes"] = {"currentModeId": modes[0], "availableModes": listed}
        if models:
            listed = [{"modelId": model, "name": model} for model in models]
            found["models"] = {"currentModelId": models[0], "availableModels": listed}
        return found | ({"configOptions": self.options()} if self.chosen else {})

    def options(self) -> list[dict[str, Any]]:
        return [
            {
                "id": key,
                "name": key,
                "category": CATEGORIES.get(key, key),
                "type": "select",
                "currentValue": self.chosen[key],
                "options": [{"value": value, "name": value} for value in values],
            }
            for key, values in self.profile["options"].items()
        ]

    def prompt(self, request: Any, params: dict[str, Any]) -> None:
        session, text = params["sessionId"], params["prompt"][-1].get("text", "")
        if self.busy:
            self.write_down({"trouble": "a second prompt while the first runs"})
            if self.profile["busy"] != "silence":
                self.send(id=request, error={"code": -32600, "message": "busy"})
            return
        self.busy = True
        if self.profile.get("echoes"):
            self.text(session, text, "user_message_chunk")
        stop = self.play(session, text)
        usage = {"quota": {"token_count": {"input_tokens": 1200, "output_tokens": 34}}}
        self.busy = False
        self.send(id=request, result={"stopReason": stop} | ({"_meta": usage} if self.profile.get("quota") else {}))

    def play(self, session: str, text: str) -> str:
        word, _, rest = text.partition(" ")
        if word == "ask":
            return self.ask(session)
        if word == "stay":
            self.update(session, "tool_call", toolCallId="call-stay", title="sleep", kind="execute", status="pending")
            self.cancelled.get()
            if not self.profile.get("leaves_open"):
                self.update(session, "tool_call_update", toolCallId="call-stay", status="failed")
            return "cancelled"
        if word == "odd":
            return self.odd(session)
        place = self.memory.format(session)
        if word == "keep":
            with open(place, "w") as file:
                file.write(rest)
        if word == "recall":
            text = open(place).read() if os.path.exists(place) else "nothing"  # noqa: SIM115 - it is read and left
        self.text(session, f"heard {text}")
        return "end_turn"

    def ask(self, session: str) -> str:
        options = [{"optionId": key, "name": key, "kind": kind} for key, kind in self.profile["ask"]]
        chosen = "nobody was asked"
        self.asked += 1
        call = f"call-{self.asked}"
        known = {"toolCallId": call, "title": "echo hi", "kind": "execute", "rawInput": {"command": "echo hi"}}
        if options:
            if not self.profile.get("asks_first"):
                self.update(session, "tool_call", **known, status="pending")
            bare = {"toolCallId": call, "title": None, "rawInput": {"command": "echo hi"}}
            asked = {"sessionId": session, "toolCall": bare, "options": options}
            self.send(id=self.asked, method="session/request_permission", params=asked)
            outcome = self.replies.get()["result"]["outcome"]
            chosen = outcome.get("optionId", outcome["outcome"])
        self.update(session, "tool_call_update", **known, status="completed", rawOutput=chosen)
        self.text(session, f"chosen: {chosen}")
        return "end_turn"

    def odd(self, session: str) -> str:
        for noise in ("123", "null", '"text"', "[1]", "{", "\u2603 no JSON", '{"jsonrpc":"2.0","method":"_x/y"}'):
            self.raw(noise)
        self.update(session, "brand_new_kind", anything=[1, None])
        self.update(session, "tool_call_update", toolCallId=None, status="completed")
        self.update(session, "agent_message_chunk", content={"type": "hologram"})
        sys.stderr.write("e" * 300_000 + "\n")
        sys.stderr.flush()
        self.text(session, "still here")
        return "bored"


def _main() -> None:
    place, name = os.path.split(os.path.abspath(sys.argv[0]))
    try:
        with open(os.path.join(place, f"{name}.fault")) as file:
            fault = file.read()
    except OSError:
        fault = ""
    _Stub(name, os.path.dirname(place)).run(fault)


if __name__ == "__main__":
    _main()
