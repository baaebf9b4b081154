"""The broker's entry point: `python -m hapi.broker`. Started by `hapi runner start` and `start-sync`."""

from __future__ import annotations

import argparse
import logging
import os
import sys

import msgspec

import hapi
from hapi import config, log, remains
from hapi.broker import report
from hapi.broker.app import App, title
from hapi.broker.nursery import raise_descriptor_limit
from hapi.errors import ErrorCode, HapiError, exit_status
from hapi.files import FileLock

logger = logging.getLogger("hapi.broker")


class _Starter:
    """Whoever waits for the start: one JSON line on the ready descriptor, or words on stderr."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def tell(self, message: dict[str, object]) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, msgspec.json.encode(message) + b"\n")
        except OSError as error:  # whoever started us has gone; the runner is up all the same
            logger.info("nobody waits for the start: %s", error)
        os.close(self._fd)
        self._fd = None

    def tell_error(self, error: HapiError) -> int:
        self.tell({"error": {"code": error.code.value, "message": error.message, "hint": error.hint}})
        sys.stderr.write(f"Error: {error.message}\n" + (f"Hint: {error.hint}\n" if error.hint else ""))
        return exit_status(error.code)


def main() -> int:
    """Run a broker until it is stopped. Exit status: 0 stopped, otherwise as `errors.exit_status` says."""
    options = _options()
    umask = os.umask(0o077)
    remains.clear_stamp()
    starter = _Starter(options.ready_fd)
    try:
        settings = config.load(options.namespace)
        settings.paths.make_private()
        lock = _lock(settings)
        log.set_up(settings.paths.log("runner"))
        title(settings.namespace)
        warnings = [raise_descriptor_limit(), report.set_aside_if_damaged(settings.paths.state)]
        app = App(settings, lock, options.workspace_root, umask)
        app.warnings += filter(None, warnings)
    except HapiError as error:
        return starter.tell_error(error)
    except OSError as error:
        return starter.tell_error(HapiError(ErrorCode.START_FAILED, f"Cannot start: {error}", "hapi doctor"))
    logger.info("hapi %s started for namespace %s", hapi.__version__, settings.namespace)
    paths = settings.paths
    starter.tell({"pid": os.getpid(), "endpoint": paths.control_endpoint, "log": str(paths.log("runner"))})
    try:
        return app.run()
    except Exception:
        logger.exception("the broker failed")
        raise
    finally:
        lock.release()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hapi.broker")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--workspace-root", action="append", default=[])
    parser.add_argument("--ready-fd", type=int)
    return parser.parse_args()


def _lock(settings: config.Config) -> FileLock:
    lock = FileLock(settings.paths.lock)
    if not lock.acquire(f"{os.getpid()}\n"):
        message = f"A runner is running already for namespace {settings.namespace}."
        raise HapiError(ErrorCode.ALREADY_RUNNING, message, "hapi runner status")
    return lock


if __name__ == "__main__":
    sys.exit(main())
