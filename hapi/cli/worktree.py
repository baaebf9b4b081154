"""`hapi worktree list | prune`: the git worktrees that were made for sessions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hapi import config
from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.clock import iso, now_ms
from hapi.errors import EXIT_USER, ErrorCode, HapiError

if TYPE_CHECKING:  # git and the process table are not for commands that need neither
    from hapi.worktrees import Worktree

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The git worktrees that were made for sessions: look, tidy up."
)


@app.command("list", epilog=examples("hapi worktree list", "hapi worktree list --json"))
def show_list(as_json: Json = False) -> None:  # noqa: FBT002
    """List the worktrees of the sessions of every namespace, and those beside them that look like a runner's.

    `live`, `in use`, `locked`, `dirty`, `unmerged`, `stashed` and `unknown` ones are kept by `prune`, with the reason.
    """
    found = _survey()
    if as_json:
        output.say_json([to_json(worktree) for worktree in found])
    elif found:
        _print(found, [worktree.verdict.kept or "prune would remove it" for worktree in found])
    else:
        output.say("No worktrees")


@app.command(
    epilog=examples("hapi worktree prune --dry-run", "hapi worktree prune", "hapi worktree prune --yes --json")
)
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be done.")] = False,  # noqa: FBT002
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Remove the worktrees in which no work can be lost: session ended, nobody in it, clean, merged or never used.

    The branch goes too if git would delete it with `branch -d`. Files that git ignores go with the worktree. Exit
    status 1 when one could not be removed.
    """
    found = _survey()
    removable = [worktree for worktree in found if worktree.verdict.kept is None]
    if not as_json and found:
        _print(found, [worktree.verdict.kept or "remove" for worktree in found])
    if removable and not (yes or dry_run):
        if as_json or not output.is_terminal(sys.stdin):
            raise HapiError(ErrorCode.USAGE, "This removes directories; without a terminal, say --yes or --dry-run.")
        typer.confirm(f"Remove {output.plural(len(removable), 'worktree')}?", abort=True)
    outcomes = {} if dry_run else _remove_all(removable)
    if as_json:
        output.say_json([to_json(worktree) | outcomes.get(worktree.place.worktree_path, {}) for worktree in found])
    else:
        _say_outcomes(outcomes, nothing=not removable)
    if any(not outcome["removed"] for outcome in outcomes.values()):
        raise typer.Exit(EXIT_USER)


def to_json(worktree: Worktree) -> dict[str, Any]:
    """A worktree as JSON; `keptBecause` is null for one that `prune` removes."""
    place = worktree.place
    return {
        "path": place.worktree_path,
        "basePath": place.base_path,
        "branch": place.branch,
        "name": place.name,
        "sessions": list(worktree.sessions),
        "state": worktree.verdict.state.value,
        "keptBecause": worktree.verdict.kept,
        "createdAt": iso(place.created_at) if place.created_at else None,
    }


def _survey() -> list[Worktree]:
    from hapi.worktree_survey import Survey

    with output.Progress("Looking …"):
        return Survey(config.home_directory()).worktrees()


def _remove_all(removable: list[Worktree]) -> dict[str, dict[str, Any]]:
    """Remove them; by path what became of each."""
    from hapi.worktree_survey import remove

    outcomes: dict[str, dict[str, Any]] = {}
    for worktree in removable:
        path = worktree.place.worktree_path
        try:
            done = remove(worktree.place, config.home_directory())
            outcomes[path] = {"removed": True, "branchKeptBecause": done.branch_kept or None}
        except HapiError as error:
            outcomes[path] = {"removed": False, "keptBecause": error.message}
    return outcomes


def _say_outcomes(outcomes: dict[str, dict[str, Any]], *, nothing: bool) -> None:
    if nothing:
        output.say("Nothing to remove.")
    for path, outcome in outcomes.items():
        if outcome["removed"]:
            kept = outcome["branchKeptBecause"]
            branch = f"its branch stays: {output.clean(kept)}" if kept else "its branch too"
            output.say(f"Removed {output.home_short(path)}; {branch}")
        else:
            output.note(f"{output.home_short(path)}: {output.clean(outcome['keptBecause'])}")


def _print(found: list[Worktree], notes: list[str]) -> None:
    rows = [
        [
            output.home_short(worktree.place.worktree_path),
            output.clean(worktree.place.branch),
            worktree.verdict.state.value,
            worktree.sessions[-1][:8] if worktree.sessions else "-",
            output.duration(now_ms() - worktree.place.created_at) if worktree.place.created_at else "-",
            output.clean(note),
        ]
        for worktree, note in zip(found, notes, strict=True)
    ]
    output.table(["WORKTREE", "BRANCH", "STATE", "SESSION", "AGE", ""], rows)
