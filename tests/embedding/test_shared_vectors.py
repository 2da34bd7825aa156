"""Vectors that processes share, with stores that work, fail and hang. store/test_cached_vectors.py tests them with PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from ragcore import CachedEmbedder, ConfigurationError, SharedVectors, StoreError
from ragcore.embedding import shared_vectors
from ragcore.protocols import Vector, VectorCache
from ragcore.resilience import flow
from ragcore.testing import FakeEmbedder
from ragcore.types.secret import Secret

pytestmark = pytest.mark.anyio
KEY = Secret("a secret of a team")


class Shared:
    """A store that keeps vectors in memory. Like PostgreSQL, it has those of each tenant apart.

    Attributes:
        down: how it fails: "slow": it never responds, "slow find": it never finds; "keep": only writes fail; any other text: all statements fail.
        free: an event for which writes wait.
        statements: the methods that were called.
    """

    def __init__(self) -> None:
        self.vectors: dict[tuple[str, bytes], Vector] = {}
        self.down: str = ""
        self.free: anyio.Event | None = None
        self.statements: list[str] = []

    async def cached_vectors(self, keys: Sequence[bytes], /, *, tenant: str) -> Mapping[bytes, Vector]:
        await self._work("find")
        return {key: self.vectors[tenant, key] for key in keys if (tenant, key) in self.vectors}

    async def cache_vectors(self, vectors: Mapping[bytes, Vector], /, *, tenant: str, seconds: float) -> None:
        await self._work("keep")
        self.vectors.update({(tenant, key): vector for key, vector in vectors.items()})

    async def trim_cached_vectors(self, *, most: int | None, at_once: int) -> int:
        await self._work("trim")
        return 0

    async def clear_cached_vectors(self, *, tenant: str) -> int:
        mine = [key for key in self.vectors if key[0] == tenant]
        for key in mine:
            del self.vectors[key]
        return len(mine)

    async def _work(self, name: str) -> None:
        self.statements.append(name)
        if self.down in ("slow", f"slow {name}"):
            await anyio.sleep_forever()
        if name == "keep" and self.free is not None:
            await self.free.wait()
        if self.down in ("fails", name):
            raise StoreError("down", dependency="database")
        await anyio.lowlevel.checkpoint()


def process(store: VectorCache, inner: FakeEmbedder, **options: Any) -> CachedEmbedder:
    """Return the embedder of one process."""
    return CachedEmbedder(inner, behind=SharedVectors(store, key=options.pop("key", KEY)), **options)


async def written(embedder: CachedEmbedder) -> None:
    """Wait until nothing waits to be written."""
    assert embedder.behind is not None
    with anyio.fail_after(5):
        while embedder.behind._writing:
            await anyio.sleep(0.001)


async def test_a_question_is_embedded_once_for_all_processes() -> None:
    store = Shared()
    first, second = FakeEmbedder(), FakeEmbedder()
    assert isinstance(store, VectorCache)
    async with process(store, first) as one, process(store, second) as other:
        with flow("t"):
            vector = await one.embed(["a"], kind="query")
            await written(one)
            again = await other.embed(["a"], kind="query")
            assert np.array_equal(vector, again)
            both = await other.embed(["b", "a"], kind="query")  # "a" is in the process's own cache now
        assert (first.calls, second.calls) == ([("a",)], [("b",)])
        assert np.array_equal(both[1], again[0])
        assert one.snapshot()["behind"] == {"hits": 0, "misses": 1, "waiting": 0}
        await written(other)
        assert other.snapshot()["behind"] == {"hits": 1, "misses": 1, "waiting": 0}
        with flow("t"):
            mixed = await one.embed(["c", "b"], kind="query")
        assert np.array_equal(mixed[1], both[0])
        assert first.calls == [("a",), ("c",)]


async def test_tenants_models_and_keys_have_vectors_of_their_own() -> None:
    store = Shared()
    for tenant, key, model in (
        ("t", KEY, "m"),
        ("u", KEY, "m"),
        ("t", Secret("another secret of it"), "m"),
        ("t", KEY, "n"),
    ):
        inner = FakeEmbedder()
        inner.model = model
        async with process(store, inner, key=key) as embedder:
            with flow(tenant):
                await embedder.embed(["a"], kind="query")
            await written(embedder)
        assert inner.calls == [("a",)]
    assert len(store.vectors) == 4
    assert all(key != b"a" and len(key) == 32 for _, key in store.vectors)


async def test_texts_of_no_tenant_and_documents_are_not_shared() -> None:
    store = Shared()
    async with process(store, FakeEmbedder()) as embedder:
        await embedder.embed(["a"], kind="query")
        with flow("t"):
            await embedder.embed(["a"], kind="document")
        await written(embedder)
    assert store.statements == []


async def test_vectors_of_another_dimension_are_left_out() -> None:
    store = Shared()
    async with process(store, FakeEmbedder()) as embedder:
        with flow("t"):
            await embedder.embed(["a"], kind="query")
        await written(embedder)
    store.vectors = {key: vector[:2] for key, vector in store.vectors.items()}
    inner = FakeEmbedder()
    async with process(store, inner) as embedder:
        with flow("t"):
            await embedder.embed(["a"], kind="query")
        await written(embedder)
    assert inner.calls == [("a",)]


@pytest.mark.parametrize("down", ["fails", "slow"])
async def test_a_database_that_is_down_costs_one_short_wait(
    down: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_vectors, "FIND_SECONDS", 0.02)
    store, inner = Shared(), FakeEmbedder()
    store.down = down
    async with process(store, inner) as embedder:
        for text in ("a", "b", "c"):
            with flow("t"):
                await embedder.embed([text], kind="query")
        assert embedder.behind is not None
        assert store.statements == ["find"]
        assert inner.calls == [("a",), ("b",), ("c",)]
        store.down = ""
        embedder.behind._again_at = 0.0
        with flow("t"):
            await embedder.embed(["d"], kind="query")
        await written(embedder)
    assert store.statements == ["find", "find", "keep", "trim"]
    assert len(caplog.records) == 1


async def test_a_question_waits_a_tenth_of_its_time_and_with_little_time_does_not_end_the_sharing_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_vectors, "FIND_SECONDS", 60.0)
    monkeypatch.setattr(shared_vectors, "LEAST_FIND_SECONDS", 1.0)
    store, inner = Shared(), FakeEmbedder()
    async with process(store, inner) as embedder:
        store.down = "slow find"
        with flow("t"), anyio.fail_after(3):
            await embedder.embed(["a"], kind="query")
        store.down = ""
        with flow("t"):
            await embedder.embed(["b"], kind="query")
        await written(embedder)
    assert store.statements.count("find") == 2
    assert len(store.vectors) == 2


async def test_a_write_that_ends_after_a_tenant_was_erased_leaves_no_vector() -> None:
    store = Shared()
    store.free = anyio.Event()
    async with process(store, FakeEmbedder()) as embedder:
        with flow("t"):
            await embedder.embed(["a"], kind="query")
        with anyio.fail_after(5):
            while "keep" not in store.statements:
                await anyio.sleep(0)
        # As `delete_tenant` does it, while the write is under way.
        embedder.clear(tenant="t")
        await store.clear_cached_vectors(tenant="t")
        store.free.set()
        await written(embedder)
    assert store.vectors == {}


async def test_a_write_that_fails_reaches_no_question() -> None:
    store, inner = Shared(), FakeEmbedder()
    async with process(store, inner) as embedder:
        store.down = "keep"
        for text in "ab":
            with flow("t"):
                assert len(await embedder.embed([text], kind="query")) == 1
            await written(embedder)
    assert store.vectors == {}
    assert store.statements == ["find", "keep"]


async def test_a_question_with_little_time_left_waits_only_a_tenth_of_it() -> None:
    store, inner = Shared(), FakeEmbedder()
    store.down = "slow"
    async with process(store, inner) as embedder:
        with flow("t"), anyio.fail_after(0.5):
            await embedder.embed(["a"], kind="query")
    assert inner.calls == [("a",)]


async def test_a_cancelled_question_stays_cancelled() -> None:
    store = Shared()
    store.down = "slow"
    async with process(store, FakeEmbedder()) as embedder:
        with flow("t"), anyio.CancelScope() as scope:
            scope.cancel()
            await embedder.embed(["a"], kind="query")
        assert scope.cancelled_caught


async def test_what_is_cleared_is_not_written() -> None:
    store = Shared()
    async with process(store, FakeEmbedder()) as embedder:
        store.free = anyio.Event()
        for tenant in ("v", "t", "u"):  # the write of the first one waits
            with flow(tenant):
                await embedder.embed(["a"], kind="query")
        embedder.clear(tenant="t")
        store.free.set()
        await written(embedder)
    assert {tenant for tenant, _ in store.vectors} == {"u", "v"}


async def test_what_waits_to_be_written_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_vectors, "MOST_WAITING", 3)
    store = Shared()
    async with process(store, FakeEmbedder()) as embedder:
        with flow("t"):
            await embedder.embed([str(number) for number in range(10)], kind="query")
        await written(embedder)
    assert len(store.vectors) == 3


async def test_rows_are_trimmed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_vectors, "WRITES_PER_TRIM", 2)
    store = Shared()
    async with process(store, FakeEmbedder()) as embedder:
        for text in "abcd":
            with flow("t"):
                await embedder.embed([text], kind="query")
            await written(embedder)
    assert [name for name in store.statements if name != "find"] == ["keep", "trim", "keep", "keep", "trim", "keep"]


@pytest.mark.parametrize("wrong", [{"key": Secret("short")}, {"max_bytes": 0}, {"ttl": 0}, {"ttl": float("nan")}])
async def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SharedVectors(Shared(), **{"key": KEY, **wrong})
    assert "short" not in str(raised.value).split(":")[0]


async def test_tenants_that_share_entries_share_none_in_the_database() -> None:
    with pytest.raises(ConfigurationError, match="one tenant"):
        process(Shared(), FakeEmbedder(), shared=True)
