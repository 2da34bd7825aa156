"""Shared limits with a store that fails. store/test_shared_quota.py tests them with PostgreSQL."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from ragcore import DeadlineExceeded, StoreError
from ragcore.lifecycle.owner import Owner
from ragcore.operating.calls import Calls
from ragcore.operating.quota import Quota
from ragcore.operating.shared_quota import SharedQuota
from ragcore.protocols import Allowance, Ledger, Limits

pytestmark = pytest.mark.anyio


class Down:
    async def count_calls(self, ledger: Ledger, limits: Limits, /, **options: Any) -> Allowance:
        raise StoreError("down", dependency="database")


class Silent:
    """A store that never responds, or that raises at the deadline, and counts its statements."""

    def __init__(self, *, raises: bool) -> None:
        self.statements = 0
        self._raises = raises

    async def count_calls(self, ledger: Ledger, limits: Limits, /, **options: Any) -> Allowance:
        self.statements += 1
        if self._raises:
            raise DeadlineExceeded("no time is left", budget=0.01, elapsed=0.01)
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("raises", [False, True])
async def test_a_call_with_a_very_short_timeout_does_not_end_the_sharing_for_others(raises: bool) -> None:
    """Otherwise a caller that chooses its own timeout could switch off the limits that all processes share."""
    store, calls = Silent(raises=raises), Calls(recent=1)
    shared = SharedQuota(Quota(requests_per_minute=5), store)
    await shared.admit(calls.begin("ask", "m", 0.02))
    await shared.admit(calls.begin("ask", "m", 5.0))
    assert store.statements == 2
    await shared.admit(calls.begin("ask", "m", 5.0))
    assert store.statements == 2


async def test_the_end_of_a_call_does_not_hide_an_error_while_the_client_closes() -> None:
    shared = SharedQuota(Quota(requests_per_minute=5), Down())
    call = Calls(recent=1).begin("ask", "m", 5.0)
    closed = Owner("closed")  # like the owner of a closed client, it accepts no tasks
    with pytest.raises(ValueError, match="in flight"):
        try:
            shared.owe("m", 100, 0.1)
            raise ValueError("in flight")
        finally:
            await shared.settle(call, closed)
    # A client that is opened again writes the rest.
    owner = Owner("open")
    await owner.start()
    try:
        await shared.settle(call, owner)
        assert owner.running == 1
    finally:
        await owner.stop()
