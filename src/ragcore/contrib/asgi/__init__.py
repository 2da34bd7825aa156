"""Uses ragcore in any ASGI application: a complete application, middleware, server-sent events, and responses for errors. Imports no web framework."""

from ragcore.contrib.asgi.application import app
from ragcore.contrib.asgi.body import limit_body
from ragcore.contrib.asgi.chat import ChatBody
from ragcore.contrib.asgi.disconnect import cancel_on_disconnect
from ragcore.contrib.asgi.exchange import ASGIApp, Message
from ragcore.contrib.asgi.identity import Authenticate, Identity, Unauthorized, from_tokens
from ragcore.contrib.asgi.jwt import from_jwt
from ragcore.contrib.asgi.lifespan import lifespan
from ragcore.contrib.asgi.problem import Problem, problem
from ragcore.contrib.asgi.public import public
from ragcore.contrib.asgi.sse import sse, sse_event

__all__ = [
    "ASGIApp",
    "Authenticate",
    "ChatBody",
    "Identity",
    "Message",
    "Problem",
    "Unauthorized",
    "app",
    "cancel_on_disconnect",
    "from_jwt",
    "from_tokens",
    "lifespan",
    "limit_body",
    "problem",
    "public",
    "sse",
    "sse_event",
]
