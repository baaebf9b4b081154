"""What the global options said, and the configuration that follows from it. Needs no command line parser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hapi import config
from hapi.errors import ErrorCode, HapiError
from hapi.paths import all_namespaces


class State:
    """What the global options said. Set once per command, before anything runs."""

    def __init__(self) -> None:
        self.namespace: str | None = None


state = State()


def load() -> config.Config:
    """The configuration of the chosen namespace. Raises HapiError(bad_configuration)."""
    return config.load(state.namespace)


def load_all() -> Iterator[tuple[str, config.Config | HapiError]]:
    """Every namespace of this home, with its configuration or what is wrong with it."""
    for name in all_namespaces(config.home_directory()):
        try:
            yield name, config.load(name)
        except HapiError as error:
            yield name, error


def absolute_roots(given: list[str] | None) -> list[str]:
    """The workspace roots as absolute paths. Raises HapiError(bad_directory) for one that is no directory."""
    roots = []
    for text in given or []:
        path = Path(text).expanduser()
        if not path.is_dir():
            what = "is not a directory" if path.exists() else "does not exist"
            raise HapiError(
                ErrorCode.BAD_DIRECTORY, f"The workspace root {text} {what}.", f"Create it: mkdir -p {text}"
            )
        roots.append(os.path.abspath(path))
    return roots
