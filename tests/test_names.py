"""The public names: every name in `__all__` can be imported and has a docstring."""

from __future__ import annotations

import importlib
import inspect
import pickle
import typing

import pytest

import ragcore

PACKAGES = (
    "ragcore",
    "ragcore.resilience",
    "ragcore.store",
    "ragcore.store.embedded",
    "ragcore.embedding",
    "ragcore.generation",
    "ragcore.ingest",
    "ragcore.ingest.ray",
    "ragcore.explore.ray",
    "ragcore.events",
    "ragcore.explore",
    "ragcore.blocking",
    "ragcore.testing",
    "ragcore.contrib.asgi",
    "ragcore.contrib.otel",
    "ragcore.contrib.langchain",
    "ragcore.contrib.llama_index",
    "ragcore.contrib.mcp",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_are_importable_and_unique(package: str) -> None:
    module = importlib.import_module(package)
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not value.__doc__ or value.__doc__.startswith(f"{name}("):  # the default docstring of a dataclass
            missing.append(name)
        if inspect.isclass(value):
            for member, method in vars(value).items():
                is_public = not member.startswith("_") and (inspect.isfunction(method) or isinstance(method, property))
                if is_public and not inspect.getdoc(getattr(value, member)):
                    missing.append(f"{name}.{member}")
    assert not missing


def test_a_misspelt_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="OpenAIEmbeder"):
        ragcore.OpenAIEmbeder  # type: ignore[attr-defined]  # noqa: B018


def test_annotations_of_values_resolve_at_run_time() -> None:
    for name in ("Answer", "Retrieval", "Passage", "SimilarityReport", "IngestReport", "Health", "CallInfo", "Prompt"):
        assert typing.get_type_hints(getattr(ragcore, name))


def test_a_fastapi_route_may_return_an_answer() -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    @app.get("/")  # type: ignore[untyped-decorator]  # importorskip is untyped
    async def route() -> ragcore.Answer:
        return ragcore.Answer("yes")

    assert "Answer" in app.openapi()["components"]["schemas"]


SIGNATURES = (
    "ask",
    "stream",
    "retrieve",
    "retrieve_by_vector",
    "similarity",
    "add",
    "delete",
    "documents",
    "chunks",
    "chunks_by_id",
)


@pytest.mark.parametrize("method", SIGNATURES)
def test_views_and_the_blocking_client_have_the_same_signatures(method: str) -> None:
    from ragcore import blocking

    def parameters(cls: type) -> dict[str, str]:
        found = inspect.signature(getattr(cls, method)).parameters
        return {name: str(parameter) for name, parameter in found.items() if name not in ("self", "tenant")}

    expected = parameters(ragcore.RAG)
    assert parameters(ragcore.TenantView) == expected
    assert parameters(blocking.RAG) == expected
    assert parameters(blocking.TenantView) == expected


def test_values_can_be_pickled_and_hashed() -> None:
    passage = ragcore.Passage("c", "d", "text", metadata={"year": 2024, "tags": ["x"]}, score=0.5)
    answer = ragcore.Answer(
        "yes [1]",
        citations=(ragcore.Citation(1, passage, 4, 7),),
        retrieval=ragcore.Retrieval("q", passages=(passage,)),
    )
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert hash(answer) == hash(pickle.loads(pickle.dumps(answer)))
    assert answer.to_dict()["citations"][0]["passage"]["metadata"] == {"year": 2024, "tags": ["x"]}
    assert answer.turns == (ragcore.Turn("user", "q"), ragcore.Turn("assistant", "yes [1]"))
