"""Chooses a command's target by its options."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.targets.options import TargetOptions
from ragcore.loadtest.http import http_target
from ragcore.loadtest.target import Aim, Question, Target

if TYPE_CHECKING:
    from tests.support.elsewhere import Elsewhere

__all__ = ["LocalAim", "aimed"]


@dataclass(frozen=True, slots=True)
class LocalAim(Aim):
    """A target that the benchmarks started.

    Attributes:
        servers: the benchmarks' own servers behind the target. None for a broken service and for a client that the environment configures.
    """

    servers: Elsewhere | None = None


@asynccontextmanager
async def aimed(options: TargetOptions) -> AsyncIterator[Aim]:
    """Start or find the target that the options choose. A target imports only its own dependencies, so a URL needs neither a database nor a model.

    Raises:
        ValueError: the options are invalid.
        TargetError: the login failed.
    """

    def local(
        target: Target, usual: Sequence[Question], pid: int, *, shared: bool = False, servers: Elsewhere | None = None
    ) -> LocalAim:
        return LocalAim(
            target,
            options.asked(usual),
            pid=pid,
            memory_required=options.pid is not None,
            shared=shared,
            timeout=options.timeout,
            hung_after=options.hung_after,
            servers=servers,
        )

    if options.url is not None:
        async with options.service(options.url) as aim:
            yield aim
    elif options.broken is not None:
        from benchmarks.targets.broken import QUESTIONS, broken

        async with broken(options.broken) as (how, process), http_target(how) as target:
            yield local(target, QUESTIONS, process.pid)
    elif options.reference:
        from benchmarks.targets.library import member_questions
        from benchmarks.targets.reference import reference

        async with reference() as (how, process, servers), http_target(how) as target:
            yield local(target, member_questions(), process.pid, servers=servers)
    else:
        from benchmarks.targets.library import library, member_questions

        async with library(tenant=options.from_env) as (inside, around):
            yield local(inside, member_questions(), os.getpid(), shared=True, servers=around)
