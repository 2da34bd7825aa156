"""An unfair server, unlike `ragcore serve`: it has one queue for all tenants, and it reads every body to its end.

`python -m tests.benchmarks.unfair null` runs it.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
from benchmarks.targets.served import serve

from tests.support.bench import FACT

SECONDS = 0.05


def unfair() -> Any:
    one_at_a_time = anyio.Lock()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        async with one_at_a_time:
            await anyio.sleep(SECONDS)
        streamed = dict(scope["headers"]).get(b"accept") == b"text/event-stream"
        answer = json.dumps({"answer": FACT, "verdict": "near", "text": FACT})
        kind = b"text/event-stream" if streamed else b"application/json"
        said = f"event: delta\ndata: {answer}\n\nevent: done\ndata: {answer}\n\n" if streamed else answer
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": said.encode()})

    return app


async def _main() -> None:
    await serve(unfair())


if __name__ == "__main__":
    anyio.run(_main)
