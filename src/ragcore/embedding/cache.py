"""A cache of embedded questions. A question that is asked again needs no request.

Source: the least recently used entry is dropped first, as in functools.lru_cache. Entries also expire, and all entries together have a limit in bytes.
Equal texts at the same time share one request, as in golang.org/x/sync/singleflight.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import anyio
import numpy as np
from anyio.lowlevel import checkpoint_if_cancelled

from ragcore.embedding.shared_vectors import SharedVectors
from ragcore.embedding.vectors import check_vectors
from ragcore.errors import ConfigurationError
from ragcore.events import emit
from ragcore.lifecycle.bound import expires_at
from ragcore.lifecycle.part import Part, Parts
from ragcore.protocols import Embedder, Vector
from ragcore.resilience.flow import current_flow
from ragcore.resilience.single_flight import SingleFlight
from ragcore.types import Kind

__all__ = ["CachedEmbedder"]

MEBI = 1024 * 1024
# Estimated bytes of an entry in addition to its vector.
OVERHEAD = 400


class CachedEmbedder(Part):
    """Wraps an embedder and keeps its vectors, separately for each tenant. Equal texts that are requested at the same time share one request.

    `RAG.stats().caches["embedding"]` shows the hit rate. The cache stores no texts: its keys are digests of tenant, model, kind and text.

    Invariant: `_bytes` is the sum of the entries' sizes, at most `max_bytes`. `_tenants` holds the keys of the entries by tenant, so that `clear` finds all
    entries of a tenant. `clear` begins a new epoch. A vector that was requested in an earlier epoch is not kept.

    Args:
        embedder: the embedder to wrap; started and closed with the cache.
        max_bytes: limit for all entries; the least recently used are dropped first. Default 32 MiB, about 5,000 vectors of 1,536 dimensions.
        ttl: seconds until an entry expires. Default one hour.
        shared: whether tenants share entries. Default False, because response times would reveal what other tenants asked.
        kinds: the kinds of texts to keep. Default: questions only, because chunks are usually embedded once, and would displace questions.
        behind: vectors that other processes have stored. They are used if this process has none. None: no process shares its vectors.

    Raises:
        ConfigurationError: a limit is not positive, or `behind` is set and `shared` as well: the vectors in the database always belong to one tenant.

    Examples:
        ```python
        embedder = ragcore.CachedEmbedder(ragcore.OpenAIEmbedder("text-embedding-3-small"), ttl=600)
        ```
    """

    kinds: frozenset[Kind]

    def __init__(
        self,
        embedder: Embedder,
        /,
        *,
        max_bytes: int = 32 * MEBI,
        ttl: float = 3600.0,
        shared: bool = False,
        kinds: Sequence[Kind] = ("query",),
        behind: SharedVectors | None = None,
    ) -> None:
        if not (isinstance(max_bytes, int) and max_bytes >= 1):
            raise ConfigurationError(f"max_bytes is {max_bytes!r}: it must be a whole number, at least 1")
        if not (isinstance(ttl, int | float) and 0 < ttl < math.inf):
            raise ConfigurationError(f"ttl is {ttl!r}: it must be a positive, finite number of seconds")
        if shared and behind is not None:
            raise ConfigurationError(
                "shared and behind are both set: vectors in the database always belong to one tenant; omit one of the two"
            )
        self.embedder = embedder
        self.behind = behind
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.shared = shared
        self.kinds = frozenset(kinds)
        self._entries: dict[bytes, _Entry] = {}  # least recently used first
        self._tenants: dict[str, set[bytes]] = {}
        self._bytes = 0
        self._epoch = 0
        self._hits = self._misses = self._evicted = 0
        self._flights = SingleFlight(name=f"embedding {embedder.model}")
        self._parts = Parts()

    @property
    def model(self) -> str:
        """The embedder's model."""
        return self.embedder.model

    @property
    def dimension(self) -> int:
        """The embedder's dimension."""
        return self.embedder.dimension

    @property
    def max_tokens(self) -> int:
        """The embedder's limit for the length of a text, in tokens."""
        return self.embedder.max_tokens

    def count_tokens(self, text: str, /) -> int:
        """Count tokens with the embedder's tokenizer."""
        return self.embedder.count_tokens(text)

    def __getattr__(self, name: str) -> Any:
        """Return other attributes of the embedder, such as its policy."""
        if name.startswith("_") or name == "embedder":
            raise AttributeError(name)
        return getattr(self.embedder, name)

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return a (len(texts), dimension) float32 array in the order of `texts`. See `Embedder.embed`."""
        self._check_open()
        if kind not in self.kinds or isinstance(texts, str):
            return await self._ask(texts, kind)
        tenant = "" if self.shared else current_flow.get()
        keys = [self._key(tenant, kind, text) for text in texts]
        now = anyio.current_time()
        found = {key: vector for key in dict.fromkeys(keys) if (vector := self._find(key, now)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            wanted = list(missing.values())
            epoch = self._epoch
            if len(wanted) == 1:
                vectors = await self._once(next(iter(missing)), wanted, kind, tenant)
            else:
                vectors = await self._find_or_ask(list(missing), wanted, kind, tenant)
            for key, vector in zip(missing, vectors, strict=True):
                found[key] = vector
                if epoch == self._epoch:  # `clear` was not called meanwhile
                    self._keep(tenant, key, vector)
        else:
            await checkpoint_if_cancelled()
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, self.dimension), np.float32)

    def missing(self, texts: Sequence[str], /, *, kind: Kind) -> list[str]:
        """Return those of `texts` that `embed` would have to request now, each once. It counts neither a hit nor a miss."""
        found = list(dict.fromkeys(texts))
        if kind in self.kinds:
            tenant, now = "" if self.shared else current_flow.get(), anyio.current_time()
            entries = ((text, self._entries.get(self._key(tenant, kind, text))) for text in found)
            found = [text for text, entry in entries if entry is None or now >= entry.until]
        return self.embedder.missing(found, kind=kind) if isinstance(self.embedder, CachedEmbedder) else found

    def clear(self, *, tenant: str | None = None) -> int:
        """Drop all entries, or those of one tenant, and return their number. Results of requests that are still running are not kept."""
        self._epoch += 1
        if self.behind is not None:
            self.behind.clear(tenant=tenant)
        keys = list(self._entries) if tenant is None else list(self._tenants.get(tenant, ()))
        for key in keys:
            self._drop(key)
        return len(keys)

    def snapshot(self) -> Mapping[str, Any]:
        """Return hits, misses, hit rate (None before the first question), entries and bytes, with the embedder's own counters."""
        asked = self._hits + self._misses
        inner = self.embedder.snapshot() if hasattr(self.embedder, "snapshot") else {}
        return {
            **inner,
            "hits": self._hits,
            "misses": self._misses,
            "hit_rate": self._hits / asked if asked else None,
            "entries": len(self._entries),
            "bytes": self._bytes,
            "max_bytes": self.max_bytes,
            "evicted": self._evicted,
            **({} if self.behind is None else {"behind": self.behind.snapshot()}),
        }

    async def _open(self) -> None:
        await self._parts.start(self._flights)
        if self.behind is not None:
            await self._parts.start(self.behind)
        await self._parts.start(self.embedder)

    async def _close(self) -> None:
        self.clear()
        await self._parts.aclose()

    async def _once(self, key: bytes, texts: Sequence[str], kind: Kind, tenant: str) -> Vector:
        """Embed one text; concurrent requests for it share the result."""
        if self.behind is None and getattr(self.embedder, "shares_equal_texts", False):
            return await self._ask(texts, kind)
        until = expires_at()  # here, because the flight has no deadline
        ask: Awaitable[Vector] = self._flights.call(
            key, lambda: self._find_or_ask([key], texts, kind, tenant, until=until)
        )
        return await ask

    async def _find_or_ask(
        self, keys: Sequence[bytes], texts: Sequence[str], kind: Kind, tenant: str, *, until: float = math.inf
    ) -> Vector:
        """Return the vectors of different texts: those of other processes, or those of the embedder, which are then stored for the other processes."""
        if self.behind is None:
            return await self._ask(texts, kind)
        epoch = self._epoch
        found = dict(await self.behind.find(keys, tenant=tenant, dimension=self.dimension, until=until))
        for _ in found:
            emit("cache.hit", self.model)
        missing = [(key, text) for key, text in zip(keys, texts, strict=True) if key not in found]
        if missing:
            for (key, _), vector in zip(missing, await self._ask([text for _, text in missing], kind), strict=True):
                found[key] = vector
                if epoch == self._epoch:
                    self.behind.keep(key, vector, tenant=tenant)
        return np.stack([found[key] for key in keys])

    async def _ask(self, texts: Sequence[str], kind: Kind) -> Vector:
        vectors = await self.embedder.embed(texts, kind=kind)
        return check_vectors(vectors, count=len(texts), dimension=self.dimension, model=self.model)

    def _key(self, tenant: str, kind: Kind, text: str) -> bytes:
        # Because of the length prefixes, different parts never produce the same key.
        parts = (part.encode(errors="surrogatepass") for part in (tenant, self.model, kind, text))
        return blake2b(b"".join(b"%d:%s" % (len(part), part) for part in parts), digest_size=32).digest()

    def _find(self, key: bytes, now: float) -> Vector | None:
        entry = self._entries.get(key)
        if entry is not None and now >= entry.until:
            self._drop(key)
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._entries[key] = self._entries.pop(key)
        self._hits += 1
        emit("cache.hit", self.model)
        return entry.vector

    def _keep(self, tenant: str, key: bytes, vector: Vector) -> None:
        size = vector.nbytes + OVERHEAD
        self._drop(key)
        if size > self.max_bytes or not self.is_open:
            return
        while self._bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
            self._evicted += 1
        self._entries[key] = _Entry(np.array(vector, dtype=np.float32), tenant, anyio.current_time() + self.ttl)
        self._tenants.setdefault(tenant, set()).add(key)
        self._bytes += size

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.vector.nbytes + OVERHEAD
        keys = self._tenants[entry.tenant]
        keys.discard(key)
        if not keys:
            del self._tenants[entry.tenant]


@dataclass(frozen=True, slots=True)
class _Entry:
    vector: Vector
    tenant: str
    until: float
