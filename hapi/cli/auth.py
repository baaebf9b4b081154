"""`hapi auth login | status | logout`: the hub's address and token, in settings.json. The token is never printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hapi import config, settings
from hapi.cli import hubcheck, output
from hapi.cli.common import Json, examples
from hapi.cli.scope import load, state
from hapi.errors import EXIT_USER, ErrorCode, HapiError
from hapi.ids import DEFAULT_NAMESPACE, split_token

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The hub's address and token.")

_VARIABLE = "CLI_API_TOKEN"
_RESTART = "A running runner takes it up with: hapi runner restart"


@app.command(
    epilog=examples(
        "hapi auth login                          (asks for the token, without showing it)",
        "hapi auth login --url https://hub.example.org --token-stdin < token.txt",
        "hapi --namespace work auth login",
    )
)
def login(
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="The hub's address; kept beside the token.")
    ] = None,
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read the token from stdin.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Save the token: from stdin, from CLI_API_TOKEN, or typed. A hub that can be reached is asked whether it is good."""
    current = _load(url)
    token = _ask_token(from_stdin=token_stdin)
    base, namespace = split_token(token)
    explicit = _explicit_namespace(current)
    if explicit and namespace not in {DEFAULT_NAMESPACE, explicit}:
        message = f"The token is for namespace {namespace}, not {explicit}."
        raise HapiError(ErrorCode.BAD_CONFIGURATION, message, f"hapi --namespace {namespace} auth login")
    full = _suffixed(base, explicit or namespace)
    verdict = hubcheck.check(current.api_url, full, current.extra_headers)
    if verdict.state == "refused":
        hint = "Nothing was saved. The hub prints its token when it starts; it is also in the hub's settings.json."
        raise HapiError(ErrorCode.HUB_REFUSED, f"{current.api_url}: {verdict.detail}.", hint)
    path = settings_path(current)
    settings.update(path, {"cliApiToken": full} | ({"apiUrl": current.api_url} if url else {}))
    if as_json:
        output.say_json({"saved": str(path), "apiUrl": current.api_url, "hub": verdict.state})
        return
    output.say(f"Saved the token (fingerprint {fingerprint(full)}) in {path}.")
    said = verdict.detail if verdict.state == "accepted" else f"not verified: {verdict.detail}"
    output.note(f"{current.api_url}: {said}. {_RESTART}")


@app.command("status", epilog=examples("hapi auth status", "hapi auth status --json"))
def show_status(as_json: Json = False) -> None:  # noqa: FBT002
    """Say whether a token is set, where it comes from, and what the hub thinks of it. Exit status 1 if it is no good."""
    current = load()
    verdict = hubcheck.check(current.api_url, current.token, current.extra_headers) if current.token else None
    mark = fingerprint(current.token) if current.token else None
    if as_json:
        output.say_json(
            {
                "namespace": current.namespace,
                "apiUrl": current.api_url,
                "apiUrlSource": current.sources["api_url"],
                "tokenSet": bool(current.token),
                "tokenSource": current.sources["token"] if current.token else None,
                "tokenFingerprint": mark,
                "hub": verdict.state if verdict else None,
            }
        )
    else:
        token = f"set, from {current.sources['token']}, fingerprint {mark}" if mark else "none: hapi auth login"
        output.facts(
            [
                ("namespace", current.namespace),
                ("hub", f"{current.api_url} ({current.sources['api_url']})"),
                ("token", token),
                ("verdict", verdict.detail if verdict else ""),
            ]
        )
    if verdict is None or verdict.state == "refused":
        raise typer.Exit(EXIT_USER)


@app.command(epilog=examples("hapi auth logout"))
def logout(as_json: Json = False) -> None:  # noqa: FBT002
    """Forget the token. The address, the machine's id and all other settings stay."""
    path = settings_path(load())
    had = bool(settings.read(path).get("cliApiToken"))
    if had:
        settings.update(path, {"cliApiToken": None})
    if as_json:
        output.say_json({"removed": had, "settings": str(path)})
        return
    output.say(f"Removed the token from {path}." if had else f"There is no token in {path}.")
    if os.environ.get(_VARIABLE):
        output.note(f"{_VARIABLE} is set in this environment and still counts.")
    elif had:
        output.note(_RESTART)


def settings_path(current: config.Config) -> Path:
    """Where a token belongs: the namespace's file if one was named, else the home's, whose token names it."""
    return current.paths.settings if _explicit_namespace(current) else current.paths.home_settings


def fingerprint(token: str) -> str:
    """Enough of a hash to tell two tokens apart, and nothing of the token."""
    import hashlib

    return hashlib.sha256(token.encode()).hexdigest()[:8]


def _load(url: str | None) -> config.Config:
    """The configuration, as if `url` were in force already."""
    environ = dict(os.environ) | ({"HAPI_API_URL": url} if url else {})
    return config.load(state.namespace, environ)


def _explicit_namespace(current: config.Config) -> str | None:
    named = current.sources["namespace"] in {"--namespace", "HAPI_NAMESPACE"}
    return current.namespace if named and current.namespace != DEFAULT_NAMESPACE else None


def _suffixed(base: str, namespace: str) -> str:
    return base if namespace == DEFAULT_NAMESPACE else f"{base}:{namespace}"


def _ask_token(*, from_stdin: bool) -> str:
    """The token, from where there is one. Raises HapiError(usage)."""
    if from_stdin:
        token = sys.stdin.readline().strip()
    elif os.environ.get(_VARIABLE):
        token = os.environ[_VARIABLE].strip()
        output.note(f"Taking the token from {_VARIABLE}.")
    elif output.is_terminal(sys.stdin):
        import getpass

        token = getpass.getpass("Token (not shown): ").strip()
    else:
        raise HapiError(ErrorCode.USAGE, "There is no terminal to ask for the token.", "Use --token-stdin.")
    if not token or not token.isprintable():
        raise HapiError(ErrorCode.USAGE, "That is not a token." if token else "No token was given.")
    return token
