"""`ragcore migrate`, `index`, `reembed`, `copy`, `share`, `unshare` and `expire`: commands for a whole collection, with the documents of all tenants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ragcore.audit import AuditLog, acting, record
from ragcore.cli.arguments import Json, OwnerDsn
from ragcore.cli.rendering import progress_lines
from ragcore.cli.session import DONE, PARTLY, Options, open_client, owner_address, print_json, results, run_async
from ragcore.compat.ability import offers
from ragcore.config import Config
from ragcore.config.environment import Environment
from ragcore.errors import Unsupported
from ragcore.lifecycle.part import Parts
from ragcore.protocols import Embedder, Expiring
from ragcore.types.secret import Secret

if TYPE_CHECKING:  # the store takes long to import, so a command imports it when it needs it
    from ragcore.store.postgres import Reembedding
    from ragcore.store.postgres.index import IndexKind

__all__ = ["copy", "expire", "index", "migrate", "reembed", "share", "unshare"]

# Seconds between two lines about the progress of a build.
SECONDS_PER_LINE = 5

OwnerDsnOrEmbedded = Annotated[
    str | None,
    typer.Option(
        "--owner-dsn",
        envvar="RAGCORE_OWNER_DSN",
        help="DSN of the role that owns the schema. Not needed for an embedded database.",
        show_default=False,
    ),
]
Partitions = Annotated[
    int | None,
    typer.Option(
        "--partitions",
        help="Number of partitions of a new collection, 2 to 64, by a hash of the tenant.",
        show_default="one table",
    ),
]
SharedTenant = Annotated[
    str, typer.Argument(metavar="TENANT", help="The tenant that owns the common documents.", show_default=False)
]


def migrate(
    context: typer.Context,
    role: Annotated[str, typer.Option("--role", help="The application's role. It must exist and own nothing.")],
    owner_dsn: OwnerDsn,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            help="Language of full-text search: a text search configuration of PostgreSQL, such as german or simple.",
            show_default="english for a new collection",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--index",
            help="Kind of the vector index of a new collection: vector, halfvec, binary or none.",
            show_default="vector up to 2,000 dimensions, halfvec up to 4,000",
        ),
    ] = None,
    partitions: Partitions = None,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="Also remove the parts that only the previous release needs. Use it when no client of that release runs.",
        ),
    ] = False,
) -> None:
    """Create or update the schema in PostgreSQL. The environment variables name the embedding model."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store import Index
        from ragcore.store import migrate as migrate_schema

        environ = options.environment()
        schema = environ.get("RAGCORE_SCHEMA") or Config().schema
        embedder = _named_embedder(environ)
        await migrate_schema(
            owner_dsn,
            model=embedder.model,
            dimension=embedder.dimension,
            role=role,
            schema=schema,
            language=language or environ.get("RAGCORE_LANGUAGE") or None,
            index=None if kind is None else Index(kind=cast("IndexKind", kind)),
            partitions=partitions,
            contract=contract,
        )
        results.print(
            f"the schema {schema} is up to date for {embedder.model} ({embedder.dimension} dimensions) and the role {role}"
        )
        return DONE

    run_async(options, body)


def index(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="Kind of the index: vector, halfvec, binary or none.",
            show_default="the collection's kind",
        ),
    ] = None,
    m: Annotated[
        int | None,
        typer.Option(
            "--m",
            help="Number of neighbours of a chunk in the graph, 2 to 100.",
            show_default="the recorded one, at first 16",
        ),
    ] = None,
    ef_construction: Annotated[
        int | None,
        typer.Option(
            "--ef-construction",
            help="Number of candidates for a chunk that is inserted, 4 to 1000.",
            show_default="the recorded one, at first 64",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory of the build, such as 2GB.", show_default="the server's setting"),
    ] = None,
    owner_dsn: OwnerDsnOrEmbedded = None,
    as_json: Json = False,
) -> None:
    """Build the vector index, or replace it by one of another kind, without blocking writers. Run the command again if it was interrupted."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store import IndexProgress, build_index

        schema = options.environment().get("RAGCORE_SCHEMA") or Config().schema
        tell = progress_lines(every=SECONDS_PER_LINE)

        def progress(now: IndexProgress) -> None:
            share = "" if now.done is None else f", {now.done:.0%}"
            tell(int(now.seconds), f"{now.table}: {now.phase}{share}")

        async with owner_address(options, owner_dsn) as owner:
            built = await build_index(
                owner,
                schema=schema,
                kind=cast("IndexKind | None", kind),
                m=m,
                ef_construction=ef_construction,
                memory=memory,
                progress=progress,
            )
        if as_json:
            print_json(built.to_dict())
        else:
            now = built.index
            what = (
                f"the collection {schema} has no index, so every search is exact"
                if now.kind == "none"
                else f"the collection {schema} has an index of the kind {now.kind} (m {now.m}, ef_construction {now.ef_construction}), "
                f"{built.bytes / 1e6:,.1f} MB"
            )
            results.print(
                what + (f"; built in {built.seconds:,.1f} s" if built.built else "; nothing had to be built"),
            )
        return DONE

    run_async(options, body)


def reembed(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", help="The collection in use.")],
    target: Annotated[str, typer.Option("--to", help="The collection to embed into. Created if it does not exist.")],
    role: Annotated[str, typer.Option("--role", help="The application's role.")],
    owner_dsn: OwnerDsn,
    as_json: Json = False,
) -> None:
    """Embed a collection again, into another one. The environment variables name the embedding model. Run the command again to carry over later changes."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store.postgres import reembed as embed_again
        from ragcore.text.redaction import Redaction

        environ = options.environment()
        tell = progress_lines()

        def progress(done: Reembedding) -> None:
            tell(done.documents, f"{done.documents:,} documents, {done.chunks:,} chunks")

        parts = Parts()
        embedder = _named_embedder(environ)
        await parts.start(embedder)
        try:
            done = await embed_again(
                owner_dsn,
                source=source,
                target=target,
                embedder=embedder,
                role=role,
                redact=Redaction.parse(environ["RAGCORE_REDACT"]) if environ.get("RAGCORE_REDACT") else None,
                progress=progress,
            )
        finally:
            await parts.aclose()
        return _show_transfer(done, f"embedded into {target}", target, as_json=as_json)

    run_async(options, body)


def copy(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", help="The collection in use.")],
    target: Annotated[str, typer.Option("--to", help="The collection to copy into. Created if it does not exist.")],
    role: Annotated[str, typer.Option("--role", help="The application's role.")],
    owner_dsn: OwnerDsn,
    partitions: Partitions = None,
    as_json: Json = False,
) -> None:
    """Copy a collection with its vectors, into another one, such as one with partitions. Run the command again to carry over later changes."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store.postgres import copy_collection

        tell = progress_lines()

        def progress(done: Reembedding) -> None:
            tell(done.documents, f"{done.documents:,} documents, {done.chunks:,} chunks")

        done = await copy_collection(
            owner_dsn, source=source, target=target, role=role, partitions=partitions, progress=progress
        )
        return _show_transfer(done, f"copied to {target}", target, as_json=as_json)

    run_async(options, body)


def share(context: typer.Context, tenant: SharedTenant, owner_dsn: OwnerDsnOrEmbedded = None) -> None:
    """Let all tenants search the documents of this tenant, if the program names it in `shared`. They can't change the documents."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store import share as share_tenant

        schema = options.environment().get("RAGCORE_SCHEMA") or Config().schema
        async with owner_address(options, owner_dsn) as owner:
            await share_tenant(owner, tenant, schema=schema)
        results.print(
            f"tenant shared: {tenant}; to search its documents, set RAGCORE_SHARED={tenant}, or pass shared=({tenant!r},)",
            markup=False,
        )
        return DONE

    run_async(options, body)


def unshare(context: typer.Context, tenant: SharedTenant, owner_dsn: OwnerDsnOrEmbedded = None) -> None:
    """End `ragcore share`. Calls that name the tenant in `shared` then fail."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store import unshare as unshare_tenant

        schema = options.environment().get("RAGCORE_SCHEMA") or Config().schema
        async with owner_address(options, owner_dsn) as owner:
            await unshare_tenant(owner, tenant, schema=schema)
        results.print(f"tenant no longer shared: {tenant}", markup=False)
        return DONE

    run_async(options, body)


def expire(
    context: typer.Context,
    audit: Annotated[
        Path | None, typer.Option(help="Write a line of JSON to this file for each tenant whose documents are removed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove the expired documents of all tenants. Searches already ignore them. Run it every day."""
    options: Options = context.obj

    async def body() -> int:
        removed: Counter[str] = Counter()
        async with AsyncExitStack() as stack:
            if audit is not None:
                await stack.enter_async_context(AuditLog(audit))
            stack.enter_context(acting("", route="ragcore expire"))
            rag = await stack.enter_async_context(open_client(options))
            store = rag.retriever.store
            if not offers(store, Expiring):
                raise Unsupported(f"{type(store).__name__} has no expire()", stage="write")
            while some := await store.expire():
                removed.update(some)
                for tenant, count in some.items():
                    record("expire", tenant, outcome="ok", documents=count)
        if as_json:
            print_json({"expired": removed.total(), "tenants": dict(removed)})
        else:
            results.print(f"documents removed: {removed.total():,}; tenants: {len(removed):,}")
        return DONE

    run_async(options, body)


def _show_transfer(done: Reembedding, what: str, target: str, *, as_json: bool) -> int:
    """Show the result of `reembed` or `copy`; return the exit code."""
    if as_json:
        print_json(done.to_dict())
    else:
        results.print(
            f"{done.documents:,} documents with {done.chunks:,} chunks {what}, {done.deleted:,} deleted; "
            + (
                f"{done.differing:,} documents still differ: run the command again"
                if done.differing
                else f"to switch, set RAGCORE_SCHEMA={target}"
            )
        )
    return PARTLY if done.differing else DONE


def _named_embedder(environ: Mapping[str, str]) -> Embedder:
    """Return the embedder that the environment variables name. It is not started and needs no key: a migration uses only the model's name and dimension.

    Raises:
        ConfigurationError: the dimension is not a number, or the embedder is not known.
    """
    from ragcore.client.components import make_embedder

    return make_embedder(
        Config(
            embedding_model=environ.get("RAGCORE_EMBEDDING_MODEL") or Config().embedding_model,
            embedding_dimension=Environment(environ).read("RAGCORE_EMBEDDING_DIMENSION", int, None),
            api_key=Secret(environ.get("OPENAI_API_KEY") or "none"),
            base_url=environ.get("OPENAI_BASE_URL") or None,
        )
    )
