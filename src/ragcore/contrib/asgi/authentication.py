"""Authentication of a request by the application's `authenticate` hook, within a timeout."""

from __future__ import annotations

import logging

import anyio

from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Authenticate, Identity, Unauthorized
from ragcore.contrib.asgi.problem import Refused
from ragcore.errors import InvalidInput
from ragcore.types.validation import check_tenant

__all__ = ["Authentication"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")

AUTHENTICATE_SECONDS = 5.0


class Authentication:
    """Calls the hook for each request.

    Args:
        hook: gets the ASGI scope; None: no request is authenticated.
    """

    def __init__(self, hook: Authenticate | None) -> None:
        self._hook = hook

    async def identify(self, exchange: Exchange) -> Identity | None:
        """Return the identity of the caller; None if the hook refuses the request, or if there is no hook.

        Raises:
            Refused: the hook refuses the request with a reason (401), or it failed or did not return within 5 s (503).
        """
        if self._hook is None:
            return None
        unavailable = Refused(
            503,
            "AuthenticationUnavailable",
            "authentication is temporarily unavailable; try again later",
            {"Retry-After": "5"},
        )
        with anyio.move_on_after(AUTHENTICATE_SECONDS):
            try:
                identity = await self._hook(exchange.scope)
            except Unauthorized as error:
                raise Refused(
                    401, "Unauthorized", str(error) or "not authenticated", {"WWW-Authenticate": "Bearer"}
                ) from None
            except Exception:
                logger.exception("the hook `authenticate` raised")
                raise unavailable from None
            if identity is None:
                return None
            if not isinstance(identity, Identity):
                logger.error(
                    "the hook `authenticate` returned %s: it must return an Identity or None", type(identity).__name__
                )
                raise unavailable
            try:
                check_tenant(identity.tenant)
            except InvalidInput as error:
                logger.warning("the hook `authenticate` returned an identity without a valid tenant: %s", error)
                return None
            return identity
        logger.error("the hook `authenticate` did not return within %g s", AUTHENTICATE_SECONDS)
        raise unavailable

    async def recognize(self, exchange: Exchange) -> Identity | None:
        """Return the identity of a caller of an open route; None if it can't be determined, for any reason."""
        try:
            identity = await self.identify(exchange)
        except Refused:
            return None
        exchange.whole = identity is not None and identity.admin
        return identity
