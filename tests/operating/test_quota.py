"""Limits of each tenant, with a fake clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import (
    Config,
    ConfigurationError,
    Delta,
    Document,
    Generation,
    GenerationError,
    LimitExceeded,
    Overloaded,
    Price,
    Prompt,
    Settings,
    StoreError,
    Usage,
)
from ragcore.client.rag import RAG
from ragcore.contrib.asgi.intake import rate_limits
from ragcore.operating.quota import OTHERS, Quota
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Slow, fake_rag

from ..test_config import FULL


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("ragcore.operating.quota.anyio.current_time", made)
    return made


def admitted(quota: Quota, tenant: str = "m", *, running: int = 0) -> bool:
    try:
        quota.admit(tenant, running)
    except LimitExceeded:
        return False
    return True


def test_requests_refill_steadily_for_each_tenant_separately(clock: Clock) -> None:
    quota = Quota(requests_per_minute=6)
    assert [admitted(quota) for _ in range(8)] == [True] * 6 + [False] * 2
    assert admitted(quota, "other")
    with pytest.raises(LimitExceeded) as caught:
        quota.admit("m", 0)
    assert isinstance(caught.value, Overloaded)
    assert caught.value.limit == "requests"
    assert caught.value.retry_after == pytest.approx(10.0)
    clock.now += 9.9
    assert not admitted(quota)
    clock.now += 0.2
    assert admitted(quota)
    clock.now += 3_600
    assert [admitted(quota) for _ in range(7)] == [True] * 6 + [False]


def test_tokens_are_charged_afterwards_and_a_tenant_in_debt_is_refused(clock: Clock) -> None:
    quota = Quota(tokens_per_minute=600)
    assert admitted(quota)
    quota.charge("m", Usage(prompt_tokens=900, completion_tokens=300), "model", "e")
    with pytest.raises(LimitExceeded) as caught:
        quota.admit("m", 0)
    assert caught.value.limit == "tokens"
    assert caught.value.retry_after == pytest.approx(60.1, abs=0.1)
    clock.now += 61
    assert admitted(quota)


def test_calls_at_once_are_limited(clock: Clock) -> None:
    quota = Quota(calls_at_once=2)
    assert admitted(quota, running=1)
    assert not admitted(quota, running=2)


def test_spending_is_limited_by_the_day_and_the_price_table(clock: Clock) -> None:
    days = [date(2026, 5, 1)]
    prices = {"large": Price(prompt=10, completion=30), "e": Price(embedding=1)}
    quota = Quota(spending_per_day=0.05, prices=prices, today=lambda: days[-1])
    usage = Usage(prompt_tokens=1_000, completion_tokens=500, embedding_tokens=1_000)
    for _ in range(2):
        assert admitted(quota)
        quota.charge("m", usage, "large", "e")
    assert quota.used()["m", "large"].cost == pytest.approx(0.05)
    assert quota.used()["m", "e"].embedding_tokens == 2_000
    with pytest.raises(LimitExceeded) as caught:
        quota.admit("m", 0)
    assert caught.value.limit == "spending"
    assert 0 < (caught.value.retry_after or 0) <= 86_400
    assert admitted(quota, "other")
    days.append(date(2026, 5, 2))
    assert admitted(quota)


def test_without_limits_nothing_is_refused_and_no_state_is_reported(clock: Clock) -> None:
    quota = Quota()
    assert all(admitted(quota, running=1_000) for _ in range(1_000))
    assert quota.state("m") == ()
    assert rate_limits(()) == {}


def test_the_kept_counts_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.operating.quota.MOST_TENANTS", 10)
    monkeypatch.setattr("ragcore.operating.quota.MOST_USES", 10)
    quota = Quota(requests_per_minute=1)
    for number in range(100):
        assert admitted(quota, f"t{number}")
        quota.charge(f"t{number}", Usage(prompt_tokens=1), "model", "")
    assert len(quota._tenants) == 10
    assert quota.used()[OTHERS, "model"].prompt_tokens == 90


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 20))
def test_no_minute_ever_has_more_than_twice_the_limit(waits: list[float], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr("ragcore.operating.quota.anyio.current_time", clock)
        quota = Quota(requests_per_minute=limit)
        times = []
        for wait in waits:
            clock.now += wait
            while admitted(quota):
                times.append(clock.now)
        for begin in times:
            assert sum(begin <= time < begin + 60 for time in times) <= 2 * limit


@pytest.mark.anyio
async def test_a_client_with_limits_refuses_before_anything_is_sent() -> None:
    embedder, generator = FakeEmbedder(), FakeGenerator()
    settings = Settings(watchdog=False, requests_per_minute=3, calls_at_once=2)
    async with fake_rag(embedder=embedder, generator=generator, settings=settings) as rag:
        await rag.add([Document("d", "The deductible is $1,500.")], tenant="m")
        await rag.ask("deductible?", tenant="m")
        await rag.retrieve("deductible?", tenant="m")
        async with rag.stream("deductible?", tenant="m") as stream:
            async for _ in stream:
                pass
        asked = len(embedder.calls)
        for call in (rag.ask, rag.retrieve, rag.similarity):
            with pytest.raises(LimitExceeded, match="more than 3 requests a minute; try again in"):
                await call("deductible?", tenant="m")
        with pytest.raises(LimitExceeded):
            async with rag.stream("deductible?", tenant="m"):
                pass
        assert len(embedder.calls) == asked
        assert (await rag.ask("deductible?", tenant="other")).found is False
        used = rag.used()
        assert used["m", "fake"].requests == 2
        assert used["m", "fake"].completion_tokens > 0
        assert [(one.name, one.remaining) for one in rag.limits(tenant="m")] == [("requests", 0)]


@pytest.mark.anyio
async def test_calls_at_once_are_counted_while_they_run() -> None:
    generator = FakeGenerator()
    settings = Settings(watchdog=False, calls_at_once=2)
    async with fake_rag(generator=generator, settings=settings) as rag:
        await rag.add([Document("d", "The deductible is $1,500.")], tenant="m")
        generator.faults.always(Slow(0.3))
        refused = []

        async def ask() -> None:
            try:
                await rag.ask("deductible?", tenant="m")
            except LimitExceeded as error:
                refused.append(error.limit)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
        assert refused == ["calls"] * 3
        await ask()
        assert len(refused) == 3


def test_limits_and_prices_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps({"m": {"prompt": 0.15, "completion": 0.6}}))
    config = Config.from_env(
        {
            **FULL,
            "RAGCORE_REQUESTS_PER_MINUTE": "60",
            "RAGCORE_CALLS_AT_ONCE": "0",
            "RAGCORE_SPENDING_PER_DAY": "2.5",
            "RAGCORE_PRICES": str(tmp_path / "prices.json"),
        }
    )
    settings = config.settings
    assert (settings.requests_per_minute, settings.tokens_per_minute, settings.calls_at_once) == (60, None, 0)
    assert settings.prices == {"m": Price(prompt=0.15, completion=0.6)}
    rag = RAG.from_config(config, embedder=FakeEmbedder(), store=FakeStore(), generator=FakeGenerator())
    assert rag._charging.quota.calls_at_once is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"requests_per_minute": -1}, "requests_per_minute is -1"),
        ({"spending_per_day": 0}, "spending_per_day is 0"),
        ({"spending_per_day": 1.0}, "needs prices"),
    ],
)
def test_invalid_limits_are_an_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Settings(**options)


@pytest.mark.parametrize("text", ["", "[]", '{"m": 3}', '{"m": {"prompt": "much"}}', '{"m": {"input": 1}}'])
def test_an_invalid_price_table_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ConfigurationError, match="cannot read prices"):
        Config.from_env({**FULL, "RAGCORE_PRICES": str(tmp_path / "prices.json")})


@pytest.mark.anyio
async def test_an_abandoned_answer_is_charged() -> None:
    generator = FakeGenerator(token_latency=0.1)
    async with fake_rag(generator=generator, settings=Settings(watchdog=False, tokens_per_minute=100_000)) as rag:
        await rag.add([Document("d", "The deductible is $1,500. " * 20)], tenant="m")
        async with rag.stream("deductible?", tenant="m") as stream:
            async for event in stream:
                if isinstance(event, Delta):
                    break
        used = rag.used()["m", "fake"]
        assert used.prompt_tokens > 50
        assert used.completion_tokens > 0
        async with anyio.create_task_group() as group:
            group.start_soon(partial(rag.ask, "deductible?", tenant="m"))
            with anyio.fail_after(30):
                while not any(call.written for call in rag._calls._running.values()):
                    await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert rag.used()["m", "fake"].prompt_tokens == 2 * used.prompt_tokens


@pytest.mark.anyio
async def test_a_model_that_does_not_report_its_use_is_charged_by_estimate() -> None:
    class Silent(FakeGenerator):
        @asynccontextmanager
        async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[str | Generation]]:
            async def pieces() -> AsyncIterator[str | Generation]:
                yield "The deductible is $1,500 [1]."
                yield Generation("The deductible is $1,500 [1].", model="silent")

            yield pieces()

    async with fake_rag(generator=Silent(), settings=Settings(watchdog=False, tokens_per_minute=100_000)) as rag:
        await rag.add([Document("d", "The deductible is $1,500. " * 20)], tenant="m")
        answer = await rag.ask("deductible?", tenant="m")
        assert answer.usage.prompt_tokens is None
        used = rag.used()["m", "silent"]
        assert used.prompt_tokens > 50
        assert used.completion_tokens >= 7


def test_erasing_a_tenant_does_not_reset_its_limits(clock: Clock) -> None:
    quota = Quota(requests_per_minute=2)
    assert [admitted(quota) for _ in range(3)] == [True, True, False]
    quota.forget("m")
    assert not admitted(quota)
    clock.now += 60
    quota.forget("m")
    assert not quota._tenants


@pytest.mark.anyio
async def test_similarity_reports_are_charged_for_their_embeddings() -> None:
    async with fake_rag(settings=Settings(watchdog=False, tokens_per_minute=30)) as rag:
        await rag.add([Document("d", "The deductible is $1,500.")], tenant="m")
        with pytest.raises(LimitExceeded):
            for _ in range(40):
                await rag.similarity("What is my deductible, and who pays it?", tenant="m")
        assert sum(used.embedding_tokens for used in rag.used().values()) >= 30


@pytest.mark.anyio
@pytest.mark.parametrize("degrade", [True, False])
async def test_a_model_that_only_thinks_is_charged(degrade: bool) -> None:
    class Thinker(FakeGenerator):
        model = "thinker"

        @asynccontextmanager
        async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[str | Generation]]:
            async def pieces() -> AsyncIterator[str | Generation]:
                yield Generation(
                    "",
                    finish_reason="length",
                    model="thinker",
                    usage=Usage(prompt_tokens=600, completion_tokens=40),
                    complete=False,
                )

            yield pieces()

    settings = Settings(
        watchdog=False, spending_per_day=1.0, prices={"thinker": Price(prompt=1_000, completion=1_000)}, degrade=degrade
    )
    async with fake_rag(generator=Thinker(), settings=settings) as rag:
        await rag.add([Document("d", "The deductible is $1,500.")], tenant="m")
        for _ in range(2):
            with suppress(GenerationError):
                await rag.ask("What is the deductible?", tenant="m")
            with suppress(GenerationError):
                async with rag.stream("What is the deductible?", tenant="m") as stream:
                    await stream.answer()
            if rag.used()["m", "thinker"].cost >= 1.0:
                break
        with pytest.raises(LimitExceeded):
            await rag.ask("What is the deductible?", tenant="m")
        used = rag.used()["m", "thinker"]
        assert (used.requests, used.prompt_tokens, used.completion_tokens) == (2, 1_200, 80)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["ask", "retrieve", "similarity"])
async def test_embeddings_are_charged_even_if_the_search_fails(method: str) -> None:
    store = FakeStore()
    async with fake_rag(store=store, settings=Settings(watchdog=False, tokens_per_minute=100_000)) as rag:
        await rag.add([Document("d", "The deductible is $1,500.")], tenant="m")
        store.faults.always(Fail(StoreError("gone")))
        with pytest.raises(StoreError):
            await getattr(rag, method)("How much is the deductible?", tenant="m")
        used = rag.used()
    assert used["m", "fake"].embedding_tokens == FakeEmbedder().count_tokens("How much is the deductible?")
