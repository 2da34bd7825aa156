"""Keeps the state of a rollout in a store, so that all processes agree. No call waits for the store."""

from __future__ import annotations

import logging
import math
from contextlib import suppress

import anyio

from ragcore.errors import InvalidInput, RagcoreError
from ragcore.events import emit
from ragcore.lifecycle.owner import cleaning_up
from ragcore.protocols import RolloutRecord, RolloutStore
from ragcore.rollout.course import BASELINE, Action, Course, baseline, changed, evidence_of

__all__ = ["Sharing", "change"]

logger: logging.Logger = logging.getLogger("ragcore.rollout")

# Seconds between two exchanges with the store, and the time limit of one exchange.
EXCHANGE_EVERY = 2.0
EXCHANGE_SECONDS = 5.0
# Seconds between two warnings.
WARN_SECONDS = 60.0
# Attempts to change the state, because another process may change it between reading and writing.
MOST_ATTEMPTS = 5


class Sharing:
    """Exchanges the evidence of this process with the stored evidence of all processes, and carries out changes of the state.

    Each process reports its evidence as sums that only grow, under its own name. So a report that is sent twice counts once. A change names the version that
    it replaces: of two processes that change the state at once, one succeeds, and the other one adopts that result.
    """

    def __init__(self, course: Course, store: RolloutStore) -> None:
        self._course = course
        self._store = store
        self._warned = -math.inf
        self._running = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Exchange every two seconds, and immediately after a decision, until `stop`."""
        try:
            with self._running:
                while True:
                    with anyio.move_on_after(EXCHANGE_EVERY):
                        await self._course.wake.wait()
                    self._course.wake = anyio.Event()
                    await self.exchange()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End `run`, and report the evidence that this process has not reported yet. Returns within the time of a clean-up."""
        self._running.cancel()
        with cleaning_up():
            await self._ended.wait()
            await self.exchange()

    async def exchange(self) -> None:
        """Report the evidence, adopt the stored state, and carry out a decision. An error is logged, and the next exchange tries again."""
        try:
            with anyio.fail_after(EXCHANGE_SECONDS):
                record = await self._report()
                if self._course.wanted is not None:
                    await self._carry_out(record)
        except Exception as error:
            emit("rollout.unshared", self._course.state.name)
            if anyio.current_time() - self._warned >= WARN_SECONDS:
                self._warned = anyio.current_time()
                why = str(error) if isinstance(error, RagcoreError) else type(error).__name__
                logger.warning(
                    "the state of the rollout %s can't be shared; this process continues with its last known state: %s",
                    self._course.state.name,
                    why,
                )
            if self._course.wanted is not None:
                await anyio.sleep(EXCHANGE_EVERY)
                self._course.wake.set()

    async def apply(self, action: Action, reason: str) -> None:
        """Change the stored state, and adopt it.

        Raises:
            InvalidInput: the state does not allow this change.
            StoreError: the database failed.
        """
        record = await self._report()
        await change(self._store, record, action, reason)
        await self._report()

    async def _report(self) -> RolloutRecord:
        course = self._course
        record = await self._store.report_rollout(
            course.begun, ledger=course.ledger, version=course.state.version, evidence=course.own.to_dict()
        )
        course.adopt(record)
        return record

    async def _carry_out(self, record: RolloutRecord) -> None:
        wanted = self._course.wanted
        assert wanted is not None
        action, reason = wanted
        # A rollback is carried out even if another process has changed the share meanwhile. A promotion is valid only for the step that was judged.
        if action == "roll_back" or record.state.version == self._course.state.version:
            with suppress(InvalidInput):  # another process has already done it
                await change(self._store, record, action, reason, again=action == "roll_back")
        if self._course.wanted is wanted:  # the guard may have decided again meanwhile
            self._course.wanted = None
        await self._report()


async def change(
    store: RolloutStore, record: RolloutRecord, action: Action, reason: str, *, again: bool = True
) -> RolloutRecord:
    """Change a stored rollout.

    Args:
        store: the store of the rollout.
        record: the rollout as it was read.
        action, reason: the change.
        again: whether to repeat the change on the newer state if another process changed it first.

    Returns:
        The rollout after the change; if `again` is False and another process changed it first, the rollout after that change.

    Raises:
        InvalidInput: the state does not allow this change, or other processes changed it during all five attempts.
    """
    name = record.state.name
    for _ in range(MOST_ATTEMPTS):
        after = changed(record.state, action, reason)
        begin = {BASELINE: baseline(evidence_of(record), after).to_dict()}
        if await store.change_rollout(after, evidence=begin):
            return RolloutRecord(after, begin)
        newer = next((one for one in await store.rollouts() if one.state.name == name), None)
        if newer is None or not again:
            return record if newer is None else newer
        record = newer
    raise InvalidInput(f"the rollout {name!r} is being changed by other processes: look at its status, and try again")
