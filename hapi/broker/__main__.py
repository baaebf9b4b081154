"""The broker's entry point: `python -m hapi.broker`. Started by `hapi runner start` and `start-sync`."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import msgspec

import hapi
from hapi import config, procs, remains
from hapi.broker.nursery import Headstart
from hapi.command import command, parse
from hapi.errors import ErrorCode, HapiError, exit_status
from hapi.files import FileLock

if TYPE_CHECKING:  # loaded when the nursery is on its way: the two then load at the same time
    from hapi.broker.app import App, Start

EXIT_RESTART = 75  # sysexits' EX_TEMPFAIL: not a success, so that `Restart=on-failure` acts

logger = logging.getLogger("hapi.broker")


class _Starter:
    """Whoever waits for the start: one JSON line on the ready descriptor, or words on stderr."""

    def __init__(self, fd: int | None) -> None:
        self.warnings: list[str | None] = []
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
        if logging.getLogger().handlers:
            logger.error("cannot start: %s", error.message)
        sys.stderr.write(f"Error: {error.message}\n" + (f"Hint: {error.hint}\n" if error.hint else ""))
        return exit_status(error.code)


def main() -> int:
    """Run a broker until it is stopped. Exit status: 0 stopped, EXIT_RESTART when the service manager is to start
    another one, otherwise as `errors.exit_status` says.
    """
    options = parse()
    if options.check:
        from hapi.broker import check

        return check.check(options.namespace)
    umask = os.umask(0o077)
    remains.clear_stamp()
    starter = _Starter(options.ready_fd)
    try:
        settings = config.load(options.namespace)
        settings.paths.make_private()
        lock = _lock(settings, options.lock_fd)
        starter.warnings.append(procs.raise_descriptor_limit())  # before the nursery, whose children inherit it
        headstart: Headstart | None = Headstart.begin(options.namespace, settings.paths.log("nursery"))
    except (HapiError, OSError) as error:
        return starter.tell_error(_as_failure(error))
    from hapi.broker.app import Start
    from hapi.broker.effects import Ending
    from hapi.installed import Installed

    start = Start(workspace_roots=options.workspace_root, umask=umask, fingerprint=Installed().look().digest)
    try:
        ending = Ending.REPLACE
        while ending is Ending.REPLACE:
            app = _begin(settings, lock, start, starter, headstart)
            headstart = None
            if isinstance(app, int):
                return app
            ending = app.run()
            if ending is Ending.REPLACE and settings.supervised:
                ending = Ending.RESTART  # a second daemon beside the manager's would be one too many
            if ending is Ending.REPLACE:
                _become_installed(settings, start, lock)
    except Exception:
        logger.exception("the broker failed")
        raise
    finally:
        lock.release()
    return EXIT_RESTART if ending is Ending.RESTART and settings.supervised else 0


def _begin(
    settings: config.Config, lock: FileLock, start: Start, starter: _Starter, headstart: Headstart | None
) -> App | int:
    """A broker that is ready to run, or the exit status of one that cannot start. Whoever waits has been told."""
    from hapi import log
    from hapi.broker import report
    from hapi.broker.app import App, title

    paths = settings.paths
    try:
        log.set_up(paths.log("runner"))
        title(settings.namespace)
        damaged = report.set_aside_if_damaged(paths.state)
        app = App(settings, lock, start, headstart)
        app.warnings += filter(None, [*starter.warnings, damaged])
    except (HapiError, OSError) as error:
        if headstart is not None:
            headstart.nursery.abandon()
        return starter.tell_error(_as_failure(error))
    logger.info("hapi %s started for namespace %s", hapi.__version__, settings.namespace)
    starter.tell({"pid": os.getpid(), "endpoint": paths.control_endpoint, "log": str(paths.log("runner"))})
    return app


def _become_installed(settings: config.Config, start: Start, lock: FileLock) -> None:
    """Replace this image by that of the installed code: same process, arguments, environment, umask, and lock.

    Returns only when that fails; the lock is still held then.
    """
    words = command(settings.namespace, start.workspace_roots, lock_fd=lock.bequeath())
    umask = os.umask(start.umask)
    try:
        os.execve(words[0], words, os.environ)  # noqa: S606 - the new version is what we become
    except OSError as error:
        os.umask(umask)
        lock.retain()
        logger.error("cannot start the installed version, going on with this one: %s", error)  # noqa: TRY400


def _as_failure(error: HapiError | OSError) -> HapiError:
    if isinstance(error, HapiError):
        return error
    return HapiError(ErrorCode.START_FAILED, f"Cannot start: {error}", "hapi doctor")


def _lock(settings: config.Config, inherited: int | None) -> FileLock:
    lock = FileLock(settings.paths.lock)
    if inherited is not None:
        if lock.adopt(inherited, f"{os.getpid()}\n"):
            return lock
        os.close(inherited)  # it may hold the lock that we are about to take
    if not lock.acquire(f"{os.getpid()}\n"):
        message = f"A runner is running already for namespace {settings.namespace}."
        raise HapiError(ErrorCode.ALREADY_RUNNING, message, "hapi runner status")
    return lock


if __name__ == "__main__":
    sys.exit(main())
