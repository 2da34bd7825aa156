"""Runs mixed calls of many tenants with random cancellation, before, during and after ANALYZE. No tenant sees another's row, and no row is missing."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import anyio
import asyncpg
import pytest

from ragcore import Overloaded, PgVectorStore, meta
from ragcore.types import Mode

from .contract import embedded, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
TENANTS = 20
# Numbers of documents that no call changes, and of documents that calls write and delete.
STABLE, MOVING = 6, 6


@pytest.fixture
async def dsns(migrated: tuple[str, str]) -> tuple[str, str]:
    return migrated


class Tenant:
    """The documents that a tenant may have now, with their possible hashes. None: the document may be absent."""

    def __init__(self, number: int) -> None:
        self.name = f"tenant{number}"
        self.word = f"owner{'abcdefghijklmnopqrstuvwxyz'[number]}"
        self.may: dict[str, set[str | None]] = {f"s{n}": {"h"} for n in range(STABLE)}
        self.may |= {f"m{n}": {None} for n in range(MOVING)}
        self.busy: set[str] = set()

    def document(self, id: str, hash: str) -> object:
        return embedded(
            id, f"{self.word} the deductible of {id}", f"{self.word} a copay", metadata={"of": self.name}, hash=hash
        )


async def mixed(dsns: tuple[str, str], *, calls: int, seed: int) -> None:
    draw = random.Random(seed)
    tenants = [Tenant(number) for number in range(TENANTS)]
    done = 0
    async with (
        PgVectorStore(dsns[0], pool_size=8) as store,
        PgVectorStore(dsns[0], pool_size=4, exact_rows=0) as indexed,
    ):
        for tenant in tenants:
            await store.upsert([tenant.document(f"s{n}", "h") for n in range(STABLE)], tenant=tenant.name)  # type: ignore[misc]

        async def look(tenant: Tenant, one: PgVectorStore) -> None:
            mode: Mode = draw.choice(["vector", "text", "hybrid"])
            filter = draw.choice([None, meta("of").eq(tenant.name), meta("of").ne(tenant.name)])
            found = await one.search(
                query(f"{tenant.word} deductible", tenant=tenant.name, mode=mode, top_k=50, filter=filter)
            )
            assert all(passage.text.startswith(tenant.word) for passage in found)
            if filter is None or filter.to_dict()["op"] == "eq":
                stable = {passage.document_id for passage in found if passage.document_id.startswith("s")}
                assert len(stable) == STABLE, (mode, filter, stable)
            else:
                assert not found

        async def listing(tenant: Tenant) -> None:
            known = await store.hashes(None, tenant=tenant.name)
            assert {id for id in known if id.startswith("s")} == {f"s{n}" for n in range(STABLE)}

        async def change(tenant: Tenant, id: str, hash: str | None) -> None:
            before = set(tenant.may[id])
            tenant.may[id] |= {hash}
            if hash is None:
                await store.delete([id], tenant=tenant.name)
            else:
                await store.upsert([tenant.document(id, hash)], tenant=tenant.name)  # type: ignore[list-item]
            tenant.may[id] = {hash}
            assert before

        async def call(number: int) -> None:
            nonlocal done
            tenant = draw.choice(tenants)
            kind = draw.random()
            free = [id for id in tenant.may if id.startswith("m") and id not in tenant.busy]
            if kind < 0.6 or not free:
                work = look(tenant, draw.choice([store, indexed]))
            elif kind < 0.7:
                work = listing(tenant)
            else:
                id = draw.choice(free)
                tenant.busy.add(id)
                work = change(tenant, id, None if kind > 0.9 else f"h{number}")
                work = _released(work, tenant, id)
            if draw.random() < 0.3:
                if draw.random() < 0.5:
                    # A caller with only a few milliseconds left is refused if others wait.
                    with anyio.move_on_after(draw.expovariate(200)), suppress(Overloaded):
                        await work
                else:
                    task = asyncio.ensure_future(work)
                    await asyncio.wait([task], timeout=draw.expovariate(200))
                    task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled():
                        await task
            else:
                await work
            done += 1

        owner = await asyncpg.connect(dsns[1])
        async with anyio.create_task_group() as group:
            numbers = iter(range(calls))

            async def caller() -> None:
                for number in numbers:
                    await call(number)

            async def analyze() -> None:
                while done < calls / 3:
                    await anyio.sleep(0.01)
                while done < 2 * calls / 3:
                    await owner.execute("analyze")
                    await anyio.sleep(0.05)

            group.start_soon(analyze)
            for _ in range(16):
                group.start_soon(caller)
        await owner.close()
        for tenant in tenants:
            known = await store.hashes(None, tenant=tenant.name)
            for id, may in tenant.may.items():
                assert known.get(id) in may, (tenant.name, id)
            counts = await store.count(tenant=tenant.name)
            assert (counts.documents, counts.chunks) == (len(known), 2 * len(known))
        for one in (store, indexed):
            assert one.snapshot()["in_use"] == 0


async def _released(work: object, tenant: Tenant, id: str) -> None:
    try:
        await work  # type: ignore[misc]
    finally:
        tenant.busy.discard(id)


async def test_two_thousand_mixed_calls(dsns: tuple[str, str]) -> None:
    await mixed(dsns, calls=2_000, seed=1)


@pytest.mark.thorough
@pytest.mark.timeout(1800)
async def test_twenty_thousand_mixed_calls(dsns: tuple[str, str]) -> None:
    await mixed(dsns, calls=20_000, seed=2)
