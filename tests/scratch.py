"""Keeps the tests' temporary files in memory, if the machine has enough of it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psutil

__all__ = ["keep_files_in_memory"]

MEMORY = Path("/dev/shm")
# A run with four processes needs half a gigabyte.
LEAST_BYTES = 4 * 2**30


def keep_files_in_memory() -> None:
    """Make this process, and those that it starts, create temporary files in a folder in memory, which is removed at the end.

    Tests create and drop hundreds of databases. On ext4, they took half of the processors' time: to create a file, it scans the inodes that
    were deleted in the last seconds (`recently_deleted` in fs/ext4/ialloc.c).
    """
    # A worker of pytest-xdist inherits the folder of the process that started it.
    if "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    if min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) < LEAST_BYTES:
        return
    folder = tempfile.mkdtemp(prefix="ragcore-", dir=MEMORY)
    os.chmod(folder, 0o1777)  # as /tmp: servers run as other users
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
