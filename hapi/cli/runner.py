"""`hapi runner start | start-sync | stop | restart | status | logs`: the runner itself. Sessions are in `sessions`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hapi.cli import logs, output, running, status
from hapi.cli.common import AllNamespaces, Json, WorkspaceRoots, examples
from hapi.cli.scope import absolute_roots, load
from hapi.errors import EXIT_OK

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The runner: start, stop, look, spawn sessions.")


@app.command(
    epilog=examples("hapi runner start", "hapi runner start --workspace-root ~/proj --workspace-root /srv/code")
)
def start(workspace_root: WorkspaceRoots = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Start the runner in the background; says so when it runs already, replaces one of another version."""
    running.start(workspace_root, as_json=as_json)


@app.command(
    "start-sync",
    epilog=examples("hapi runner start-sync", "HAPI_RUNNER_SUPERVISED=1 hapi runner start-sync   (in a service unit)"),
)
def start_sync(workspace_root: WorkspaceRoots = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Be the runner, in the foreground: for systemd, launchd, containers, and for watching it start."""
    from hapi import launch

    ready = os.dup(sys.stdout.fileno()) if as_json else None  # the runner closes it when it has spoken
    if ready is not None:
        os.set_inheritable(ready, True)
    launch.run_in_foreground(load(), absolute_roots(workspace_root), ready)


@app.command(epilog=examples("hapi runner stop", "hapi doctor clean   (stops the sessions as well)"))
def stop(as_json: Json = False) -> None:  # noqa: FBT002
    """Stop the runner. Its sessions live on and are found again by the next start."""
    running.stop(as_json=as_json)


@app.command(epilog=examples("hapi runner restart", "hapi runner restart --workspace-root ~/proj"))
def restart(workspace_root: WorkspaceRoots = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Stop the runner and start it again with the same workspace roots. Sessions go on meanwhile."""
    from hapi import launch

    configuration, roots = load(), absolute_roots(workspace_root)
    with output.Progress("Restarting the runner …") as progress:
        stopped, started = launch.restart(configuration, roots, progress)
    if not as_json and stopped.running:
        output.say(f"Stopped the runner (pid {stopped.pid}{running.by_force(stopped.how)}).")
    running.say_started(started, as_json=as_json)


@app.command("status", epilog=examples("hapi runner status", "hapi runner status --json", "hapi runner status --all"))
def show_status(every: AllNamespaces = False, as_json: Json = False) -> None:  # noqa: FBT002
    """Say how the runner is: process, hub, workers, sessions, counters. Exit status 3 when it is not running."""
    code = status.show_all(as_json=as_json) if every else status.show(load(), as_json=as_json)
    if code != EXIT_OK:
        raise typer.Exit(code)


@app.command(
    "logs",
    epilog=examples(
        "tail -f $(hapi runner logs)",
        "hapi runner logs --worker hub --follow",
        "hapi runner logs --session 1f0c --agent",
    ),
)
def show_logs(
    worker: Annotated[
        str | None, typer.Option(metavar="NAME", help="The log of a worker: hub, reaper or nursery.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The log of a session, live or ended: an id or a unique prefix.")
    ] = None,
    agent: Annotated[bool, typer.Option("--agent", help="With --session: what the agent wrote to stderr.")] = False,  # noqa: FBT002
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print the log as it grows, until Ctrl-C.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Print the path of the newest runner log, or of another log."""
    path = logs.find(load(), worker=worker, session=session, agent=agent)
    if follow:
        logs.follow(path)
    elif as_json:
        output.say_json({"path": str(path)})
    else:
        output.say(str(path))
