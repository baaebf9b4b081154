"""`hapi runner list | stop-session`: their words. What they do is in `sessions`; starting a session is in `spawn`."""

from __future__ import annotations

from typing import Annotated

import typer

from hapi.cli import sessions, stop_all
from hapi.cli.common import AllNamespaces, Json, examples
from hapi.errors import EXIT_OK

_TARGET = typer.Argument(metavar="ID", help="A session id, a unique prefix of one, or PID-n.")
SessionTarget = Annotated[str, _TARGET]


def register(app: typer.Typer) -> None:
    """Add the session commands to `hapi runner`."""
    app.command(
        "list", epilog=examples("hapi runner list", "hapi runner list --ended --json", "hapi runner list --all")
    )(show_list)
    app.command(
        "stop-session",
        epilog=examples(
            "hapi runner stop-session 1f0c22ab",
            "hapi runner stop-session PID-4711",
            "hapi runner stop-session --all --json",
        ),
    )(stop_session)


def show_list(
    every: AllNamespaces = False,  # noqa: FBT002
    ended: Annotated[bool, typer.Option("--ended", help="Ended sessions as well.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """List the sessions: id, agent, directory, phase, who started them, age, memory. Exit status 3 without a runner."""
    sessions.show_list(every=every, ended=ended, as_json=as_json)


def stop_session(
    target: Annotated[str | None, _TARGET] = None,
    every: Annotated[bool, typer.Option("--all", help="Every session of this namespace, side by side.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """End a session and everything it started. Prints stopped, already_gone or still_alive (exit status 1)."""
    if (target is None) is not every:
        raise typer.BadParameter("Name one session, or say --all.")
    status = stop_all.run(as_json=as_json) if target is None else sessions.stop_session(target, as_json=as_json)
    if status != EXIT_OK:
        raise typer.Exit(status)
