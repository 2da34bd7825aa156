"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Json", "OwnerDsn", "Question", "SearchMode", "Tenant", "Threshold", "Timeout", "TopK"]

Tenant = Annotated[str, typer.Option("--tenant", "-t", envvar="RAGCORE_TENANT", help="Whose documents.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds.", show_default="30")]
TopK = Annotated[int | None, typer.Option("--top-k", "-k", help="Passages at most.", show_default="5")]
Threshold = Annotated[
    float | None, typer.Option("--score-threshold", help="Least cosine similarity, -1 to 1.", show_default="none")
]
SearchMode = Annotated[str | None, typer.Option("--mode", help="vector, text or hybrid.", show_default="vector")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Question = Annotated[str, typer.Argument(help="What to ask.", show_default=False)]
OwnerDsn = Annotated[
    str,
    typer.Option(
        "--owner-dsn",
        envvar="RAGCORE_OWNER_DSN",
        help="Of the owner; better in RAGCORE_OWNER_DSN than on the command line.",
    ),
]
