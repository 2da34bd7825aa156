"""Flows: on whose behalf work is done, so that no caller takes what all of them share.

A flow is a name in a context variable, set beside the deadline and never across a `yield` to the user. `RAG` sets it to the tenant. Queues
serve flows in turn, and a breaker tells the failures of one flow from an outage. Work without a flow is a flow, too.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

__all__ = ["MOST_FLOWS", "current_flow", "flow"]

# How many flows a queue or a breaker remembers; of more, those without work under way are forgotten first.
MOST_FLOWS = 10_000

current_flow: ContextVar[str] = ContextVar("ragcore.flow", default="")


class flow:  # noqa: N801  # reads as a verb, beside `with deadline(5):`
    """Do the work of a block on behalf of a flow, which is any name: a tenant, a queue, a kind of job.

    Args:
        name: of the flow. An inner block's flow replaces the outer one's.

    Example:
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
        """The flow in force here; "" if none was set."""
        return current_flow.get()

    def __enter__(self) -> None:
        self._token = current_flow.set(self._name)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        assert self._token is not None
        current_flow.reset(self._token)
