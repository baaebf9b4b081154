"""What a load test is asked to do, checked before anything starts."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from hapi.errors import ErrorCode, HapiError

MAX_SESSIONS, MAX_RATE = 20_000, 100_000
MAX_AT_ONCE = 512  # so many spawns under way a broker takes
WORKERS = ("broker", "hub", "nursery", "reaper")
LIGHTEST_BYTES = 8 * 2**20  # a session with the demo agent takes no less
FILES_EACH, _OWN_FILES = 2, 60  # the connector's: a socket, at times a request
RESERVE_BYTES = 300 * 2**20  # for the runner, for us, and for the rest of the machine


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The load. Rates are per second over all sessions, 0 for as fast as it is answered; times are seconds.

    Each session is sent `messages` messages, the next one when the last is answered; with `duration_s` until that time
    is up (`messages` None: as many as that takes). `patience_s` is what one answer may take. `kill` names workers that
    get SIGKILL in the middle of the conversation; a killed broker is started again at once.
    """

    sessions: int = 100
    spawn_rate: float = 0.0
    messages: int | None = 5
    message_rate: float = 0.0
    duration_s: float | None = None
    idle_s: float = 5.0
    agent: str = "demo"
    at_once: int = 16
    probes: int = 100
    patience_s: float = 60.0
    kill: tuple[str, ...] = ()
    seed: int = 0

    def check(self) -> None:
        """Raises HapiError(usage) for what makes no sense."""
        _within("--sessions", self.sessions, 1, MAX_SESSIONS)
        _within("--spawn-rate", self.spawn_rate, 0, MAX_RATE)
        _within("--message-rate", self.message_rate, 0, MAX_RATE)
        _within("--messages", self.messages or 0, 0, 10_000_000)
        _within("--duration", self.duration_s or 0, 0, 86_400)
        _within("--idle", self.idle_s, 0, 3_600)
        _within("--at-once", self.at_once, 1, MAX_AT_ONCE)
        _within("--probes", self.probes, 0, 100_000)
        _within("--patience", self.patience_s, 1, 3_600)
        strange = [name for name in self.kill if name not in WORKERS]
        if strange:
            raise HapiError(ErrorCode.USAGE, f"--kill takes {', '.join(WORKERS)}, not {strange[0]!r}.")


def check_hub(url: str, *, allow_remote: bool) -> None:
    """Raises HapiError(usage) for an address on another machine, unless that is allowed: people work with it."""
    host = urlsplit(url).hostname or ""
    if allow_remote or is_loopback(host):
        return
    hint = "Others may work with it. If it is meant: --allow-remote-hub. Without any hub: --local"
    raise HapiError(ErrorCode.USAGE, f"The hub {url} is not on this machine.", hint)


def is_loopback(host: str) -> bool:
    """Whether it means this machine: an address of loopback, or `localhost`. Any other name means what a resolver says."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_memory(sessions: int, each: int, available: int) -> None:
    """Raises HapiError(at_capacity) when `sessions` more of `each` bytes do not fit into what is `available`."""
    fit = max(0, (available - RESERVE_BYTES) // each)
    if sessions <= fit:
        return
    message = (
        f"{sessions} sessions of {each / 2**20:.0f} MB need {sessions * each / 2**30:.1f} GB; "
        f"{available / 2**30:.1f} GB of memory are free."
    )
    hint = f"So many fit: --sessions {fit}" if fit else "Free some memory first."
    raise HapiError(ErrorCode.AT_CAPACITY, message, hint)


def check_files(sessions: int, limit: int) -> None:
    """Raises HapiError(at_capacity) when one process may not have as many open files as so many sessions need."""
    fit = max(0, limit - _OWN_FILES) // FILES_EACH
    if sessions > fit:
        message = f"{sessions} sessions need {sessions * FILES_EACH + _OWN_FILES} open files in one process; {limit} are allowed."
        raise HapiError(ErrorCode.AT_CAPACITY, message, f"Raise the limit (ulimit -Hn), or: --sessions {fit}")


def _within(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also for a NaN
        raise HapiError(ErrorCode.USAGE, f"{option} must be from {low:g} to {high:g}, not {value:g}.")
