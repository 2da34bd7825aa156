"""Audit: an event for each access to a tenant's data, and a log that writes these events as lines of JSON.

Each call of the client emits the event "audit" when it ends. The event contains the tenant, the action, the outcome and the number of returned passages,
never a text. The surrounding `acting` block names the actor; without it, the name is empty.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from ragcore.errors import ConfigurationError
from ragcore.events import Event, emit, subscribe
from ragcore.lifecycle.part import Part

__all__ = ["Actor", "AuditLog", "acting", "actor", "record"]

logger: logging.Logger = logging.getLogger("ragcore.audit")

# The largest number of lines that wait to be written. Further lines are lost, and `AuditLog` logs their number.
MOST_WAITING = 100_000
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Actor:
    """The person or program that makes a call.

    Attributes:
        who: a name, for example of a token or a person; "" if unknown.
        admin: whether the actor has the rights of an administrator.
        route: the entry point of the call, for example "POST /chat".
    """

    who: str = ""
    admin: bool = False
    route: str = ""


_acting: ContextVar[Actor] = ContextVar("ragcore_actor", default=Actor())  # noqa: B039  # it is frozen


def actor() -> Actor:
    """Return the actor of the current context."""
    return _acting.get()


@contextmanager
def acting(who: str, *, admin: bool = False, route: str = "") -> Iterator[None]:
    """Set the actor for a block, and for all calls and tasks that start in it.

    Examples:
        ```python
        with ragcore.audit.acting("jane@example.org", admin=True, route="support desk"):
            await rag.similarity(question, tenant="acme")
        ```
    """
    token = _acting.set(Actor(who, admin, route))
    try:
        yield
    finally:
        _acting.reset(token)


def record(action: str, tenant: str, *, by: Actor | None = None, **data: Any) -> None:
    """Emit the event for a read or a change of a tenant's data.

    Args:
        action: the operation, for example "ask" or "delete".
        tenant: the owner of the data; "*" for all tenants.
        by: the actor; None: the actor of the current context.
        data: numbers and short words; never a text.
    """
    who = by or actor()
    emit("audit", action, tenant=tenant, who=who.who, admin=who.admin, route=who.route, **data)


class AuditLog(Part):
    """Writes each audit event of this process as one line of JSON to a file. A separate thread writes the lines, so that no call waits for the disk.

    Args:
        path: the file. Lines are appended; a new file is created with mode 0600. "-" is standard output, which a container's platform collects.

    Raises:
        ConfigurationError: on start, if the file can't be written.

    Examples:
        ```python
        async with ragcore.audit.AuditLog("/var/log/ragcore/audit.jsonl"), ragcore.RAG.from_config(config) as rag:
            ...
        ```
    """

    lost: int

    def __init__(self, path: str | PathLike[str], /) -> None:
        self._path = Path(path)
        self._waiting: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._unsubscribe: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self.lost = 0
        """The number of lines that were lost."""

    async def _open(self) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.dup(1) if str(self._path) == "-" else os.open(self._path, flags, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the audit log {self._path} can't be written: {error.strerror}. Choose a writable path"
            ) from error
        self._thread = threading.Thread(target=self._write, args=(descriptor,), name="ragcore-audit", daemon=True)
        self._thread.start()
        self._unsubscribe = subscribe(self._take, names=["audit"])

    async def _close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            from ragcore.resilience.threads import Threads

            await Threads(1, name="closing the audit log").run(lambda: thread.join(CLOSE_SECONDS))

    def _take(self, event: Event) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": event.source, **event.data}
        try:
            # `json.dumps` writes ASCII. A tenant's name may contain other characters that some programs treat as the end of a line.
            self._waiting.put_nowait(json.dumps(line))
        except queue.Full:
            self.lost += 1

    def _write(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            while (line := self._waiting.get()) is not None:
                try:
                    file.write(line + "\n")
                    if self._waiting.empty():
                        file.flush()
                except OSError as error:  # the disk may be full: continue, because the service must stay available
                    self.lost += 1
                    logger.error("audit log %s: a line was lost: %s", self._path, error.strerror)  # noqa: TRY400
            if self.lost:
                logger.error("audit log: %d lines of %s were lost", self.lost, self._path)
