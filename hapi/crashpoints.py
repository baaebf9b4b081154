"""Named places in the code at which a test can have a process die, exactly between two steps that matter.

Inert unless HAPI_CRASH_POINTS names a directory when the process loads this module. A file in it, named like a point,
arms that point; its words say what happens:

    (nothing)   SIGKILL to itself, at the first passing        2       at the second passing instead
    stop        SIGSTOP to itself: a test can kill another process just then, and let this one go on (SIGCONT)

A point fires once, in one of all the processes that share the directory: the file then is called NAME.fired and holds
the pid of the process.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "HAPI_CRASH_POINTS"
_DIRECTORY = os.environ.get(VARIABLE, "")

POINTS = {
    "broker.spawn.begun": "the spawn is on the broker's list, no fork is ordered",
    "broker.spawn.ordered": "the nursery has the order",
    "broker.spawn.answering": "the session is ready, whoever asked has yet to hear it",
    "broker.adopt.scanned": "the records are read and judged, no worker runs, nobody was heard",
    "broker.adopt.heard": "a session of before said hello, it has no answer yet",
    "broker.stop.received": "the stop is on the broker's list, the supervisor does not know of it",
    "broker.stop.sent": "the supervisor has the stop",
    "broker.stop.answering": "the stop is decided, whoever asked has yet to hear it",
    "nursery.forked": "a child runs, the broker has yet to hear its pid",
    "supervisor.spawn.hello": "a new supervisor is about to say its first hello",
    "supervisor.spawn.welcomed": "it has its order, and nothing on disk",
    "supervisor.spawn.specified": "the spec is on disk, the state is not",
    "supervisor.spawn.claimed": "spec and state are on disk, the broker has yet to hear it",
    "supervisor.spawn.prepared": "the worktree is made, no agent runs",
    "supervisor.spawn.launched": "the agent runs, nothing was said to it",
    "supervisor.spawn.opened": "the conversation is open",
    "supervisor.spawn.ready": "the session is about to be called idle on disk",
    "supervisor.spawn.idle": "it is, and serves",
    "supervisor.adopt.hello": "a session is about to introduce itself to another broker",
    "supervisor.adopt.welcomed": "it was welcomed by another broker",
    "supervisor.stop.begun": "the stop is on record as a phase, the agent knows nothing",
    "supervisor.stop.cancelled": "the turn was cancelled, no rung of the ladder was taken",
    "supervisor.stop.rung": "the next signal of the ladder is due",
    "supervisor.stop.gone": "the agent and all it started are gone, nobody was told",
    "supervisor.stop.recorded": "the end is on record, nobody was told",
    "supervisor.stop.told": "the broker was told how the stop went, not yet that the session has ended",
    "supervisor.stop.ended": "the broker knows of the end, whoever asked the supervisor itself has yet to hear it",
    "connector.stop.gone": "the session is proven gone, the hub has yet to hear it",
    "connector.stop.said": "the hub was told of the end, its row is not archived",
    "connector.in.received": "the hub's row came, the session has not got it",
    "connector.in.handed": "the session has it on disk, we have not noted that",
    "connector.permission.answered": "the session has the answer to its question, the hub has no acknowledgement",
    "supervisor.in.journalled": "the message is on disk, the connector has no answer",
    "supervisor.in.taken": "the journal says that the message goes to the agent, the agent has not got it",
    "supervisor.in.prompted": "the agent has it, nothing says so",
    "supervisor.in.consumed": "the journal says that the agent has it, the hub does not know",
    "supervisor.out.journalled": "an event is on disk and nowhere else",
    "supervisor.out.sent": "events are on their way to the connector",
    "connector.out.emitted": "rows are on their way to the hub, unconfirmed",
    "connector.out.confirmed": "the hub has them, the supervisor does not know",
    "supervisor.out.delivered": "the journal says that the hub has them",
}
"""Every point, and what is so when a process is there. Each is passed at one place in the code."""


def crash_point(name: str) -> None:
    """Die here, if a test has armed the point `name` of POINTS. Otherwise nothing happens, and nothing is read."""
    if _DIRECTORY:
        _pass(name)


def _pass(name: str) -> None:
    """Taking the file away decides who fires; a rename succeeds in one process only."""
    armed = os.path.join(_DIRECTORY, name)
    mine = f"{armed}.{os.getpid()}"
    try:
        os.rename(armed, mine)
    except FileNotFoundError:
        return
    with open(mine, encoding="ascii") as file:
        words = file.read().split()
    passings = int(next(filter(str.isdigit, words), "1"))
    stop = "stop" in words
    again = f"{'stop ' if stop else ''}{passings - 1}" if passings > 1 else ""
    with open(mine, "w", encoding="ascii") as file:
        file.write(again or str(os.getpid()))
    os.rename(mine, armed if again else f"{armed}.fired")
    if not again:
        os.kill(os.getpid(), signal.SIGSTOP if stop else signal.SIGKILL)
