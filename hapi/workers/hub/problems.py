"""Why the hub could not be reached or would not have us, as types; none of them carries the token.

    HubProblem              try again, backing off
    ├── Refused             the token is wrong: try again, slowly
    ├── Denied              that id belongs to another namespace: a person has to act
    ├── NotFound            no such machine or session
    ├── Conflict            the id or the tag is taken
    ├── Rejected            it calls our message malformed: a bug of ours, do not repeat it
    └── Offline             the connection is down (or went down meanwhile)

All texts are sentences for people: they end in `hapi runner status`.
"""

from __future__ import annotations


class HubProblem(Exception):
    """The hub cannot be used right now; the text says why, for people."""


class Refused(HubProblem):
    """The hub does not accept our token."""


class Denied(HubProblem):
    """The machine or session belongs to another namespace of the hub."""


class NotFound(HubProblem):
    """The hub has no such machine or session."""


class Conflict(HubProblem):
    """The hub has that id under another tag, or that tag under another id."""


class Rejected(HubProblem):
    """The hub calls our message malformed."""


class Offline(HubProblem):
    """There is no connection; the caller's work waits for the next one."""
