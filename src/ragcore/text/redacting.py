"""Runs redactions. A `Redaction` runs directly. A user's function runs on a thread, so a slow function blocks no other caller."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from ragcore.resilience.flow import current_flow
from ragcore.resilience.threads import Threads
from ragcore.text.redaction import Redact, Redaction, redacted

__all__ = ["Redacting"]

T = TypeVar("T")

# The number of functions that may run at once for one tenant. A function that hangs keeps its thread, and must not take a thread of another tenant.
THREADS = 4
# The number of tenants whose threads are kept. If all of them hang, there are 100 × 4 threads.
MOST_FLOWS = 100


class Redacting:
    """Threads for the user's functions. Each tenant has its own threads. A caller never waits longer than its deadline."""

    def __init__(self) -> None:
        self._threads: OrderedDict[str, Threads] = OrderedDict()

    async def redacted(self, redact: Redact | None, text: str) -> str:
        """Return the redacted text. See `redaction.redacted`."""
        return await self.run(redact, lambda: redacted(redact, text))

    async def run(self, redact: Redact | None, work: Callable[[], T]) -> T:
        """Run `work`, which redacts, and return its result."""
        if redact is None or isinstance(redact, Redaction):
            return work()
        return await self._of(current_flow.get()).run(work)

    def _of(self, flow: str) -> Threads:
        if flow not in self._threads:
            idle = [name for name, threads in self._threads.items() if not threads.places.inside]
            for name in idle[: max(0, len(self._threads) + 1 - MOST_FLOWS)]:
                del self._threads[name]
            # All groups of threads are in use: further tenants share the threads of the first tenant.
            if len(self._threads) >= MOST_FLOWS:
                return self._threads[next(iter(self._threads))]
            self._threads[flow] = Threads(THREADS, name="redacting")
        return self._threads[flow]
