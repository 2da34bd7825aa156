"""`ragcore rollout`: shows and changes the rollouts whose state is in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import typer

from ragcore.cli.arguments import Json
from ragcore.cli.session import DONE, Options, open_client, print_json, results, run_async
from ragcore.compat.ability import offers
from ragcore.config import Config
from ragcore.errors import InvalidInput, Unsupported
from ragcore.protocols import RolloutStore

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    help="Show and change the rollouts whose state is in PostgreSQL.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[
    str | None, typer.Argument(help="The name of the rollout. Not needed if there is only one.", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", help="Reason for the change, for the log and the events.")]


@app.command()
def status(context: typer.Context, name: Name = None, as_json: Json = False) -> None:
    """Show the rollouts: status, share, and the figures of both sides since the last change."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.rollout import RolloutStatus

        async with _store(options) as store:
            found = [RolloutStatus.of_record(one) for one in await store.rollouts() if name in (None, one.state.name)]
        if name is not None and not found:
            raise InvalidInput(f"there is no rollout {name!r}: see `ragcore rollout status`")
        if as_json:
            print_json({"rollouts": [one.to_dict() for one in found]})
        elif found:
            for one in found:
                results.print("\n".join(one.lines()), markup=False)
        else:
            results.print("no rollouts: pass store=… to Rollout, so that it keeps its state in the database")
        return DONE

    run_async(options, body)


@app.command()
def promote(context: typer.Context, name: Name = None, reason: Reason = "by hand") -> None:
    """Take the next step: the next larger share. After a rollback, begin again with the smallest one."""
    _change(context, name, "promote", reason)


@app.command()
def pause(context: typer.Context, name: Name = None, reason: Reason = "by hand") -> None:
    """Stop the automatic promotion. The guard can still roll back."""
    _change(context, name, "pause", reason)


@app.command()
def resume(context: typer.Context, name: Name = None, reason: Reason = "by hand") -> None:
    """End a pause."""
    _change(context, name, "resume", reason)


@app.command()
def abort(context: typer.Context, name: Name = None, reason: Reason = "by hand") -> None:
    """Roll back: the stable side serves everyone. All processes follow within two seconds."""
    _change(context, name, "abort", reason)


def _change(
    context: typer.Context, name: str | None, action: Literal["promote", "pause", "resume", "abort"], reason: str
) -> None:
    options: Options = context.obj

    async def body() -> int:
        from ragcore.rollout import RolloutStatus
        from ragcore.rollout.sharing import change

        async with _store(options) as store:
            known = await store.rollouts()
            found = [one for one in known if name in (None, one.state.name)]
            if len(found) != 1:
                names = ", ".join(one.state.name for one in known)
                raise InvalidInput(f"name one of the rollouts: {names}" if names else "there are no rollouts to change")
            after = await change(store, found[0], action, reason)
        results.print(RolloutStatus.of_record(after).lines()[0], markup=False)
        return DONE

    run_async(options, body)


@asynccontextmanager
async def _store(options: Options) -> AsyncIterator[RolloutStore]:
    """Open the store. It needs no embedder and no model, so that a rollout can be aborted while they are down."""
    if not options.is_local():
        from ragcore.store import PgVectorStore

        # A configuration without a key is an error, but no key is used here. An empty variable counts as not set.
        environ = options.environment()
        config = Config.from_env({**environ, "OPENAI_API_KEY": environ.get("OPENAI_API_KEY") or "none"})
        assert config.dsn is not None
        unsafe = config.allow_unsafe_role
        made = PgVectorStore(config.dsn, schema=config.schema, pool_size=1, allow_unsafe_role=unsafe)
        async with made:
            yield made
        return
    async with open_client(options) as rag:
        kept = rag.retriever.store
        if not offers(kept, RolloutStore):
            raise Unsupported(f"{type(kept).__name__} can't store rollouts: use PostgreSQL", stage="rollout")
        yield kept
