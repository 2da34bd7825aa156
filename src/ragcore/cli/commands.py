"""The commands."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import ragcore
from ragcore.audit import AuditLog, acting, record
from ragcore.cli import loadtest
from ragcore.cli.arguments import Json, Question, SearchMode, Tenant, Threshold, Timeout, TopK
from ragcore.cli.doctor import Looked, examine
from ragcore.cli.exploring import evaluate, thresholds
from ragcore.cli.production import review
from ragcore.cli.serve import serve as start_serving
from ragcore.cli.session import DONE, PARTLY, Options, messages, open_client, print_json, results, run_async
from ragcore.config import EXTRACTIVE, Config
from ragcore.errors import Unsupported
from ragcore.ingest import read
from ragcore.ingest.files import check_paths
from ragcore.ingest.options import CHUNK_TOKENS, OVERLAP_TOKENS, READ_SECONDS
from ragcore.lifecycle.part import Parts
from ragcore.protocols import Embedder, Expiring
from ragcore.types import Answer, Delta, Document, Done, IngestReport, Mode, Passage, Retrieval, Unreadable
from ragcore.types.secret import Secret

__all__ = ["run"]

app = typer.Typer(
    name="ragcore",
    help="Questions over private documents, answered with citations. Results on stdout, messages on stderr.",
    epilog="Exit codes: 0 done, 1 done in part, 2 command or configuration at fault, 3 a dependency failed, 4 out of time or room.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def run() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        results.print(f"ragcore {ragcore.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of an embedded database, in place of the one that the environment names."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema", help="The collection: its schema in PostgreSQL.", show_default="RAGCORE_SCHEMA or ragcore"
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", help="Of text search, for a collection that is made.", show_default="english"),
    ] = None,
    pool_size: Annotated[
        int | None, typer.Option("--pool-size", help="Connections to PostgreSQL at most.", show_default="10")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option("--ef-search", help="How widely the index is searched, 1 to 1000.", show_default="100")
    ] = None,
    exact_rows: Annotated[
        int | None,
        typer.Option(
            "--exact-rows",
            help="Chunks up to which a tenant is searched exactly.",
            show_default="2,000,000 / dimension",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More messages, and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj = Options(
        data=data,
        schema=schema,
        language=language,
        pool_size=pool_size,
        ef_search=ef_search,
        exact_rows=exact_rows,
        verbose=verbose,
    )


@app.command()
def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files and folders: text, Markdown, HTML, PDF, office files, .jsonl", show_default=False),
    ],
    tenant: Tenant,
    as_json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a file is of an unknown type.")] = False,
    read_timeout: Annotated[
        float | None, typer.Option(help="Seconds for reading each file.", min=0.1, show_default=f"{READ_SECONDS:g}")
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of what is embedded for a chunk, at most.", min=8, show_default=f"{CHUNK_TOKENS}"),
    ] = None,
    overlap_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens that neighbouring chunks share, at most.", min=0, show_default=f"{OVERLAP_TOKENS}"),
    ] = None,
    embed_text: Annotated[
        str | None,
        typer.Option(
            help="What is embedded for a chunk: text, title+text or headings+text.",
            show_default="as the collection was",
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
            help="When the documents are no longer to be found, such as 2030-01-31; without a time zone in UTC. A line of .jsonl may say it for itself.",
            show_default="never",
        ),
    ] = None,
) -> None:
    """Add documents, or replace those that changed; what is unchanged is not embedded again."""
    options: Options = replace(
        context.obj,
        read_timeout=read_timeout,
        chunk_tokens=chunk_tokens,
        overlap_tokens=overlap_tokens,
        embed_text=embed_text,
    )
    expiry = _moment(expires_at)

    async def body() -> int:
        # A path that is refused is refused before the database is started.
        check_paths([path.expanduser() for path in paths])
        seconds = options.config().read_timeout
        documents = read(
            *paths,
            strict=strict,
            read_timeout=seconds,
            follow_symlinks=follow_symlinks,
            whole_pages=whole_pages,
        )
        async with open_client(options) as rag:
            report = await _ingest(rag, _expiring(documents, expiry), tenant)
        _show_ingest(report, as_json=as_json)
        return PARTLY if report.failed else DONE

    run_async(options, body)


@app.command()
def ask(
    context: typer.Context,
    question: Question,
    tenant: Tenant,
    timeout: Timeout = None,
    top_k: TopK = None,
    score_threshold: Threshold = None,
    mode: SearchMode = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer as it comes.")] = False,
    show_passages: Annotated[bool, typer.Option("--show-passages", help="Show what was found.")] = False,
    as_json: Json = False,
) -> None:
    """Answer a question from a tenant's documents, with citations."""
    options: Options = context.obj
    arguments: dict[str, Any] = {
        "tenant": tenant,
        "timeout": timeout,
        "top_k": top_k,
        "score_threshold": score_threshold,
        "mode": cast("Mode | None", mode),
    }

    async def body() -> int:
        async with open_client(options) as rag:
            if stream and not as_json:
                answer = await _ask_streaming(rag, question, arguments)
            else:
                answer = await rag.ask(question, **arguments)
                if not as_json:
                    results.print(answer.text, markup=False)
        if as_json:
            print_json(answer.to_dict())
        else:
            _show_answer(answer, show_passages=show_passages)
        return DONE if answer.found else PARTLY

    run_async(options, body)


@app.command()
def search(
    context: typer.Context,
    question: Question,
    tenant: Tenant,
    timeout: Timeout = None,
    top_k: TopK = None,
    score_threshold: Threshold = None,
    mode: SearchMode = None,
    as_json: Json = False,
) -> None:
    """Show the passages that a question finds."""
    options: Options = context.obj

    async def body() -> int:
        async with open_client(options) as rag:
            retrieval = await rag.retrieve(
                question,
                tenant=tenant,
                timeout=timeout,
                top_k=top_k,
                score_threshold=score_threshold,
                mode=cast("Mode | None", mode),
            )
        if as_json:
            print_json(retrieval.to_dict())
        else:
            _show_retrieval(retrieval)
        return DONE if retrieval.passages else PARTLY

    run_async(options, body)


@app.command()
def similarity(
    context: typer.Context,
    question: Question,
    tenant: Tenant,
    timeout: Timeout = None,
    score_threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Show how near a tenant's chunks are to a question, and what a threshold would do."""
    options: Options = context.obj

    async def body() -> int:
        async with open_client(options) as rag:
            report = await rag.similarity(question, tenant=tenant, timeout=timeout, score_threshold=score_threshold)
        if as_json:
            print_json(report.to_dict())
            return DONE
        results.print(str(report), markup=False)
        return DONE if report.histogram else PARTLY

    run_async(options, body)


app.command()(thresholds)
app.command()(evaluate)
app.add_typer(loadtest.app, name="loadtest")


@app.command()
def delete(
    context: typer.Context,
    tenant: Tenant,
    document_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids, as `documents` lists them.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Erase all that is kept of the tenant.")] = False,
    as_json: Json = False,
) -> None:
    """Remove documents of a tenant, or all of them."""
    options: Options = context.obj
    if bool(document_ids) == everything:
        raise typer.BadParameter("name documents, or say --all")

    async def body() -> int:
        async with open_client(options) as rag:
            if not document_ids:
                erased = await rag.delete_tenant(tenant=tenant)
                if as_json:
                    print_json(erased.to_dict())
                else:
                    results.print(f"{erased.documents:,} documents with {erased.chunks:,} chunks erased")
                return DONE
            count = await rag.delete(document_ids, tenant=tenant)
        if as_json:
            print_json({"deleted": count})
        else:
            results.print(f"{count} of {len(document_ids)} deleted")
        return DONE if count == len(set(document_ids)) else PARTLY

    run_async(options, body)


@app.command()
def expire(
    context: typer.Context,
    audit: Annotated[
        Path | None, typer.Option(help="File that gets a line of JSON for each tenant whose documents were removed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove the documents of all tenants that have expired. Nobody could find them any more; run it every day."""
    options: Options = context.obj

    async def body() -> int:
        removed: Counter[str] = Counter()
        async with AsyncExitStack() as stack:
            if audit is not None:
                await stack.enter_async_context(AuditLog(audit))
            stack.enter_context(acting("", route="ragcore expire"))
            rag = await stack.enter_async_context(open_client(options))
            store = rag.retriever.store
            if not isinstance(store, Expiring):
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


@app.command()
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


@app.command()
def migrate(
    context: typer.Context,
    role: Annotated[str, typer.Option("--role", help="The application's role, which must exist and own nothing.")],
    owner_dsn: Annotated[
        str,
        typer.Option(
            "--owner-dsn",
            envvar="RAGCORE_OWNER_DSN",
            help="Of the owner; better in RAGCORE_OWNER_DSN than on the command line.",
        ),
    ],
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            help="Of text search: a configuration of PostgreSQL's, as german, or simple.",
            show_default="english for a new collection",
        ),
    ] = None,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract", help="Also remove what only the release before needs, once no client of it is left."
        ),
    ] = False,
) -> None:
    """Create or update the schema in PostgreSQL for the embedding model of the environment."""
    options: Options = context.obj

    async def body() -> int:
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
            contract=contract,
        )
        results.print(
            f"the schema {schema} is up to date for {embedder.model} ({embedder.dimension} dimensions) and the role {role}"
        )
        return DONE

    run_async(options, body)


@app.command()
def reembed(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", help="The collection that is in use.")],
    target: Annotated[str, typer.Option("--to", help="The collection to embed into; made if missing.")],
    role: Annotated[str, typer.Option("--role", help="The application's role.")],
    owner_dsn: Annotated[
        str,
        typer.Option(
            "--owner-dsn",
            envvar="RAGCORE_OWNER_DSN",
            help="Of the owner; better in RAGCORE_OWNER_DSN than on the command line.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Embed a collection again with the embedding model of the environment, beside the old one; run again, it carries over what changed since."""
    options: Options = context.obj

    async def body() -> int:
        from ragcore.store.postgres import Reembedding
        from ragcore.store.postgres import reembed as embed_again
        from ragcore.text.redaction import Redaction

        environ = options.environment()
        last = 0

        def tell(done: Reembedding) -> None:
            nonlocal last
            if done.documents - last >= 100:
                last = done.documents
                messages.print(f"{done.documents:,} documents, {done.chunks:,} chunks")

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
                progress=tell,
            )
        finally:
            await parts.aclose()
        if as_json:
            print_json(done.to_dict())
        else:
            results.print(
                f"{done.documents:,} documents with {done.chunks:,} chunks embedded into {target}, {done.deleted:,} deleted; "
                + (
                    f"{done.differing:,} still differ: run it again"
                    if done.differing
                    else f"to switch, set RAGCORE_SCHEMA={target}"
                )
            )
        return PARTLY if done.differing else DONE

    run_async(options, body)


@app.command()
def doctor(
    context: typer.Context,
    as_json: Json = False,
    production: Annotated[
        bool, typer.Option("--production", help="Also check what must be so before members' data is served.")
    ] = False,
    tokens: Annotated[
        Path | None, typer.Option(help="With --production: the file that `ragcore serve` gets as --tokens.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="With --production: the file that `ragcore serve` gets as --audit.")
    ] = None,
) -> None:
    """Check interpreter, packages, database, role, schema, embedder, model and tokenizer; each line says what to do."""
    options: Options = context.obj

    async def body() -> int:
        looked = Looked()
        checks = [check async for check in examine(options, looked)]
        if production and looked.config is not None:
            reviewed = review(looked.config, looked.database, tokens=tokens, audit=audit)
            checks += [check async for check in reviewed]
        if as_json:
            print_json(
                {
                    "checks": [
                        {"check": check.name, "status": check.status, "message": check.message} for check in checks
                    ]
                }
            )
        else:
            signs = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}
            for check in checks:
                results.print(f"{signs[check.status]} {check.name + ':':<13} {escape(check.message)}")
        return PARTLY if any(check.status == "error" for check in checks) else DONE

    run_async(options, body)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(help='JSON file of bearer tokens: {"token": {"tenant": "member-42", "admin": false}}.'),
    ] = None,
    authenticate: Annotated[
        str | None, typer.Option(help="module:function that gets the ASGI scope and returns an Identity or None.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of pages whose scripts may ask, such as https://members.example.org; may be repeated."
        ),
    ] = None,
    ignore_client_instructions: Annotated[
        bool,
        typer.Option(help="Leave out a client's system messages, which else stand behind the operator's instructions."),
    ] = False,
    get_similarity: Annotated[
        bool,
        typer.Option(help="Whether administrators may ask for similarity reports with the question in the address."),
    ] = True,
    audit: Annotated[
        Path | None,
        typer.Option(help="File that gets a line of JSON for every look at a member's data: who, whose, when."),
    ] = None,
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address or network of a proxy whose X-Forwarded headers are believed; may be repeated."),
    ] = None,
) -> None:
    """Serve POST /chat, OpenAI's chat protocol, health and debug routes; without --tokens or --authenticate all but health refuse."""
    options: Options = context.obj
    run_async(
        options,
        lambda: start_serving(
            options,
            host=host,
            port=port,
            tokens=tokens,
            hook=authenticate,
            origins=allow_origin or (),
            client_instructions="ignore" if ignore_client_instructions else "append",
            similarity_by_get=get_similarity,
            trusted_proxies=",".join(trust_proxy or ()),
            audit=audit,
        ),
    )


def _named_embedder(environ: Mapping[str, str]) -> Embedder:
    """The embedder that the environment names, not started. A migration needs its name and dimension alone, so a missing key is no error here."""
    from ragcore.client.components import make_embedder

    dimension = environ.get("RAGCORE_EMBEDDING_DIMENSION")
    return make_embedder(
        Config(
            embedding_model=environ.get("RAGCORE_EMBEDDING_MODEL") or Config().embedding_model,
            embedding_dimension=int(dimension) if dimension else None,
            api_key=Secret(environ.get("OPENAI_API_KEY") or "none"),
            base_url=environ.get("OPENAI_BASE_URL") or None,
        )
    )


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


async def _expiring(
    documents: AsyncIterator[Document | Unreadable], expires_at: datetime | None
) -> AsyncIterator[Document | Unreadable]:
    """The documents, which expire then where they don't say so themselves."""
    async for document in documents:
        if expires_at is not None and isinstance(document, Document) and document.expires_at is None:
            yield replace(document, expires_at=expires_at)
        else:
            yield document


async def _ingest(rag: ragcore.RAG, documents: AsyncIterator[Document | Unreadable], tenant: str) -> IngestReport:
    if not messages.is_terminal:
        last = 0

        def tell(report: IngestReport) -> None:
            nonlocal last
            done = report.added + report.updated + report.unchanged
            if done - last >= 100:
                last = done
                messages.print(f"{done} documents, {report.chunks} chunks, {len(report.failed)} failed")

        return await rag.add(documents, tenant=tenant, progress=tell)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(report: IngestReport) -> None:
            done = report.added + report.updated + report.unchanged
            rate = report.chunks / report.seconds if report.seconds else 0.0
            bar.update(task, description=f"{done} documents, {report.chunks} chunks, {rate:.0f} chunks/s")

        return await rag.add(documents, tenant=tenant, progress=show)


def _show_ingest(report: IngestReport, *, as_json: bool) -> None:
    for doubt in report.warnings:
        messages.print(f"{doubt.id}: {doubt.message}", style="yellow", markup=False)
    for failed in report.failed:
        messages.print(f"{failed.id}: {failed.reason}", style="red", markup=False)
    if as_json:
        print_json(report.to_dict())
        return
    results.print(
        f"{report.added} added, {report.updated} updated, {report.unchanged} unchanged, {len(report.failed)} failed; "
        f"{report.chunks} chunks in {report.seconds:.1f} s"
    )


async def _ask_streaming(rag: ragcore.RAG, question: str, arguments: dict[str, Any]) -> Answer:
    answer: Answer | None = None
    async with rag.stream(question, **arguments) as stream:
        async for event in stream:
            match event:
                case Delta(text):
                    sys.stdout.write(text)
                    sys.stdout.flush()
                case Done(answer):
                    sys.stdout.write("\n")
    assert answer is not None
    return answer


def _show_answer(answer: Answer, *, show_passages: bool) -> None:
    for degradation in answer.degraded:
        messages.print(
            f"degraded at {degradation.stage}: {degradation.reason}; answered by {degradation.fallback}",
            style="yellow",
            markup=False,
        )
    if not answer.complete:
        messages.print(f"the answer is not whole: it ended with {answer.finish_reason!r}", style="yellow", markup=False)
    if answer.retrieval.empty is not None:
        messages.print(answer.retrieval.empty.message, style="yellow", markup=False)
    if not answer.found and answer.retrieval.passages:
        found = f"{len(answer.retrieval.passages)} passages were found, "
        why = (
            "but no sentence has enough of the question's words to be quoted as the answer, where a model would read them"
            if answer.model == EXTRACTIVE
            else "but none answers the question"
        )
        messages.print(f"{found}{why}; --show-passages shows them", style="yellow")
    if show_passages:
        _show_passages(answer.retrieval.passages)
        return
    shown: dict[int, str] = {}
    for citation in answer.citations:
        shown.setdefault(citation.number, _where(citation.passage))
    for number, where in shown.items():
        results.print(f"[{number}] {where}", markup=False)


def _show_retrieval(retrieval: Retrieval) -> None:
    for degradation in retrieval.degraded:
        messages.print(
            f"degraded at {degradation.stage}: {degradation.reason}; answered by {degradation.fallback}",
            style="yellow",
            markup=False,
        )
    if retrieval.empty is not None:
        messages.print(retrieval.empty.message, style="yellow", markup=False)
    _show_passages(retrieval.passages)


def _show_passages(passages: Sequence[Passage]) -> None:
    if not passages:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "score", "text rank", "where", "passage"):
        table.add_column(column, overflow="fold")
    for number, passage in enumerate(passages, start=1):
        score = "" if passage.score is None else f"{passage.score:.3f}"
        rank = "" if passage.text_score is None else f"{passage.text_score:.4f}"
        table.add_row(
            f"[{number}]".replace("[", r"\["),
            score,
            rank,
            escape(_where(passage)),
            escape(" ".join(passage.text.split())[:300]),
        )
    results.print(table)


def _where(passage: Passage) -> str:
    page = f", page {passage.metadata['page']}" if "page" in passage.metadata else ""
    heading = f", {passage.metadata['heading']}" if "heading" in passage.metadata else ""
    return f"{passage.document_id}{page}{heading}"
