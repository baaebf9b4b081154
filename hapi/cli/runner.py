"""`hapi runner start | start-sync | stop | restart | status | logs`: the runner itself. Sessions are in `sessions`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hapi import __version__
from hapi.cli import logs, output, status
from hapi.cli.common import AllNamespaces, Json, WorkspaceRoots, absolute_roots, examples, load
from hapi.control import Stopped
from hapi.errors import EXIT_OK, HapiError
from hapi.launch import Started

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The runner: start, stop, look, spawn sessions.")


@app.command(
    epilog=examples("hapi runner start", "hapi runner start --workspace-root ~/proj --workspace-root /srv/code")
)
def start(workspace_root: WorkspaceRoots = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Start the runner in the background; says so when it runs already, replaces one of another version."""
    from hapi import launch

    configuration, roots = load(), absolute_roots(workspace_root)
    with output.Progress("Starting the runner …") as progress:
        started = launch.start(configuration, roots, progress)
    _say_started(started, as_json=as_json)
    if started.already and roots and not as_json:
        output.note("It keeps the workspace roots it has; to change them: hapi runner restart --workspace-root …")
    if not started.already and not as_json:
        _say_whose(configuration.namespace)


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
    from hapi import control, launch

    configuration = load()
    with output.Progress("Stopping the runner …") as progress:
        stopped = control.stop(configuration, progress)
    returns = stopped.how == "SIGKILL" and launch.comes_back(configuration.paths)
    if as_json:
        output.say_json(_stopped_json(stopped) | {"comesBack": returns})
    else:
        _say_stopped(stopped)
    if returns:
        output.note("A service manager owns it and will start it again. To keep it down, stop the service there.")


@app.command(epilog=examples("hapi runner restart", "hapi runner restart --workspace-root ~/proj"))
def restart(workspace_root: WorkspaceRoots = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Stop the runner and start it again with the same workspace roots. Sessions go on meanwhile."""
    from hapi import launch

    configuration, roots = load(), absolute_roots(workspace_root)
    with output.Progress("Restarting the runner …") as progress:
        stopped, started = launch.restart(configuration, roots, progress)
    if not as_json and stopped.running:
        output.say(f"Stopped the runner (pid {stopped.pid}{_by_force(stopped.how)}).")
    _say_started(started, as_json=as_json)


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


def _say_whose(namespace: str) -> None:
    """A runner that was just started by hand is not the installed service's; whoever has one wants to know."""
    from hapi import managers

    try:
        manager = managers.manager_for(namespace)
    except HapiError:
        return
    if manager.path.exists():
        output.note(f"It is not kept by {manager.unit}, which is installed; to hand it over: hapi runner install --now")


def _say_started(started: Started, *, as_json: bool) -> None:
    if as_json:
        output.say_json(
            {
                "pid": started.pid,
                "endpoint": started.endpoint,
                "logPath": started.log,
                "version": started.version,
                "alreadyRunning": started.already,
                "replacedVersion": started.replaced,
                "notReplaced": started.kept,
            }
        )
        return
    if started.already:
        other = "" if started.version == __version__ else f", version {started.version}; installed is {__version__}"
        output.say(f"The runner is already running (pid {started.pid}{other}).")
        if started.kept:
            output.note(f"It was not replaced: {started.kept}.")
    elif started.replaced:
        output.say(f"Replaced the runner of version {started.replaced} by {__version__}; its sessions live on.")
    else:
        output.say(f"Started the runner (pid {started.pid}).")
    output.facts([("pid", str(started.pid)), ("endpoint", started.endpoint), ("log", started.log)])


def _by_force(how: str | None) -> str:
    return "" if how in {None, "asked"} else f", which did not answer and was ended by {how}"


def _say_stopped(stopped: Stopped) -> None:
    if not stopped.running:
        output.say("The runner is not running.")
        return
    output.say(f"Stopped the runner (pid {stopped.pid}{_by_force(stopped.how)}).")
    if stopped.sessions is None:
        output.say("Its sessions live on; the hub shows them offline until the runner is back.")
    elif stopped.sessions:
        live = output.plural(stopped.sessions, "session")
        one = stopped.sessions == 1
        output.say(
            f"{live} {'lives' if one else 'live'} on; the hub shows {'it' if one else 'them'} offline "
            "until the runner is back."
        )
    else:
        output.say("No sessions were running.")


def _stopped_json(stopped: Stopped) -> dict[str, object]:
    return {"wasRunning": stopped.running, "pid": stopped.pid, "sessions": stopped.sessions, "how": stopped.how}
