"""`ragcore serve` and `doctor`: run a service, and check an installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragcore.cli.arguments import Json
from ragcore.cli.doctor import CheckResults, examine
from ragcore.cli.production import review
from ragcore.cli.proposing import propose_mapping
from ragcore.cli.rendering import show_checks
from ragcore.cli.serve import serve as start_serving
from ragcore.cli.session import DONE, PARTLY, Options, print_json, run_async

__all__ = ["doctor", "serve"]


def doctor(
    context: typer.Context,
    as_json: Json = False,
    production: Annotated[
        bool, typer.Option("--production", help="Also check the requirements for serving tenants' data.")
    ] = False,
    tokens: Annotated[
        Path | None,
        typer.Option(help="With --production: check this file of tokens. Pass the --tokens of `ragcore serve`."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="With --production: check this audit log. Pass the --audit of `ragcore serve`.")
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Only propose the settings with which ragcore searches this existing table, as schema.table. Needs DATABASE_URL."
        ),
    ] = None,
) -> None:
    """Check an installation: interpreter, packages, database, role, schema, embedder, model, tokenizer. Each line shows a result and, if needed, what to do."""
    options: Options = context.obj

    async def body() -> int:
        if table is not None:
            return await propose_mapping(options, table, as_json=as_json)
        results = CheckResults()
        checks = [check async for check in examine(options, results)]
        if production and results.config is not None:
            reviewed = review(results.config, results.database, tokens=tokens, audit=audit)
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
            show_checks(checks)
        return PARTLY if any(check.status == "error" for check in checks) else DONE

    run_async(options, body)


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(help='JSON file of bearer tokens: {"token": {"tenant": "acme", "admin": false}}.'),
    ] = None,
    authenticate: Annotated[
        str | None,
        typer.Option(
            help="Coroutine function, as module:function. It gets the ASGI scope, and returns an Identity or None."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Allow cross-origin requests (CORS) from pages of this origin, such as https://app.example.org. May be repeated."
        ),
    ] = None,
    ignore_client_instructions: Annotated[
        bool,
        typer.Option(
            help="Ignore the system messages of clients. By default, they are added to the operator's instructions."
        ),
    ] = False,
    get_similarity: Annotated[
        bool,
        typer.Option(help="Let administrators request similarity reports by GET, with the question in the URL."),
    ] = True,
    console: Annotated[bool, typer.Option(help="Serve the page /debug/console for administrators.")] = True,
    audit: Annotated[
        Path | None,
        typer.Option(
            help="Write a line of JSON to this file for each access to a tenant's data, with the person, the tenant and the time."
        ),
    ] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Show metrics for Prometheus to administrators, at /metrics.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Show metrics for Prometheus on this port as well, without authentication. Keep the port private.",
            min=0,
            max=65535,
        ),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address of --metrics-port.")] = "127.0.0.1",
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Trust the X-Forwarded headers of the proxy at this address or network. May be repeated."),
    ] = None,
) -> None:
    """Serve questions over HTTP. The routes are POST /chat, OpenAI's chat protocol, health and debug routes. Without --tokens or --authenticate, all routes
    except /livez, /readyz and /health return 401.
    """
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
            console=console,
            trusted_proxies=",".join(trust_proxy or ()),
            audit=audit,
            metrics=metrics,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
        ),
    )
