"""How much memory there is, and how much of it is used: of the container where there is one, else of the process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MEBI", "Memory", "read_memory"]

MEBI = 2**20
# cgroup v2, then v1: limit, use, and in memory.stat what the kernel gives back when it is wanted.
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        "total_inactive_file",
    ),
)
# cgroup v1 says "no limit" with a number near 2^63.
UNLIMITED = 2**60


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes.

    Attributes:
        resident: of this process.
        used: what is judged: of the cgroup, whose processes share the limit, where that has one; else of this process.
        limit: None: there is none.
        source: "cgroup", "settings" or "none".
    """

    resident: int
    used: int
    limit: int | None
    source: str

    @property
    def share(self) -> float | None:
        """Of the limit; None without one."""
        return self.used / self.limit if self.limit else None


def read_memory(limit_mb: float | None = None, /, *, process: Path = Path("/proc/self/statm")) -> Memory:
    """Read it; blocks, shortly.

    Args:
        limit_mb: of this process, in MiB, as configured; None: the cgroup's.

    Raises:
        OSError: the machine doesn't tell.
    """
    import resource

    resident = int(process.read_text().split()[1]) * resource.getpagesize()
    if limit_mb is not None:
        return Memory(resident, resident, int(limit_mb * MEBI), "settings")
    for limit_file, used_file, reclaimable in CGROUPS:
        if not limit_file.exists():
            continue
        text = limit_file.read_text().strip()
        if text.isdigit() and int(text) < UNLIMITED:
            used = int(used_file.read_text()) - _stat(used_file.with_name("memory.stat"), reclaimable)
            return Memory(resident, max(resident, used), int(text), "cgroup")
    return Memory(resident, resident, None, "none")


def _stat(path: Path, name: str) -> int:
    """A line of memory.stat; what the page cache holds is no use that would kill."""
    if not path.exists():
        return 0
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
