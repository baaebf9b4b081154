"""`python -m hapi.broker --check`: prove that a runner of this code could start, and say which code it is."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import msgspec

import hapi
from hapi import config
from hapi.errors import HapiError, exit_status
from hapi.handoff import Build
from hapi.installed import Installed


def check(namespace: str) -> int:
    """Load the configuration and every module; print this Build as JSON. Returns the exit status, 0 when all is well.

    A module that cannot be imported ends it with a traceback, whose last line says what is wrong.
    """
    installed = Installed()
    before = installed.look()
    try:
        config.load(namespace)
    except HapiError as error:
        sys.stderr.write(f"{error.message}\n")
        return exit_status(error.code)
    for module in pkgutil.walk_packages(hapi.__path__, "hapi."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    if installed.look() != before:
        sys.stderr.write("The installation is changing.\n")
        return 1
    sys.stdout.write(msgspec.json.encode(Build(hapi.__version__, before.digest)).decode() + "\n")
    return 0
