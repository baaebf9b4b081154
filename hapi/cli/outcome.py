"""The one place where what a command raises becomes words and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from hapi.cli import output
from hapi.errors import EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, EXIT_USER, ErrorCode, HapiError, exit_status

INTERRUPTED = 130


def exit_of(work: Callable[[], object], arguments: list[str]) -> int:
    """Do the work of the command line `arguments`; its exit status. Every failure has been told when it returns."""
    as_json = wants_json(arguments)
    try:
        status = work()
        sys.stdout.flush()
    except HapiError as error:
        output.show_error(error, as_json=as_json)
        return exit_status(error.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter's last flush must find something
        return EXIT_USER
    except Exception as error:  # noqa: BLE001 - the last resort: people get a line, not a traceback
        return _last_resort(error, arguments, as_json=as_json)
    return status if isinstance(status, int) else EXIT_OK


def wants_json(arguments: list[str]) -> bool:
    """Whether the caller asked for JSON, so that errors are JSON as well."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def _last_resort(error: Exception, arguments: list[str], *, as_json: bool) -> int:
    if isinstance(error, UnicodeEncodeError) and any("\udc80" <= one <= "\udcff" for one in "".join(arguments)):
        output.show_error(HapiError(ErrorCode.USAGE, "A word of this command is not UTF-8."), as_json=as_json)
        return EXIT_USAGE
    return _our_fault(error, as_json=as_json)


def _our_fault(error: Exception, *, as_json: bool) -> int:
    import traceback

    if os.environ.get("HAPI_DEBUG"):
        traceback.print_exception(error)
    summary = traceback.format_exception_only(error)[-1].strip()
    hint = "This is a bug in hapi. HAPI_DEBUG=1 shows where it happened; please report it."
    output.show_error(HapiError(ErrorCode.INTERNAL, f"Something broke: {summary}", hint), as_json=as_json)
    return EXIT_INTERNAL
