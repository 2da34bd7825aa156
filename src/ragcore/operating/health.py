"""The health and the description of a client. A check sends a request to the dependency, because only a response shows that the dependency works."""

from __future__ import annotations

import math
import platform
from collections.abc import Awaitable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeAlias

import anyio

from ragcore.compat.ability import offers
from ragcore.compat.distribution import version_of
from ragcore.compat.extras import installed
from ragcore.config import Settings
from ragcore.errors import Overloaded, RagcoreError
from ragcore.lifecycle.bound import inherit
from ragcore.lifecycle.part import Opened
from ragcore.operating.memory import MEBI, read_memory
from ragcore.protocols import Described, Inspected, Pingable, Replicated, Store
from ragcore.resilience import deadline
from ragcore.resilience.deadline import share
from ragcore.resilience.threads import Threads
from ragcore.retrieval.retriever import Retriever
from ragcore.text.redaction import key_of
from ragcore.types import CallInfo, Health, Stats
from ragcore.value import Value

__all__ = ["HealthCheck", "describe"]

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]

CACHE_SECONDS = 1.0
# A store without `ping` is judged by this many of the last calls.
JUDGED_CALLS = 5
# The check of a primary that has replicas takes at most this share of the time, so that the replicas' results are reported even if the primary hangs.
REPLICATED_SHARE = 0.8
# How the names of replicas' policies begin.
REPLICA = "replica "
# From these shares of the memory limit on, memory counts as degraded or as unhealthy.
TIGHT, FULL = 0.8, 0.95
PACKAGES = ("ragcore", "anyio", "asyncpg", "openai", "pgvector", "tiktoken", "tenacity", "numpy")


class Client(Protocol):
    """The parts of a client that a health check uses."""

    settings: Settings

    @property
    def retriever(self) -> Retriever:
        """The client's retriever."""

    @property
    def is_open(self) -> bool:
        """Whether the client accepts calls."""

    def stats(self) -> Stats:
        """Return a snapshot of policies, pools, caches and calls."""
        ...

    def recent(self) -> tuple[CallInfo, ...]:
        """Return the last finished calls."""
        ...


class HealthCheck:
    """Runs health checks within a timeout, and caches their result for a second."""

    def __init__(self) -> None:
        self._last: tuple[float, Health] | None = None
        self._threads = Threads(1, name="health")
        self._one_at_a_time = anyio.Lock()

    async def check(self, rag: Client, timeout: float) -> Health:
        """Return the health of a client within `timeout` seconds. The result is at most a second old."""
        async with self._one_at_a_time:  # callers that wait for the lock get the same result
            now = anyio.current_time()
            if self._last is not None and now - self._last[0] < CACHE_SECONDS:
                return self._last[1]
            return await self._check(rag, timeout, now)

    async def _check(self, rag: Client, timeout: float, now: float) -> Health:
        stats = rag.stats()
        checks: dict[str, tuple[Status, dict[str, Any]]] = {
            "database": ("unhealthy", {"reason": f"no answer within {timeout:g} s"}),
            "rag_service": _service(rag, stats),
            "memory_usage": ("healthy", {"reason": "not measured"}),
        }
        with anyio.move_on_after(timeout), inherit(now + timeout):
            checks["memory_usage"] = await self._memory(rag.settings.memory_mb)
            checks["database"] = await _database(rag)
        checks["database"][1].update(_dependency_state(stats, "store"))
        if "store writes" in stats.policies:
            checks["database"][1]["writes"] = _dependency_state(stats, "store writes")
        order: list[Status] = ["healthy", "degraded", "unhealthy"]
        health = Health(
            status=max((status for status, _ in checks.values()), key=order.index),
            timestamp=datetime.now(UTC),
            services={name: status for name, (status, _) in checks.items()},
            ready=checks["database"][0] != "unhealthy" and checks["rag_service"][0] != "unhealthy",
            details={name: details for name, (_, details) in checks.items()},
        )
        # The age counts from the end of the check: a check that took longer than a second would otherwise be too old for the callers that waited for it.
        self._last = (anyio.current_time(), health)
        return health

    async def _memory(self, limit_mb: float | None) -> tuple[Status, dict[str, Any]]:
        try:
            memory = await self._threads.run(lambda: read_memory(limit_mb))
        except (OSError, ValueError, RagcoreError):
            return "healthy", {"reason": "not measured"}
        share = memory.share
        status: Status = "healthy" if share is None or share < TIGHT else "degraded" if share < FULL else "unhealthy"
        details: dict[str, Any] = {
            "used_mb": round(memory.used / MEBI, 1),
            "resident_mb": round(memory.resident / MEBI, 1),
            "limit_mb": None if memory.limit is None else round(memory.limit / MEBI, 1),
            "limit_from": memory.source,
            "share": None if share is None else round(share, 4),
        }
        if status != "healthy":
            details["reason"] = f"{share:.0%} of the memory limit is used"
        return status, details


async def _database(rag: Client) -> tuple[Status, dict[str, Any]]:
    """Check the store, and its replicas at the same time. The client can answer as long as the primary or a replica works."""
    store = rag.retriever.store
    if not offers(store, Replicated) or not store.replicas:
        return await _primary(rag)
    status: Status = "unhealthy"
    details: dict[str, Any] = {}
    errors: dict[str, str | None] = {}

    async def check_primary() -> None:
        nonlocal status
        status, found = await _primary(rag, seconds=share(REPLICATED_SHARE, most=math.inf))
        details.update(found)

    async def check_replicas() -> None:
        errors.update(await store.ping_replicas())

    async with anyio.create_task_group() as group:
        group.start_soon(check_primary)
        group.start_soon(check_replicas)
    details["replicas"] = {address: error or "healthy" for address, error in errors.items()}
    failed = [address for address, error in errors.items() if error is not None]
    if status == "unhealthy" and len(failed) < len(errors):
        status = "degraded"
        details["reason"] = f"replicas answer searches, and documents can't be changed: {details['reason']}"
    elif status == "healthy" and failed:
        status = "degraded"
        details["reason"] = f"replicas don't work, and other servers answer: {', '.join(failed)}"
    return status, details


async def _primary(rag: Client, *, seconds: float = math.inf) -> tuple[Status, dict[str, Any]]:
    """Check the store with a query, if it has `ping`."""
    store = rag.retriever.store
    began = anyio.current_time()
    try:
        if offers(store, Pingable):
            with deadline(seconds):
                await store.ping()
        elif offers(store, Opened) and not store.is_open:
            return "unhealthy", {"reason": "not open"}
        else:
            return _judge_by_recent_calls(rag)
    except Overloaded as error:
        # An overloaded database is not unhealthy: supervisors restart unhealthy services, and a restart would add load.
        return "degraded", {"reason": str(error)}
    except Exception as error:  # report any error, and continue with the health check
        return "unhealthy", {"reason": str(error) if isinstance(error, RagcoreError) else type(error).__name__}
    return "healthy", {"seconds": round(anyio.current_time() - began, 6)}


def _judge_by_recent_calls(rag: Client) -> tuple[Status, dict[str, Any]]:
    """Judge a store without `ping` by the last calls that reached it."""
    searched = [
        call for call in rag.recent() if call.stage in ("search", "generate") or call.outcome in ("ok", "degraded")
    ]
    last = [call.outcome == "StoreError" for call in searched[-JUDGED_CALLS:]]
    if not last:
        return "healthy", {"reason": "not checked: the store has no ping, and there was no search yet"}
    details = {"reason": f"judged by the last {len(last)} calls, since the store has no ping", "failed": sum(last)}
    if not last[-1]:
        return "healthy", details
    return "unhealthy" if all(last) else "degraded", details


def _service(rag: Client, stats: Stats) -> tuple[Status, dict[str, Any]]:
    if not rag.is_open:
        return "unhealthy", {"reason": "not open"}
    names = [name for name in stats.policies if name not in ("store", "store writes") and not name.startswith(REPLICA)]
    details: dict[str, Any] = {
        "calls": dict(stats.calls),
        "last_failure": _last_failure(rag),
        "last_degraded": _last_degraded(rag),
        "dependencies": {name: _dependency_state(stats, name) for name in names},
    }
    not_closed = [
        name
        for name, policy in stats.policies.items()
        for breaker in (policy.get("breaker"), *policy.get("keys", {}).values())
        # The check of the database reports its replicas.
        if breaker and breaker["state"] != "closed" and not name.startswith(REPLICA)
    ]
    if not_closed:
        return "degraded", {**details, "reason": f"circuit breaker not closed: {', '.join(not_closed)}"}
    return "healthy", details


def _dependency_state(stats: Stats, name: str) -> dict[str, Any]:
    """Return the state of a dependency's breaker, bulkhead and pool."""
    policy = stats.policies.get(name, {})
    breaker, bulkhead = policy.get("breaker"), policy.get("bulkhead")
    found: dict[str, Any] = {}
    if breaker:
        found["breaker"] = breaker["state"]
        found["keys"] = {key: one["state"] for key, one in policy.get("keys", {}).items()}
    if bulkhead:
        found |= {"running": bulkhead["inside"], "waiting": bulkhead["waiting"], "limit": bulkhead["limit"]}
    if policy.get("paused_for"):
        found["paused_for"] = policy["paused_for"]
    if name in stats.pools:
        found["pool"] = dict(stats.pools[name])
    return found


def _last_failure(rag: Client) -> dict[str, Any] | None:
    """Return the last failed call without the error's message, because the message of another library may contain secrets."""
    for call in reversed(rag.recent()):
        if call.outcome not in ("ok", "degraded", "cancelled", "InvalidInput"):
            return {"id": call.id, "method": call.method, "outcome": call.outcome, "stage": call.stage}
    return None


def _last_degraded(rag: Client) -> dict[str, Any] | None:
    """Return the last call in which a stage was replaced by a fallback."""
    for call in reversed(rag.recent()):
        if call.degraded:
            return {"id": call.id, "method": call.method, "outcome": call.outcome, "stages": list(call.degraded)}
    return None


async def describe(rag: Client, timeout: float) -> dict[str, Any]:
    """Describe a client. A value that could not be read within `timeout` seconds is None."""
    store = rag.retriever.store
    embedder = rag.retriever.embedder
    described: dict[str, Any] = {
        "versions": None,
        "extras": None,
        "settings": {**asdict(replace(rag.settings, redact=None)), "redact": key_of(rag.settings.redact) or None},
        "retriever": {
            "mode": rag.retriever.mode,
            "top_k": rag.retriever.top_k,
            "score_threshold": rag.retriever.score_threshold,
            "relative_threshold": rag.retriever.relative_threshold,
        },
        "embedder": None if embedder is None else {"model": embedder.model, "dimension": embedder.dimension},
        "store": {"type": type(store).__name__, **(store.describe() if offers(store, Described) else {})},
        "database": None,
        "counts": None,
    }
    with anyio.move_on_after(timeout), inherit(anyio.current_time() + timeout):
        described["versions"], described["extras"] = await Threads(1, name="versions").run(_installed)
        if offers(store, Inspected):
            described["database"] = await _read_report(store.inspect())
        if offers(store, Store):
            described["counts"] = await _read_report(store.count(tenant=None))
    return described


async def _read_report(report: Awaitable[Value]) -> Mapping[str, Any] | None:
    """Return a report of the store; None if the store is not reachable."""
    try:
        return (await report).to_dict()
    except RagcoreError:
        return None


def _installed() -> tuple[dict[str, str | None], dict[str, bool]]:
    """Return the versions of packages, and whether each extra is installed. It blocks, because it reads the metadata of packages from files."""
    versions = {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}
    return versions, installed()
