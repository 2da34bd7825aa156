"""Uses every public name with its documented signature. mypy checks this file, and no test runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypedDict, assert_type
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

import ragcore
from ragcore import blocking, embedding, events, explore, generation, ingest, resilience, store, testing
from ragcore.contrib import asgi
from ragcore.store import embedded


class Plan(BaseModel):
    deductible: int


class PlanDict(TypedDict):
    deductible: int


def show(answer: ragcore.Answer) -> None:
    assert_type(answer.data, object | None)


async def client() -> None:
    config = ragcore.Config(
        dsn=ragcore.Secret("postgresql://"),
        api_key=ragcore.Secret("key"),
        base_url=None,
        embedding_model="text-embedding-3-small",
        models=("gpt-4o-mini",),
        top_k=5,
        score_threshold=None,
        mode="hybrid",
        settings=ragcore.Settings(
            timeout=30.0,
            document_timeout=120.0,
            drain=10.0,
            degrade=True,
            instructions="",
            not_found="",
            prompt_tokens=1,
            max_tokens=1,
            recent=100,
            health_timeout=2.0,
        ),
    )
    assert_type(ragcore.Config.from_env(), ragcore.Config)
    assert_type(ragcore.Config.from_env({"DATABASE_URL": "…"}), ragcore.Config)
    assert_type(ragcore.Config.local("folder"), ragcore.Config)
    policies = ragcore.Policies(embedding=None, store=resilience.Policy(), generation=None)
    rag = ragcore.RAG.from_config(config, embedder=None, store=None, generator=None, policies=policies)
    await rag.start()
    assert_type(rag.retriever, ragcore.Retriever)
    turns: list[Mapping[str, object]] = [{"role": "user", "content": "hi"}]
    answer = await rag.ask(
        "q",
        tenant=UUID(int=1),
        timeout=1,
        history=turns,
        instructions="",
        top_k=1,
        score_threshold=-1,
        filter=ragcore.meta("a").eq(1),
        mode="text",
        degrade=False,
    )
    assert_type(answer, ragcore.Answer)
    await rag.ask("q", tenant="t", history=answer.turns)
    planned = await rag.ask("q", tenant="t", schema=Plan, timeout=1)
    assert_type(planned, ragcore.Answer[Plan])
    assert_type(planned.data, Plan | None)
    show(planned)  # an answer with typed data is an answer
    assert_type(await rag.for_tenant("t").ask("q", schema=PlanDict), ragcore.Answer[PlanDict])
    assert_type(await rag.ask("q", tenant="t", schema={"type": "object"}), ragcore.Answer)
    async with rag.stream("q", tenant="t") as stream:
        assert_type(stream, ragcore.AnswerStream)
        async for event in stream:
            assert_type(event, ragcore.Retrieved | ragcore.Delta | ragcore.Done)
        assert_type(await stream.answer(), ragcore.Answer)
    assert_type(await rag.retrieve("q", tenant="t", top_k=1, degrade=True, history=turns, query="q"), ragcore.Retrieval)
    async with rag.ask_many(["q"], tenant="t", concurrency=2, total_timeout=1, progress=print, timeout=1) as many:
        assert_type(many, ragcore.Answers)
        async for asked in many:
            assert_type(asked, ragcore.Asked)
            assert_type(asked.result(), ragcore.Answer)
        assert_type(await many.all(), tuple[ragcore.Asked, ...])
    assert_type(
        await rag.similarity("q", tenant="t", timeout=1, score_threshold=0.4, filter=None), ragcore.SimilarityReport
    )
    documents: list[ragcore.Document | ragcore.Unreadable] = [
        ragcore.Document("id", "text", title="", source="", metadata={}),
        ragcore.Unreadable("id", "why", source=""),
    ]
    assert_type(await rag.add(documents, tenant="t", progress=print, document_timeout=1), ragcore.IngestReport)
    assert_type(await rag.add(ingest.read("a", "b"), tenant="t"), ragcore.IngestReport)
    limiter = resilience.RateLimiter(requests_per_minute=60, tokens_per_minute=None)
    assert_type(await rag.add(documents, tenant="t", rate_limiter=limiter), ragcore.IngestReport)
    assert_type(await rag.delete(["id"], tenant="t", timeout=1), int)
    assert_type(await rag.documents(tenant="t", timeout=1), Mapping[str, str])
    view = rag.for_tenant("t")
    assert_type(view, ragcore.TenantView)
    assert_type(view.tenant, str)
    assert_type(await view.ask("q"), ragcore.Answer)
    assert_type(await view.retrieve("q"), ragcore.Retrieval)
    assert_type(await view.similarity("q"), ragcore.SimilarityReport)
    assert_type(await view.add(documents), ragcore.IngestReport)
    assert_type(await view.delete(["id"]), int)
    assert_type(await view.documents(), Mapping[str, str])
    async with view.stream("q"):
        pass
    assert_type(await rag.health(), ragcore.Health)
    assert_type(await rag.describe(), dict[str, Any])
    assert_type(rag.stats(), ragcore.Stats)
    assert_type(rag.inflight(), tuple[ragcore.CallInfo, ...])
    assert_type(rag.recent(), tuple[ragcore.CallInfo, ...])
    await rag.aclose(drain=1.0)


def values(vector: ragcore.Vector) -> None:
    passage = ragcore.Passage(
        "c",
        "d",
        "text",
        title="",
        source="",
        start=0,
        end=4,
        metadata={},
        score=0.5,
        text_score=None,
        rerank_score=None,
    )
    timings = ragcore.Timings(embed=None, search=None, rerank=None, generate=None, first_token=None, total=None)
    usage = ragcore.Usage(embedding_tokens=None, prompt_tokens=None, completion_tokens=None)
    empty = ragcore.EmptyReason("no_chunks", "why", best_score=None, tenant_chunks=0, store_chunks=None)
    degradation = ragcore.Degradation("embed", "reason", "fallback")
    retrieval = ragcore.Retrieval(
        "q",
        query="q",
        passages=(passage,),
        mode="vector",
        top_k=5,
        score_threshold=None,
        score_threshold_from=None,
        relative_threshold=None,
        empty=empty,
        degraded=(degradation,),
        timings=timings,
        usage=usage,
    )
    answer = ragcore.Answer(
        "text",
        found=True,
        citations=(ragcore.Citation(1, passage, 0, 3),),
        retrieval=retrieval,
        degraded=(),
        timings=timings,
        usage=usage,
        model="m",
        finish_reason="stop",
        request_ids=("id",),
        call_id="id",
    )
    assert_type(answer.to_dict(), dict[str, Any])
    assert_type(answer.turns, tuple[ragcore.Turn, ragcore.Turn])
    ragcore.Counts(documents=0, chunks=0, not_embedded=0)
    ragcore.Scores(document_ids=[], chunk_ids=[], scores=vector)
    chunk = ragcore.Chunk(id="c", text="t", start=0, end=1, metadata={})
    ragcore.EmbeddedDocument(
        document=ragcore.Document("d", "t"), content_hash="h", model="m", chunks=(chunk,), vectors=vector
    )
    ragcore.Query(question="q", tenant="t", mode="vector", top_k=1, vector=vector, filter=None, score_threshold=None)
    ragcore.Prompt("q", passages=(passage,), history=(ragcore.Turn("user", "hi"),), instructions="", max_tokens=1)
    ragcore.Generation("text", finish_reason="stop", model="m", usage=usage, request_id=None)
    field: ragcore.MetaField = ragcore.meta("year")
    scalar: ragcore.Scalar = 1
    condition = field.ge(2024) & field.in_(["a"]) | ~field.exists() & field.eq(scalar) & field.ne(1) & field.lt(
        1
    ) & field.le(1) & field.gt(1)
    assert_type(condition, ragcore.Filter)
    assert_type(ragcore.Filter.from_dict(condition.to_dict()), ragcore.Filter)
    assert_type(ragcore.Filter.documents(["a"]), ragcore.Filter)
    assert_type(condition.matches(passage), bool)
    modes: tuple[ragcore.Mode, ragcore.Kind] = ("hybrid", "query")
    assert_type(ragcore.estimate_tokens(str(modes)), int)


def errors(error: ragcore.RagcoreError) -> None:
    assert_type(error.stage, str | None)
    assert_type(error.retry_after, float | None)
    assert_type(error.partial_text, str)
    assert_type(error.call_id, str | None)
    match error:
        case ragcore.InvalidInput():
            value_error: ValueError = error
            print(value_error)
        case ragcore.DeadlineExceeded():
            assert_type(error.timings, ragcore.Timings)
            print(error.budget + error.elapsed)
        case ragcore.CircuitOpen() | ragcore.Overloaded():
            assert_type(error.dependency, str)
        case ragcore.EmbeddingError() | ragcore.StoreError() | ragcore.GenerationError() | ragcore.DependencyError():
            print(error.dependency, error.attempts, error.status, error.request_id)
        case ragcore.Unsupported() | ragcore.ConfigurationError() | ragcore.NotOpen() | ragcore.WrongEventLoop():
            pass


def encode(texts: list[str]) -> NDArray[np.float64]:
    return np.ones((len(texts), 3))


async def parts(vectors: ragcore.Vectors) -> None:
    embedders: list[ragcore.Embedder] = [
        ragcore.LocalEmbedder(),
        ragcore.OpenAIEmbedder("m", dimension=3, max_tokens=1, base_url="", api_key="", client=None, policy=None),
        embedding.from_sync(
            encode, model="m", dimension=3, max_tokens=1, encode_query=None, count_tokens=None, threads=1, policy=None
        ),
        testing.FakeEmbedder(dimension=3),
    ]
    stores: list[ragcore.Store] = [
        ragcore.MemoryStore(),
        ragcore.PgVectorStore("postgresql://", pool_size=10, policy=None),
        testing.FakeStore(),
    ]
    generators: list[ragcore.Generator] = [
        ragcore.OpenAIGenerator("m", base_url=None, api_key=None, client=None, policy=None),
        ragcore.ExtractiveGenerator(),
        generation.from_sync(lambda prompt: prompt.question, threads=4, policy=None),
        testing.FakeGenerator("text"),
    ]
    generators.append(ragcore.FallbackGenerator(generators))
    searcher: ragcore.Searcher = stores[0]
    retriever = ragcore.Retriever(store=searcher, embedder=embedders[0], top_k=5, score_threshold=None, mode="vector")
    ragcore.Retriever(store=searcher, embedder=embedders[0], relative_threshold=0.8)
    async with retriever:
        assert_type(await retriever.retrieve("q", tenant="t"), ragcore.Retrieval)
        assert_type(await retriever.similarity("q", tenant="t"), ragcore.SimilarityReport)
    ingestor = ragcore.Ingestor(
        embedder=embedders[0], store=stores[0], chunk_tokens=200, overlap_tokens=40, concurrency=4
    )
    assert_type(await ingestor.add([], tenant="t"), ragcore.IngestReport)
    ragcore.RAG(retriever=retriever, generator=generators[0], ingestor=ingestor, settings=None)
    assert_type(generation.render(ragcore.Prompt("q")), list[dict[str, str]])
    print(generation.at_once, vectors)
    await store.migrate("postgresql://", model="m", dimension=3, role="app")
    async with embedded.server("folder") as server:
        assert_type(server.dsn, ragcore.Secret)
        assert_type(server.owner_dsn, ragcore.Secret)


async def number() -> int:
    return 1


async def numbers() -> AsyncIterator[int]:
    yield 1


async def machinery() -> None:
    with resilience.deadline(5.0) as limit:
        assert_type(limit.remaining(), float)
        assert_type(resilience.Deadline.current(), resilience.Deadline | None)
    budget = resilience.RetryBudget(ratio=0.2, reserve=10)
    breaker = resilience.CircuitBreaker(
        failure_ratio=0.5,
        slow_call_ratio=0.5,
        slow_call_duration=None,
        minimum_throughput=10,
        sampling_duration=30,
        break_duration=5,
        max_break_duration=60,
        probes=2,
    )
    bulkhead = resilience.Bulkhead(8, queue=16)
    policy = resilience.Policy(
        "crm",
        on=OSError,
        timeout=30.0,
        attempt_timeout=10.0,
        first_timeout=10.0,
        idle_timeout=10.0,
        bulkhead=bulkhead,
        retry=resilience.RetryPolicy(attempts=3, backoff=0.1, max_backoff=1, budget=budget),
        breaker=breaker,
        max_keys=64,
    )
    assert_type(await policy.call(number, key="replica"), int)
    async with policy.hold(key=None) as held:
        assert_type(held, resilience.Hold)
        assert_type(await held.call(number), int)
        async for item in held.items(numbers()):
            assert_type(item, int)
    breaker.isolate()
    breaker.reset()
    print(breaker.state, resilience.State)
    assert_type(await breaker.call(number), int)
    async with bulkhead, resilience.SingleFlight() as flights:
        assert_type(await flights.call("key", number), int)
        print(flights.snapshot())
    for part in (policy, breaker, bulkhead, budget):
        snapshot: resilience.Snapshot = part.snapshot()
        assert_type(snapshot.to_dict(), dict[str, Any])
    assert_type(bulkhead.snapshot().waiting, int)
    assert_type(resilience.from_status(503, {}), resilience.Failure | None)
    on: resilience.On = lambda error: resilience.Failure(retry=True, counts=True, retry_after=None)  # noqa: E731
    print(on, resilience.CircuitOpen, resilience.DeadlineExceeded, resilience.Overloaded)
    unsubscribe = events.subscribe(lambda event: print(event.name, events.Event))
    unsubscribe()
    print(events.emit, events.listening, events.Listener)


async def exploring(rag: ragcore.RAG) -> None:
    retriever = rag.retriever
    labelled = explore.load("labelled.jsonl", tenant="t")
    assert_type(labelled, list[explore.Labelled])
    aim: explore.Aim = "recall"
    sweep = await explore.thresholds(retriever, labelled, grid=[0.1], aim=aim)
    assert_type(sweep, explore.Sweep)
    evaluation = await explore.evaluate(retriever, labelled, k=10)
    assert_type(evaluation, explore.Evaluation)
    assert_type(explore.compare(evaluation, evaluation), explore.Comparison)
    explore.save(labelled, "labelled.csv")
    judge: ragcore.Generator = testing.FakeGenerator("RIGHT")
    answered = await explore.answers(rag, labelled, judge=judge, at_once=2, timeout=10, mode="hybrid")
    assert_type(answered, explore.Answers)
    assert_type(answered.agreement(), explore.Agreement)
    assert_type(explore.compare(answered, answered), explore.AnswersComparison)
    pool = await explore.to_label(rag, ["q"], tenant="t", count=1, pool=[{"mode": "text"}])
    assert_type(pool.labels("pool.csv"), list[explore.Labelled])
    embedder = testing.FakeEmbedder()
    grid = await explore.grid(
        [ragcore.Document("d", "text")], labelled, embedder=embedder, mode=("vector", "text"), rerank={"none": None}
    )
    assert_type(grid.best, explore.Setting)
    explore.Labelled("q", {"d": 1}, tenant="t", tags=("x",))


def without_await() -> None:
    with blocking.RAG.from_config(ragcore.Config.from_env()) as rag:
        assert_type(rag.ask("q", tenant="t"), ragcore.Answer)
        assert_type(rag.ask("q", tenant="t", schema=Plan), ragcore.Answer[Plan])
        with rag.ask_many(["q"], tenant="t", concurrency=2, schema=Plan) as many:
            assert_type(many, blocking.Answers)
        view = rag.for_tenant("t")
        assert_type(view, blocking.TenantView)
        with view.stream("q") as stream:
            assert_type(stream, blocking.AnswerStream)
            for event in stream:
                print(event)
            assert_type(stream.answer(), ragcore.Answer)
        rag.close(drain=1.0)


async def doubles() -> None:
    faults: testing.Faults = testing.FakeGenerator().faults
    fault: testing.Fault = testing.Fail(503)
    faults.next(fault, testing.Slow(1.0), testing.Hang(), None)
    faults.always(None)
    async with testing.fake_rag(embedder=None, store=None, generator=None) as rag, testing.OpenAIServer() as server:
        print(rag, server.base_url)
    async with testing.FaultProxy("127.0.0.1", 5432) as proxy:
        print(proxy.port, proxy.faults)

    async def scenario(world: testing.World) -> None:
        await world.rag.ask("q", tenant="t")

    testing.simulate(scenario, seeds=range(10))
    assert_type(await testing.cancel_everywhere(number, check=testing.at_rest(resilience.Policy())), int)
    print(testing.VirtualLoop())


async def anyone(scope: Mapping[str, Any]) -> asgi.Identity | None:
    return asgi.Identity("tenant", admin=False)


async def web(rag: ragcore.RAG, stream: ragcore.AnswerStream, error: ragcore.RagcoreError) -> Sequence[object]:
    application: asgi.ASGIApp = asgi.cancel_on_disconnect(asgi.app(rag, authenticate=anyone))
    async for data in asgi.sse(stream, ping=15.0):
        assert_type(data, bytes)
    problem: asgi.Problem = asgi.problem(error)
    message: asgi.Message = {}
    return application, problem.status, problem.headers, problem.body, message
