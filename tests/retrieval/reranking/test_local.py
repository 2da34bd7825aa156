"""The local reranker, with a small cross-encoder that this module makes. The model's output is the number of words that question and text share."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from ragcore import (
    ConfigurationError,
    Found,
    InvalidInput,
    LocalReranker,
    NotOpen,
    Passage,
    Query,
    RerankedSearcher,
    RerankingError,
)
from ragcore.resilience import Policy
from ragcore.retrieval.reranking import local as local_module

onnx = pytest.importorskip("onnx")
tokenizers = pytest.importorskip("tokenizers")

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"how long is the warranty battery cat sleeps two years filler".split()]
PAD, CLS, SEP = 0, 2, 3


def make_tokenizer(path: Path) -> None:
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    made.add_special_tokens(WORDS[:4])
    made.save(str(path))


def make_model(path: Path, *, outputs: int = 1, with_types: bool = True, fail: str = "") -> None:
    """Write a graph: the sum over the vocabulary of (count in the question) × (count in the text), without special tokens."""
    node, tensor, info = onnx.helper.make_node, onnx.numpy_helper.from_array, onnx.helper.make_tensor_value_info
    weights = np.ones((len(WORDS), outputs), np.float32)
    weights[:4] = np.nan if fail == "nan" else 0
    constants = {
        "depth": np.array(len(WORDS), np.int64),
        "values": np.array([0, 1], np.float32),
        "last": np.array([2], np.int64),
        "first": np.array([1], np.int64),
        "one": np.array(1, np.int64),
        "weights": weights,
    }
    types = (
        []
        if with_types
        else [node("Sub", ["input_ids", "input_ids"], ["zero"]), node("Add", ["zero", "one"], ["token_type_ids"])]
    )
    nodes = [
        *types,
        node("OneHot", ["input_ids", "depth", "values"], ["words"], axis=-1),
        node("Mul", ["attention_mask", "token_type_ids"], ["in_text"]),
        node("Sub", ["one", "token_type_ids"], ["not_text"]) if with_types else node("Identity", ["token_type_ids"], ["not_text"]),
        node("Mul", ["attention_mask", "not_text"], ["in_question"]),
        *(step for side in ("text", "question") for step in (
            node("Cast", [f"in_{side}"], [f"float_{side}"], to=onnx.TensorProto.FLOAT),
            node("Unsqueeze", [f"float_{side}", "last"], [f"mask_{side}"]),
            node("Mul", ["words", f"mask_{side}"], [f"words_{side}"]),
            node("ReduceSum", [f"words_{side}", "first"], [f"bag_{side}"], keepdims=0),
        )),
        node("Mul", ["bag_text", "bag_question"], ["shared"]),
        node("MatMul", ["shared", "weights"], ["logits"]),
    ]  # fmt: skip
    names = ["input_ids", "attention_mask", *(("token_type_ids",) if with_types else ())]
    if fail == "inputs":
        names.append("pixel_values")
    graph = onnx.helper.make_graph(
        nodes,
        "overlap",
        [info(name, onnx.TensorProto.INT64, ["batch", "length"]) for name in names],
        [info("logits", onnx.TensorProto.FLOAT, ["batch", outputs])],
        [tensor(value, name) for name, value in constants.items()],
    )
    path.parent.mkdir(exist_ok=True)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(path))


def make_folder(
    folder: Path, *, file: str = "onnx/model.onnx", config: dict[str, Any] | None = None, **model: Any
) -> Path:
    make_tokenizer(folder / "tokenizer.json")
    make_model(folder / file, **model)
    settings = {"max_position_embeddings": 64, "pad_token_id": PAD, "id2label": {"0": "LABEL_0"}, **(config or {})}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
async def reranker(tmp_path: Path, anyio_backend: str) -> AsyncIterator[LocalReranker]:
    async with LocalReranker(make_folder(tmp_path), raw_scores=True) as made:
        yield made


TEXTS = ["The cat sleeps.", "The warranty is two years.", "The battery."]
QUESTION = "How long is the warranty?"


async def test_a_text_gets_the_models_output_in_the_order_of_the_texts(reranker: LocalReranker, tmp_path: Path) -> None:
    assert list(await reranker.rerank(QUESTION, TEXTS)) == [1.0, 3.0, 1.0]
    assert list(await reranker.rerank(QUESTION, [])) == []
    assert reranker.model == tmp_path.name


async def test_scores_are_the_sigmoid_unless_raw_scores_are_wanted(tmp_path: Path) -> None:
    async with LocalReranker(make_folder(tmp_path)) as reranker:
        scores = await reranker.rerank(QUESTION, TEXTS)
    assert list(scores) == pytest.approx([1 / (1 + np.exp(-logit)) for logit in (1, 3, 1)])


async def test_a_text_has_the_same_score_alone_and_in_a_batch(reranker: LocalReranker) -> None:
    texts = ["warranty " * (n % 70) + "filler " * (n % 7) for n in range(150)]
    together = await reranker.rerank(QUESTION, texts)
    alone = [(await reranker.rerank(QUESTION, [text]))[0] for text in texts[::29]]
    assert list(together[::29]) == alone


async def test_only_the_text_is_cut_and_a_question_beyond_half_of_the_tokens(tmp_path: Path) -> None:
    async with LocalReranker(make_folder(tmp_path), max_tokens=16, raw_scores=True) as reranker:
        # 16 tokens: [CLS], five of the question, [SEP], eight of the text, [SEP].
        assert await reranker.rerank("how long is the warranty", ["warranty " * 50]) == 8
        # The question is cut to eight tokens, so the text has five.
        assert await reranker.rerank("warranty " * 50, ["warranty " * 50]) == 8 * 5
        assert await reranker.rerank("warranty " * 50, ["filler " * 5 + "warranty"]) == 0
        assert np.isfinite(await reranker.rerank("x" * 1_000_000, ["y" * 1_000_000, ""])).all()


async def test_the_limit_comes_from_the_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, config={"max_position_embeddings": 514})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 20}))
    async with LocalReranker(tmp_path, raw_scores=True) as reranker:
        assert await reranker.rerank("warranty", ["warranty " * 50]) == 20 - 4
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    async with LocalReranker(tmp_path, raw_scores=True) as reranker:
        assert await reranker.rerank("warranty", ["warranty " * 600]) == 512 - 4


async def test_a_special_token_in_a_text_is_text(reranker: LocalReranker) -> None:
    """If "[SEP]" ended the text, the model would not treat the words after it as part of the text."""
    assert list(await reranker.rerank("warranty", ["[SEP] warranty", "[PAD] warranty"])) == [1, 1]


async def test_a_model_without_token_types_and_with_another_place_for_its_file(tmp_path: Path) -> None:
    make_folder(tmp_path, file="model.onnx", with_types=False)
    async with LocalReranker(tmp_path, raw_scores=True) as reranker:
        assert np.isfinite(await reranker.rerank(QUESTION, TEXTS)).all()
    (tmp_path / "model.onnx").rename(tmp_path / "small.onnx")
    async with LocalReranker(tmp_path, file="small.onnx") as reranker:
        assert len(await reranker.rerank(QUESTION, TEXTS)) == 3


def without(name: str) -> Any:
    return lambda folder: (make_folder(folder) / name).unlink()


def broken(name: str, content: bytes) -> Any:
    return lambda folder: (make_folder(folder) / name).write_bytes(content)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: None, "has no onnx/model.onnx or model.onnx"),
        (without("config.json"), "not the folder of a cross-encoder"),
        (without("tokenizer.json"), "has no tokenizer.json"),
        (broken("config.json", b"{"), "not the folder of a cross-encoder"),
        (broken("config.json", b"[]"), "not the folder of a cross-encoder"),
        (broken("tokenizer.json", b"{}"), "can't be loaded"),
        (broken("onnx/model.onnx", b"no model"), "can't be loaded"),
        (lambda folder: make_folder(folder, config={"id2label": {"0": "a", "1": "b"}}), "a classifier with 2 labels"),
        (lambda folder: make_folder(folder, outputs=3), r"shape \(1, 3\) for 1 texts"),
        (lambda folder: make_folder(folder, fail="inputs"), "has the inputs"),
        (lambda folder: make_folder(folder, fail="nan"), "not finite"),
    ],
)
async def test_a_folder_without_a_usable_model_is_refused_at_the_start(tmp_path: Path, prepare: Any, said: str) -> None:
    prepare(tmp_path)
    with pytest.raises(ConfigurationError, match=said) as caught:
        await LocalReranker(tmp_path).start()
    assert caught.value.stage == "rerank"


async def test_arguments_are_checked(reranker: LocalReranker, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="single str"):
        await reranker.rerank("q", "text")
    with pytest.raises(RerankingError, match="failed"):
        await reranker.rerank("q", [None])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="max_tokens is 3"):
        LocalReranker(tmp_path, max_tokens=3)
    with pytest.raises(NotOpen):
        await LocalReranker(tmp_path).rerank("q", ["a"])


async def test_a_cancelled_call_returns_at_once_and_its_thread_stops(
    reranker: LocalReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go_on, batches = threading.Event(), threading.Event(), 0
    run = local_module._CrossEncoder._run

    def slow(self: Any, encodings: Any) -> Any:
        nonlocal batches
        batches += 1
        running.set()
        go_on.wait(10)
        return run(self, encodings)

    monkeypatch.setattr(local_module._CrossEncoder, "_run", slow)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await anyio.to_thread.run_sync(running.wait)
                scope.cancel()

            group.start_soon(cancel)
            await reranker.rerank(QUESTION, ["warranty " * 60] * 200)
    assert scope.cancelled_caught
    go_on.set()
    assert len(await reranker.rerank(QUESTION, TEXTS)) == 3
    assert batches < 10  # without the cancellation, the call would have run about 25


async def test_it_reranks_a_search(reranker: LocalReranker) -> None:
    class Plain:
        async def search(self, query: Query, /) -> list[Passage]:
            return [Passage(text, text, text) for text in TEXTS]

    async with RerankedSearcher(Plain(), reranker) as searcher:
        found = await searcher.search(Query(question=QUESTION, tenant="t", mode="text", top_k=2))
    assert isinstance(found, Found)
    assert [(passage.text, passage.rerank_score) for passage in found] == [(TEXTS[1], 3.0), (TEXTS[0], 1.0)]


async def test_a_model_that_fails_counts_for_its_breaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(retry=False)
    async with LocalReranker(make_folder(tmp_path), policy=policy) as reranker:
        monkeypatch.setattr(local_module._CrossEncoder, "_run", lambda *_: 1 / 0)
        with pytest.raises(RerankingError, match="ZeroDivisionError"):
            await reranker.rerank(QUESTION, TEXTS)
    assert policy.snapshot()["breaker"]["failure"] == 1
