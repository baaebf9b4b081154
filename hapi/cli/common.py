"""What the commands' declarations share: options, and help texts."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document (docs/cli.md) instead of text.")]
AllNamespaces = Annotated[bool, typer.Option("--all", help="Every namespace of this HAPI_HOME.")]

WorkspaceRoots = Annotated[
    list[str] | None,
    typer.Option(
        "--workspace-root",
        metavar="PATH",
        help="The hub may browse and start sessions only below these directories; repeatable. Default: anywhere.",
    ),
]


def examples(*lines: str) -> str:
    """The end of a command's help: examples, printed as they stand."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
