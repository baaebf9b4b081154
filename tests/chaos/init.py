"""A little init: everything the run starts stays below it, and whoever loses its parent is reaped by it. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def below_init(main: Callable[[], int]) -> int:
    """Run `main` in a child and return its exit status; what it leaves behind is killed, and said on stderr.

    So orphans are found by descent, whatever they did to their titles, groups and environments.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this kernel has no child subreapers")
    child = os.fork()
    if child == 0:
        _run(main)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    code = _reap_until(child)
    left = descendants(os.getpid())
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if left:
        print(f"killed {len(left)} processes that were left: {left}", file=sys.stderr)
    return code


def _run(main: Callable[[], int]) -> None:
    code = 1
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - the fork must not return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap_until(child: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def descendants(pid: int, leave_out: int = 0) -> list[int]:
    """Every process below `pid`, parents first, without `leave_out` and what is below that."""
    found: list[int] = []
    queue = [pid]
    while queue:
        for child in _children(queue.pop(0)):
            if child != leave_out:
                found.append(child)
                queue.append(child)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        pass  # it ended while we looked
    return found
