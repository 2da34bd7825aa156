"""A chat service with Flask. `ragcore.blocking` is the client for code without `await`; all threads of a process share it.

Needs the extras embedded and local, and: pip install flask
Run it in this folder. TOKENS maps each caller's token to a tenant. The second command adds the sample documents for the tenant "shop":

    export TOKENS='{"secret-of-the-shop": "shop"}'
    flask --app flask_app add documents shop
    flask --app flask_app run --port 8000
    curl localhost:8000/chat -H 'authorization: Bearer secret-of-the-shop' -d '{"message": "How much is the deposit?"}'

In production, run it with gunicorn: gunicorn flask_app:app --workers 2 --threads 32 --graceful-timeout 10. Set DATABASE_URL and OPENAI_API_KEY for your own
database and a model.
"""

import json
import os
from collections.abc import Iterator

import click
import ragcore
from flask import Flask, Response, abort, jsonify, request
from ragcore import blocking
from ragcore.contrib import asgi
from ragcore.ingest import read

TOKENS: dict[str, str] = json.loads(os.environ["TOKENS"])
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 64_000
# This does no I/O. The client starts at its first call, so each worker of gunicorn starts its own client.
rag = blocking.RAG.from_config(
    ragcore.Config.from_env() if "DATABASE_URL" in os.environ else ragcore.Config.local("data")
)


def tenant() -> blocking.TenantView:
    """Return the view of the caller's tenant."""
    token = request.authorization.token if request.authorization else None
    if token not in TOKENS:
        abort(401, response=Response("send a valid bearer token\n", 401, {"WWW-Authenticate": "Bearer"}))
    return rag.for_tenant(TOKENS[token])


@app.post("/chat")
def chat() -> Response:
    me, body = tenant(), asgi.ChatBody.read(request.get_data())
    return jsonify(asgi.public(me.ask(body.message, history=body.history, timeout=20)))


@app.post("/chat/stream")
def chat_stream() -> Response:
    me, body = tenant(), asgi.ChatBody.read(request.get_data())

    def events() -> Iterator[bytes]:
        try:
            with me.stream(body.message, history=body.history, timeout=20) as stream:
                for event in stream:
                    yield asgi.sse_event(event)
        except ragcore.RagcoreError as error:
            yield asgi.sse_event(error)

    return Response(events(), mimetype="text/event-stream")


@app.errorhandler(ragcore.RagcoreError)
def failed(error: ragcore.RagcoreError) -> tuple[Response, int, dict[str, str]]:
    problem = asgi.problem(error)
    return jsonify(problem.body), problem.status, problem.headers


@app.cli.command("add")
@click.argument("folder", type=click.Path(exists=True))
@click.argument("tenant")
def add(folder: str, tenant: str) -> None:
    """Add the documents of a folder for a tenant."""
    with rag:
        report = rag.add(read(folder), tenant=tenant)
    click.echo(f"{report.added} added, {report.unchanged} unchanged, {len(report.failed)} failed")
