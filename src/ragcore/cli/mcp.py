"""`ragcore mcp`: serves agents by the Model Context Protocol, over stdin and stdout or over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragcore.audit import AuditLog
from ragcore.cli.serve import bound, hook_of, serve_application, with_limits
from ragcore.cli.session import DONE, Options, messages, open_client, run_async
from ragcore.client.rag import RAG
from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, InvalidInput

__all__ = ["mcp"]

PATH = "/mcp"


def mcp(
    context: typer.Context,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            "-t",
            envvar="RAGCORE_TENANT",
            help="The owner of the documents. With --http, the token of a request chooses it instead.",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP on a port, instead of stdin and stdout.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --http: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --http: port to listen on.", min=0, max=65535)] = 8001,
    tokens: Annotated[
        Path | None,
        typer.Option(help='With --http: JSON file of bearer tokens: {"token": {"tenant": "acme", "admin": false}}.'),
    ] = None,
    authenticate: Annotated[
        str | None,
        typer.Option(
            help="With --http: coroutine function, as module:function. It gets the ASGI scope, and returns an Identity or None."
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="Write a line of JSON to this file for each access to a tenant's data."),
    ] = None,
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="With --http: trust the X-Forwarded headers of the proxy at this address or network. May be repeated."
        ),
    ] = None,
) -> None:
    """Serve agents by the Model Context Protocol (MCP), with the tools search, ask, documents and similarity. By default, one program is served over stdin
    and stdout, for the tenant of --tenant. With --http, the endpoint is /mcp, and the token of each request chooses the tenant.
    """
    options: Options = context.obj

    async def body() -> int:
        require("mcp.server.lowlevel", extra="mcp", purpose="ragcore mcp")
        if http:
            return await _serve_http(
                options,
                host=host,
                port=port,
                tokens=tokens,
                hook=authenticate,
                audit=audit,
                trusted_proxies=",".join(trust_proxy or ()),
            )
        if tokens is not None or authenticate is not None:
            raise ConfigurationError("--tokens and --authenticate identify callers over HTTP: add --http")
        if tenant is None:
            raise InvalidInput("--tenant is missing: name the owner of the documents, or serve HTTP with --http")
        return await _serve_stdio(options, tenant=tenant, audit=audit)

    run_async(options, body)


async def _serve_stdio(options: Options, *, tenant: str, audit: Path | None) -> int:
    from ragcore.contrib.mcp import serve_stdio  # only here: it needs the extra

    log = None if audit is None else AuditLog(audit)
    try:
        if log is not None:
            await log.start()
        async with open_client(options) as rag:
            await serve_stdio(rag, tenant=tenant)
    finally:
        if log is not None:
            await log.aclose()
    return DONE


async def _serve_http(
    options: Options,
    *,
    host: str,
    port: int,
    tokens: Path | None,
    hook: str | None,
    audit: Path | None,
    trusted_proxies: str,
) -> int:
    from ragcore.contrib.mcp import app  # only here: it needs the extra

    authenticate = hook_of(tokens, hook)
    if authenticate is None:
        messages.print(
            "no authentication is configured, so every request returns 401: pass --tokens FILE or --authenticate module:function",
            style="yellow",
        )
    config = with_limits(options.config())
    options.check_database()
    listeners = bound(host, port)
    rag = RAG.from_config(config)
    return await serve_application(
        app(rag, authenticate=authenticate, path=PATH),
        rag,
        host=host,
        listeners=listeners,
        verbose=options.verbose,
        trusted_proxies=trusted_proxies,
        audit=audit,
        path=PATH,
    )
