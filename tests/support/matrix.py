"""All faults by stage: on the wire, in an HTTP server's answers, and in PostgreSQL. Each fault is active during a block."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, TypeAlias

import anyio
import asyncpg

from ragcore.testing import (
    BadEnd,
    Bomb,
    Broken,
    Corrupt,
    Crumbs,
    Deaf,
    Drip,
    Endless,
    Fail,
    Fault,
    FaultProxy,
    HalfClose,
    Hang,
    Huge,
    Redirect,
    Refuse,
    Reply,
    Reset,
    Silent,
    Stall,
)
from tests.support.servers import DIMENSION, ROLE, Servers

__all__ = ["ORDINARY", "Strike", "matrix"]

Strike: TypeAlias = Callable[[Servers], AbstractAsyncContextManager[None]]


# These faults are routine. A call should be answered if its deadline is longer than the fault.
ORDINARY = frozenset(
    {
        "idle sessions terminated",
        "busy sessions terminated",
        "idle_session_timeout",
        "fast restart",
        "immediate restart",
        "ANALYZE",
        "a neighbour's flood",
        "pgvector recreated",
    }
)


def matrix() -> dict[tuple[str, str], Strike]:
    """Return all faults by stage and name."""
    faults: dict[tuple[str, str], Strike] = {}
    for stage in ("embed", "rerank", "generate"):
        faults |= {(stage, name): strike for name, strike in _http(stage).items()}
    database: dict[str, Strike] = {
        **{name: _wired("search", fault) for name, fault in _WIRE.items()},
        "swallows Terminate": _wired("search", Deaf()),
        "refused": _refused("search"),
        "frozen": _frozen("search"),
        "black hole in mid-query": _frozen("search", 0.004),
        "all backends stopped": _stopped_backends,
        "statements cancelled": _again_and_again(f"select pg_cancel_backend(pid) {SELECT_BACKENDS}"),
        "sessions terminated": _again_and_again(f"select pg_terminate_backend(pid) {SELECT_BACKENDS}"),
        "restart in flight": _restarted,
        "a lock held by another": _sql("lock table ragcore.chunk in access exclusive mode"),
        "too many connections": _sql(
            "alter role ragcore connection limit 0; "
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'ragcore'",
            "alter role ragcore connection limit -1",
            keep=False,
        ),
    }
    faults |= {("search", name): strike for name, strike in {**database, **_ordinary()}.items()}
    faults["all", "names never resolve"] = _unresolvable
    faults["all", "everything frozen"] = _everything_frozen
    return faults


def _ordinary() -> dict[str, Strike]:
    """Return the routine events of a healthy database. If a call's deadline is longer than the event, the call should be answered."""
    terminate = f"select pg_terminate_backend(pid) {SELECT_BACKENDS}"
    return {
        "idle sessions terminated": _once(terminate),
        "busy sessions terminated": _once(terminate, after=0.004),
        "idle_session_timeout": _setting("idle_session_timeout = '20ms'"),
        "fast restart": _signalled(signal.SIGINT),
        "immediate restart": _signalled(signal.SIGQUIT),
        "ANALYZE": _again_and_again_plainly("analyze ragcore.document; analyze ragcore.chunk; analyze ragcore.posting"),
        "a neighbour's flood": _flooded,
        "pgvector recreated": _recreated,
    }


def _once(statement: str, after: float = 0.0) -> Strike:
    """Return a fault that runs a statement about the client's sessions once, before the calls or during them."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:

            async def later() -> None:
                await anyio.sleep(after)
                await world.owner.execute(statement, ROLE)

            if after:
                group.start_soon(later)
            else:
                await later()
            yield

    return strike


def _setting(setting: str) -> Strike:
    """Return a fault that changes a setting of the client's role and ends its sessions, so that new sessions use the setting."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        await world.owner.execute(f"alter role {ROLE} set {setting}")
        await world.owner.execute(f"select pg_terminate_backend(pid) {SELECT_BACKENDS}", ROLE)
        try:
            yield
        finally:
            await world.owner.execute(f"alter role {ROLE} reset {setting.split()[0]}")

    return strike


def _signalled(number: int) -> Strike:
    """Return a fault that stops the server with a signal (fast or immediate shutdown). The supervisor starts the server again."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        pid = int(str(await world.owner.fetchval("select pg_read_file('postmaster.pid')")).split()[0])
        os.kill(pid, number)
        await anyio.sleep(0.02)
        try:
            yield
        finally:
            world.owner.terminate()
            world.owner = await _connected(world.addresses.owner)

    return strike


async def _connected(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    with anyio.fail_after(30):
        while True:
            try:
                return await asyncpg.connect(dsn)
            except (OSError, asyncpg.PostgresError):
                await anyio.sleep(0.05)


def _again_and_again_plainly(statement: str) -> Strike:
    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:

            async def repeat() -> None:
                while True:
                    await world.owner.execute(statement)

            group.start_soon(repeat)
            await anyio.sleep(0.01)
            yield
            group.cancel_scope.cancel()
        world.owner.terminate()  # don't close it: a statement may be running
        world.owner = await _connected(world.addresses.owner)

    return strike


@asynccontextmanager
async def _flooded(world: Servers) -> AsyncIterator[None]:
    """Add chunks to another tenant that are as near to the question as the right chunk."""
    await world.owner.execute(
        """
        insert into ragcore.document values ('flood', 'flood', 'h', 'fake');
        insert into ragcore.chunk (tenant, id, document_id, position, text, embedding)
        select 'flood', 'flood' || n, 'flood', n, text, embedding
        from (select text, embedding from ragcore.chunk where tenant <> 'flood' limit 1) as right_one cross join generate_series(1, 3000) as n
        """
    )
    try:
        yield
    finally:
        await world.owner.execute("delete from ragcore.document where tenant = 'flood'")


@asynccontextmanager
async def _recreated(world: Servers) -> AsyncIterator[None]:
    """Drop and re-create pgvector while the client is connected, and restore the vectors."""
    await world.owner.execute(
        f"""
        begin;
        create temporary table kept on commit drop as select tenant, id, embedding::text as embedding from ragcore.chunk;
        drop extension vector cascade;
        create extension vector;
        alter table ragcore.chunk add column embedding vector({DIMENSION});
        update ragcore.chunk as chunk set embedding = kept.embedding::vector from kept where kept.tenant = chunk.tenant and kept.id = chunk.id;
        create index chunk_embedding on ragcore.chunk using hnsw (embedding vector_cosine_ops);
        commit
        """
    )
    yield


def _served(stage: str, fault: Fault) -> Strike:
    """Return a fault of a stage's HTTP server."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        server = {"embed": world.embedding, "rerank": world.reranking, "generate": world.model}[stage]
        server.faults.always(fault)
        try:
            yield
        finally:
            server.faults.always(None)

    return strike


def _wired(stage: str, fault: Fault) -> Strike:
    """Return a fault on the connections to a stage. It affects only new connections, so open connections are reset."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        wire = _wire(world, stage)
        wire.faults.always(fault)
        wire.reset()
        await anyio.sleep(0.02)
        try:
            yield
        finally:
            wire.faults.always(None)
            wire.reset()

    return strike


def _wire(world: Servers, stage: str) -> FaultProxy:
    return {
        "embed": world.embedding_wire,
        "rerank": world.reranking_wire,
        "generate": world.model_wire,
        "search": world.database_wire,
    }[stage]


def _refused(stage: str) -> Strike:
    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        wire = _wire(world, stage)
        wire.refuse()
        wire.reset()
        await anyio.sleep(0.02)
        try:
            yield
        finally:
            await wire.listen()

    return strike


def _frozen(stage: str, after: float = 0.0) -> Strike:
    """Return a fault that stops all bytes, from the beginning or from the middle of the calls. PostgreSQL's cancel requests are lost as well."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        wire = _wire(world, stage)
        async with anyio.create_task_group() as group:

            async def freeze() -> None:
                await anyio.sleep(after)
                wire.freeze()

            group.start_soon(freeze)
            if not after:
                await anyio.sleep(0.01)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                wire.thaw()

    return strike


@asynccontextmanager
async def _unresolvable(world: Servers) -> AsyncIterator[None]:
    """Let name resolution hang, as if all threads of the default executor waited for a name server."""
    loop = asyncio.get_running_loop()
    given = loop.getaddrinfo

    async def never(*_: object, **__: object) -> list[Any]:
        await asyncio.sleep(3600)
        return []

    loop.getaddrinfo = never  # type: ignore[method-assign]
    for wire in (world.embedding_wire, world.reranking_wire, world.model_wire, world.database_wire):
        wire.reset()
    await anyio.sleep(0.02)
    try:
        yield
    finally:
        loop.getaddrinfo = given  # type: ignore[method-assign]


def _sql(before: str, after: str = "", *, keep: bool = True) -> Strike:
    """Return a fault that runs statements in another session of the database."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        other = await asyncpg.connect(world.addresses.owner)
        try:
            if keep:
                transaction = other.transaction()
                await transaction.start()
                await other.execute(before)
                yield
                await transaction.rollback()
            else:
                await other.execute(before)
                try:
                    yield
                finally:
                    await other.execute(after)
        finally:
            await other.close(timeout=1)

    return strike


def _again_and_again(statement: str, every: float = 0.003) -> Strike:
    """Return a fault that repeats a statement about the client's sessions while the calls run."""

    @asynccontextmanager
    async def strike(world: Servers) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:

            async def repeat() -> None:
                while True:
                    await world.owner.execute(statement, ROLE)
                    await anyio.sleep(every)

            group.start_soon(repeat)
            await anyio.sleep(0.01)
            yield
            group.cancel_scope.cancel()

    return strike


@asynccontextmanager
async def _stopped_backends(world: Servers) -> AsyncIterator[None]:
    """Send SIGSTOP to all of the client's backends. They do nothing, and their connections stay open."""
    rows = await world.owner.fetch("select pid from pg_stat_activity where usename = $1", ROLE)
    pids = [row["pid"] for row in rows]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


@asynccontextmanager
async def _restarted(world: Servers) -> AsyncIterator[None]:
    """End all sessions and accept no new ones for a while, as at a restart."""
    world.database_wire.refuse()
    await world.owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", ROLE)
    await anyio.sleep(0.02)
    try:
        yield
    finally:
        await world.database_wire.listen()


def _http(stage: str) -> dict[str, Strike]:
    """Return the faults of an HTTP server, on the wire and in its answers."""
    statuses: dict[str, Fault] = {
        str(status): Fail(status) for status in (400, 401, 403, 404, 408, 409, 413, 500, 502, 503, 504, 529)
    }
    limits: dict[str, Fault] = {
        "429": Fail(429),
        "429 Retry-After seconds": Fail(429, {"retry-after": "1"}),
        "429 Retry-After 2069": Fail(429, {"retry-after": "Tue, 01 Jan 2069 00:00:00 GMT"}),
        "429 Retry-After absurd": Fail(429, {"retry-after": "-soon"}),
        "429 insufficient_quota": Fail(429, {}, "insufficient_quota"),
    }
    answers: dict[str, Fault] = {
        "headers, then silence": Silent(),
        "truncated JSON": Reply(200, b'{"object": "list", "data": [{"emb'),
        "invalid JSON": Reply(200, b"<>"),
        "wrong shape": Reply(200, b'{"data": 7, "choices": "none"}'),
        "a list": Reply(200, b"[]"),
        "HTML with status 200": Reply(200, b"<html><body>Welcome</body></html>", {"content-type": "text/html"}),
        "100 MB": Huge(),
        "redirect loop": Redirect(),
        "redirect to another server": Redirect("http://127.0.0.2:9/v1"),
        "endless error body": Endless(),
        "bombed error body": Bomb(500),
        "bomb": Bomb(),
        "black hole": Hang(),
        "disconnect": Fail(OSError()),
    }
    if stage == "embed":
        answers |= {f"vectors: {what}": Corrupt(what) for what in ("dimension", "nan", "zero", "base64", "count")}
        answers |= {"base64 refused": Refuse("encoding_format", "base64")}
    elif stage == "rerank":
        answers |= {
            "scores: index": Corrupt("dimension"),
            "scores: NaN": Corrupt("nan"),
            "scores: text": Corrupt("base64"),
        }
        answers |= {"scores: index twice": Corrupt("zero"), "scores: count": Corrupt("count")}
        answers |= {"return_documents refused": Refuse("return_documents")}
    else:
        answers |= {f"stream: {how}": Broken(2, how) for how in ("reset", "clean", "idle", "endless")}
        answers |= {f"stream: {how} at once": Broken(0, how) for how in ("reset", "clean", "idle")}
        answers |= {"newlines one by one": Crumbs()}
        answers |= {f"{how} after {end}": BadEnd(how, end) for how in ("reset", "close") for end in ("finish", "done")}
        answers |= {f"{name} refused": Refuse(name) for name in ("max_tokens", "temperature", "stream_options")}
        answers |= {f"stream: {name}": _stream(*events) for name, events in _ENDS.items()}
    wires = {name: _wired(stage, fault) for name, fault in _WIRE.items()}
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    limits["429 Retry-After date"] = Fail(
        429, {"date": format_datetime(datetime.now(UTC), usegmt=True), "retry-after": soon}
    )
    return {
        **{name: _served(stage, fault) for name, fault in {**statuses, **limits, **answers}.items()},
        **wires,
        "refused": _refused(stage),
        "frozen": _frozen(stage),
    }


def _stream(*deltas: dict[str, Any]) -> Fault:
    """Return a stream of these choices or errors."""
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
    events = [one if "error" in one else {**frame, "choices": [{"index": 0, **one}]} for one in deltas]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return Reply(200, body.encode(), {"content-type": "text/event-stream"})


_ROLE = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
_ERROR = {"error": {"message": "the engine has failed", "type": "server_error", "code": 500}}
_TOOL = {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}
# Streams that end without an answer, each in a different way.
_ENDS: dict[str, tuple[dict[str, Any], ...]] = {
    "error at once": (_ERROR,),
    "error after the role": (_ROLE, _ERROR),
    "error after text": (_ROLE, {"delta": {"content": "Your"}, "finish_reason": None}, _ERROR),
    "empty": (_ROLE, {"delta": {}, "finish_reason": "stop"}),
    "length without text": (_ROLE, {"delta": {"reasoning_content": "hm"}}, {"delta": {}, "finish_reason": "length"}),
    "filtered": (_ROLE, {"delta": {}, "finish_reason": "content_filter"}),
    "refused": (_ROLE, {"delta": {"refusal": "I can't."}}, {"delta": {}, "finish_reason": "stop"}),
    "tool calls": (_ROLE, {"delta": _TOOL}, {"delta": {}, "finish_reason": "tool_calls"}),
    "thinking that never ends": (_ROLE, {"delta": {"content": "<think>hm"}}, {"delta": {}, "finish_reason": "stop"}),
}
_WIRE: dict[str, Fault] = {
    "accepts, never answers": Hang(),
    "reset at connect": Reset("connect"),
    "reset in mid-request": Reset("request"),
    "reset in mid-answer": Reset("answer", 20),
    "stall after 20 bytes": Stall(20),
    "one byte a second": Drip(1.0),
    "half-close": HalfClose(20),
}
SELECT_BACKENDS = "from pg_stat_activity where usename = $1 and pid <> pg_backend_pid()"


@asynccontextmanager
async def _everything_frozen(world: Servers) -> AsyncIterator[None]:
    wires = (world.embedding_wire, world.reranking_wire, world.model_wire, world.database_wire)
    for wire in wires:
        wire.freeze()
    try:
        yield
    finally:
        for wire in wires:
            wire.thaw()
