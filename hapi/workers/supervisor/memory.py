"""Whether the kernel ended a process of ours for want of memory, by its count of such deaths in our control group."""

from __future__ import annotations

from pathlib import Path

_OWN_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


class MemoryWatch:
    """Notes the count when it is made, and compares. Where the kernel does not tell, nothing ever ran out."""

    def __init__(self, groups: Path = _OWN_GROUPS, mount: Path = _MOUNT) -> None:
        self._file = _counter_file(groups, mount)
        self._before = self._count()

    def ran_out(self) -> bool:
        """Whether the kernel has killed a process of this control group since."""
        return self._count() > self._before

    def _count(self) -> int:
        try:
            words = self._file.read_text().split() if self._file is not None else []
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError, IndexError):
            return 0


def _counter_file(groups: Path, mount: Path) -> Path | None:
    """`memory.oom_control` of our group (version 1) or `memory.events` (version 2); None where there is neither.

    A container may see its own group as the root of the mount.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return None
    own = {
        tuple(controllers.split(",")): path.lstrip("/")
        for _, controllers, path in (line for line in lines if len(line) == 3)
    }
    first = next((path for controllers, path in own.items() if "memory" in controllers), None)
    candidates = [] if first is None else [mount / "memory" / place / "memory.oom_control" for place in (first, "")]
    candidates += [mount / own.get(("",), "") / "memory.events", mount / "memory.events"]
    return next((file for file in candidates if file.exists()), None)
