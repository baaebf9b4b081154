"""What there is at the end, as plain values: on disk, in the process table, at the hub. The checker's other side."""

from __future__ import annotations

from dataclasses import dataclass, field

Identity = tuple[int, int]  # pid, start ticks


@dataclass
class Record:
    """A session's directory. `fates`: hub's message id → queued, taken, removed. `undelivered`: the
    words of the events, by number, that the chat should show and that the journal does not know to be at the hub."""

    session_id: str
    directory: str = ""
    phase: str = "ended"
    reason: str | None = None
    supervisor: Identity | None = None
    agent: Identity | None = None
    problem: str | None = None
    fates: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    undelivered: dict[int, str] = field(default_factory=dict)
    torn_bytes: int = 0

    @property
    def live(self) -> bool:
        """Whether the disk says that the session goes on."""
        return self.phase != "ended"


@dataclass
class Process:
    """A process below our init that is not the driver's. `session`: the mark in its environment."""

    pid: int
    ticks: int
    parent: int
    state: str
    title: str
    session: str | None = None
    fds: int = 0
    stale: list[str] = field(default_factory=list)  # what it holds open of sessions or processes that have ended


@dataclass
class Row:
    """A chat row at the hub. `kind`: user, message, remark, other."""

    row_id: str
    local_id: str | None
    kind: str
    text: str
    invoked: bool


@dataclass
class HubSession:
    """A session at the hub. `queued` and `indeterminate` are local ids."""

    session_id: str
    active: bool
    lifecycle: str | None = None
    rows: list[Row] = field(default_factory=list)
    queued: set[str] = field(default_factory=set)
    indeterminate: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)


@dataclass
class World:
    """All of it at one moment. `listed`: ids that `hapi runner list` shows; `runner`: broker and workers by name."""

    records: dict[str, Record] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    hub: dict[str, HubSession] = field(default_factory=dict)
    runner: dict[str, int] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    leftovers: list[str] = field(default_factory=list)
    running: bool = True
    hub_online: bool = True
