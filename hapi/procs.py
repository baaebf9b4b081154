"""The process table: who is that, is it alive, end it. Linux reads /proc; elsewhere psutil answers.

A pid is never trusted alone: identities (`ids.ProcessId`) are checked again before every signal.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from hapi.clock import monotonic
from hapi.ids import ProcessId

LINUX = sys.platform == "linux"
_ZOMBIE_STATES = frozenset("ZXx")
_TICK_MS = 100


@functools.cache
def boot_id() -> str:
    """A name for the current boot that no other boot has."""
    if LINUX:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import psutil

    return f"boot-{round(psutil.boot_time())}"


def identity(pid: int) -> ProcessId | None:
    """Who runs under `pid` now; None when nobody does. A zombie counts as nobody."""
    ticks = _start_ticks(pid)
    return None if ticks is None else ProcessId(pid, ticks, boot_id())


def own_identity() -> ProcessId:
    """The calling process."""
    found = identity(os.getpid())
    if found is None:  # pragma: no cover - /proc is not mounted
        raise RuntimeError("cannot read the process table")
    return found


def is_alive(process: ProcessId) -> bool:
    """Whether that very process still runs. Zombies, other boots and reused pids are not it."""
    return process.boot_id == boot_id() and _start_ticks(process.pid) == process.start_ticks


def signal_name(number: int) -> str:
    """For people: `SIGKILL`; `signal 99` for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """Signal that very process; False when it is gone or not ours. Never hits a stranger under a reused pid."""
    if not is_alive(process):
        return False
    try:
        if LINUX:
            fd = os.pidfd_open(process.pid)
            try:
                if is_alive(process):  # the fd now pins whoever has the pid
                    signal.pidfd_send_signal(fd, number)
                    return True
                return False
            finally:
                os.close(fd)
        os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def open_pidfd(process: ProcessId) -> int | None:
    """A descriptor that becomes readable when that process ends; None when it is gone or this is not Linux."""
    if not LINUX or not is_alive(process):
        return None
    try:
        fd = os.pidfd_open(process.pid)
    except (ProcessLookupError, PermissionError):
        return None
    if is_alive(process):
        return fd
    os.close(fd)
    return None


def ended(pidfds: Iterable[int]) -> set[int]:
    """Those of the descriptors whose processes have ended: one system call for all, nothing of /proc is read."""
    poller = select.poll()
    for fd in pidfds:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(0)}


def wait_gone(process: ProcessId, timeout_s: float) -> bool:
    """Wait until that process has ended, `timeout_s` at most; whether it has."""
    deadline = monotonic() + timeout_s
    fd = open_pidfd(process)
    poller = select.poll()
    if fd is not None:
        poller.register(fd, select.POLLIN)
    try:
        while is_alive(process):
            left_ms = (deadline - monotonic()) * 1000
            if left_ms <= 0:
                return False
            poller.poll(left_ms if fd is not None else min(left_ms, _TICK_MS))
        return True
    finally:
        if fd is not None:
            os.close(fd)


def memory_bytes(pid: int) -> int:
    """Memory that `pid` adds to the machine: PSS where the kernel tells it, else RSS; 0 when it is gone."""
    try:
        if LINUX:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
            return 0
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except (OSError, ValueError, ImportError):
        return 0
    except Exception as error:  # psutil's own errors; named here to keep psutil off the fast path
        if type(error).__module__.startswith("psutil"):
            return 0
        raise


def cpu_seconds(pid: int) -> float | None:
    """Processor time that `pid` has used, its children's not included; None when it is gone."""
    if LINUX:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def children(pid: int) -> list[int]:
    """The direct children of `pid`, without zombies' children; [] when it is gone."""
    if LINUX:
        found: list[int] = []
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            pass  # the process ended while we looked
        return found
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def descendants(pid: int, spare: Callable[[int], bool] | None = None) -> list[ProcessId]:
    """All living processes below `pid` (itself not included), parents before their children.

    Those that `spare` names are left out, with all that is below them.
    """
    found: list[ProcessId] = []
    queue = [pid]
    while queue:
        for child in children(queue.pop(0)):
            if spare is not None and spare(child):
                continue
            queue.append(child)
            who = identity(child)
            if who is not None:
                found.append(who)
    return found


def open_files(pid: int) -> list[str]:
    """The paths of the files that `pid` holds open, sockets and pipes not among them; [] when it is gone or foreign."""
    if not LINUX:
        import psutil

        try:
            return [file.path for file in psutil.Process(pid).open_files()]
        except psutil.Error:
            return []
    found: list[str] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed while we looked
                found.append(os.readlink(entry.path))
    return [path for path in found if path.startswith("/")]


def everyone() -> list[int]:
    """The pids of all processes there are, zombies and other users' among them."""
    if LINUX:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    import psutil

    return list(psutil.pids())


def working_directories() -> dict[int, str]:
    """Where every process works whose directory we may see; those of other users we may not."""
    found = {}
    for pid in everyone():
        with contextlib.suppress(OSError):
            found[pid] = _working_directory(pid)
    return found


def _working_directory(pid: int) -> str:
    if LINUX:
        return os.readlink(f"/proc/{pid}/cwd")
    import psutil

    try:
        return str(psutil.Process(pid).cwd())
    except psutil.Error as error:
        raise OSError(str(error)) from None


def marked(name: str, value: str) -> list[ProcessId]:
    """This user's processes whose environment has `name=value`: what a lost supervisor left behind."""
    return [who for pid in everyone() if has_mark(pid, name, value) and (who := identity(pid)) is not None]


def has_mark(pid: int, name: str, value: str) -> bool:
    """Whether a process of this user has `name=value` in its environment."""
    return f"{name}={value}".encode() in _environ(pid)


def _environ(pid: int) -> list[bytes]:
    try:
        if LINUX:
            return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        import psutil

        return [f"{key}={value}".encode() for key, value in psutil.Process(pid).environ().items()]
    except OSError:
        return []
    except Exception as error:
        if type(error).__module__.startswith("psutil"):
            return []
        raise


def _start_ticks(pid: int) -> int | None:
    if pid <= 0:
        return None
    if LINUX:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()  # the name may hold blanks and parentheses
        if fields[0] in _ZOMBIE_STATES and int(fields[17]) < 2:
            return None  # with threads left, only the first of them has ended: the process goes on
        return int(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 100)
    except psutil.Error:
        return None


def raise_descriptor_limit() -> str | None:
    """Allow as many open files as the system lets this user have: broker and connector have one or two for each session.

    Returns what stands in the way, in words; None when all is well.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return f"Open files stay limited to {soft} in each process: enough for some {soft // 2} sessions."
    return None
