"""`hapi send`: say something to a session's agent, and perhaps wait for the answer."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hapi import wire
from hapi.cli import answers, output
from hapi.cli.common import Json, examples
from hapi.cli.request import carry_out
from hapi.cli.scope import load
from hapi.cli.session_commands import SessionTarget
from hapi.cli.wait import EXIT_TIMEOUT, Timeout
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.ids import new_session_id


def register(app: typer.Typer) -> None:
    """Add `hapi send`."""
    app.command(
        "send",
        epilog=examples(
            "hapi send 1f0c 'Run the tests.'",
            "git diff | hapi send 1f0c -   (text from stdin)",
            "hapi send 1f0c 'Which file is the largest?' --wait --timeout 300",
        ),
    )(send)


def send(  # noqa: PLR0913, PLR0917 - one parameter per option
    target: SessionTarget,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads it from stdin.")],
    key: Annotated[
        str | None, typer.Option("--id", metavar="KEY", help="A key of yours: repeated with it, it is said once.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answer, and print it.")] = False,  # noqa: FBT002
    timeout: Timeout = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Say something to a session's agent. Returns once the message is safely on disk, or with --wait is answered."""
    words = _words(text)
    if not words.strip():
        raise HapiError(ErrorCode.USAGE, "There is nothing to send.")
    if timeout is not None and not wait:
        raise HapiError(ErrorCode.USAGE, "--timeout needs --wait.")
    said = wire.SendText(target, words, key or new_session_id())
    if wait:
        _converse(load(), said, timeout, as_json=as_json)
        return
    with output.Progress("Sending …") as progress:
        reply = carry_out(load(), said, wire.Accepted, progress)
    if as_json:
        output.say_json({"accepted": True} | ({"detail": reply.detail} if reply.detail else {}))
    else:
        output.note("Sent.")


def _words(text: str) -> str:
    """What to say. Raises HapiError(usage) for what is no text: not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode() if text == "-" else os.fsencode(text).decode()
    except UnicodeDecodeError:
        raise HapiError(ErrorCode.USAGE, "The text is not UTF-8.") from None


def _converse(config: Config, said: wire.SendText, timeout: float | None, *, as_json: bool) -> None:
    with output.Progress("Waiting for the answer …") as progress:
        answer = answers.ask(config, said, timeout, progress)
    if answer is None:
        if as_json:
            output.say_json({"accepted": True, "answer": None, "stopReason": None})
        output.note(f"Sent, but not answered within {timeout:g} s.")
        raise typer.Exit(EXIT_TIMEOUT)
    if as_json:
        output.say_json({"accepted": True, "answer": answer.text, "stopReason": answer.stop_reason})
    elif answer.texts:
        output.say(answer.text)
