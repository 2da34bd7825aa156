"""Members that a wrapper provides by `__getattr__` count as members of the wrapper: a reranker around a store is started, closed and watched like the store."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from ragcore.compat.ability import offers
from ragcore.lifecycle.part import Closable, Opened, Parts, Startable
from ragcore.protocols import Watched


class Store:
    def __init__(self) -> None:
        self.is_open = False

    async def start(self) -> None:
        self.is_open = True

    async def aclose(self) -> None:
        self.is_open = False

    def snapshot(self) -> dict[str, int]:
        return {"size": 1}


class Reranker:
    def __init__(self, store: Store) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest.mark.anyio
async def test_a_wrapped_part_is_started_and_closed() -> None:
    store, parts = Store(), Parts()
    await parts.start(Reranker(store))
    assert store.is_open
    await parts.aclose()
    assert not store.is_open


@pytest.mark.parametrize("ability", [Startable, Closable, Opened, Watched])
def test_members_that_getattr_provides_count(ability: type) -> None:
    wrapper = Reranker(Store())
    assert offers(wrapper, ability)
    assert not offers(object(), ability)
    # `isinstance` uses this lookup from Python 3.12 on.
    names = [name for name in vars(ability) if not name.startswith("_")]
    assert names
    assert all(inspect.getattr_static(wrapper, name, None) is None for name in names)
