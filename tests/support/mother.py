"""A nursery whose children do what their order's name says, and not a worker's work. A program.

Its arguments: the pipe's descriptor, and how many forks the system refuses at first.
"""

from __future__ import annotations

import errno
import os
import sys

from hapi.workers import nursery
from hapi.workers.orders import Fork


class Mother(nursery.Nursery):
    """A nursery for tests."""

    def _work(self, order: Fork) -> None:
        match order.name:
            case "fails":
                raise RuntimeError("a bug of ours")
            case "leaves":
                raise SystemExit(7)
            case "says why":
                raise SystemExit("words")
            case "is killed":
                os.kill(os.getpid(), 9)
            case "counts":
                raise SystemExit(len(os.listdir("/dev/fd")))


def main() -> None:
    """Serve until the pipe ends."""
    fork, refusals = os.fork, iter(range(int(sys.argv[2])))

    def refusing() -> int:
        if next(refusals, None) is not None:
            raise BlockingIOError(errno.EAGAIN, "refused")
        return fork()

    os.fork = refusing
    nursery._preload = lambda _: None
    Mother("default", int(sys.argv[1]), 0).run()


if __name__ == "__main__":
    main()
