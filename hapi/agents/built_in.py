"""The agents that are known without settings, as data: one `Agent` each. A new agent is a new entry here, no code."""

from __future__ import annotations

import os
import sys

import msgspec

FLAVORS = ("agy", "claude", "codex", "copilot", "cursor", "dsh", "grok", "kimi", "opencode", "pi")
NEUTRAL = {"serviceTier": "standard", "collaborationMode": "default", "copilotAgentMode": "interactive"}
FLAGS = "{flags}"  # where in a command the launch arguments go; at its end when it has no such element

ESCAPE = "\x1b"
_SHARED_MODES = ("default", "read-only", "safe-yolo", "yolo")


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """Command line templates for what is chosen at the start; empty where a program has no such flag."""

    model: tuple[str, ...] = ()
    effort: tuple[str, ...] = ()
    modes: dict[str, tuple[str, ...]] = {}
    settings: dict[str, dict[str, tuple[str, ...]]] = {}
    """By the setting's name and value, as in `Agent.settings`."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """How an agent's own interface for the terminal is told which conversation to hold.

    `{id}` stands for the agent's own id of it, the one that its ACP server knows too. The words come before the flags.
    """

    new: tuple[str, ...] = ()
    """For a new one, under an id (a UUID) that we choose; empty where it makes its own."""
    resume: tuple[str, ...] = ()
    """For an old one; empty where it cannot."""
    chosen: tuple[str, ...] = ()
    """The user's words by which people choose the conversation themselves: beside them we add none of ours."""
    file: str = ""
    """A regular expression, found in the path of a file that the program holds open; its group is the id."""
    farewell: str = ""
    """As `file`, for what the program leaves on the screen when it ends."""
    keeps_mode: bool = False
    """An old conversation keeps its permission mode: no flag for another may stand beside `resume`."""


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """One agent. Over ACP, what `flags` cannot say is set by the config option of the category named here."""

    name: str
    title: str
    command: tuple[str, ...] = ()
    """Its ACP server; empty if it has none, and then `missing` says why it cannot be used."""
    alternatives: tuple[tuple[str, ...], ...] = ()
    """Other commands for the same, tried in order when the first is not installed."""
    terminal: tuple[str, ...] = ()
    """Its own interface for a terminal; empty if it has none."""
    native: str = ""
    """Path below `node_modules` of the program that an npm shim would start as its child."""
    install: str = ""
    missing: str = ""
    override: str = ""
    """The environment variable that names the executable to use instead."""
    override_args: str = ""
    """The one that holds the arguments for it, as a JSON list."""
    adapter_variable: str = ""
    """Where the ACP server is an adapter: the variable that tells it which program to adapt."""
    modes: tuple[str, ...] = ()
    yolo_mode: str | None = None
    acp_modes: dict[str, str] = {}
    """The agent's own mode id for a mode of ours; modes that are not here are kept by answering its questions."""
    settings: dict[str, tuple[str, ...]] = {}
    """What else the hub lets choose for it, by the hub's name (its protocol, §4.7), with the values it can be given."""
    asks_in_plan: bool = False
    """In its plan mode it asks for leave to write all the same; the answer is no."""
    takes_model: bool = True
    efforts: tuple[str, ...] | None = ()
    """The levels it knows; None: any word, it is the model's business; (): it takes none."""
    flags: Flags = Flags()
    terminal_flags: Flags = Flags()
    conversation: Conversation = Conversation()
    interrupt: str = ESCAPE
    """What is typed into its own interface to end the turn that runs."""
    model_option: str = "model"
    effort_option: str = "thought_level"
    resume: str = "load"
    """How it takes up an old conversation: `load` (ACP session/load), or "" if it cannot."""
    ignores_eof: bool = False
    """Whether it goes on when its stdin closes, so that a stop need not wait for that."""
    flavor: bool = True
    """Whether the hub knows it by this name."""
    env: dict[str, str] = {}
    args: tuple[str, ...] = ()
    default_model: str | None = None
    default_effort: str | None = None
    default_mode: str | None = None


_CLAUDE_MODES = ("default", "acceptEdits", "auto", "bypassPermissions", "plan")
_DEMO_MODES = ("default", "acceptEdits", "plan", "bypassPermissions")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_MODEL = ("--model", "{model}")
_CODEX_TERMINAL_MODES = {
    "read-only": ("--sandbox", "read-only"),
    "safe-yolo": ("--sandbox", "workspace-write", "--ask-for-approval", "never"),
    "yolo": ("--dangerously-bypass-approvals-and-sandbox",),
}
_CURSOR_TERMINAL_MODES = {
    "plan": ("--mode", "plan"),
    "ask": ("--mode", "ask"),
    "autoReview": ("--auto-review",),
    "yolo": ("--force",),
}
_APPROVALS = {  # of gemini and those descended from it
    "default": ("--approval-mode", "default"),
    "plan": ("--approval-mode", "plan"),
    "yolo": ("--approval-mode", "yolo"),
}
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAMED = ("--session-id", "{id}")
_RESUME = ("--resume", "{id}")
_SESSION = ("--session", "{id}")
_CHOSEN = ("--session-id", "--resume", "-r", "--continue", "-c")
_NPM = "npm install -g"
# by its path and isolated: `-m` would import from the session's directory, and find us only where we are installed
_HERE = os.path.dirname(os.path.abspath(__file__))
_DEMO = (sys.executable, "-IS", os.path.join(_HERE, "demo.py"))
_DEMO_TERMINAL = (sys.executable, "-IS", os.path.join(_HERE, "demo_terminal.py"))
# fmt: off
_ENTRIES = (
    Agent(name="claude", title="Claude Code", command=("claude-agent-acp",), alternatives=(("claude-code-acp",),),
          terminal=("claude",), install=f"{_NPM} @agentclientprotocol/claude-agent-acp",
          override="HAPI_CLAUDE_PATH", adapter_variable="CLAUDE_CODE_EXECUTABLE",
          modes=_CLAUDE_MODES, yolo_mode="bypassPermissions", acp_modes={mode: mode for mode in _CLAUDE_MODES},
          efforts=_EFFORTS,
          terminal_flags=Flags(model=_MODEL, effort=("--effort", "{effort}"),
                               modes={mode: ("--permission-mode", mode) for mode in _CLAUDE_MODES}),
          conversation=Conversation(new=_NAMED, resume=_RESUME,
                                    chosen=(*_CHOSEN, "--fork-session", "--from-pr", "--print", "-p"))),
    Agent(name="codex", title="Codex", command=("codex-acp",), terminal=("codex",),
          native="@zed-industries/codex-acp-{platform}-{arch}/bin/codex-acp",
          install=f"{_NPM} @zed-industries/codex-acp@0.16.0", modes=_SHARED_MODES, yolo_mode="yolo",
          acp_modes={"default": "auto", "read-only": "read-only", "safe-yolo": "auto", "yolo": "full-access"},
          efforts=None, ignores_eof=True,
          settings={"serviceTier": ("standard", "fast"), "collaborationMode": ("default", "plan")},
          flags=Flags(settings={"serviceTier": {"fast": ("-c", "service_tier=fast")}}),
          terminal_flags=Flags(model=_MODEL, effort=("-c", "model_reasoning_effort={effort}"),
                               modes=_CODEX_TERMINAL_MODES,
                               settings={"serviceTier": {"fast": ("-c", "service_tier=fast")}}),
          conversation=Conversation(resume=("resume", "{id}"), chosen=("resume", "fork", "exec"),
                                    file=f"/rollout-[0-9T-]+-({_UUID})[.]jsonl$")),
    Agent(name="cursor", title="Cursor", command=("agent", FLAGS, "acp"), terminal=("agent",),
          install="see cursor.com/cli", modes=("default", "plan", "ask", "debug", "autoReview", "yolo"),
          yolo_mode="yolo", acp_modes={"default": "agent", "plan": "plan", "ask": "ask"},
          flags=Flags(model=_MODEL, modes={"autoReview": ("--auto-review",)}),
          terminal_flags=Flags(model=_MODEL, modes=_CURSOR_TERMINAL_MODES),
          conversation=Conversation(resume=_RESUME, chosen=("--resume", "--continue", "resume"))),
    Agent(name="grok", title="Grok", command=("grok", "agent", FLAGS, "stdio"), terminal=("grok",),
          install="see x.ai", modes=("default", "auto", "plan", "bypassPermissions"),
          yolo_mode="bypassPermissions", efforts=None,
          flags=Flags(model=_MODEL, effort=("--reasoning-effort", "{effort}")),
          terminal_flags=Flags(model=_MODEL, effort=("--reasoning-effort", "{effort}"),
                               modes={"bypassPermissions": ("--always-approve",)}),
          conversation=Conversation(new=_NAMED, resume=_RESUME, chosen=(*_CHOSEN, "-s", "--fork-session"))),
    Agent(name="kimi", title="Kimi", command=("kimi", "acp"), terminal=("kimi",), install="uv tool install kimi-cli",
          modes=_SHARED_MODES, yolo_mode="yolo",
          terminal_flags=Flags(model=_MODEL, modes={"yolo": ("--yolo",)}),
          conversation=Conversation(resume=_SESSION, keeps_mode=True, chosen=(*_CHOSEN, "--session", "-S", "-C"))),
    Agent(name="copilot", title="GitHub Copilot", command=("copilot", "--acp", "--stdio"), terminal=("copilot",),
          install=f"{_NPM} @github/copilot", override="COPILOT_CLI_PATH", modes=_SHARED_MODES, yolo_mode="yolo",
          settings={"copilotAgentMode": ("interactive", "plan", "autopilot")},
          terminal_flags=Flags(model=_MODEL, modes={"yolo": ("--yolo",)},
                               settings={"copilotAgentMode": {mode: ("--mode", mode) for mode in ("plan", "autopilot")}}),
          conversation=Conversation(new=_NAMED, resume=("--resume={id}",), chosen=(*_CHOSEN, "--connect", "--prompt", "-p"),
                                    file=f"/session-state/({_UUID})/inuse[.][^/]+$")),
    Agent(name="opencode", title="OpenCode", command=("opencode", "acp"), terminal=("opencode",),
          install=f"{_NPM} opencode-ai", modes=("default", "plan", "yolo"), yolo_mode="yolo",
          acp_modes={"default": "build", "plan": "plan", "yolo": "build"}, asks_in_plan=True,
          efforts=None,
          terminal_flags=Flags(model=_MODEL, modes={"plan": ("--agent", "plan"), "yolo": ("--auto",)}),
          conversation=Conversation(resume=_SESSION, chosen=("--session", "-s", "--continue", "-c", "--fork"),
                                    farewell="opencode -s (ses_[0-9A-Za-z]+)")),
    Agent(name="dsh", title="dsh", command=("dsh-acp-demo",), install="or name it in HAPI_DSH_ACP_COMMAND",
          override="HAPI_DSH_ACP_COMMAND", override_args="HAPI_DSH_ACP_ARGS_JSON", takes_model=False, resume=""),
    Agent(name="pi", title="pi", command=("pi-acp",), terminal=("pi",), install=f"{_NPM} pi-acp",
          efforts=("off", "minimal", *_EFFORTS),
          terminal_flags=Flags(model=_MODEL, effort=("--thinking", "{effort}")),
          conversation=Conversation(resume=_SESSION, chosen=("--session", *_CHOSEN, "--no-session", "--fork"))),
    Agent(name="agy", title="Antigravity", terminal=("agy",), missing="it does not speak ACP",
          modes=("request-review", "always-proceed"), yolo_mode="always-proceed"),
    Agent(name="gemini", title="Gemini CLI", command=("gemini", "--acp"), terminal=("gemini",), flavor=False,
          install=f"{_NPM} @google/gemini-cli", modes=("default", "acceptEdits", "plan", "yolo"), yolo_mode="yolo",
          acp_modes={"default": "default", "acceptEdits": "autoEdit", "plan": "plan", "yolo": "yolo"},
          flags=Flags(model=_MODEL),
          terminal_flags=Flags(model=_MODEL, modes={**_APPROVALS, "acceptEdits": ("--approval-mode", "auto_edit")}),
          conversation=Conversation(new=_NAMED, resume=_RESUME, chosen=(*_CHOSEN, "--session-file"))),
    Agent(name="qwen", title="Qwen Code", command=("qwen", "--acp"), terminal=("qwen",), flavor=False,
          install=f"{_NPM} @qwen-code/qwen-code", modes=("default", "acceptEdits", "plan", "yolo"), yolo_mode="yolo",
          acp_modes={"default": "default", "acceptEdits": "auto-edit", "plan": "plan", "yolo": "yolo"},
          flags=Flags(model=_MODEL),
          terminal_flags=Flags(model=_MODEL, modes={**_APPROVALS, "acceptEdits": ("--approval-mode", "auto-edit")}),
          conversation=Conversation(new=_NAMED, resume=_RESUME, chosen=_CHOSEN)),
    Agent(name="demo", title="Demo", command=_DEMO, terminal=_DEMO_TERMINAL, flavor=False,
          modes=_DEMO_MODES, yolo_mode="bypassPermissions", acp_modes={mode: mode for mode in _DEMO_MODES},
          efforts=("low", "medium", "high"),
          terminal_flags=Flags(model=_MODEL),
          conversation=Conversation(new=_NAMED, resume=_RESUME, chosen=("--session-id", "--resume"))),
)
# fmt: on
BUILT_IN = {agent.name: agent for agent in _ENTRIES}
