"""`ragcore doctor --table`: proposes the settings for an existing table."""

from __future__ import annotations

from ragcore.cli.session import DONE, PARTLY, Options, messages, print_json, results
from ragcore.config.environment import Environment
from ragcore.errors import ConfigurationError
from ragcore.store.postgres.table import propose

__all__ = ["propose_mapping"]


async def propose_mapping(options: Options, relation: str, *, as_json: bool) -> int:
    """Print the lines of a configuration for a table on stdout, and what to check on stderr; return the exit code."""
    dsn = None if options.is_local() else Environment(options.environment()).dsn()
    if dsn is None:
        raise ConfigurationError("DATABASE_URL is not set: set it to the database that has the table")
    proposal = await propose(dsn, relation)
    if as_json:
        print_json(proposal.to_dict())
    else:
        for line in ("DATABASE_URL=…", "OPENAI_API_KEY=…", *proposal.lines):
            results.print(line, markup=False)
        messages.print(
            f"check the columns; the vectors have {proposal.dimension or 'an unknown number of'} dimensions: "
            "RAGCORE_EMBEDDING_MODEL must name the model that made them",
            markup=False,
        )
        for what in proposal.missing:
            messages.print(
                f"no column was found for {what}: name it in RAGCORE_TABLE_COLUMNS", style="red", markup=False
            )
        for message in (*proposal.advice, *proposal.problems):
            messages.print(message, style="yellow", markup=False)
    return PARTLY if proposal.missing else DONE
