"""Reranking on this machine with a cross-encoder in ONNX format, without a network or a key. Needs the extra `local`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from ragcore.compat.extras import require
from ragcore.embedding.minilm import batches, load_onnxruntime
from ragcore.errors import ConfigurationError, InvalidInput, RagcoreError, RerankingError
from ragcore.lifecycle.part import Part
from ragcore.resilience import Policy
from ragcore.resilience.threads import Threads

__all__ = ["LocalReranker"]

PURPOSE = "the local reranker"
# The model's file in the folder of an export: sentence-transformers and Optimum write the first one, and Optimum may also write the second one.
FILES = ("onnx/model.onnx", "model.onnx")
MAX_TOKENS = 512
# A text is cut to this many characters for each token before it is tokenised, because tokenising a megabyte takes half a second. Ordinary text has fewer
# characters for each token.
CHARACTERS_PER_TOKEN = 16
LOAD_SECONDS = 60.0


class LocalReranker(Part):
    """Reranks on the CPU with a cross-encoder: a BERT-like model that reads the question and a text together and returns one number.

    The folder is one that sentence-transformers or Optimum exports to ONNX, such as cross-encoder/ms-marco-MiniLM-L6-v2 or BAAI/bge-reranker-base. It has
    `config.json`, `tokenizer.json`, and `onnx/model.onnx` or `model.onnx`. ragcore downloads nothing.

    Args:
        folder: folder of the model.
        file: the model's file in the folder, such as "onnx/model_qint8_avx512.onnx". None: `onnx/model.onnx`, else `model.onnx`.
        max_tokens: largest length of question and text together, in the model's tokens. A longer text is cut, and so is a question that has more than half
            of these tokens. None: the limit that the folder's files state, at most 512.
        raw_scores: whether the scores are the model's logits. False: their sigmoid, from 0 to 1. The order is the same.
        policy: rules for each call. None: one attempt of at most 60 s, 64 calls at once, a circuit breaker.

    Raises:
        ConfigurationError: at the start, the extra or a file is missing, or the model is not a cross-encoder with one output.
        RerankingError: the model failed.
    """

    model: str
    policy: Policy

    def __init__(
        self,
        folder: str | PathLike[str],
        /,
        *,
        file: str | None = None,
        max_tokens: int | None = None,
        raw_scores: bool = False,
        policy: Policy | None = None,
    ) -> None:
        if max_tokens is not None and not (isinstance(max_tokens, int) and max_tokens >= 16):
            raise ConfigurationError(f"max_tokens is {max_tokens!r}: it must be a whole number, at least 16")
        self._folder = Path(folder).expanduser()
        self._file = file
        self._max_tokens = max_tokens
        self._raw_scores = raw_scores
        self.model = self._folder.name
        self.policy = policy or Policy("local reranker", attempt_timeout=60.0, retry=False)
        self._loaded: _CrossEncoder | None = None
        # There are two threads, because the thread of a cancelled call first finishes its batch, and this must not delay the next call.
        self._threads = Threads(2, name="reranking")

    async def rerank(self, question: str, texts: Sequence[str], /) -> NDArray[np.float64]:
        """Return the relevance of each text, in the order of `texts`. See `Reranker.rerank`."""
        self._check_open()
        encoder = self._loaded
        assert encoder is not None
        if isinstance(texts, str):
            raise InvalidInput("texts is a single str: pass a list")
        stopped = threading.Event()

        async def attempt() -> NDArray[np.float64]:
            return await self._threads.run(lambda: encoder.logits(question, texts, stopped=stopped))

        try:
            logits = await self.policy.call(attempt, on=Exception)
        except RagcoreError:
            raise
        except Exception as error:
            raise RerankingError(
                f"{self.model} failed ({type(error).__name__}: {str(error)[:300]})",
                dependency=self.model,
                stage="rerank",
            ) from error
        finally:
            stopped.set()  # an abandoned thread ends at its next batch
        if self._raw_scores:
            return logits
        scores: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
        return scores

    async def _open(self) -> None:
        try:
            with anyio.fail_after(LOAD_SECONDS):
                self._loaded = await self._threads.run(self._load)
        except ConfigurationError as error:
            error.stage = "rerank"
            raise

    async def _close(self) -> None:
        await self._threads.wait_until_idle()
        self._loaded = None

    def _load(self) -> _CrossEncoder:
        try:
            return _CrossEncoder(_read_settings(self._folder, self._file, self._max_tokens))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"the reranker in {self._folder} can't be loaded ({type(error).__name__}): {str(error)[:300]}"
            ) from error


@dataclass(frozen=True, slots=True)
class _Settings:
    file: Path
    tokenizer: Path
    max_tokens: int
    padding: int


def _read_settings(folder: Path, file: str | None, max_tokens: int | None) -> _Settings:
    """Read the settings from the folder.

    Raises:
        ConfigurationError: a file is missing or damaged, or the model has several labels.
    """
    names = FILES if file is None else (file,)
    model = next((folder / name for name in names if (folder / name).is_file()), None)
    if model is None:
        raise ConfigurationError(
            f"{folder} has no {' or '.join(names)}: export the model to ONNX, for example with "
            "CrossEncoder(name, backend='onnx').save_pretrained(folder) of sentence-transformers"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        path = folder / "tokenizer_config.json"
        limits = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        labels = config.get("num_labels") or len(config.get("id2label") or {}) or 1
        known = [config.get("max_position_embeddings"), limits.get("model_max_length"), MAX_TOKENS]
        longest = int(min(number for number in known if isinstance(number, int | float) and number >= 1))
        padding = config.get("pad_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{folder} is not the folder of a cross-encoder: {error}") from error
    if labels != 1:
        raise ConfigurationError(
            f"{folder} holds a classifier with {labels} labels: a reranker has one output, the relevance"
        )
    if not (folder / "tokenizer.json").is_file():
        raise ConfigurationError(f"{folder} has no tokenizer.json")
    return _Settings(
        file=model,
        tokenizer=folder / "tokenizer.json",
        max_tokens=longest if max_tokens is None else max_tokens,
        padding=padding if isinstance(padding, int) else 0,
    )


class _CrossEncoder:
    """A loaded model. Its functions block, and are safe to call from several threads."""

    def __init__(self, settings: _Settings) -> None:
        onnxruntime = load_onnxruntime(PURPOSE)
        tokenizers = require("tokenizers", extra="local", purpose=PURPOSE)
        self._settings = settings
        self._questions = tokenizers.Tokenizer.from_file(str(settings.tokenizer))
        self._questions.no_padding()
        self._questions.no_truncation()
        self._questions.encode_special_tokens = True  # treat "[SEP]" in a text as ordinary text
        self._pairs = tokenizers.Tokenizer.from_file(str(settings.tokenizer))
        self._pairs.no_padding()
        # Only the text is cut, because the model must read the whole question.
        self._pairs.enable_truncation(settings.max_tokens, strategy="only_second")
        self._pairs.encode_special_tokens = True
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(settings.file), options, providers=["CPUExecutionProvider"])
        self._inputs = {one.name for one in self._session.get_inputs()}
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if not {"input_ids", "attention_mask"} <= self._inputs <= known:
            raise ConfigurationError(
                f"{settings.file} has the inputs {', '.join(sorted(self._inputs))}; a cross-encoder has {', '.join(sorted(known))}"
            )
        self.logits("question", ["text"])  # a wrong model must fail at the start

    def logits(
        self, question: str, texts: Sequence[str], *, stopped: threading.Event | None = None
    ) -> NDArray[np.float64]:
        """Return the model's output for each pair of the question and a text, of shape (len(texts),).

        Args:
            stopped: when it is set, the work ends after the current batch.
        """
        found = np.zeros(len(texts), np.float64)
        most = CHARACTERS_PER_TOKEN * self._settings.max_tokens
        question = self._cut(question[:most])
        encodings = self._pairs.encode_batch([(question, text[:most]) for text in texts]) if texts else []
        for batch in batches([len(encoding.ids) for encoding in encodings]):
            if stopped is not None and stopped.is_set():
                break
            found[batch] = self._run([encodings[number] for number in batch])
        return found

    def _cut(self, question: str) -> str:
        """Return the beginning of a question that has more than half of the tokens, so that a part of each text has room."""
        (encoding,) = self._questions.encode_batch([question], add_special_tokens=False)
        most = self._settings.max_tokens // 2
        return question if len(encoding.ids) <= most else question[: encoding.offsets[most - 1][1]]

    def _run(self, encodings: Sequence[Any]) -> NDArray[np.float64]:
        length = max(len(encoding.ids) for encoding in encodings)
        shape = (len(encodings), length)
        inputs = {
            "input_ids": np.full(shape, self._settings.padding, np.int64),
            "attention_mask": np.zeros(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        for row, encoding in enumerate(encodings):
            width = len(encoding.ids)
            inputs["input_ids"][row, :width] = encoding.ids
            inputs["attention_mask"][row, :width] = 1
            inputs["token_type_ids"][row, :width] = encoding.type_ids
        (logits, *_) = self._session.run(None, {name: inputs[name] for name in self._inputs})
        made = np.asarray(logits, np.float64)
        if made.shape not in ((len(encodings),), (len(encodings), 1)):
            raise ConfigurationError(
                f"{self._settings.file} returns an array of shape {made.shape} for {len(encodings)} texts: a reranker has one output, the relevance"
            )
        if not np.isfinite(made).all():
            raise ValueError("the model returned a number that is not finite")
        return made.reshape(-1)
