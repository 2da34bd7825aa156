"""Which target a scenario asks: a service by its URL, or one that the benchmarks start themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from ragcore.loadtest.options import AskingOptions

__all__ = ["Broken", "TargetOptions"]

Broken = Literal["hangs", "wrong", "leaks", "drips", "apologises"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions(AskingOptions):
    """Options that every command with a target has. Without any: the library in this process, and servers of its own with realistic latencies."""

    url: Annotated[str | None, typer.Option(help="Ask a service: the questions go here by POST.")] = None
    reference: Annotated[bool, typer.Option(help="Ask ragcore's reference application over HTTP.")] = False
    broken: Annotated[Broken | None, typer.Option(help="Ask a service that is broken in this way.")] = None
    from_env: Annotated[
        str | None,
        typer.Option(metavar="TENANT", help="Ask the client that the environment configures, of this tenant."),
    ] = None

    def __post_init__(self) -> None:
        chosen = [name for name in ("url", "reference", "broken", "from_env") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"choose one of --{' and --'.join(name.replace('_', '-') for name in chosen)}")
        AskingOptions.__post_init__(self)
        if self.url or self.from_env:
            self.require_questions()
