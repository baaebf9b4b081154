"""The `hapi` command. What needs no command line parser is answered here, before one is imported."""

from __future__ import annotations

import sys

from hapi import __version__, lean


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status (`hapi.errors`): the console script and `python -m hapi`.

    Never raises what a person could not read: errors end as a sentence on stderr.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["--version"], ["-V"]):
        print(f"hapi {__version__}")  # noqa: T201 - the answer itself
        return 0
    if given[:1] == ["__complete"]:
        from hapi.cli.complete import main as complete

        return complete(given[1:])
    if sys.platform == "win32":
        print("Error: hapi needs Linux or macOS; on Windows, use it inside WSL 2.", file=sys.stderr)  # noqa: T201
        return 1
    lean.import_msgspec()
    from hapi.cli import outcome, quick

    work = quick.prepared(given)
    if work is not None:
        return outcome.exit_of(work, given)
    from hapi.cli.app import run

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
