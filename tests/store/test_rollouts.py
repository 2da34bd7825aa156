"""Rollouts whose state is in PostgreSQL: processes agree, a database that fails delays no call, and the role has the rights that it needs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import asyncpg
import pytest

from ragcore import InvalidInput, PgVectorStore
from ragcore.rollout import Guard, Rollout, sharing
from ragcore.store import migrate
from tests.pace import in_time

from ..rollout.sides import Function
from .contract import DIMENSION

pytestmark = [pytest.mark.system, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Processes:
    """Several rollouts of one database, each as in a separate process."""

    def __init__(self, dsn: str, owner_dsn: str, stack: AsyncExitStack) -> None:
        self.dsn = dsn
        self.owner_dsn = owner_dsn
        self._stack = stack

    async def start(
        self, *, name: str = "release-7", candidate: Function | None = None, **options: Any
    ) -> Rollout[str]:
        options = {"share": 0.25, "shadow": None, **options}
        made: Rollout[str] = Rollout(
            Function("stable", seconds=0),
            candidate or Function("candidate", seconds=0),
            name=name,
            store=PgVectorStore(self.dsn, pool_size=2),
            **options,
        )
        return await self._stack.enter_async_context(made)


@pytest.fixture
async def processes(migrated: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Processes]:
    monkeypatch.setattr(sharing, "EXCHANGE_EVERY", 0.1)
    async with AsyncExitStack() as stack:
        yield Processes(*migrated, stack)


async def until(condition: Any) -> None:
    began = time.monotonic()
    while not condition():
        assert in_time(time.monotonic() - began, 10)
        await anyio.sleep(0.02)


def tenants(rollout: Rollout[str], side: str, count: int) -> list[str]:
    found = (f"m{number}" for number in range(100_000))
    return [tenant for tenant in found if rollout.serves(tenant) == side][:count]


async def test_processes_agree_on_who_serves_whom_and_on_each_change(processes: Processes) -> None:
    first, second = await processes.start(), await processes.start(share=0.05)
    # The first one has begun the rollout, so its share counts.
    assert first.state.share == second.state.share == 0.25
    members = [f"m{number}" for number in range(200)]
    assert [first.serves(member) for member in members] == [second.serves(member) for member in members]
    await first.pause("lunch")
    await until(lambda: second.state.status == "paused")
    assert second.state.reason == "lunch"
    await second.resume()
    await second.promote("all is well")
    await until(lambda: first.state.share == 1.0)
    with pytest.raises(InvalidInput):
        await first.resume()
    await first.abort("complaints")
    await until(lambda: second.state.status == "rolled_back")
    third = await processes.start()
    assert (third.state.status, third.serves("m1")) == ("rolled_back", "stable")
    other = await processes.start(name="release-8")
    assert other.state.status == "running"


async def test_evidence_of_all_processes_counts_together_and_a_decision_reaches_all(processes: Processes) -> None:
    guard = Guard(least_calls=40, least_seconds=0, success=0.8)
    several = [await processes.start(guard=guard) for _ in range(3)]
    for rollout in several:
        for tenant in tenants(rollout, "candidate", 10):
            await rollout.ask("?", tenant=tenant)
    await until(lambda: all(one.status().candidate.calls == 30 for one in several))
    for tenant in tenants(several[0], "candidate", 10):
        await several[0].ask("?", tenant=tenant)
    await until(lambda: [one.state.share for one in several] == [1.0] * 3)
    assert {one.state.version for one in several} == {1}
    # The next step begins with the stable side's calls of the step before.
    assert [one.status().candidate.calls for one in several] == [0] * 3


async def test_a_rollback_of_one_process_is_a_rollback_of_all(processes: Processes) -> None:
    candidate = Function("candidate", "hangs")
    here, there = await processes.start(candidate=candidate), await processes.start()
    (tenant,) = tenants(here, "candidate", 1)
    assert await here.ask("?", tenant=tenant, timeout=0.4) == "stable"
    await until(lambda: there.state.status == "rolled_back")
    assert "hangs" in there.state.reason
    assert here.state.status == "rolled_back"


async def test_two_processes_that_decide_at_once_change_the_state_once(processes: Processes) -> None:
    guard = Guard(least_calls=60, least_seconds=0, success=0.5)
    several = [await processes.start(guard=guard, share=0.05) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for rollout in several:
            for tenant in tenants(rollout, "candidate", 20):
                group.start_soon(partial(rollout.ask, "?", tenant=tenant))
    await until(lambda: {(one.state.version, one.state.share) for one in several} == {(1, 0.25)})


async def test_a_change_whose_response_was_lost_is_made_once(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy sends the statement again. Without this, a promotion by hand would take two steps."""
    whole = PgVectorStore.change_rollout

    async def twice(self: PgVectorStore, *given: Any, **options: Any) -> bool:
        assert await whole(self, *given, **options)
        return await whole(self, *given, **options)

    monkeypatch.setattr(PgVectorStore, "change_rollout", twice)
    here = await processes.start(share=0.05)
    await here.promote()
    assert (here.state.share, here.state.version) == (0.25, 1)
    await here.pause("lunch")
    assert (here.state.status, here.state.version) == ("paused", 2)


@pytest.mark.parametrize("fault", ["locked", "gone"])
async def test_without_the_database_calls_are_answered_and_a_rollback_applies_here(
    processes: Processes, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = Function("candidate", "hangs")
    here = await processes.start(candidate=candidate)
    (tenant,) = tenants(here, "candidate", 1)
    owner = await asyncpg.connect(processes.owner_dsn)
    try:
        async with owner.transaction():
            await owner.execute("lock table ragcore.rollout in access exclusive mode")
            if fault == "gone":
                await owner.execute("alter table ragcore.rollout rename to elsewhere")
            began = time.monotonic()
            assert await here.ask("?", tenant=tenant, timeout=1) == "stable"
            await until(lambda: here.state.status == "rolled_back")
            assert await here.ask("?", tenant=tenant, timeout=1) == "stable"
            assert len(candidate.calls) == 1
            assert in_time(time.monotonic() - began, 5)
            if fault == "gone":
                await owner.execute("alter table ragcore.elsewhere rename to rollout")
        # As soon as the database answers, the rollback is stored.
        there = await processes.start()
        await until(lambda: there.state.status == "rolled_back")
    finally:
        await owner.close()


async def test_until_the_state_is_known_the_stable_side_serves_everyone(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ragcore.rollout import rollout as rollout_module

    monkeypatch.setattr(rollout_module, "EXCHANGE_SECONDS", 0.4)
    owner = await asyncpg.connect(processes.owner_dsn)
    try:
        async with owner.transaction():
            await owner.execute("lock table ragcore.rollout in access exclusive mode")
            here = await processes.start(share=1.0)
            assert here.serves("a") == "stable"
        await until(lambda: here.serves("a") == "candidate")
    finally:
        await owner.close()


async def test_the_role_may_report_and_change_but_not_delete(processes: Processes) -> None:
    await processes.start()
    connection = await asyncpg.connect(processes.dsn)
    try:
        for statement in ("delete from ragcore.rollout", "truncate ragcore.rollout"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
    owner = await asyncpg.connect(processes.owner_dsn)
    try:
        await owner.execute("revoke update on ragcore.rollout from ragcore; grant delete on ragcore.rollout to ragcore")
    finally:
        await owner.close()
    async with PgVectorStore(processes.dsn) as store:
        found = await store.inspect()
        assert found.missing_rights == ("rollout update",)
        assert found.excess_rights == ("rollout delete",)
    await migrate(processes.owner_dsn, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(processes.dsn) as store:
        assert (await store.inspect()).findings() == []
