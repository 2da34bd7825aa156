"""A primary and two standbys, each behind a PgBouncer of its own: every fault of the search, on the primary and on a standby."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from benchmarks.scenarios.faults import Cell, run_cell

from ragcore.testing import FaultProxy
from tests.support.bench import Bench
from tests.support.bench import client as bench_client
from tests.support.matrix import _WIRE, matrix
from tests.support.pooler import pgbouncer
from tests.support.servers import DIMENSION, servers
from tests.support.standby import nodes

pytestmark = [
    pytest.mark.system,
    pytest.mark.thorough,
    pytest.mark.blocking_allowed,
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]
AT_ONCE = 10
# The faults that a superuser causes on one server. Those of the wire are in front of PgBouncer.
ON_EITHER = (
    "refused",
    "frozen",
    "black hole in mid-query",
    "statements cancelled",
    "sessions terminated",
    "restart in flight",
)
# A connection that PgBouncer keeps for later calls is none that leaked.
SETTINGS = "default_pool_size = 5\nserver_idle_timeout = 1"


@pytest.mark.usefixtures("asyncpgs_noise")
async def test_every_fault_of_the_search_passes_behind_pgbouncer_with_two_standbys() -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        made = await enter(nodes(dimension=DIMENSION, standbys=2))
        wires = []
        for node in (made.primary, *made.standbys):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            os.chmod(folder, 0o755)
            server = f"host={node.folder} port=5432"
            port = stack.enter_context(pgbouncer(folder, node.cluster.login, server=server, extra=SETTINGS))
            wires.append(await enter(FaultProxy("127.0.0.1", port)))
        around = await enter(servers(made.primary.dsn("postgres"), made.primary.dsn()))
        primary, *standbys = (f"127.0.0.1:{wire.port}" for wire in wires)
        start, end = "postgresql://ragcore@", "/ragcore?pgbouncer=true"
        addresses = replace(around.addresses, database=f"{start}{primary}{end}")
        read_dsn = f"{start}{','.join(standbys)}{end}"
        started = await enter(bench_client(addresses, reranks=True, read_dsn=read_dsn))
        await made.caught_up()
        owner = await asyncpg.connect(made.standbys[0].dsn("postgres"))
        stack.push_async_callback(owner.close, timeout=1)
        at_primary = Bench(**{**vars(around), "database_wire": wires[0]}, **vars(started))
        at_standby = Bench(**{**vars(around), "database_wire": wires[1], "owner": owner}, **vars(started))
        strikes = {fault: strike for (stage, fault), strike in matrix().items() if stage == "search"}
        wired = [fault for fault in strikes if fault in _WIRE or fault in ON_EITHER]
        assert len(wired) == len(_WIRE) + len(ON_EITHER)
        cells: list[Cell] = []
        # A server that hung counts as slow for a while, so the faults of one server come before those of the other.
        for world, where in ((at_standby, "standby"), (at_primary, "primary")):
            for fault in wired:

                def strike(_: Bench, world: Bench = world, fault: str = fault) -> AbstractAsyncContextManager[None]:
                    return strikes[fault](world)

                cells.append(await run_cell(at_primary, where, fault, strike, concurrency=AT_ONCE, deadline=5.0))
        assert [cell for cell in cells if not cell.green] == []
        for where in ("standby", "primary"):
            some = [cell for cell in cells if cell.stage == where]
            share = sum(cell.answered for cell in some) / (AT_ONCE * len(some))
            assert share >= 0.95, [cell for cell in some if cell.answered < AT_ONCE]
