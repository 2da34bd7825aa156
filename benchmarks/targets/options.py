"""Options for a scenario's target: a service at a URL, or a target that the benchmarks start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from ragcore.loadtest.options import AskingOptions

__all__ = ["Broken", "TargetOptions"]

Broken = Literal["hangs", "wrong", "leaks", "drips", "apologises"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions(AskingOptions):
    """Options of every command with a target. By default the target is the library in this process, with servers of realistic latency."""

    url: Annotated[str | None, typer.Option(help="Ask a service: POST the questions to this URL.")] = None
    reference: Annotated[bool, typer.Option(help="Ask ragcore's reference application over HTTP.")] = False
    broken: Annotated[Broken | None, typer.Option(help="Ask a service with this defect.")] = None
    from_env: Annotated[
        str | None,
        typer.Option(metavar="TENANT", help="Ask the client that the environment configures, as this tenant."),
    ] = None

    def __post_init__(self) -> None:
        chosen = [name for name in ("url", "reference", "broken", "from_env") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"choose one of --{' and --'.join(name.replace('_', '-') for name in chosen)}")
        AskingOptions.__post_init__(self)
        if self.url or self.from_env:
            self.require_questions()
