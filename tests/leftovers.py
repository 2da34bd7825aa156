"""Finds processes of an embedded PostgreSQL that a test run has left behind."""

from __future__ import annotations

import os
import time
import uuid

import psutil

__all__ = ["servers_left"]

# All processes that this run starts inherit this variable.
NAME, VALUE = "TEST_RUN", uuid.uuid4().hex
os.environ[NAME] = VALUE


def servers_left(*, seconds: float = 15.0) -> list[str]:
    """Return servers and supervisors of this run that still run after `seconds`."""
    end = time.monotonic() + seconds
    while (left := _servers()) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def _servers() -> list[str]:
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "supervisor.py" in command or "/postgres " in command or command.startswith("postgres"):
            try:
                ours = process.environ().get(NAME) == VALUE
            except psutil.Error:
                continue
            if ours:
                found.append(f"{process.info['pid']}: {command[:200]}")
    return found
