"""Who looked at whose data: an event for each call, and a sink that keeps them as lines of JSON. Never a text.

Each call of the client emits "audit" when it ends, with the tenant, what was done, how it ended and how many passages were handed out. Who did it is what
the surrounding `acting` says; without it, nobody is named.
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

# Lines that wait to be written. Beyond, lines are lost, and the log says how many.
MOST_WAITING = 100_000
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts.

    Attributes:
        who: a name, such as a token's or a person's; "" for nobody that is known.
        admin: whether as an administrator.
        route: by which way, such as "POST /chat".
    """

    who: str = ""
    admin: bool = False
    route: str = ""


_acting: ContextVar[Actor] = ContextVar("ragcore_actor", default=Actor())  # noqa: B039  # it is frozen


def actor() -> Actor:
    """Who acts here."""
    return _acting.get()


@contextmanager
def acting(who: str, *, admin: bool = False, route: str = "") -> Iterator[None]:
    """Name who acts, for a block and all that it begins.

    Example:
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
    """Emit the event of a look at a tenant's data, or of a change to it.

    Args:
        action: what was done, such as "ask" or "delete".
        by: None: who acts here.
        data: numbers and short words; never a text.
    """
    who = by or actor()
    emit("audit", action, tenant=tenant, who=who.who, admin=who.admin, route=who.route, **data)


class AuditLog(Part):
    """Writes the audit events of this process to a file, a line of JSON each. A thread of its own writes, so that no call waits for the disk.

    Args:
        path: is appended to, and made with mode 0600; "-" is the standard output, which a container's platform collects.

    Raises:
        ConfigurationError: when it is started, if the file can't be written.

    Example:
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
        """Lines that could not be kept."""

    async def _open(self) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.dup(1) if str(self._path) == "-" else os.open(self._path, flags, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the audit log {self._path} can't be written: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write, args=(descriptor,), name="ragcore-audit", daemon=True)
        self._thread.start()
        self._unsubscribe = subscribe(self._take)

    async def _close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            from ragcore.resilience.threads import Threads

            await Threads(1, name="closing the audit log").run(lambda: thread.join(CLOSE_SECONDS))

    def _take(self, event: Event) -> None:
        if event.name != "audit":
            return
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": event.source, **event.data}
        try:
            # In ASCII: a tenant's name may hold signs that some readers take for the end of a line.
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
                except OSError as error:  # the disk is full: the service goes on, and says so
                    self.lost += 1
                    logger.error("a line of the audit log %s is lost: %s", self._path, error.strerror)  # noqa: TRY400
            if self.lost:
                logger.error("%d lines of the audit log %s were lost", self.lost, self._path)
