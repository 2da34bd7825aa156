"""The private names of other libraries are still where they were, in the releases that are installed."""

from __future__ import annotations

import logging
import socket
from typing import cast

import asyncpg
import pytest

from ragcore.compat import private
from ragcore.compat.private import transport_of


@pytest.mark.system
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_a_connection_of_asyncpg_has_its_transport(server: tuple[str, str]) -> None:
    connection = await asyncpg.connect(server[0])
    try:
        transport = transport_of(connection)
        assert transport is not None
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        assert transport.get_extra_info("ssl_object") is None
    finally:
        await connection.close()


def test_the_class_of_asyncpgs_connections_has_a_transport() -> None:
    """The same without a server, so that a new release of asyncpg is noticed by the quick tests too."""
    assert "_transport" in asyncpg.Connection.__slots__


def test_a_release_without_it_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    private._warn_once.cache_clear()
    other = cast("asyncpg.Connection[asyncpg.Record]", object())
    with caplog.at_level(logging.WARNING, logger="ragcore"):
        assert transport_of(other) is None
        assert transport_of(other) is None
    assert [record.message.split(":")[0] for record in caplog.records] == ["private.missing"]
    private._warn_once.cache_clear()
