"""Sends questions at a rate or from a number of users, to a service or one of the benchmarks' own targets. A fault may be injected during the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from benchmarks.targets.choice import LocalAim, aimed
from benchmarks.targets.options import TargetOptions
from ragcore.loadtest.figures import Figures, Shade
from ragcore.loadtest.load import LoadOptions, Objective, put
from ragcore.loadtest.target import Aim

if TYPE_CHECKING:
    from tests.support.elsewhere import Elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """A fault that is injected into the benchmarks' own servers during a run."""

    fault: Annotated[
        str | None, typer.Option(help='STAGE:FAULT of `python -m benchmarks faults`: "generate:503", "search:frozen".')
    ] = None
    fault_from: Annotated[float, typer.Option(help="Seconds after the first measured question.")] = 5.0
    fault_for: Annotated[float, typer.Option(help="Seconds.")] = 5.0

    def striking(self, aim: Aim) -> _Striking | None:
        """Return the fault to inject into the target's servers; None if there is none.

        Raises:
            ValueError: the fault is unknown, or the target does not run on the benchmarks' own servers.
        """
        if self.fault is None:
            return None
        servers = aim.servers if isinstance(aim, LocalAim) else None
        if servers is None:
            raise ValueError("--fault works only with the benchmarks' own servers, not with a service at a URL")
        from tests.support.matrix import matrix

        stage, _, name = self.fault.partition(":")
        known = matrix()
        if (stage, name.strip()) not in known:
            listed = ", ".join(f"{stage}:{name}" for stage, name in known)
            raise ValueError(f"unknown fault {self.fault!r}: choose one of {listed}")
        return _Striking(self, servers, stage, name.strip())


@dataclass(frozen=True, slots=True)
class _Striking:
    faults: Faults
    servers: Elsewhere
    stage: str
    name: str

    async def __call__(self, now: Callable[[], float], shades: list[Shade], /) -> None:
        await anyio.sleep(self.faults.fault_from)
        began = now()
        await self.servers.strike(self.stage, self.name)
        await anyio.sleep(self.faults.fault_for)
        await self.servers.fair()
        shades.append(Shade(f"{self.stage}:{self.name}", began, now()))


def run(*, quick: bool, target: TargetOptions, objective: Objective, faults: Faults, load: LoadOptions) -> Figures:
    """Warm up, then run the same load several times."""
    seconds, repeats = load.plan(quick=quick)
    if faults.fault is not None and faults.fault_from + faults.fault_for > seconds * repeats:
        raise ValueError(
            f"the run lasts {seconds * repeats:g} s, which is too short: the fault must begin and end within it"
        )

    async def body() -> Figures:
        async with aimed(target) as aim:
            return await put(aim, load, objective, quick=quick, disturb=faults.striking(aim))

    return anyio.run(body)
