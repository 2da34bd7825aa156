"""Redacts the prompts of a generator: see `ragcore.text.redaction`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from ragcore.errors import RagcoreError
from ragcore.generation.extractive import MODEL
from ragcore.protocols import Generator
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact, Redacted
from ragcore.types import Generation, Prompt

__all__ = ["RedactingGenerator"]


class RedactingGenerator:
    """Redacts each prompt, and restores the originals in the answer if the redaction is reversible.

    Every part of the prompt is redacted: question, history, instructions, stop texts, and the passages with their titles, sources, ids and metadata.
    """

    def __init__(self, generator: Generator, redact: Redact, /, *, redacting: Redacting) -> None:
        self.generator = generator
        self._redact = redact
        self._redacting = redacting

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Call the generator's `generate` with the redacted prompt."""
        hidden, texts = await self._redacting.run(self._redact, lambda: _hidden(prompt, self._redact))
        with _Restoring(texts):
            return _restored(await self.generator.generate(hidden), texts, hidden)

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """Call the generator's `stream` with the redacted prompt."""
        hidden, texts = await self._redacting.run(self._redact, lambda: _hidden(prompt, self._redact))
        with _Restoring(texts):
            async with self.generator.stream(hidden) as pieces:
                yield _Pieces(pieces, texts, hidden) if texts.originals else pieces


def _hidden(prompt: Prompt, redact: Redact) -> tuple[Prompt, Redacted]:
    texts = Redacted(redact, _texts(prompt))
    passages = tuple(
        replace(
            passage,
            chunk_id=texts.redact(passage.chunk_id),
            document_id=texts.redact(passage.document_id),
            text=texts.redact(passage.text),
            title=texts.redact(passage.title),
            source=texts.redact(passage.source),
            metadata=_mapped(passage.metadata, texts.redact),
        )
        for passage in prompt.passages
    )
    hidden = replace(
        prompt,
        question=texts.redact(prompt.question),
        query=texts.redact(prompt.query),
        passages=passages,
        history=tuple(replace(turn, content=texts.redact(turn.content)) for turn in prompt.history),
        instructions=texts.redact(prompt.instructions),
        stop=tuple(map(texts.redact, prompt.stop)),
        rejected=None
        if prompt.rejected is None
        else (texts.redact(prompt.rejected[0]), texts.redact(prompt.rejected[1])),
    )
    return hidden, texts


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return JSON with each text changed, including the names of fields."""
    match value:
        case str():
            return change(value)
        case Mapping():
            return {change(str(name)): _mapped(item, change) for name, item in value.items()}
        case list() | tuple():
            return [_mapped(item, change) for item in value]
    return value


def _texts(prompt: Prompt) -> list[str]:
    texts = [
        prompt.question,
        prompt.query,
        prompt.instructions,
        *prompt.stop,
        *(turn.content for turn in prompt.history),
    ]

    texts += prompt.rejected or ()

    def take(text: str) -> str:
        texts.append(text)
        return text

    for passage in prompt.passages:
        texts += [passage.text, passage.title, passage.source, passage.chunk_id, passage.document_id]
        _mapped(passage.metadata, take)
    return texts


def _restored(generation: Generation, texts: Redacted, prompt: Prompt) -> Generation:
    if not texts.originals:
        return generation
    # The reply to a prompt with a schema is JSON; a quotation is not.
    in_json = prompt.schema is not None and generation.model != MODEL
    # The positions of quotations have changed. With None, `find_citations` searches for them again.
    return replace(
        generation,
        text=texts.restore(generation.text, in_json=in_json),
        reasoning=texts.restore(generation.reasoning),
        quotations=None,
    )


class _Restoring:
    """Restores the originals in the partial text of an error that its block raises."""

    def __init__(self, texts: Redacted) -> None:
        self._texts = texts

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RagcoreError) and error.partial_text:
            error.partial_text = self._texts.restore(error.partial_text)


class _Pieces:
    """The pieces with the originals restored. A placeholder may arrive in several pieces: its beginning is held back until its end arrives."""

    def __init__(self, pieces: AsyncIterator[str | Generation], texts: Redacted, prompt: Prompt) -> None:
        self._pieces = pieces
        self._texts = texts
        self._prompt = prompt
        self._held = ""
        self._last: Generation | None = None

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> str | Generation:
        if self._last is not None:
            last, self._last = self._last, None
            return last
        while True:
            with _Restoring(self._texts):  # a reader that leaves the stream without the error would not get it restored
                piece = await anext(self._pieces)
            if isinstance(piece, Generation):
                restored = _restored(piece, self._texts, self._prompt)
                if not self._held:
                    return restored
                self._last, rest = restored, self._held
                self._held = ""
                return rest
            text = self._held + piece
            end = self._texts.held_back(text)
            self._held = text[end:]
            if end:
                return self._texts.restore(text[:end])
