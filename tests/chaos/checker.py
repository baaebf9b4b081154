"""The independent checker: what was asked against what there is. Pure; knows nothing of the product's code.

Each rule is a generator of problems. A problem's kind is what the summary counts: lost, doubled, orphan, zombie,
leaked fd, untrue (one of disk, ps, hub and answer contradicts another), hung, leftover.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.asked import Asked, Message, Spawn
from tests.chaos.facts import HubSession, Process, Record, World

KINDS = ("lost", "doubled", "orphan", "zombie", "leaked fd", "untrue", "hung", "leftover")
# What may have made a session end, by the reason on its record.
CAUSES = {
    "stopped by user": {"stop"},
    "stopped from hub": {"archive"},
    "supervisor lost": {"kill supervisor"},
    "agent crashed": {"kill agent", "crash"},
    "agent exited": {"kill agent", "crash"},
}
FDS = {
    "broker": (60, 4),
    "hub": (60, 4),
    "reaper": (40, 3),
    "nursery": (40, 0),
}  # most that are right: base, per session
SUPERVISOR_FDS = 40


@dataclass(frozen=True)
class Problem:
    """One contradiction: what kind, about which session or process, in words."""

    kind: str
    about: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}: {self.words}"


def check(asked: Asked, world: World) -> list[Problem]:
    """Everything that is wrong."""
    rules = (
        _runner(world),
        _messages(asked, world),
        _undelivered(world),
        _spawns(asked, world),
        _stops(asked, world),
        _records(asked, world),
        _hub_sessions(world),
        _permissions(world),
        _processes(world),
        _descriptors(world),
        (Problem("hung", "command", words) for words in asked.hung),
        (Problem("doubled", "process", words) for words in asked.seen_twice),
        (Problem("leftover", "file", path) for path in world.leftovers),
    )
    return [problem for rule in rules for problem in rule]


def _runner(world: World) -> Iterator[Problem]:
    if not world.running:
        yield Problem("untrue", "runner", "it does not answer")
    elif not world.hub_online:
        yield Problem("untrue", "runner", "it is not online at the hub")
    for name, pid in world.runner.items():
        if pid not in world.processes:
            yield Problem("untrue", name, f"status names pid {pid}, which is not there")


# ---------------------------------------------------------------------------------------------------------- messages


def echoes(message: Message, session: HubSession | None) -> int:
    """How many finished answers to this message the hub has."""
    rows = session.rows if session else []
    return sum(row.kind == "message" and row.text.split()[-1:] == [message.marker] for row in rows)


def is_indeterminate(message: Message, session: HubSession | None) -> bool:
    """Whether the hub shows the user that the message's fate is unknown."""
    return session is not None and message.local_id in session.indeterminate


def _messages(asked: Asked, world: World) -> Iterator[Problem]:
    cut_turns: Counter[str] = Counter()
    for message in asked.messages:
        record, session = world.records.get(message.session_id), world.hub.get(message.session_id)
        if record is None:
            yield Problem("lost", message.session_id, f"{message.marker}: its session has no record on disk")
            continue
        yield from _shown_once(message, session)
        if echoes(message, session) == 0 and _was_taken(message, record, session):
            cut_turns[message.session_id] += 1
            yield from _cut_visibly(asked, message, record, cut_turns[message.session_id])
        elif echoes(message, session) == 0:
            yield from _never_taken(message, record, session)


def _user_rows(message: Message, session: HubSession | None) -> list[str]:
    return [row.row_id for row in (session.rows if session else []) if row.kind == "user" and row.text == message.text]


def _shown_once(message: Message, session: HubSession | None) -> Iterator[Problem]:
    about, rows, count = message.session_id, _user_rows(message, session), echoes(message, session)
    if count > 1:
        yield Problem("doubled", about, f"{message.marker}: {count} answers")
    if len(rows) > 1:
        yield Problem("doubled", about, f"{message.marker}: {len(rows)} rows of the user's words")
    if not rows and message.outcome == "accepted" and not is_indeterminate(message, session):
        yield Problem("lost", about, f"{message.marker}: accepted from the {message.by}, not shown at the hub")
    if message.outcome == "refused" and (rows or count):
        yield Problem("untrue", about, f"{message.marker}: refused, yet it is there")
    if count and session is not None and message.local_id in session.queued:
        yield Problem("untrue", about, f"{message.marker}: answered, yet the hub shows it as queued")


def _fate(message: Message, record: Record, session: HubSession | None) -> str | None:
    """What the journal says of the message: queued, taken, removed; None when it never came."""
    ids = _user_rows(message, session) if message.by == "hub" else []
    ids += [message_id for message_id, text in record.texts.items() if text == message.text]
    return next((record.fates[message_id] for message_id in ids if message_id in record.fates), None)


def _was_taken(message: Message, record: Record, session: HubSession | None) -> bool:
    return _fate(message, record, session) == "taken" and not is_indeterminate(message, session)


def _cut_visibly(asked: Asked, message: Message, record: Record, nth: int) -> Iterator[Problem]:
    """A turn without an answer must be one of those that we cut: one per abort, and the last one of an ended session."""
    cuts = asked.cuts_of(message.session_id)
    allowed = cuts.count("abort") + (0 if record.live else 1)
    if any(text.split()[-1:] == [message.marker] for text in record.undelivered.values()):
        yield Problem("lost", message.session_id, f"{message.marker}: answered, but the hub never got the answer")
    elif nth > allowed:
        state = "live" if record.live else f"ended ({record.reason})"
        words = f"{message.marker}: the agent had it, no answer; session {state}, {allowed} of its turns were cut"
        yield Problem("lost", message.session_id, words)


def _never_taken(message: Message, record: Record, session: HubSession | None) -> Iterator[Problem]:
    expected = message.outcome == "accepted" or bool(_user_rows(message, session))
    if record.live and expected and not is_indeterminate(message, session):
        fate = _fate(message, record, session) or "never reached the session"
        yield Problem("lost", message.session_id, f"{message.marker}: not answered; {fate}")
    elif not record.live and expected and message.by == "cli" and _fate(message, record, session) is None:
        yield Problem("lost", message.session_id, f"{message.marker}: accepted, but not in the journal")


def _missing(record: Record, session: HubSession | None) -> list[str]:
    """The words of the events that the hub never got. It may have them although the journal does not know it."""
    there = {row.local_id for row in (session.rows if session else [])}
    return [words for seq, words in record.undelivered.items() if f"a:{record.session_id[:8]}:{seq}" not in there]


def _undelivered(world: World) -> Iterator[Problem]:
    for record in world.records.values():
        missing = _missing(record, world.hub.get(record.session_id))
        if missing:
            state = "live" if record.live else f"ended ({record.reason})"
            words = f"{state}: {len(missing)} events the hub never got; the last: {missing[-1][:80]}"
            yield Problem("lost", record.session_id, words)


# ---------------------------------------------------------------------------------------------------------- sessions


def _spawns(asked: Asked, world: World) -> Iterator[Problem]:
    for spawn in asked.spawns:
        about = spawn.session_id or spawn.directory
        records = [record for record in world.records.values() if _is_of(record, spawn)]
        if len(records) > 1:
            yield Problem("doubled", about, f"one spawn made {len(records)} sessions")
        if spawn.outcome == "started" and not records:
            yield Problem("lost", about, "the spawn was answered as started; there is no record")
        for record in records:
            if spawn.outcome == "failed" and record.live:
                yield Problem("untrue", about, f"the spawn was answered with an error, yet it lives: {spawn.detail}")
    known = [record for record in world.records.values() if not any(_is_of(record, spawn) for spawn in asked.spawns)]
    for record in known:
        yield Problem("untrue", record.session_id, "nobody asked for this session")


def _is_of(record: Record, spawn: Spawn) -> bool:
    return record.session_id == spawn.session_id or record.directory == spawn.directory


def _stops(asked: Asked, world: World) -> Iterator[Problem]:
    for stop in asked.stops:
        record = world.records.get(stop.session_id)
        if stop.outcome not in {"stopped", "already_gone", "archived"} or record is None:
            continue
        if record.live:
            yield Problem("untrue", stop.session_id, f"{stop.by} was answered {stop.outcome}, yet it is {record.phase}")


def _records(asked: Asked, world: World) -> Iterator[Problem]:
    for record in world.records.values():
        if record.problem:
            yield Problem("untrue", record.session_id, record.problem)
        elif record.live:
            yield from _live(record, world)
        else:
            yield from _ended(asked, record, world)


def _live(record: Record, world: World) -> Iterator[Problem]:
    about = record.session_id
    for name, who in (("supervisor", record.supervisor), ("agent", record.agent)):
        process = world.processes.get(who[0]) if who else None
        if who is None or process is None or process.ticks != who[1] or process.state == "Z":
            yield Problem("untrue", about, f"{record.phase} on disk, but its {name} {who} is not alive")
    if record.phase not in {"idle", "working", "waiting"}:
        yield Problem("untrue", about, f"it never came out of {record.phase}")
    if about not in world.listed:
        yield Problem("untrue", about, f"{record.phase} on disk, but not listed")
    session = world.hub.get(about)
    if session is None or not session.active:
        yield Problem("untrue", about, f"{record.phase} on disk, but {'in' if session else 'un'}active at the hub")


def _ended(asked: Asked, record: Record, world: World) -> Iterator[Problem]:
    about, reason = record.session_id, record.reason
    if about in world.listed:
        yield Problem("untrue", about, f"ended on disk ({reason}), but listed as live")
    session = world.hub.get(about)
    if session is not None and session.active:
        yield Problem("untrue", about, f"ended on disk ({reason}), but active at the hub")
    if session is not None and reason in {"stopped by user", "stopped from hub"} and session.lifecycle != "archived":
        yield Problem("untrue", about, f"{reason}, but {session.lifecycle} at the hub, not archived")
    cuts = set(asked.cuts_of(about))
    if reason in CAUSES and not CAUSES[reason] & cuts:
        yield Problem("untrue", about, f"it ended as {reason!r}, which nobody did; done: {sorted(cuts)}")
    if reason == "spawn failed" and any(s.session_id == about and s.outcome == "started" for s in asked.spawns):
        yield Problem("untrue", about, "its spawn was answered as started, its record says that it failed")
    if reason not in CAUSES and reason != "spawn failed":
        yield Problem("untrue", about, f"it ended as {reason!r}")


def _hub_sessions(world: World) -> Iterator[Problem]:
    for session in world.hub.values():
        if session.session_id not in world.records:
            yield Problem("untrue", session.session_id, "at the hub, but not on disk")


def _permissions(world: World) -> Iterator[Problem]:
    for session in world.hub.values():
        record = world.records.get(session.session_id)
        if session.pending and record is not None and not (record.live and record.phase == "waiting"):
            words = f"{len(session.pending)} permission requests at the hub, {record.phase} on disk"
            yield Problem("untrue", session.session_id, words)


# --------------------------------------------------------------------------------------------------------- processes


def _processes(world: World) -> Iterator[Problem]:
    wanted = _accounted(world)
    for process in world.processes.values():
        about = f"pid {process.pid} ({process.title or process.state})"
        if process.state == "Z":
            parent = world.processes.get(process.parent)
            yield Problem("zombie", about, f"below {process.parent} ({parent.title if parent else 'init'})")
        elif process.pid not in wanted:
            yield Problem("orphan", about, f"below {process.parent}, of session {process.session}; nobody wants it")
        elif process.state == "T":
            yield Problem("untrue", about, "still stopped")
    for session_id, count in Counter(_supervised(world)).items():
        if count > 1:
            yield Problem("doubled", session_id, f"{count} supervisors")


def _supervised(world: World) -> Iterator[str]:
    """For each process that calls itself a supervisor, the first letters of its session's id."""
    for process in world.processes.values():
        words = process.title.split()
        if words[:2] == ["hapi:", "session"] and len(words) > 3 and process.state != "Z":
            yield words[3]


def _accounted(world: World) -> set[int]:
    """The pids that have a reason to be: the runner's, and those of live sessions with all below them."""
    roots = {r.supervisor[0] for r in world.records.values() if r.live and r.supervisor is not None}
    return set(world.runner.values()) | {p.pid for p in world.processes.values() if _below(p, roots, world)}


def _below(process: Process, roots: set[int], world: World) -> bool:
    seen: Process | None = process
    while seen is not None:
        if seen.pid in roots:
            return True
        seen = world.processes.get(seen.parent)
    return False


def _descriptors(world: World) -> Iterator[Problem]:
    live = sum(record.live for record in world.records.values())
    names = {pid: name for name, pid in world.runner.items()}
    supervisors = {r.supervisor[0] for r in world.records.values() if r.supervisor is not None}
    for process in world.processes.values():
        name = names.get(process.pid)
        base, each = FDS.get(name, (SUPERVISOR_FDS, 0)) if name else (SUPERVISOR_FDS, 0)
        if (name or process.pid in supervisors) and process.fds > base + each * live:
            words = f"{process.fds} open, at most {base + each * live} are right with {live} sessions"
            yield Problem("leaked fd", f"{name or 'supervisor'} {process.pid}", words)
        for stale in process.stale:
            yield Problem("leaked fd", f"{name or process.title} {process.pid}", f"holds {stale}")


def is_quiet(world: World) -> bool:
    """Whether nothing is under way: no turn runs, nobody is asked for a permission."""
    busy = any(record.phase not in {"idle", "ended"} for record in world.records.values())
    return not busy and not any(session.pending for session in world.hub.values())
