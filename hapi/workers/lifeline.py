"""The pipe whose other end only the broker holds: how its workers learn that it is gone, however it went."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

LEAVE_S = 10  # what closing all connections to a hub that does not answer may take

logger = logging.getLogger(__name__)


def follow(lifeline: int, work: asyncio.Task[Any]) -> None:
    """Cancel `work`, once, when the broker is gone. LEAVE_S later the kernel ends this process, whatever hangs in it.

    A worker that outlived its broker would speak beside the next broker's.
    """
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(lifeline)
        logger.info("the broker is gone")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LEAVE_S)
        work.cancel()

    loop.add_reader(lifeline, gone)
