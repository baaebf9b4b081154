"""`hapi runner start | stop | status`: what they do. Declared in `runner`; needs no command line parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hapi import __version__
from hapi.cli import output
from hapi.cli.scope import absolute_roots, load
from hapi.errors import HapiError

if TYPE_CHECKING:
    from hapi.control import Stopped
    from hapi.launch import Started
    from hapi.paths import Paths


def start(workspace_root: list[str] | None, *, as_json: bool) -> None:
    """Have a runner, and say which. Raises HapiError as `launch.start`, and for a root that is no directory."""
    from hapi import launch

    configuration, roots = load(), absolute_roots(workspace_root)
    with output.Progress("Starting the runner …") as progress:
        started = launch.start(configuration, roots, progress)
    say_started(started, as_json=as_json)
    if started.already and roots and not as_json:
        output.note("It keeps the workspace roots it has; to change them: hapi runner restart --workspace-root …")
    if not started.already and not as_json:
        _say_whose(configuration.namespace)


def stop(*, as_json: bool) -> None:
    """Stop the runner, and say how that went. Raises HapiError as `control.stop`."""
    from hapi import control

    configuration = load()
    with output.Progress("Stopping the runner …") as progress:
        stopped = control.stop(configuration, progress)
    returns = stopped.how == "SIGKILL" and _comes_back(configuration.paths)
    if as_json:
        output.say_json(_stopped_json(stopped) | {"comesBack": returns})
    else:
        _say_stopped(stopped)
    if returns:
        output.note("A service manager owns it and will start it again. To keep it down, stop the service there.")


def _comes_back(paths: Paths) -> bool:
    from hapi import launch

    return launch.comes_back(paths)


def _say_whose(namespace: str) -> None:
    """A runner that was just started by hand is not the installed service's; whoever has one wants to know."""
    from hapi import managers

    try:
        manager = managers.manager_for(namespace)
    except HapiError:
        return
    if manager.path.exists():
        output.note(f"It is not kept by {manager.unit}, which is installed; to hand it over: hapi runner install --now")


def say_started(started: Started, *, as_json: bool) -> None:
    """Which runner there is now, and what became of another one."""
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


def by_force(how: str | None) -> str:
    """Words for a runner that did not go when it was asked."""
    return "" if how in {None, "asked"} else f", which did not answer and was ended by {how}"


def _say_stopped(stopped: Stopped) -> None:
    if not stopped.running:
        output.say("The runner is not running.")
        return
    output.say(f"Stopped the runner (pid {stopped.pid}{by_force(stopped.how)}).")
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
