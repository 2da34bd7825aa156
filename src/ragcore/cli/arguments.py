"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Json", "OptionalQuestion", "OwnerDsn", "Question", "SearchMode", "Tenant", "Threshold", "Timeout", "TopK"]

Tenant = Annotated[str, typer.Option("--tenant", "-t", envvar="RAGCORE_TENANT", help="The owner of the documents.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds for the whole call.", show_default="30")]
TopK = Annotated[int | None, typer.Option("--top-k", "-k", help="Largest number of passages.", show_default="5")]
Threshold = Annotated[
    float | None,
    typer.Option("--score-threshold", help="Lowest cosine similarity of a passage, -1 to 1.", show_default="none"),
]
SearchMode = Annotated[
    str | None, typer.Option("--mode", help="How to search: vector, text or hybrid.", show_default="hybrid")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Question = Annotated[str, typer.Argument(help="The question to ask.", show_default=False)]
OptionalQuestion = Annotated[str | None, typer.Argument(help="The question to ask.", show_default=False)]
OwnerDsn = Annotated[
    str,
    typer.Option(
        "--owner-dsn",
        envvar="RAGCORE_OWNER_DSN",
        help="DSN of the role that owns the schema. Set RAGCORE_OWNER_DSN instead: other users can read a command line.",
    ),
]
