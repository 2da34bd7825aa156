"""Fixtures for pytest: `pytest_plugins = ["ragcore.testing.fixtures"]`. Their components don't retry.

Mark tests that use them with `@pytest.mark.anyio`. Override a fixture to change a component.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ragcore.client.rag import RAG
from ragcore.testing.fakes import FakeEmbedder, FakeGenerator, FakeStore, fake_rag
from ragcore.testing.server import OpenAIServer

__all__ = ["fake_embedder", "fake_generator", "fake_store", "openai_server", "rag"]


@pytest.fixture
def fake_embedder() -> FakeEmbedder:
    """The embedder of `rag`."""
    return FakeEmbedder()


@pytest.fixture
def fake_store() -> FakeStore:
    """The store of `rag`."""
    return FakeStore()


@pytest.fixture
def fake_generator() -> FakeGenerator:
    """The generator of `rag`."""
    return FakeGenerator()


@pytest.fixture
async def rag(fake_embedder: FakeEmbedder, fake_store: FakeStore, fake_generator: FakeGenerator) -> AsyncIterator[RAG]:
    """A started client whose components are fakes."""
    async with fake_rag(embedder=fake_embedder, store=fake_store, generator=fake_generator) as client:
        yield client


@pytest.fixture
async def openai_server() -> AsyncIterator[OpenAIServer]:
    """A running OpenAI-compatible server on loopback."""
    async with OpenAIServer() as server:
        yield server
