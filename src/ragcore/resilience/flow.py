"""Flows: names for groups of calls, so that one group can't use up the capacity that all groups share.

A flow is a name in a context variable, which is never set across a `yield` to the user. `RAG` sets it to the tenant. Queues serve flows in turn, and a
breaker distinguishes the failures of one flow from an outage. Calls without a flow belong to the flow "".
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

__all__ = ["MOST_FLOWS", "current_flow", "flow"]

# The largest number of flows that a queue or a breaker remembers. Above it, flows without calls under way are forgotten first.
MOST_FLOWS = 10_000

current_flow: ContextVar[str] = ContextVar("ragcore.flow", default="")


class flow:  # noqa: N801  # reads as a verb, like `with deadline(5):`
    """Assign the calls of a block to a flow, for example a tenant, a queue or a kind of job.

    Args:
        name: the name of the flow. The flow of an inner block replaces that of the outer block.

    Examples:
        >>> with flow("acme"):
        ...     flow.current()
        'acme'
    """

    __slots__ = ("_name", "_token")

    def __init__(self, name: str, /) -> None:
        self._name = name
        self._token: Token[str] | None = None

    @staticmethod
    def current() -> str:
        """Return the current flow; "" if none was set."""
        return current_flow.get()

    def __enter__(self) -> None:
        self._token = current_flow.set(self._name)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        assert self._token is not None
        current_flow.reset(self._token)
