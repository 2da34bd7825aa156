"""`ragcore serve` and `doctor`: a service, and whether it would run well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragcore.cli.arguments import Json
from ragcore.cli.doctor import Looked, examine
from ragcore.cli.production import review
from ragcore.cli.rendering import show_checks
from ragcore.cli.serve import serve as start_serving
from ragcore.cli.session import DONE, PARTLY, Options, print_json, run_async

__all__ = ["doctor", "serve"]


def doctor(
    context: typer.Context,
    as_json: Json = False,
    production: Annotated[
        bool, typer.Option("--production", help="Also check what must be so before tenants' data is served.")
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
        str | None, typer.Option(help="module:function that gets the ASGI scope and returns an Identity or None.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of pages whose scripts may ask, such as https://app.example.org; may be repeated."),
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
        typer.Option(help="File that gets a line of JSON for every look at a tenant's data: who, whose, when."),
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
