"""A rollout: a candidate serves a growing share of the tenants, and is rolled back automatically if it is worse than the stable side."""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

import anyio

from ragcore.errors import ConfigurationError, DeadlineExceeded, NotOpen
from ragcore.events import emit
from ragcore.lifecycle.bound import expires_at
from ragcore.lifecycle.owner import Owner
from ragcore.lifecycle.part import Part, Parts
from ragcore.protocols import RolloutStore
from ragcore.rollout.assignment import position
from ragcore.rollout.comparison import differences
from ragcore.rollout.course import Action, Course
from ragcore.rollout.evidence import Outcome, Side
from ragcore.rollout.guard import Guard
from ragcore.rollout.run import GRACE, Run
from ragcore.rollout.shadow import Shadow, ShadowPlaces
from ragcore.rollout.sharing import EXCHANGE_SECONDS, Sharing
from ragcore.rollout.sides import Callee, Implementation
from ragcore.rollout.status import RolloutStatus
from ragcore.rollout.streaming import First, RolloutStream, first_piece
from ragcore.types import RolloutState
from ragcore.types.validation import check_tenant, check_timeout

__all__ = ["Rollout"]

T = TypeVar("T")
R = TypeVar("R")

logger: logging.Logger = logging.getLogger("ragcore.rollout")

TIMEOUT = 30.0
# The candidate's part of a call's time. The rest must be enough for the stable side, which is known to work.
CANDIDATE_PART = 0.5
# The stable side's time limit ends a little before the call's deadline, so that its own error, which has more details, comes first.
LAST = 0.05
LAST_PART = 0.02


class Rollout(Part, Generic[T]):
    """Answers questions with a stable side and a candidate, and shifts the traffic to the candidate automatically.

    The candidate serves the tenants whose position is below the share; a tenant that it serves stays with it as the share grows. If the candidate fails or
    uses up its part of the time, the stable side answers, so a user only notices a longer wait.

    The candidate gets half of a call's time. If it has no answer by then, the stable side starts with the other half, less 2 % and at most 50 ms, so that its
    own error arrives before the deadline. Both sides run in tasks of the rollout. The call waits for them only until these points in time, so it returns by its
    deadline even if a side ignores its time limit and its cancellation.

    Args:
        stable: the present implementation: a client such as `RAG`, or a coroutine function with the arguments of `RAG.ask`:
            `await stable(question, tenant=…, timeout=…, …)`.
        candidate: the new implementation. Its answers must have the same type.
        share: the share of tenants that the candidate serves at first, 0 to 1. 0: it only answers in the shadow of the stable side, until the guard promotes it
            to the first step.
        steps: the shares, smallest first. The last one must be 1.
        guard: the limits. None: `Guard()`.
        shadow: which questions both sides answer, see `Shadow`. None: no question. The guard then does not compare answers.
        name: the name of the rollout, for events and for the stored state. Choose a new name for each candidate, such as its release.
        key: a secret that determines the order of the tenants, together with the name. All processes must have the same key.
        store: keeps the state for all processes, such as the `PgVectorStore` of a client. None: this process keeps the state.
        timeout: seconds for a call without a `timeout` of its own. Default 30.

    Raises:
        ConfigurationError: an argument is not in its range.

    Examples:
        ```python
        async with Rollout(old_answer, rag, share=0.05, name="release-7", store=rag.retriever.store) as rollout:
            answer = await rollout.ask("What is my deductible?", tenant="member-42", timeout=20)
        ```
    """

    guard: Guard
    timeout: float

    def __init__(
        self,
        stable: Implementation[T],
        candidate: Implementation[T],
        *,
        share: float = 0.05,
        steps: Sequence[float] = (0.05, 0.25, 1.0),
        guard: Guard | None = None,
        shadow: Shadow | None = Shadow(),  # noqa: B008  # it is immutable
        name: str = "candidate",
        key: str = "",
        store: RolloutStore | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._sides: dict[Side, Callee[T]] = {
            "stable": Callee(stable, "stable"),
            "candidate": Callee(candidate, "candidate"),
        }
        self._begun = RolloutState(name=name, share=_checked(share, "share"), steps=_checked_steps(steps))
        if not name or len(name) > 200:
            raise ConfigurationError(f"name has {len(name)} characters: it must have 1 to 200")
        if share == 0 and shadow is None:
            raise ConfigurationError("share is 0 and shadow is None: the candidate would never be called")
        self.guard = guard or Guard()
        self.shadow = shadow
        self.timeout = check_timeout(timeout) or TIMEOUT
        self._places = None if shadow is None else ShadowPlaces(shadow)
        self._key = f"{name}\0{key}"
        self._store = store
        self._course: Course | None = None
        self._sharing: Sharing | None = None
        self._parts = Parts()
        # The calls in the shadow.
        self._beside: set[Run[T]] = set()

    @property
    def state(self) -> RolloutState:
        """The state, as this process knows it. Before the first start, the initial state."""
        return self._begun if self._course is None else self._course.state

    def status(self) -> RolloutStatus:
        """Return the state with the figures since its last change."""
        course = self._course
        return RolloutStatus.of(self._begun) if course is None else RolloutStatus.of(course.state, course.total())

    def serves(self, tenant: str | UUID, /) -> Side:
        """Return the side that serves a tenant now, "stable" or "candidate"."""
        share = 0.0 if self._course is None else self._course.share
        return "candidate" if position(check_tenant(tenant), key=self._key) < share else "stable"

    async def ask(self, question: str, /, *, tenant: str | UUID, timeout: float | None = None, **options: object) -> T:
        """Answer a question with the side that serves the tenant.

        Args:
            question: the question.
            tenant: the owner of the documents.
            timeout: seconds for the whole call; None: the rollout's `timeout`. An earlier deadline around the call applies as well.
            options: passed on to both sides.

        Raises:
            DeadlineExceeded: there was no answer by the deadline.
            InvalidInput, LimitExceeded: a side refused the question or the tenant. The other side is not asked.
            Exception: the error of the stable side, if no side answered.
        """
        tenant = check_tenant(tenant)

        async def call(side: Side, seconds: float) -> T:
            return await self._sides[side].ask(question, tenant=tenant, timeout=seconds, **options)

        run = await self._first(call, tenant, check_timeout(timeout) or self.timeout)
        self._compare(run.side, run.value, question, tenant, options)
        return run.value

    @asynccontextmanager
    async def stream(
        self, question: str, /, *, tenant: str | UUID, timeout: float | None = None, **options: object
    ) -> AsyncIterator[RolloutStream]:
        """Answer a question in pieces. Both sides must be clients with `stream`.

        Entering the block waits for the first piece of the answer. Until then, the stable side can take over; the candidate has half of the time for its first
        piece. After the first piece, the whole answer comes from one side, which has the rest of the time, and an error of that side is raised.

        Raises:
            Unsupported: a side has no `stream`.
            DeadlineExceeded, InvalidInput, …: as for `ask`.
        """
        tenant = check_tenant(tenant)
        until = min(anyio.current_time() + (check_timeout(timeout) or self.timeout), expires_at())

        async def call(side: Side, _: float) -> First:
            # The time limit of a stream is that of the whole answer.
            left = max(until - anyio.current_time(), 1e-3)
            return await first_piece(self._sides[side].stream(question, tenant=tenant, timeout=left, **options))

        run = await self._first(call, tenant, until - anyio.current_time(), streams=True)
        stream = RolloutStream(run.value)
        try:
            yield stream
        finally:
            await run.value.close()
            # The seconds of a stream are those until its first piece, because the rest also depends on the reader.
            if stream.done is not None:
                self._count(run, "degraded" if stream.done.degraded else "ok")
                self._compare(run.side, stream.done, question, tenant, options)
            elif stream.failed:
                self._count(run, "failed")

    async def promote(self, reason: str = "by hand") -> None:
        """Take the next step: the next larger share, or "promoted" after the largest. After a rollback, begin again with the smallest share.

        Raises:
            InvalidInput: the rollout is already promoted.
            StoreError: the state is stored in a database, and the database failed.
            NotOpen: the rollout is not open.
        """
        await self.change("promote", reason)

    async def pause(self, reason: str = "by hand") -> None:
        """Stop the automatic promotion. The guard can still roll back. Raises the errors of `promote`."""
        await self.change("pause", reason)

    async def resume(self, reason: str = "by hand") -> None:
        """End a pause. Raises the errors of `promote`."""
        await self.change("resume", reason)

    async def abort(self, reason: str = "by hand") -> None:
        """Roll back: the stable side serves everyone. Also possible after the promotion. Raises the errors of `promote`."""
        await self.change("abort", reason)

    async def change(self, action: Action, reason: str) -> None:
        """Change the state by the name of an action: "promote", "pause", "resume" or "abort".

        Raises:
            InvalidInput: the state does not allow this change.
            StoreError, NotOpen: as for `promote`.
        """
        self._check_open()
        assert self._course is not None
        if self._sharing is None:
            self._course.apply(action, reason)
        else:
            await self._sharing.apply(action, reason)

    async def _open(self) -> None:
        owner = self._owner
        assert owner is not None
        await self._parts.start(self._sides["stable"].given)
        if self._store is not None:
            await self._parts.start(self._store)
        self._course = self._course or Course(self._begun, self.guard, shared=self._store is not None)
        if self._course.known:  # otherwise the first exchange reports the start
            self._course.report_start()
        try:
            await self._parts.start(self._sides["candidate"].given)
        except Exception as error:
            # Users must not notice that the candidate can't start.
            logger.exception("the candidate of the rollout %s does not start", self._begun.name)
            if self._course.state.status != "rolled_back":
                self._course.apply("roll_back", f"start: the candidate does not start ({type(error).__name__})")
        if self._store is not None:
            self._sharing = Sharing(self._course, self._store)
            # The first exchange reads the share. If the database does not answer, the stable side serves everyone until it does.
            with anyio.move_on_after(EXCHANGE_SECONDS / 2):
                await self._sharing.exchange()
            owner.spawn(self._sharing.run, name="sharing the rollout")

    async def _close(self) -> None:
        for run in self._beside:  # no caller waits for these calls, so closing does not wait for them either
            run.cancel()
        sharing, self._sharing = self._sharing, None
        if sharing is not None:
            await sharing.stop()
        await self._parts.aclose()

    async def _first(
        self, call: Callable[[Side, float], Awaitable[R]], tenant: str, seconds: float, *, streams: bool = False
    ) -> Run[R]:
        """Return the call of the first side that answers, by the deadline. A stream answers with its first piece, and the rest has until the deadline."""
        owner = self._check_open()
        began = anyio.current_time()
        until = min(began + seconds, expires_at())
        if self.serves(tenant) == "candidate" and until > began:
            part = CANDIDATE_PART * (until - began)
            run = Run("candidate", partial(call, "candidate"), part, deadline=until if streams else None)
            if await self._answered(run, owner, run.until):
                return run
            emit("rollout.fell_back", self.state.name, outcome=run.outcome or "late", seconds=run.seconds)
        left = until - anyio.current_time()
        if left > 0:
            seconds = left - min(LAST, LAST_PART * left)
            run = Run("stable", partial(call, "stable"), seconds, limit=CANDIDATE_PART * (until - began))
            if await self._answered(run, owner, until):
                return run
            if run.ended is not None:
                raise run.failure()
        elapsed = anyio.current_time() - began
        raise DeadlineExceeded(
            f"deadline exceeded: neither side of the rollout answered within {until - began:g} s",
            budget=max(0.0, until - began),
            elapsed=elapsed,
            stage="rollout",
        )

    async def _answered(self, run: Run[R], owner: Owner, until: float) -> bool:
        """Run a call; return whether it has answered by `until`.

        Raises:
            InvalidInput, LimitExceeded: the call was refused because of its arguments or its tenant.
        """
        run.start(owner)
        try:
            ended = await run.wait(until)
        except BaseException:  # the caller is cancelled
            run.cancel()
            self._settle_later(run, owner, anyio.current_time())
            raise
        if not ended:
            self._settle_later(run, owner, run.until)
            return False
        self._settle(run)
        if run.blames_the_caller:
            raise run.failure()
        return run.is_ok

    def _settle_later(self, run: Run[R], owner: Owner, since: float) -> None:
        """Count a call that no caller waits for any longer, as soon as it ends or has hung."""

        is_late = since == run.until

        async def settle() -> None:
            ended = await run.wait((run.deadline if is_late else since) + GRACE)
            run.cancel()
            if not ended:
                emit("rollout.hung", self.state.name, side=run.side, seconds=run.seconds)
                self._count(run, "hung")
            elif run.outcome is not None:
                self._count(run, "late" if is_late else run.outcome)
            if run.is_ok and isinstance(run.value, First):
                await run.value.close()

        # A rollout that is closing accepts no tasks; it cancels all calls.
        with suppress(NotOpen):
            owner.spawn(settle, name=f"late {run.side} call")

    def _settle(self, run: Run[R]) -> None:
        # A stream is counted at its end.
        if run.outcome is not None and not (run.is_ok and isinstance(run.value, First)):
            self._count(run, run.outcome)

    def _count(self, run: Run[R], outcome: Outcome) -> None:
        assert self._course is not None
        self._course.count(run.side, outcome, run.seconds, limit=run.limit)

    def _compare(self, shown: Side, answer: object, question: str, tenant: str, options: dict[str, object]) -> None:
        """Let the other side answer as well, in the background, if this question is to be compared."""
        course, owner, places, shadow = self._course, self._owner, self._places, self.shadow
        if course is None or owner is None or places is None or shadow is None or not course.is_judged:
            return
        if shown == "stable" and not course.is_shadow:
            return
        if not places.take(anyio.current_time()):
            return
        other: Side = "candidate" if shown == "stable" else "stable"

        async def beside() -> None:
            call = partial(self._sides[other].ask, question, tenant=tenant, **options)
            run = Run(other, lambda seconds: call(timeout=seconds), shadow.timeout)
            self._beside.add(run)
            try:
                run.start(owner)
                if not await run.wait(run.until):
                    self._settle_later(run, owner, run.until)
                    return
                self._settle(run)
                if run.is_ok:
                    pair = (answer, run.value) if other == "candidate" else (run.value, answer)
                    course.compare(differences(question, *pair))
            finally:
                self._beside.discard(run)
                places.give_back()

        try:
            owner.spawn(beside, name=f"{other} in the shadow", context=contextvars.copy_context())
        except NotOpen:
            places.give_back()


def _checked(share: float, name: str) -> float:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1 or math.isnan(share):
        raise ConfigurationError(f"{name} is {share!r}: it must be from 0 to 1")
    return float(share)


def _checked_steps(steps: Sequence[float]) -> tuple[float, ...]:
    checked = tuple(_checked(step, "a step") for step in steps)
    if not checked or checked[-1] != 1 or checked[0] == 0 or list(checked) != sorted(set(checked)):
        raise ConfigurationError(f"steps are {checked}: they must grow, begin above 0, and end with 1")
    return checked
