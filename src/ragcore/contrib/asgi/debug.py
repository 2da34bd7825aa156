"""The debug routes: `/debug/rag-similarity/{user_id}`, `/debug/inflight`, `/debug/status` and `/debug-env`. The audit log records each access."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ragcore.audit import record
from ragcore.client.rag import RAG
from ragcore.contrib.asgi.chat import check_fields, check_question, decoded, threshold_of
from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Identity
from ragcore.contrib.asgi.intake import Room
from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.asgi.public import public
from ragcore.errors import InvalidInput
from ragcore.resilience import BulkheadSnapshot
from ragcore.types.validation import check_tenant

if TYPE_CHECKING:
    from ragcore.rollout import Rollout

__all__ = ["SIMILARITY", "DebugRoutes", "check_admin"]

MAX_REPORTS = 8
# `/debug/status` shows at most this many running calls, and as many finished ones.
MAX_CALLS_SHOWN = 100
SIMILARITY = "/debug/rag-similarity/"
# The name in the audit log for an access to the data of all tenants.
ALL_TENANTS = "*"
SHAPE = '{"query": "…", "threshold": 0.4}'


class DebugRoutes:
    """Shows calls, settings and similarity reports to administrators. Other callers see the calls and reports of their own tenant.

    Args:
        places: returns the state of the application's limit of chats.
        rollout: the rollout of the application; None if there is none.
    """

    def __init__(
        self,
        rag: RAG,
        *,
        max_question: int,
        places: Callable[[], BulkheadSnapshot],
        rollout: Rollout[Any] | None = None,
    ) -> None:
        self._rag = rag
        self._rollout = rollout
        self._places = places
        self._max_question = max_question
        # A report compares all chunks of a tenant with a question, so only a few run at once, and at most two for one tenant.
        self._room = Room(MAX_REPORTS, of_a_tenant=MAX_REPORTS // 4)

    async def inflight(self, exchange: Exchange, identity: Identity) -> None:
        """Show the running calls: all calls to administrators, the calls of their own tenant to other callers."""
        calls = [call for call in self._rag.inflight() if identity.may_see(call.tenant)]
        record("inflight", ALL_TENANTS if identity.admin else check_tenant(identity.tenant), calls=len(calls))
        shown = [call.to_dict() if identity.admin else public(call) for call in calls]
        await exchange.respond(200, {"calls": shown})

    async def status(self, exchange: Exchange, identity: Identity) -> None:
        """Show an administrator a snapshot: queues, breakers, pools, caches, the oldest running calls, and the last finished ones, newest first.

        It sends no request to a dependency, so the console may request it every few seconds.
        """
        check_admin(identity)
        record("status", ALL_TENANTS)
        running, finished = self._rag.inflight(), self._rag.recent()
        await exchange.respond(
            200,
            {
                "tenant": check_tenant(identity.tenant),
                "application": self._places().to_dict(),
                **self._rag.stats().to_dict(),
                **({} if self._rollout is None else {"rollout": self._rollout.status().to_dict()}),
                "inflight": [call.to_dict() for call in running[:MAX_CALLS_SHOWN]],
                "recent": [call.to_dict() for call in finished[: -MAX_CALLS_SHOWN - 1 : -1]],
            },
        )

    async def environment(self, exchange: Exchange, identity: Identity) -> None:
        """Show an administrator the client's description."""
        check_admin(identity)
        record("describe", ALL_TENANTS)
        with self._room.place(check_tenant(identity.tenant)):
            described = await self._rag.describe()
        await exchange.respond(200, described)

    async def similarity(self, exchange: Exchange, identity: Identity) -> None:
        """Show how near a tenant's chunks are to a question. A POST request has the question in its body, and a GET request has it in the URL."""
        tenant = exchange.path.removeprefix(SIMILARITY)
        if not identity.may_see(tenant):
            record("similarity", tenant, outcome="Forbidden")
            raise Refused(403, "Forbidden", "only administrators may query another tenant")
        query, threshold = (
            _asked_by_get(exchange) if exchange.method in ("GET", "HEAD") else _asked_by_post(exchange.body)
        )
        check_question(query, longest=self._max_question)
        with self._room.place(check_tenant(identity.tenant)):
            report = await self._rag.similarity(query, tenant=tenant, score_threshold=threshold)
        await exchange.show(report)


def check_admin(identity: Identity) -> None:
    """Refuse callers that are not administrators (status 403)."""
    if not identity.admin:
        raise Refused(403, "Forbidden", "only administrators may use this route")


def _asked_by_post(body: bytes) -> tuple[Any, float | None]:
    asked = decoded(body)
    if not isinstance(asked, dict) or "query" not in asked:
        raise InvalidInput(f"the body must be JSON like {SHAPE}")
    check_fields(asked, {"query", "threshold"}, like=SHAPE)
    return asked["query"], threshold_of(asked)


def _asked_by_get(exchange: Exchange) -> tuple[Any, float | None]:
    query = exchange.query("query")
    if query is None:
        raise InvalidInput("the address has no question: add ?query=…")
    given = exchange.query("threshold")
    try:
        return query, None if given is None else float(given)
    except ValueError:
        raise InvalidInput(
            f"threshold is {given[:40] if given else given!r}: it must be a number from -1 to 1"
        ) from None
