"""Reads the memory limit and the used memory: of the container if it has a limit, else of the process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MEBI", "Memory", "read_memory"]

MEBI = 2**20
# cgroup v2, then v1: the files for limit and use, and the line of memory.stat with the bytes that the kernel can reclaim.
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        "total_inactive_file",
    ),
)
# cgroup v1 reports a number near 2^63 if there is no limit.
UNLIMITED = 2**60


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of this process or its cgroup, in bytes.

    Attributes:
        resident: resident memory of this process.
        used: memory that counts towards the limit: that of the cgroup if the cgroup has a limit, else that of this process.
        limit: the limit; None: there is none.
        source: where the limit comes from: "cgroup", "settings" or "none".
    """

    resident: int
    used: int
    limit: int | None
    source: str

    @property
    def share(self) -> float | None:
        """The used share of the limit; None without a limit."""
        return self.used / self.limit if self.limit else None


def read_memory(limit_mb: float | None = None, /, *, process: Path = Path("/proc/self/statm")) -> Memory:
    """Read the memory's use and limit. Blocks for a short time.

    Args:
        limit_mb: the configured limit of this process in MiB; None: the limit of the cgroup.

    Raises:
        OSError: the system does not report its memory.
    """
    try:
        import resource
    except ImportError:
        raise OSError("this system does not report the memory of a process") from None

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
    """Return a value of memory.stat, in bytes. The page cache doesn't count as used, since the kernel can reclaim it."""
    if not path.exists():
        return 0
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
