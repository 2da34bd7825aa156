"""The local embedder, with its real model."""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from tests.pace import in_time

from ragcore import (
    ConfigurationError,
    Document,
    EmbeddingError,
    Ingestor,
    InvalidInput,
    LocalEmbedder,
    MemoryStore,
    NotOpen,
)
from ragcore.embedding import from_sync
from ragcore.embedding import local as local_module

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]


@pytest.fixture
async def local(anyio_backend: str) -> AsyncIterator[LocalEmbedder]:
    async with LocalEmbedder() as embedder:
        yield embedder


async def test_near_texts_are_near_and_vectors_have_unit_length(local: LocalEmbedder) -> None:
    vectors = await local.embed(
        ["How much is an ambulance?", "The ambulance costs $250.", "The cat sleeps."], kind="document"
    )
    assert vectors.shape == (3, local.dimension)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


@pytest.mark.slow
async def test_a_text_has_the_same_vector_alone_and_in_a_batch(local: LocalEmbedder) -> None:
    texts = [f"text number {n} " * (1 + n % 40) for n in range(60)]
    batch = await local.embed(texts, kind="document")
    for number in (0, 17, 59):
        alone = await local.embed([texts[number]], kind="query")
        assert np.abs(alone[0] - batch[number]).max() < 1e-6


async def test_a_special_token_in_a_text_is_text(local: LocalEmbedder) -> None:
    assert local.count_tokens("a [SEP] b") == 5
    assert local.count_tokens("") == 0
    assert local.count_tokens("word " * 1_000) == 1_000


async def test_invalid_texts_are_refused(local: LocalEmbedder) -> None:
    for bad in (["\ud800"], [None], [b"x"], "text"):
        with pytest.raises(InvalidInput):
            await local.embed(bad, kind="document")  # type: ignore[arg-type]
    assert (await local.embed([], kind="document")).shape == (0, 384)
    assert np.isfinite(await local.embed([""], kind="document")).all()


async def test_a_cancelled_call_returns_at_once_and_the_embedder_keeps_working(local: LocalEmbedder) -> None:
    began = time.perf_counter()
    with anyio.move_on_after(0.1):
        await local.embed(["a long text " * 60] * 200, kind="document")
    assert in_time(time.perf_counter() - began, 1.0)
    assert (await local.embed(["next"], kind="document")).shape == (1, 384)


async def test_closing_waits_for_a_thread_that_a_cancelled_call_left_behind() -> None:
    """Otherwise the exit of the interpreter can abort the process."""
    async with LocalEmbedder() as embedder:
        with anyio.move_on_after(0.001):
            await embedder.embed(["a visit to a specialist costs 40 dollars"] * 16, kind="document")
        threads = embedder._threads["document"]
    assert threads.places.inside == 0


async def test_another_folder_must_contain_a_supported_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not the folder"):
        LocalEmbedder(tmp_path)


async def test_an_incomplete_file_is_reported(tmp_path: Path) -> None:
    source = LocalEmbedder()._folder
    for name in ("config.json", "sentence_bert_config.json", "tokenizer.json", "1_Pooling/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}" + b"extra")
    embedder = LocalEmbedder(tmp_path)
    with pytest.raises(ConfigurationError, match="incomplete or damaged"):
        await embedder.start()
    assert not embedder.is_open


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
async def test_installed_files_that_were_changed_are_not_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, folder = local_module._installed(), tmp_path / "model"
    folder.mkdir()
    for path in installed.iterdir():
        (folder / path.name).symlink_to(path)
    changed = bytearray((folder / name).read_bytes())
    # The changed file is still valid JSON, or has weights of the same size.
    changed[-1:] = bytes([changed[-1] ^ 1]) if name.endswith("safetensors") else changed[-1:] + b"\n"
    (folder / name).unlink()
    (folder / name).write_bytes(changed)
    monkeypatch.setattr(local_module, "_installed", lambda: folder)
    with pytest.raises(ConfigurationError, match=rf"{name} is damaged"):
        await LocalEmbedder().start()
    async with LocalEmbedder(folder) as own:  # the checksums of another model are not checked
        assert own.dimension == 384


async def test_a_users_function_can_be_an_embedder() -> None:
    def encode(texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[len(text), 1.0] for text in texts])

    embedder = from_sync(encode, model="mine", dimension=2, max_tokens=10)
    async with embedder:  # type: ignore[attr-defined]
        assert (await embedder.embed(["abc"], kind="query"))[0] == pytest.approx([3.0, 1.0])
        assert embedder.count_tokens("abcdefg") == 2
    broken = from_sync(lambda texts: [[1.0]] * 9, model="mine", dimension=2, max_tokens=10)
    async with broken:  # type: ignore[attr-defined]
        with pytest.raises(EmbeddingError):
            await broken.embed(["abc"], kind="query")


@pytest.mark.slow
async def test_long_documents_are_cut_on_a_thread_and_ingested() -> None:
    documents = [
        Document("long", "A sentence about ambulances and their cost. " * 1_000),
        Document("short", "A short one."),
    ]
    async with LocalEmbedder() as embedder, MemoryStore() as store:
        report = await Ingestor(embedder=embedder, store=store).add(documents, tenant="m")
    assert (report.added, report.failed) == (2, ())


async def test_before_start_the_embedder_raises_not_open() -> None:
    with pytest.raises(NotOpen):
        LocalEmbedder().count_tokens("text")
