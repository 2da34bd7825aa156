"""Shared limits with a store that fails. store/test_shared_quota.py tests them with PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from ragcore import StoreError
from ragcore.lifecycle.owner import Owner
from ragcore.operating.calls import Calls
from ragcore.operating.quota import Quota
from ragcore.operating.shared_quota import SharedQuota
from ragcore.protocols import Allowance, Ledger, Limits

pytestmark = pytest.mark.anyio


class Down:
    async def count_calls(self, ledger: Ledger, limits: Limits, /, **options: Any) -> Allowance:
        raise StoreError("down", dependency="database")


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
