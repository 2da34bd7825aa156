"""The scenario of ragcore's own simulation. Clients make calls while each dependency has its own faults."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from contextlib import suppress

import anyio

from ragcore.errors import NotOpen, RagcoreError
from ragcore.testing.faults import Fail, Hang, Slow
from ragcore.testing.reasons import check_answer, check_error
from ragcore.testing.simulation import TEXT, World
from ragcore.types import Answer, Delta, Document, Done, Retrieved

__all__ = ["traffic"]

# A call is late if it ends more than this many seconds after its deadline. The clean-up of a cancelled call may take as long.
LATE = 0.2
TENANTS = ("ann", "bob", "cy")


async def traffic(world: World) -> None:
    """Run several clients with calls of all kinds and sometimes a restart; then end all faults and check that everything recovers.

    In some worlds a crowd of one tenant sends more questions than the model can answer.

    After each call this scenario checks:

    - No caller waits while a place is free, and an admitted call had enough time left.
    - The call ended by its deadline, or soon after it was cancelled.
    - It ended with an answer or with an error of ragcore, and each reason in it is true.
    - It returned passages of its own tenant only, and it reports each degradation.
    - The streamed text equals the answer.

    If only the embedder or only the model fails, every call with enough time is answered.
    """
    for tenant in TENANTS:
        await _until_added(world, tenant)
    draw = world.random
    async with anyio.create_task_group() as group:
        for number in range(draw.randint(2, 6)):
            group.start_soon(_client, world, number)
        if draw.random() < 0.3:
            group.start_soon(_restart, world)
        if world.crowded:
            group.start_soon(_crowd, world)
    await _check_single_failure(world)
    world.heal()
    world.log("all faults end")
    await anyio.sleep(130)  # longer than the longest pause and the longest open time of a breaker together
    for tenant in TENANTS * 2:
        _check_answer(await _answered(world, tenant, 10), tenant)
    for tenant in TENANTS:
        answer = await _answered(world, tenant, 10)
        assert not answer.degraded, f"still degraded after the last fault: {answer.degraded}"
        assert answer.text == TEXT
    counts = world.rag.stats().calls
    assert counts["running"] == 0, f"calls still count as running: {counts}"


async def _answered(world: World, tenant: str, timeout: float) -> Answer:
    """Ask a question that must be answered."""
    try:
        return await world.rag.ask("What is my warranty?", tenant=tenant, timeout=timeout)
    except RagcoreError as error:
        raise AssertionError(f"not answered, although it was possible: {error!r}") from error


async def _until_added(world: World, tenant: str) -> None:
    """Add a document for a tenant; try again after a fault."""
    for _ in range(60):  # these attempts take longer than the faults last
        with suppress(RagcoreError):
            document = Document("manual", f"The warranty of {tenant} is two years per frame.")
            report = await world.rag.add([document], tenant=tenant, document_timeout=20)
            if not report.failed:
                return
        await anyio.sleep(20)
    raise AssertionError("a document could not be added, although all faults have ended")


async def _client(world: World, number: int) -> None:
    draw = random.Random(f"{world.seed}:client {number}")
    for _ in range(draw.randint(2, 7)):
        await anyio.sleep(draw.expovariate(1 / 2))
        tenant = draw.choice(TENANTS)
        timeout = draw.choice((0.5, 2.0, 5.0, 20.0))
        call = draw.choice((_ask, _ask, _stream, _retrieve, _leave_stream))
        cancel_after = draw.uniform(0, timeout) if draw.random() < 0.25 else math.inf
        began = anyio.current_time()
        world.log(f"client {number}: {call.__name__[1:]} for {tenant} within {timeout:g} s")
        outcome = "cancelled"
        with anyio.move_on_after(None if cancel_after == math.inf else cancel_after):
            try:
                outcome = await call(world, tenant, timeout, draw.random() < 0.9)
            except NotOpen:
                outcome = "restarted"
            except RagcoreError as error:
                check_error(error, world, tenant, began, anyio.current_time())
                outcome = type(error).__name__
        elapsed = anyio.current_time() - began
        world.check_queues()
        world.log(f"client {number}: {outcome} after {elapsed:.3f} s")
        due = min(timeout, cancel_after)
        assert elapsed <= due + LATE, f"ended {elapsed - due:.2f} s after it was due ({outcome})"


async def _crowd(world: World) -> None:
    """Run loops of one tenant for some seconds. There are many more loops than places of the model."""
    draw = random.Random(f"{world.seed}:crowd")
    tenant, until = draw.choice(TENANTS), anyio.current_time() + draw.uniform(3, 10)

    async def loop(timeout: float) -> None:
        while anyio.current_time() < until:
            began = anyio.current_time()
            try:
                await _ask(world, tenant, timeout, True)
            except NotOpen:
                return
            except RagcoreError as error:
                check_error(error, world, tenant, began, anyio.current_time())
                await anyio.sleep(0.1)
            elapsed = anyio.current_time() - began
            assert elapsed <= timeout + LATE, f"a call of the crowd ended {elapsed - timeout:.2f} s after it was due"
            world.check_queues()

    async with anyio.create_task_group() as group:
        for _ in range(draw.randint(5, 30)):
            group.start_soon(loop, draw.choice((1.0, 3.0)))


async def _ask(world: World, tenant: str, timeout: float, degrade: bool) -> str:
    began = anyio.current_time()
    answer = await world.rag.ask("What is my warranty?", tenant=tenant, timeout=timeout, degrade=degrade)
    _check_answer(answer, tenant)
    check_answer(answer, world, tenant, began, anyio.current_time())
    assert degrade or not answer.degraded, "degraded, although degrade=False"
    return "degraded" if answer.degraded else "answered"


async def _stream(world: World, tenant: str, timeout: float, degrade: bool) -> str:
    shown = ""
    try:
        async with world.rag.stream("What is my warranty?", tenant=tenant, timeout=timeout, degrade=degrade) as events:
            async for event in events:
                match event:
                    case Retrieved(retrieval):
                        _check_tenant(retrieval.passages, tenant)
                    case Delta(text):
                        shown += text
                    case Done(answer):
                        assert shown == answer.text, (
                            f"the stream has shown {shown!r}, but the answer is {answer.text!r}"
                        )
                        _check_answer(answer, tenant)
                        return "streamed"
    except RagcoreError as error:
        if error.partial_text != shown:
            raise AssertionError(f"the stream has shown {shown!r}, but the error has {error.partial_text!r}") from error
        raise
    raise AssertionError("a stream ended without Done and without an error")


async def _leave_stream(world: World, tenant: str, timeout: float, degrade: bool) -> str:
    async with world.rag.stream("What is my warranty?", tenant=tenant, timeout=timeout, degrade=degrade) as events:
        async for event in events:
            if isinstance(event, Delta):
                return "left"
    return "left"


async def _retrieve(world: World, tenant: str, timeout: float, degrade: bool) -> str:
    found = await world.rag.retrieve("What is my warranty?", tenant=tenant, timeout=timeout, degrade=degrade)
    _check_tenant(found.passages, tenant)
    assert found.mode != "text" or found.degraded, "searched by text without a degradation"
    return "retrieved"


def _check_answer(answer: Answer, tenant: str) -> None:
    _check_tenant(answer.retrieval.passages, tenant)
    said = {degradation.stage for degradation in answer.degraded}
    if answer.retrieval.mode == "text":
        assert "embed" in said, "searched by text without a degradation"
    if answer.text != TEXT:
        assert "generate" in said, f"another text than the model's, without a degradation: {answer.text!r}"
        assert f"of {tenant} is two years" in answer.text, f"neither the model's text nor a quotation: {answer.text!r}"


def _check_tenant(passages: Iterable[object], tenant: str) -> None:
    for passage in passages:
        assert f"of {tenant} " in str(passage), f"{tenant} was shown {passage}"


async def _restart(world: World) -> None:
    await anyio.sleep(world.random.uniform(1, 10))
    world.log("restart")
    await world.rag.aclose(drain=world.random.choice((0.0, 0.5, 3.0)))
    await anyio.sleep(world.random.uniform(0, 1))
    await world.rag.start()


async def _check_single_failure(world: World) -> None:
    """Let one dependency fail while the others work. Check that every call with enough time is answered and reports the degradation."""
    world.heal()
    await anyio.sleep(130)
    part = world.random.choice((world.embedder, world.generator))
    fault = world.random.choice((Hang(), Fail(503), Fail(429, {"retry-after": "60"}), Slow(9)))
    world.log(f"only {part.policy.name} fails: {fault}")
    part.faults.always(fault)
    for tenant in TENANTS * 2:
        await anyio.sleep(world.random.uniform(0, 3))
        answer = await _answered(world, tenant, 8)
        _check_answer(answer, tenant)
        assert answer.degraded, "the answer reports no degradation"
    part.faults.always(None)
