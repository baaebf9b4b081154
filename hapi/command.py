"""The command line of a runner process (`python -m hapi.broker`): made by whoever starts one, read by the runner."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def command(
    namespace: str,
    roots: Sequence[str] = (),
    *,
    ready_fd: int | None = None,
    lock_fd: int | None = None,
    check: bool = False,
) -> list[str]:
    """The words. `ready_fd` is told of the start; `lock_fd` is the held lock that a runner hands to its successor.

    With `check` nothing is started: the code proves that it could be, and says which it is.
    """
    words = [sys.executable, "-m", "hapi.broker", "--namespace", namespace]
    for root in roots:
        words += ["--workspace-root", root]
    for option, fd in (("--ready-fd", ready_fd), ("--lock-fd", lock_fd)):
        words += [] if fd is None else [option, str(fd)]
    return [*words, "--check"] if check else words


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What `command` said: namespace, workspace_root (a list), ready_fd, lock_fd, check."""
    import argparse

    parser = argparse.ArgumentParser(prog="hapi.broker")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--workspace-root", action="append", default=[])
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--lock-fd", type=int)
    parser.add_argument("--check", action="store_true")
    return parser.parse_args(words)
