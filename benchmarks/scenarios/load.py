"""Questions at a rate or from so many users, at a service or a target of the benchmarks' own, in which a fault may strike."""

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
    """A fault that strikes in the middle of a run, at servers of the benchmarks' own."""

    fault: Annotated[
        str | None, typer.Option(help='STAGE:FAULT of `python -m benchmarks faults`: "generate:503", "search:frozen".')
    ] = None
    fault_from: Annotated[float, typer.Option(help="Seconds after the first measured question.")] = 5.0
    fault_for: Annotated[float, typer.Option(help="Seconds.")] = 5.0

    def striking(self, aim: Aim) -> _Striking | None:
        """What strikes the servers of the target; None: nothing does.

        Raises:
            ValueError: there is no such fault, or the servers are not the benchmarks' own.
        """
        if self.fault is None:
            return None
        servers = aim.servers if isinstance(aim, LocalAim) else None
        if servers is None:
            raise ValueError("a --fault needs servers of the benchmarks' own: it can't strike a service's")
        from tests.support.matrix import matrix

        stage, _, name = self.fault.partition(":")
        known = matrix()
        if (stage, name.strip()) not in known:
            listed = ", ".join(f"{stage}:{name}" for stage, name in known)
            raise ValueError(f"there is no fault {self.fault!r}; there are {listed}")
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
    """Warm up, then the same load several times."""
    seconds, repeats = load.plan(quick=quick)
    if faults.fault is not None and faults.fault_from + faults.fault_for > seconds * repeats:
        raise ValueError(
            f"the run ends after {seconds * repeats:g} s: the fault would not strike, or not end, within it"
        )

    async def body() -> Figures:
        async with aimed(target) as aim:
            return await put(aim, load, objective, quick=quick, disturb=faults.striking(aim))

    return anyio.run(body)
