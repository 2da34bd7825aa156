"""Collections: several schemas in a database, each with its model and language, and embedding a collection again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ragcore import ConfigurationError, Document, PgVectorStore, Query, Retriever
from ragcore.ingest import Ingestor
from ragcore.store import migrate, reembed
from ragcore.testing import FakeEmbedder

from .contract import DIMENSION, OLD, PLAN, embedded, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
DOCUMENTS = [Document(f"d{n}", f"the deductible of plan {n} is {100 * n}") for n in range(30)]


def embedder(model: str = "fake", dimension: int = DIMENSION) -> FakeEmbedder:
    made = FakeEmbedder(dimension=dimension)
    made.model = model
    return made


@pytest.fixture
async def old(migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
    async with PgVectorStore(migrated[0]) as store:
        yield store


async def ingest(store: PgVectorStore, made: FakeEmbedder, documents: list[Document], tenant: str = "a") -> int:
    async with made:
        report = await Ingestor(embedder=made, store=store).add(documents, tenant=tenant)
    return report.added + report.updated


async def test_collections_of_one_database_are_independent(database: tuple[str, str]) -> None:
    for schema, dimension in (("first", 8), ("second", DIMENSION)):
        await migrate(database[1], model=f"m_{schema}", dimension=dimension, role="ragcore", schema=schema)
    async with (
        PgVectorStore(database[0], schema="first") as first,
        PgVectorStore(database[0], schema="second") as second,
    ):
        await ingest(first, embedder("m_first", 8), DOCUMENTS[:3])
        assert await ingest(second, embedder("m_second"), DOCUMENTS[:2]) == 2
        assert len(await first.hashes(None, tenant="a")) == 3
        assert len(await second.hashes(None, tenant="a")) == 2
        found = await first.inspect()
        assert (found.model, found.dimension, found.language, found.vector_type) == ("m_first", 8, "english", "vector")
        assert found.collections == ("first", "second")
        assert found.findings() == []


@pytest.mark.parametrize("schema", ["Ragcore", "a-b", "", "pg_x", "1a", "x" * 60, 'a"; drop schema public; --', None])
async def test_an_invalid_schema_name_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        PgVectorStore("postgresql://h/d", schema=schema)
    with pytest.raises(ConfigurationError, match="schema"):
        await migrate("postgresql://h/d", model="m", dimension=3, role="r", schema=schema)


async def test_an_embedder_of_another_model_is_refused(old: PgVectorStore) -> None:
    other = embedder("other")
    with pytest.raises(ConfigurationError, match="holds vectors of fake, and the embedder is other"):
        await ingest(old, other, DOCUMENTS[:1])
    async with Retriever(store=old, embedder=other) as retriever:
        for mode in ("vector", "hybrid"):
            with pytest.raises(ConfigurationError, match="holds vectors of fake"):
                await retriever.retrieve("deductible", tenant="a", mode=mode)
        assert (await retriever.retrieve("deductible", tenant="a", mode="text")).passages == ()


LANGUAGES = {
    "german": ("Die Versicherungen übernehmen die Kosten der Zähne.", "Versicherung Zahn Kosten"),
    "russian": ("Договоры страхования покрывают лечение зубов.", "договор страхование зуб"),
    "french": ("Les assurances remboursent les opérations dentaires.", "assurance opération dentaire"),
    "simple": ("Bosch deductible Ärzte", "ärzte"),
    "english": ("the deductibles of the members", "deductible member"),
}
CHARACTERS = {
    "japanese": ("免責金額は年間千五百ドルです。歯科の診察は無料です。", "免責金額はいくらですか"),
    "chinese": ("您的免赔额为每年一千五百美元。", "免赔额是多少"),
    "thai": ("ค่าเสียหายส่วนแรกของคุณคือ 1500 ดอลลาร์ต่อปี", "ค่าเสียหายส่วนแรก"),
    "korean": ("귀하의 공제액은 연간 1500달러입니다.", "공제액은 얼마입니까"),
}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_words_are_found_in_the_language_of_the_collection(database: tuple[str, str], language: str) -> None:
    text, question = LANGUAGES[language]
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore", language=language)
    async with PgVectorStore(database[0]) as store:
        await store.upsert([embedded("d", text), embedded("other", "0")], tenant="a")
        for word in question.split():
            found = await store.search(query(word, mode="text"))
            assert [passage.chunk_id for passage in found] == ["d#0"], word
        assert (await store.inspect()).language == language


@pytest.mark.parametrize("script", CHARACTERS)
@pytest.mark.parametrize("language", ["english", "simple"])
async def test_scripts_without_blanks_are_searched_by_pairs_of_characters(
    database: tuple[str, str], script: str, language: str
) -> None:
    text, question = CHARACTERS[script]
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore", language=language)
    async with PgVectorStore(database[0]) as store:
        await store.upsert([embedded("d", text), embedded("other", "0")], tenant="a")
        for mode in ("text", "hybrid"):
            found = await store.search(query(question, mode=mode))
            assert found[0].chunk_id == "d#0"
            assert found[0].text_score is not None


async def test_an_unknown_or_changed_language_is_refused(database: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="text search configuration 'klingon' does not exist.*german"):
        await migrate(database[1], model="fake", dimension=3, role="ragcore", language="klingon")
    await migrate(database[1], model="fake", dimension=3, role="ragcore", language="german")
    await migrate(database[1], model="fake", dimension=3, role="ragcore")
    with pytest.raises(ConfigurationError, match="made for the language 'german'"):
        await migrate(database[1], model="fake", dimension=3, role="ragcore", language="french")


async def again(database: tuple[str, str], source: str, target: str, made: FakeEmbedder) -> tuple[int, int, int]:
    async with made:
        done = await reembed(database[1], source=source, target=target, embedder=made, role="ragcore")
    return done.documents, done.deleted, done.differing


async def test_a_collection_is_embedded_again_and_switched_and_switched_back(
    migrated: tuple[str, str], old: PgVectorStore
) -> None:
    await ingest(old, embedder(), DOCUMENTS)
    await ingest(old, embedder(), DOCUMENTS[:3], tenant="b")
    new = embedder("new", 32)
    assert await again(migrated, "ragcore", "renewed", new) == (33, 0, 0)
    assert await again(migrated, "ragcore", "renewed", new) == (0, 0, 0)
    # Later changes and deletions.
    changed = Document("d1", "the deductible of plan 1 is quite another")
    assert await ingest(old, embedder(), [changed, Document("late", "a late document")]) == 2
    assert await old.delete(["d2"], tenant="a") == 1
    async with PgVectorStore(migrated[0], schema="renewed") as renewed:
        with pytest.raises(
            ConfigurationError, match=r"ragcore is in use, and 2 documents.*reembed --from ragcore --to renewed"
        ):
            await renewed.hashes(None, tenant="a")
    assert await again(migrated, "ragcore", "renewed", new) == (2, 0, 0)
    async with PgVectorStore(migrated[0], schema="renewed") as renewed:
        assert await renewed.hashes(None, tenant="a") == await old.hashes(None, tenant="a")
        async with Retriever(store=renewed, embedder=embedder("new", 32)) as retriever:
            found = await retriever.retrieve("the deductible of plan 7 is 700", tenant="a")
            assert found.passages[0].document_id == "d7"
        # Transferred documents are not embedded again.
        assert await ingest(renewed, embedder("new", 32), [*DOCUMENTS[3:], changed]) == 0
        assert await ingest(renewed, embedder("new", 32), [Document("newest", "only here")]) == 1
        assert await renewed.delete(["d9"], tenant="a") == 1
        assert "d9" not in await old.hashes(None, tenant="a")
    with pytest.raises(ConfigurationError, match="renewed is in use"):
        await again(migrated, "ragcore", "renewed", new)
    async with PgVectorStore(migrated[0]) as back:
        with pytest.raises(ConfigurationError, match="renewed is in use, and 1 documents"):
            await back.hashes(None, tenant="a")
    assert await again(migrated, "renewed", "ragcore", embedder()) == (1, 0, 0)
    async with PgVectorStore(migrated[0]) as back:
        assert "newest" in await back.hashes(None, tenant="a")
        assert await ingest(back, embedder(), [Document("newest", "only here")]) == 0


async def test_an_erased_tenant_is_erased_in_every_collection(migrated: tuple[str, str], old: PgVectorStore) -> None:
    await ingest(old, embedder(), DOCUMENTS)
    await again(migrated, "ragcore", "second", embedder("new", 8))
    await again(migrated, "ragcore", "third", embedder("newer", 16))
    assert await old.delete([document.id for document in DOCUMENTS], tenant="a") == 30
    owner = await asyncpg.connect(migrated[1])
    for schema in ("ragcore", "second", "third"):
        for table in ("document", "chunk", "posting"):
            assert await owner.fetchval(f"select count(*) from {schema}.{table}") == 0
    await owner.close()


async def test_an_interrupted_reembedding_is_continued(migrated: tuple[str, str], old: PgVectorStore) -> None:
    await ingest(old, embedder(), [Document(f"d{n}", f"text {n}") for n in range(600)])
    new = embedder("new", 8)
    async with new:
        with pytest.raises(RuntimeError, match="stop"):
            done: list[int] = []

            def stop(so_far: object) -> None:
                done.append(1)
                if len(done) == 300:
                    raise RuntimeError("stop")

            await reembed(migrated[1], source="ragcore", target="again", embedder=new, role="ragcore", progress=stop)
    documents, _, differing = await again(migrated, "ragcore", "again", new)
    assert 0 < documents <= 301
    assert differing == 0


async def test_reembedding_embeds_the_text_that_the_collection_records(
    migrated: tuple[str, str], old: PgVectorStore
) -> None:
    document = Document("d", "# Costs\n\n" + "It is $1,500. " * 100, title="Gold")
    async with embedder() as made:
        ingestor = Ingestor(embedder=made, store=old, chunk_tokens=60, embed_text="headings+text")
        await ingestor.add([document], tenant="a")
    new = embedder("new", 8)
    assert await again(migrated, "ragcore", "again", new) == (1, 0, 0)
    assert [text for call in new.calls for text in call] == [text for call in made.calls for text in call]
    assert made.calls[0][1].startswith("Gold › Costs\n\nIt is")
    async with PgVectorStore(migrated[0], schema="again") as store:
        assert await store.recorded_embed_text() == "headings+text"


async def test_the_role_may_record_the_text_to_embed_and_change_no_other_setting(
    migrated: tuple[str, str], old: PgVectorStore
) -> None:
    connection = await asyncpg.connect(migrated[0])
    assert await connection.fetchval("select ragcore.record_embed_text('text')") == "headings+text"
    with pytest.raises(asyncpg.InvalidParameterValueError, match="embed_text can't be"):
        await connection.fetchval("select ragcore.record_embed_text('anything')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("update ragcore.setting set value = 'other'")
    await connection.close()


async def test_an_owner_who_is_no_superuser_can_embed_again(database: tuple[str, str]) -> None:
    admin = await asyncpg.connect(database[1])
    name = await admin.fetchval("select current_database()")
    role = f"owner_of_{name}"
    await admin.execute(f"create role {role} login; create extension vector; alter database {name} owner to {role}")
    await admin.close()
    plain, owner = database[0], database[1].replace("postgres@", f"{role}@")
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(plain) as store:
        await store.upsert([PLAN, OLD], tenant="a")
        await store.upsert([PLAN], tenant="b")
        assert await again((plain, owner), "ragcore", "second", embedder("new", 8)) == (3, 0, 0)
        assert await store.delete(["plan"], tenant="a") == 1
    async with PgVectorStore(plain, schema="second") as second:
        assert await second.hashes(None, tenant="a") == {"old": "h"}
        assert await second.hashes(None, tenant="b") == {"plan": "h"}
        found = await second.search(Query(question="ambulance", tenant="b", mode="text", top_k=3))
        assert [passage.chunk_id for passage in found] == ["plan#2"]
