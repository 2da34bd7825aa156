"""Whether the client can do its work, and what it is made of. A check proves the dependency, not that an object exists."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import anyio

from ragcore.config import Settings
from ragcore.errors import RagcoreError
from ragcore.resilience.deadline import inherit
from ragcore.resilience.threads import Threads
from ragcore.retriever import Retriever
from ragcore.types import Health, Stats

__all__ = ["HealthCheck", "describe", "read_memory"]

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]

CACHE_SECONDS = 1.0
# Shares of the memory limit.
TIGHT, FULL = 0.8, 0.95
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
PACKAGES = ("ragcore", "anyio", "asyncpg", "openai", "pgvector", "tiktoken", "tenacity", "numpy")


class Client(Protocol):
    """What is looked at: the client."""

    settings: Settings

    @property
    def retriever(self) -> Retriever:
        """Its retriever."""

    @property
    def is_open(self) -> bool:
        """Whether it takes calls."""

    def stats(self) -> Stats:
        """Its machinery."""
        ...


class HealthCheck:
    """Checks, bounded and cached."""

    def __init__(self) -> None:
        self._last: tuple[float, Health] | None = None
        self._threads = Threads(1, name="health")

    async def check(self, rag: Client, timeout: float) -> Health:
        """The health of a client, at most a second old, within `timeout` seconds."""
        now = anyio.current_time()
        if self._last is not None and now - self._last[0] < CACHE_SECONDS:
            return self._last[1]
        checks: dict[str, tuple[Status, dict[str, Any]]] = {
            "database": ("unhealthy", {"reason": f"no answer within {timeout:g} s"}),
            "rag_service": _service(rag),
            "memory_usage": ("healthy", {"reason": "not measured"}),
        }
        with anyio.move_on_after(timeout), inherit(now + timeout):
            checks["database"] = await _database(rag)
            checks["memory_usage"] = await self._memory()
        order: list[Status] = ["healthy", "degraded", "unhealthy"]
        health = Health(
            status=max((status for status, _ in checks.values()), key=order.index),
            timestamp=datetime.now(UTC),
            services={name: status for name, (status, _) in checks.items()},
            ready=checks["database"][0] != "unhealthy" and checks["rag_service"][0] != "unhealthy",
            details={name: details for name, (_, details) in checks.items()},
        )
        self._last = (now, health)
        return health

    async def _memory(self) -> tuple[Status, dict[str, Any]]:
        try:
            used, limit = await self._threads.run(read_memory)
        except (OSError, ValueError, RagcoreError):
            return "healthy", {"reason": "not measured"}
        share = used / limit if limit else None
        status: Status = "healthy" if share is None or share < TIGHT else "degraded" if share < FULL else "unhealthy"
        return status, {
            "used_mb": round(used / 2**20, 1),
            "limit_mb": round(limit / 2**20, 1) if limit else None,
            "share": share,
        }


async def _database(rag: Client) -> tuple[Status, dict[str, Any]]:
    """A real query, where the store has one."""
    store: Any = rag.retriever.store
    began = anyio.current_time()
    try:
        if hasattr(store, "ping"):
            await store.ping()
        elif not getattr(store, "is_open", True):
            return "unhealthy", {"reason": "not open"}
    except Exception as error:  # whatever it is, the health check says so and goes on
        return "unhealthy", {"reason": str(error) if isinstance(error, RagcoreError) else type(error).__name__}
    return "healthy", {"seconds": anyio.current_time() - began}


def _service(rag: Client) -> tuple[Status, dict[str, Any]]:
    if not rag.is_open:
        return "unhealthy", {"reason": "not open"}
    open_breakers = [
        name
        for name, policy in rag.stats().policies.items()
        for breaker in (policy.get("breaker"), *policy.get("keys", {}).values())
        if breaker and breaker["state"] != "closed"
    ]
    details: dict[str, Any] = {"calls": dict(rag.stats().calls)}
    if open_breakers:
        return "degraded", {**details, "reason": f"circuit breaker not closed: {', '.join(open_breakers)}"}
    return "healthy", details


def read_memory() -> tuple[int, int | None]:
    """(resident bytes, limit in bytes or None), of this process and its cgroup. Blocks, shortly."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    used = pages * resource.getpagesize()
    for path in CGROUP_LIMITS:
        if path.exists():
            text = path.read_text().strip()
            if text.isdigit() and int(text) < 2**60:
                return used, int(text)
    return used, None


async def describe(rag: Client, timeout: float) -> dict[str, Any]:
    """What a client is made of; None for what could not be reached within `timeout` seconds."""
    store: Any = rag.retriever.store
    embedder = rag.retriever.embedder
    described: dict[str, Any] = {
        "versions": None,
        "settings": asdict(rag.settings),
        "retriever": {
            "mode": rag.retriever.mode,
            "top_k": rag.retriever.top_k,
            "score_threshold": rag.retriever.score_threshold,
        },
        "embedder": None if embedder is None else {"model": embedder.model, "dimension": embedder.dimension},
        "store": {"type": type(store).__name__, **(store.describe() if hasattr(store, "describe") else {})},
        "database": None,
        "counts": None,
    }
    with anyio.move_on_after(timeout), inherit(anyio.current_time() + timeout):
        described["versions"] = await Threads(1, name="versions").run(_versions)
        described["database"] = await _reached(store, "inspect")
        described["counts"] = await _reached(store, "count", tenant=None)
    return described


async def _reached(store: Any, method: str, **arguments: Any) -> Mapping[str, Any] | None:
    if not hasattr(store, method):
        return None
    try:
        result: Mapping[str, Any] = (await getattr(store, method)(**arguments)).to_dict()
    except RagcoreError:
        return None
    return result


def _versions() -> dict[str, str | None]:
    """Blocks: the metadata of packages is read from files."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
