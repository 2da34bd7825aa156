"""A chat service with FastAPI: a JSON Web Token identifies the caller, and its claim `tenant` selects the documents.

Needs the extras embedded, local and jwt, FastAPI and uvicorn. Run it in this folder; `python fastapi_jwt.py` prints a token for the tenant "shop":

    export JWT_SECRET=$(openssl rand -hex 32)
    uvicorn fastapi_jwt:app --port 8000 --timeout-graceful-shutdown 10
    curl localhost:8000/chat -H "authorization: Bearer $(python fastapi_jwt.py)" --json '{"message": "How much is the deposit?"}'

For an identity provider, pass jwks_url to `asgi.from_jwt` instead of key. Set DATABASE_URL and OPENAI_API_KEY for your own database and a model.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import jwt
import ragcore
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from ragcore.contrib import asgi
from ragcore.ingest import read

KEY, ISSUER, AUDIENCE = os.environ["JWT_SECRET"], "https://login.example.org/", "chat"
authenticate = asgi.from_jwt(issuer=ISSUER, audience=AUDIENCE, key=KEY, algorithms=["HS256"], tenant_claim="tenant")


class Question(BaseModel, extra="forbid"):
    message: str = Field(min_length=1, max_length=32_000)
    history: list[ragcore.Turn] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, ragcore.RAG]]:
    config = ragcore.Config.from_env() if "DATABASE_URL" in os.environ else ragcore.Config.local("data")
    async with ragcore.RAG.from_config(config) as rag:
        await rag.add(read("documents"), tenant="shop")
        yield {"rag": rag}


async def tenant(request: Request) -> ragcore.TenantView:
    with suppress(asgi.Unauthorized):
        if identity := await authenticate(request.scope):
            rag: ragcore.RAG = request.state.rag
            return rag.for_tenant(identity.tenant)
    raise HTTPException(401, "send a valid bearer token", {"WWW-Authenticate": "Bearer"})


Tenant = Annotated[ragcore.TenantView, Depends(tenant)]
app = FastAPI(title="Chat", lifespan=lifespan)
app.add_middleware(asgi.cancel_on_disconnect)
app.add_middleware(asgi.limit_body, most=64_000)


@app.post("/chat", response_model=ragcore.Answer)
async def chat(question: Question, me: Tenant) -> dict[str, Any]:
    return asgi.public(await me.ask(question.message, history=question.history, timeout=20))


async def opened(question: Question, me: Tenant) -> AsyncIterator[ragcore.AnswerStream]:
    async with me.stream(question.message, history=question.history, timeout=20) as stream:
        yield stream


@app.post("/chat/stream", response_class=StreamingResponse)
async def chat_stream(stream: Annotated[ragcore.AnswerStream, Depends(opened)]) -> StreamingResponse:
    return StreamingResponse(asgi.sse(stream), media_type="text/event-stream")


@app.exception_handler(ragcore.RagcoreError)
async def failed(request: Request, error: ragcore.RagcoreError) -> JSONResponse:
    problem = asgi.problem(error)
    return JSONResponse(problem.body, problem.status, problem.headers)


if __name__ == "__main__":  # prints a token that is valid for an hour
    print(jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 3600, "tenant": "shop"}, KEY, "HS256"))
