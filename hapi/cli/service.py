"""`hapi runner install` and `uninstall`: the runner as a systemd or launchd service of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hapi.cli import output
from hapi.cli.common import Json, WorkspaceRoots, examples
from hapi.cli.scope import absolute_roots, load

if TYPE_CHECKING:
    from hapi.managers import Manager
    from hapi.service import Installed, Uninstalled

_DONE = {
    "installed": "Installed {unit}.",
    "updated": "Updated {unit}.",
    "already_installed": "{unit} is already installed.",
}


def register(app: typer.Typer) -> None:
    """Add the commands to `hapi runner`."""
    app.command(
        "install",
        epilog=examples(
            "hapi runner install --now",
            "hapi runner install --now --workspace-root ~/proj --workspace-root /srv/code",
            "hapi --namespace work runner install --now",
            "hapi runner install && cat ~/.config/systemd/user/hapi-runner.service",
        ),
    )(install)
    app.command(
        "uninstall",
        epilog=examples("hapi runner uninstall", "hapi --namespace work runner uninstall --json"),
    )(uninstall)


def install(
    workspace_root: WorkspaceRoots = None,
    now: Annotated[bool, typer.Option("--now", help="Start it now, and at every login from now on.")] = False,  # noqa: FBT002
    force: Annotated[bool, typer.Option("--force", help="Replace a file that hapi did not write.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Write the unit file that has systemd (Linux) or launchd (macOS) start the runner at login.

    It names this program, HAPI_HOME, the namespace, the workspace roots and this terminal's PATH, where agents that
    the hub starts are looked for. With --now, a runner that was started by hand hands over; sessions live on.
    """
    from hapi import service
    from hapi.managers import manager_for

    configuration, roots = load(), absolute_roots(workspace_root)
    manager = manager_for(configuration.namespace)
    if now:
        manager.check()  # nothing is written where nothing can be started
    installed = service.install(configuration, manager, roots, force=force)
    if now:
        with output.Progress(f"Starting {manager.unit} …") as progress:
            service.start(configuration, manager, installed, progress)
    if as_json:
        output.say_json(_installed_json(manager, installed))
    else:
        _say_installed(manager, installed)


def uninstall(as_json: Json = False) -> None:  # noqa: FBT002
    """Stop the service, disable it and remove its unit file. Sessions live on; nothing else is deleted."""
    from hapi import service
    from hapi.managers import manager_for

    manager = manager_for(load().namespace)
    done = service.uninstall(manager)
    if as_json:
        answer = _which(manager) | {"removed": done.removed, "stoppedPid": done.stopped, "notes": done.notes}
        output.say_json(answer)
    else:
        _say_uninstalled(manager, done)


def _which(manager: Manager) -> dict[str, object]:
    return {"manager": manager.name, "unit": manager.unit, "path": str(manager.path)}


def _installed_json(manager: Manager, installed: Installed) -> dict[str, object]:
    return _which(manager) | {
        "outcome": installed.outcome,
        "workspaceRoots": installed.roots,
        "pid": installed.pid,
        "replacedPid": installed.replaced,
        "notes": installed.notes,
    }


def _say_installed(manager: Manager, installed: Installed) -> None:
    output.say(_DONE[installed.outcome].format(unit=manager.unit))
    if installed.replaced:
        output.say(f"Stopped the runner that was started by hand (pid {installed.replaced}); its sessions live on.")
    if installed.pid:
        output.say(f"It runs (pid {installed.pid}), and starts at every login.")
    roots = ", ".join(map(output.clean, installed.roots))
    output.facts([("file", output.clean(str(manager.path))), ("roots", roots)])
    for note in installed.notes:
        output.note(note)
    if not installed.pid:
        output.note("To start it now and at every login: hapi runner install --now")


def _say_uninstalled(manager: Manager, done: Uninstalled) -> None:
    if not done.removed:
        output.say(f"Nothing is installed: there is no {output.clean(str(manager.path))}")
        return
    output.say(f"Removed {output.clean(str(manager.path))}")
    if done.stopped:
        output.say(f"Stopped the runner (pid {done.stopped}). Its sessions live on.")
    for note in done.notes:
        output.note(note)
