"""`hapi resume`: take a session into this terminal, or give it back to the chat. What it does is loaded when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.cli.scope import load
from hapi.cli.sessions import to_json
from hapi.errors import ErrorCode, HapiError


def register(app: typer.Typer) -> None:
    """Add `hapi resume`."""
    app.command(
        "resume",
        epilog=examples(
            "hapi resume               choose a session of this directory, and go on with it here",
            "hapi resume 1f0c          a chat that lives, or a session that has ended",
            "hapi resume 1f0c --chat   back to the web's chat",
        ),
    )(resume)


def resume(
    target: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A session id, a unique prefix of one, or PID-n.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Give it to the chat instead; does not attach.")] = False,  # noqa: FBT002
    now: Annotated[bool, typer.Option("--now", help="Cut the turn that it is at.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Go on with a session in this terminal: its agent's own interface, in the same conversation. Then as `hapi attach`.

    A session that lives is handed over: it stays the same session, here and in the web. Starts the runner when needed.
    """
    from hapi.cli import resuming

    if as_json and not chat:
        raise HapiError(ErrorCode.USAGE, "--json needs --chat: attached, the terminal is the session's.")
    config = load()
    if not chat:
        raise typer.Exit(resuming.here(config, target, cut=now))
    info = resuming.to_chat(config, target, cut=now)
    if as_json:
        output.say_json(to_json(info))
    else:
        output.note(
            f"Session {info.session_id[:8]} goes on as a chat. Speak to it: hapi send {info.session_id[:8]} TEXT"
        )
