"""The words of every command, for completion. Made from the command line itself, and held to it, by the tests.

A kind of value is `session` (any), `live` (one that has not ended), `agent`, `namespace`, `choice A B …` or `text`.
"""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """What a command is, its options with the kinds of their values (None: it takes none), its arguments' kinds."""

    what: str
    options: dict[str, tuple[str | None, str]]
    arguments: tuple[str, ...]


COMMANDS: dict[str, Words] = {
    "": Words(
        "Keep AI coding agents alive",
        {
            "--namespace": ("namespace", "The namespace"),
            "--version": (None, "Show the version and exit"),
            "-V": (None, "Show the version and exit"),
        },
        (),
    ),
    "hub": Words("Run the official hub here, with our home, token and port", {}, ()),
    "send": Words(
        "Say something to a session's agent",
        {
            "--id": ("text", "A key of yours"),
            "--wait": (None, "Wait for the answer, and print it"),
            "--timeout": ("text", "Give up after S seconds"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        ("live", "text"),
    ),
    "wait": Words(
        "Wait until a session has nothing left to do, or has ended",
        {
            "--for": ("choice idle ended", "Nothing left to do (or ended)"),
            "--timeout": ("text", "Give up after S seconds"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        ("live",),
    ),
    "logs": Words(
        "Print what was said in a session, live or ended",
        {
            "--follow": (None, "Go on as it grows, until the session ends"),
            "-f": (None, "Go on as it grows, until the session ends"),
            "-n": ("text", "Only the last N entries, or lines"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        ("session",),
    ),
    "top": Words("Watch the sessions", {}, ()),
    "loadtest": Words(
        "Start many sessions in a home and a namespace of their own, talk to them, and stop them",
        {
            "--sessions": ("text", "How many sessions"),
            "-n": ("text", "How many sessions"),
            "--spawn-rate": ("text", "Start at most R sessions a second"),
            "--messages": ("text", "Messages to each session"),
            "--message-rate": ("text", "At most R messages a second in all"),
            "--duration": ("text", "Talk for S seconds"),
            "--idle": ("text", "Leave the sessions alone for S seconds, and measure"),
            "--agent": ("agent", "The agent"),
            "--local": (None, "Without a hub"),
            "--hub": ("text", "The hub"),
            "--allow-remote-hub": (None, "Load a hub on another machine, too"),
            "--at-once": ("text", "How many to start, or to stop, at a time"),
            "--probes": ("text", "How often to ask for the list and the status"),
            "--patience": ("text", "How long one answer may take"),
            "--kill": ("text", "In the middle, SIGKILL broker, hub, nursery or reaper"),
            "--seed": ("text", "For the order in which sessions are spoken to"),
            "--html": ("text", "Write a page with plots, too"),
            "--keep": (None, "Leave the directory with logs and transcripts"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "completion": Words(
        "Print the script that teaches a shell our commands, agents and sessions", {}, ("choice bash zsh fish",)
    ),
    "attach": Words(
        "Show a session's terminal in this one, and type into it",
        {
            "--read-only": (None, "Look only"),
            "-r": (None, "Look only"),
            "--quiet": (None, "Show nothing of hapi's own"),
            "-q": (None, "Show nothing of hapi's own"),
        },
        ("live",),
    ),
    "run": Words(
        "Run a command here in a session of its own, and attach to it",
        {
            "--detach": (None, "Do not attach"),
            "-d": (None, "Do not attach"),
            "--name": ("text", "What to call it in lists"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "resume": Words(
        "Go on with a session in this terminal",
        {
            "--chat": (None, "Give it to the chat instead"),
            "--now": (None, "Cut the turn that it is at"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        ("session",),
    ),
    "runner": Words("The runner", {}, ()),
    "runner start": Words(
        "Start the runner in the background",
        {
            "--workspace-root": ("text", "The hub may browse and start sessions only below these directories"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner start-sync": Words(
        "Be the runner, in the foreground",
        {
            "--workspace-root": ("text", "The hub may browse and start sessions only below these directories"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner stop": Words(
        "Stop the runner", {"--json": (None, "Print one JSON document (docs/cli.md) instead of text")}, ()
    ),
    "runner restart": Words(
        "Stop the runner and start it again with the same workspace roots",
        {
            "--workspace-root": ("text", "The hub may browse and start sessions only below these directories"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner status": Words(
        "Say how the runner is",
        {
            "--all": (None, "Every namespace of this HAPI_HOME"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner logs": Words(
        "Print the path of the newest runner log, or of another log",
        {
            "--worker": ("choice hub reaper nursery", "The log of a worker"),
            "--session": ("session", "The log of a session, live or ended"),
            "--agent": (None, "With --session"),
            "--follow": (None, "Print the log as it grows, until Ctrl-C"),
            "-f": (None, "Print the log as it grows, until Ctrl-C"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner spawn": Words(
        "Start a session here, wait until its agent is ready, and print its id",
        {
            "--agent": ("agent", "The agent"),
            "--id": ("text", "The session's id"),
            "--model": ("text", "The model, as the agent names it"),
            "--effort": ("text", "The reasoning effort, as the agent names it"),
            "--permission-mode": ("text", "When the agent must ask"),
            "--yolo": (None, "Let the agent do everything without asking"),
            "--worktree": ("text", "Work in a new git worktree of DIR, with or without a name"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        ("text",),
    ),
    "runner list": Words(
        "List the sessions",
        {
            "--all": (None, "Every namespace of this HAPI_HOME"),
            "--ended": (None, "Ended sessions as well"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner stop-session": Words(
        "End a session and everything it started",
        {
            "--all": (None, "Every session of this namespace, side by side"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        ("live",),
    ),
    "runner install": Words(
        "Write the unit file that has systemd (Linux) or launchd (macOS) start the runner at login",
        {
            "--workspace-root": ("text", "The hub may browse and start sessions only below these directories"),
            "--now": (None, "Start it now, and at every login from now on"),
            "--force": (None, "Replace a file that hapi did not write"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "runner uninstall": Words(
        "Stop the service, disable it and remove its unit file",
        {"--json": (None, "Print one JSON document (docs/cli.md) instead of text")},
        (),
    ),
    "auth": Words("The hub's address and token", {}, ()),
    "auth login": Words(
        "Save the token",
        {
            "--url": ("text", "The hub's address"),
            "--token-stdin": (None, "Read the token from stdin"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "auth status": Words(
        "Say whether a token is set, where it comes from, and what the hub thinks of it",
        {"--json": (None, "Print one JSON document (docs/cli.md) instead of text")},
        (),
    ),
    "auth logout": Words(
        "Forget the token", {"--json": (None, "Print one JSON document (docs/cli.md) instead of text")}, ()
    ),
    "doctor": Words(
        "Check everything", {"--json": (None, "Print one JSON document (docs/cli.md) instead of text")}, ()
    ),
    "doctor clean": Words(
        "Stop every session and every runner of this HAPI_HOME, after showing them",
        {
            "--yes": (None, "Do not ask"),
            "-y": (None, "Do not ask"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
    "worktree": Words("The git worktrees that were made for sessions", {}, ()),
    "worktree list": Words(
        "List the worktrees of the sessions of every namespace, and those beside them that look like a runner's",
        {"--json": (None, "Print one JSON document (docs/cli.md) instead of text")},
        (),
    ),
    "worktree prune": Words(
        "Remove the worktrees in which no work can be lost",
        {
            "--dry-run": (None, "Only say what would be done"),
            "-n": (None, "Only say what would be done"),
            "--yes": (None, "Do not ask"),
            "-y": (None, "Do not ask"),
            "--json": (None, "Print one JSON document (docs/cli.md) instead of text"),
        },
        (),
    ),
}
