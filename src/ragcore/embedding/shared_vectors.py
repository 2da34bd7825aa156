"""Vectors of questions that several processes share through their database.

Each process has its own `CachedEmbedder`. Behind a load balancer, the same question reaches another process the next time; without shared vectors, it is
embedded once for each process. The table has no texts, only keyed digests: without the key, a reader of the table can't test guesses of what was asked.

Source: H. Krawczyk et al., RFC 2104 (1997), and J.-P. Aumasson et al., RFC 7693 (2015): keyed hashing.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import anyio

from ragcore.errors import ConfigurationError, DeadlineExceeded, RagcoreError
from ragcore.events import emit
from ragcore.lifecycle.bound import expires_at
from ragcore.lifecycle.part import Part
from ragcore.protocols import Vector, VectorCache
from ragcore.types.secret import Secret

__all__ = ["SharedVectors"]

logger: logging.Logger = logging.getLogger("ragcore")

MEBI = 1024 * 1024
SHORTEST_KEY = 16
# Seconds that a question waits for the database. To embed it again is better than to wait longer.
FIND_SECONDS = 0.25
# If a question has less time for the database than this, a response that does not arrive says nothing about the database.
LEAST_FIND_SECONDS = 0.05
WRITE_SECONDS = 5.0
# After a failure, no statement is sent for this many seconds.
PAUSE_SECONDS = 5.0
# Seconds between two warnings.
WARN_SECONDS = 60.0
# Vectors that wait to be written; further ones are not shared. And the largest number in one statement.
MOST_WAITING = 512
MOST_AT_ONCE = 64
# After this many statements that write, old rows are removed: enough at once that the table can't grow beyond its limit.
WRITES_PER_TRIM = 50
TRIMMED_AT_ONCE = 10_000
# Estimated bytes of a row in addition to its vector, with its entries in two indexes.
OVERHEAD = 250


class SharedVectors(Part):
    """Finds vectors that other processes have stored, and stores those of this process.

    It never raises an error of the database and never makes a question wait longer than 0.25 s: if the database is slow or down, the process embeds the
    question itself, and asks the database again after 5 s. Vectors are written in the background.

    Args:
        store: a store that keeps vectors, such as `PgVectorStore`. It is not started or closed here.
        key: a secret of at least 16 characters, the same in all processes. With another key, the stored vectors are not found.
        max_bytes: limit for all vectors in the database. Those that expire first are removed first. Default 256 MiB.
        ttl: seconds until a stored vector expires. Default one hour.

    Raises:
        ConfigurationError: the key is too short, or a limit is not positive.

    Examples:
        ```python
        store = ragcore.PgVectorStore(dsn)
        embedder = ragcore.CachedEmbedder(
            ragcore.OpenAIEmbedder("text-embedding-3-small"), behind=ragcore.SharedVectors(store, key=Secret(os.environ["CACHE_KEY"]))
        )
        ```
    """

    def __init__(self, store: VectorCache, /, *, key: Secret, max_bytes: int = 256 * MEBI, ttl: float = 3600.0) -> None:
        if len(key.reveal()) < SHORTEST_KEY:
            raise ConfigurationError(
                f"the key of the shared vectors has less than {SHORTEST_KEY} characters: use a random one, the same in all processes"
            )
        if not (isinstance(max_bytes, int) and max_bytes >= 1):
            raise ConfigurationError(f"max_bytes is {max_bytes!r}: it must be a whole number, at least 1")
        if not (isinstance(ttl, int | float) and 0 < ttl < math.inf):
            raise ConfigurationError(f"ttl is {ttl!r}: it must be a positive, finite number of seconds")
        self.store = store
        self.max_bytes = max_bytes
        self.ttl = ttl
        self._key = blake2b(key.reveal().encode(), digest_size=32).digest()
        self._waiting: OrderedDict[tuple[str, bytes], Vector] = OrderedDict()
        self._writing = False
        self._writes = 0
        self._written = ""  # the tenant whose vectors are being written
        self._erased = 0  # how often a tenant was forgotten while its vectors were being written
        self._hits = self._misses = 0
        self._again_at = self._warned = -math.inf

    async def find(
        self, keys: Sequence[bytes], *, tenant: str, dimension: int, until: float = math.inf
    ) -> Mapping[bytes, Vector]:
        """Return the stored vectors of a tenant by key. Vectors of another dimension are left out.

        Args:
            keys: digests of the texts, which must contain everything that the vector depends on, for example the model.
            tenant: the tenant; "" has no shared vectors.
            dimension: length of a vector.
            until: the deadline of the question, on `anyio.current_time()`'s clock, for a task that does not inherit it. The database gets a tenth of the time.
        """
        if not tenant or anyio.current_time() < self._again_at:
            return {}
        of = {self._digest(tenant, key): key for key in keys}
        found: Mapping[bytes, Vector] | None = None
        seconds = min(FIND_SECONDS, (min(until, expires_at()) - anyio.current_time()) / 10)
        try:
            with anyio.move_on_after(seconds):
                found = await self.store.cached_vectors(list(of), tenant=tenant)
        except DeadlineExceeded:  # the caller's: says nothing about the database
            return {}
        except Exception as error:
            self._pause(error)
            return {}
        if found is None:
            if seconds >= min(FIND_SECONDS, LEAST_FIND_SECONDS):
                self._pause(None)
            return {}
        fits = {of[digest]: vector for digest, vector in found.items() if digest in of and vector.shape == (dimension,)}
        self._hits += len(fits)
        self._misses += len(of) - len(fits)
        return fits

    def keep(self, key: bytes, vector: Vector, *, tenant: str) -> None:
        """Store a vector in the background. It is dropped if too many are waiting."""
        if not tenant or not self.is_open or len(self._waiting) >= MOST_WAITING:
            return
        self._waiting[tenant, self._digest(tenant, key)] = vector
        if not self._writing and anyio.current_time() >= self._again_at:
            self._check_open().spawn(self._write, name="writing shared vectors")
            self._writing = True

    def clear(self, *, tenant: str | None = None) -> None:
        """Forget the vectors of a tenant (None: of all) that wait to be written. The database keeps its own, except those of a write that is under way."""
        self._erased += tenant == self._written
        for waiting in list(self._waiting):
            if tenant is None or waiting[0] == tenant:
                del self._waiting[waiting]

    def snapshot(self) -> Mapping[str, Any]:
        """Return the number of vectors that were found and not found, and how many wait to be written."""
        return {"hits": self._hits, "misses": self._misses, "waiting": len(self._waiting)}

    async def _open(self) -> None:
        self._writing = False

    async def _close(self) -> None:
        self.clear()

    async def _write(self) -> None:
        try:
            while self._waiting and anyio.current_time() >= self._again_at:
                tenant = next(iter(self._waiting))[0]
                some = [waiting for waiting in self._waiting if waiting[0] == tenant][:MOST_AT_ONCE]
                vectors = {digest: self._waiting.pop((tenant, digest)) for _, digest in some}
                self._written, erased = tenant, self._erased
                try:
                    with anyio.move_on_after(WRITE_SECONDS) as limit:
                        await self.store.cache_vectors(vectors, tenant=tenant, seconds=self.ttl)
                        if erased != self._erased:
                            await self.store.clear_cached_vectors(tenant=tenant)
                        if self._writes % WRITES_PER_TRIM == 0:
                            size = next(iter(vectors.values())).nbytes + OVERHEAD
                            await self.store.trim_cached_vectors(most=self.max_bytes // size, at_once=TRIMMED_AT_ONCE)
                        self._writes += 1
                except Exception as error:
                    self._pause(error)
                else:
                    if limit.cancelled_caught:
                        self._pause(None)
        finally:
            self._writing, self._written = False, ""

    def _digest(self, tenant: str, key: bytes) -> bytes:
        # The tenant has a fixed length here, so different parts never produce the same digest.
        tenant_digest = blake2b(tenant.encode(errors="surrogatepass"), digest_size=32).digest()
        return blake2b(tenant_digest + key, key=self._key, digest_size=32).digest()

    def _pause(self, error: Exception | None) -> None:
        """Send no statements to the database for `PAUSE_SECONDS`, and forget what waits.

        Args:
            error: the database's error; None: it did not respond in time.
        """
        emit("cache.unshared", "embedding")
        self._waiting.clear()
        now = anyio.current_time()
        self._again_at = now + PAUSE_SECONDS
        if now - self._warned >= WARN_SECONDS:
            self._warned = now
            why = str(error) if isinstance(error, RagcoreError) else type(error).__name__
            why = "no response from the database in time" if error is None else why
            logger.warning("shared vectors are not available; this process embeds its questions itself: %s", why)
