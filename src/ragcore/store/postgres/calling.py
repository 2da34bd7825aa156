"""Run work on a connection of a pool, through a policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ragcore.errors import RagcoreError
from ragcore.resilience import Policy
from ragcore.resilience.failure import On
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.pool import ConnectionLost, Pool
from ragcore.store.postgres.translate import cause_of, translate

__all__ = ["call"]

T = TypeVar("T")


async def call(
    pool: Pool,
    work: Callable[[PooledConnection], Awaitable[T]],
    *,
    policy: Policy,
    on: On,
    stage: str,
    known: Callable[[Exception], RagcoreError | None] = lambda _: None,
) -> T:
    """Run `work` on a connection of the pool, through the policy. Errors of the driver are raised as ragcore's errors.

    Args:
        pool: the pool.
        work: the work; it runs once for each attempt.
        policy: the policy.
        on: the rule that judges an error for the policy.
        stage: stage of the call, for its errors.
        known: returns the error to raise for an error of the driver; None: `translate` decides.
    """
    attempts = 0

    async def attempt() -> T:
        nonlocal attempts
        attempts += 1
        try:
            return await pool.run(work)
        except ConnectionLost as lost:
            if not lost.reused:
                raise
        # An idle connection may have ended long ago, as with HTTP keep-alive, so a new connection is tried immediately. This is outside of the
        # `except`, so that an error of the second try does not name the first as its context.
        attempts += 1
        return await pool.run(work)

    try:
        return await policy.call(attempt, on=on)
    except Exception as error:
        ours = translate(known(error) or error, pool.address, stage=stage, attempts=attempts)
        if ours is error:
            raise
        raise ours from cause_of(error)
