"""`ragcore ingest`, `documents` and `delete`: the documents of one tenant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from ragcore.cli.arguments import Json, Tenant
from ragcore.cli.on_ray import ingest_on_ray
from ragcore.cli.rendering import ingest_progress, show_ingest
from ragcore.cli.session import (
    DONE,
    PARTLY,
    Options,
    messages,
    open_client,
    print_json,
    results,
    run_async,
    run_blocking,
)
from ragcore.cli.watching import check_folders, watch_folders
from ragcore.errors import ConfigurationError
from ragcore.ingest.files import check_paths
from ragcore.ingest.options import CHUNK_TOKENS, OVERLAP_TOKENS, READ_SECONDS
from ragcore.ingest.sources.folder import FolderSource
from ragcore.ingest.sources.named import sources_of
from ragcore.ingest.sources.options import IngestOptions
from ragcore.ingest.sources.query import QuerySource
from ragcore.ingest.sources.source import Source
from ragcore.resilience import RateLimiter

__all__ = ["delete", "documents", "ingest"]

Engine: TypeAlias = Literal["local", "ray"]


def ingest(
    context: typer.Context,
    tenant: Tenant,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE…",
            help="Files, folders, patterns such as 'docs/**/*.md', lists of URLs (http://, https://), or object stores such as s3://bucket/docs.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Also delete documents that the source no longer lists.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Delete even if a source lists nothing, or more than 20 % of its documents are gone."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would be added, updated and deleted.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running, and repeat --sync after each change of the folder.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="With --sync: replace documents that are recorded for another source.")
    ] = False,
    query: Annotated[
        str | None,
        typer.Option(
            help="A SELECT statement with the columns id and text; each row is a document. Needs --query-name."
        ),
    ] = None,
    query_name: Annotated[
        str | None, typer.Option(help="Name of the query. It identifies the source, so keep it.")
    ] = None,
    query_dsn: Annotated[
        str | None,
        typer.Option(
            envvar="RAGCORE_SOURCE_DSN",
            help="DSN of the query's database. Set RAGCORE_SOURCE_DSN instead: other users can read a command line.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further host that a list of URLs may name.", show_default=False)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a file has an unknown type.")] = False,
    read_timeout: Annotated[
        float | None, typer.Option(help="Seconds for reading each file.", min=0.1, show_default=f"{READ_SECONDS:g}")
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Largest number of tokens to embed for a chunk.", min=8, show_default=f"{CHUNK_TOKENS}"),
    ] = None,
    overlap_tokens: Annotated[
        int | None,
        typer.Option(
            help="Largest number of tokens that neighbouring chunks share.", min=0, show_default=f"{OVERLAP_TOKENS}"
        ),
    ] = None,
    embed_text: Annotated[
        str | None,
        typer.Option(
            help="The text to embed for a chunk: text, title+text or headings+text.",
            show_default="as recorded in the collection",
        ),
    ] = None,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Follow symbolic links that lead out of a folder.")
    ] = False,
    whole_pages: Annotated[
        bool, typer.Option("--whole-pages", help="Read all of an HTML page, not only its main content.")
    ] = False,
    expires_at: Annotated[
        str | None,
        typer.Option(
            help="Time at which the documents expire, such as 2030-01-31; in UTC, unless it has a time zone. A line of a .jsonl file can set its own time.",
            show_default="never",
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(help="Largest number of requests per minute to the embedder.", min=1, show_default="no limit"),
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(help="Largest number of tokens per minute to the embedder.", min=1, show_default="no limit"),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Where to run: local is this process; ray is workers of Ray (extra `ray`).")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="With --engine ray: the address of a cluster.", show_default="a new one on this machine"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="With --engine ray: number of processes that add documents.", min=1, show_default="one for each CPU"
        ),
    ] = None,
) -> None:
    """Add documents, or replace those that changed. Unchanged documents are not embedded again."""
    if not sources and query is None:
        raise typer.BadParameter("give a folder, a file, a URL or --query")
    if (query is None) != (query_name is None):
        raise typer.BadParameter("use --query and --query-name together")
    if (yes or take_over) and not (sync or watch):
        raise typer.BadParameter("--yes and --take-over need --sync or --watch")
    if watch and (dry_run or query is not None):
        raise typer.BadParameter("--watch watches folders; it does not work with --dry-run or --query")
    options: Options = replace(
        context.obj,
        read_timeout=read_timeout,
        chunk_tokens=chunk_tokens,
        overlap_tokens=overlap_tokens,
        embed_text=embed_text,
    )
    expiry = _moment(expires_at)
    if engine == "ray" and (
        sync or watch or dry_run or query is not None or any("://" in one for one in sources or ())
    ):
        raise typer.BadParameter(
            "--engine ray reads folders and files; it does not work with --sync, --watch, --dry-run, --query or URLs"
        )
    if engine == "local" and (address is not None or workers is not None):
        raise typer.BadParameter("--address and --workers need --engine ray")
    if engine == "ray":

        def on_ray() -> int:
            report = ingest_on_ray(
                options,
                [Path(one) for one in sources or ()],
                tenant=tenant,
                address=address,
                workers=workers,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                strict=strict,
                follow_symlinks=follow_symlinks,
                whole_pages=whole_pages,
                expires_at=expiry,
            )
            show_ingest(report, as_json=as_json)
            return PARTLY if report.failed else DONE

        run_blocking(options, on_ray)
    rate_limiter = None
    if requests_per_minute is not None or tokens_per_minute is not None:
        rate_limiter = RateLimiter(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)

    async def body() -> int:
        # Make the sources first, so that an invalid path is an error before the database starts.
        found: list[Source] = await sources_of(sources or (), follow_symlinks=follow_symlinks, hosts=allow_host or ())
        check_paths([one.path for one in found if isinstance(one, FolderSource)])
        if query is not None and query_name is not None:
            if query_dsn is None:
                raise ConfigurationError("set RAGCORE_SOURCE_DSN to the DSN of the database that --query reads")
            found.append(QuerySource(query, dsn=query_dsn, name=query_name))
        given: IngestOptions = {
            "sync": sync or watch,
            "dry_run": dry_run,
            "confirmed": yes,
            "take_over": take_over if sync or watch else None,
            "expires_at": expiry,
            "strict": strict,
            "read_timeout": options.config().read_timeout,
            "whole_pages": whole_pages,
            "rate_limiter": rate_limiter,
        }
        if watch:
            folders = check_folders(found)
            async with open_client(options, creates=True) as rag:
                return await watch_folders(rag, folders, tenant=tenant, as_json=as_json, options=given)
        async with open_client(options, creates=not dry_run) as rag:
            with ingest_progress() as progress:
                given["progress"] = progress
                report = await rag.ingest(*found, tenant=tenant, **given)
        show_ingest(report, as_json=as_json, sync=sync, dry_run=dry_run)
        return PARTLY if report.failed or (report.kept and not dry_run) else DONE

    run_async(options, body)


def documents(context: typer.Context, tenant: Tenant, as_json: Json = False) -> None:
    """List a tenant's documents."""
    options: Options = context.obj

    async def body() -> int:
        async with open_client(options) as rag:
            known = await rag.documents(tenant=tenant)
        if not known:
            messages.print(f"tenant {tenant} has no documents in {options.where()}", style="yellow", markup=False)
        if as_json:
            print_json({"documents": dict(known)})
        for document_id in () if as_json else sorted(known):
            results.print(document_id, markup=False)
        return DONE

    run_async(options, body)


def delete(
    context: typer.Context,
    tenant: Tenant,
    document_ids: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of documents, as `ragcore documents` lists them.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Erase all data of the tenant.")] = False,
    as_json: Json = False,
) -> None:
    """Remove some documents of a tenant, or all its data."""
    options: Options = context.obj
    if bool(document_ids) == everything:
        raise typer.BadParameter("give the ids of documents, or --all")

    async def body() -> int:
        async with open_client(options) as rag:
            if not document_ids:
                erased = await rag.delete_tenant(tenant=tenant)
                if as_json:
                    print_json(erased.to_dict())
                else:
                    results.print(f"{erased.documents:,} documents with {erased.chunks:,} chunks erased")
                return DONE
            named = set(document_ids)
            count = await rag.delete(list(named), tenant=tenant)
        if as_json:
            print_json({"deleted": count})
        else:
            results.print(f"{count} of {len(named)} documents deleted")
        return DONE if count == len(named) else PARTLY

    run_async(options, body)


def _moment(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(
            f"--expires-at is {given!r}: it must be like 2030-01-31 or 2030-01-31T12:00+01:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
