"""Who asks, by a JSON Web Token that an identity provider has signed.

Source: RFC 7519 (JWT), RFC 7517 (JWKS), RFC 8725 (best practices: the algorithm is pinned, issuer and audience are checked).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import anyio

from ragcore.compat.extras import require
from ragcore.contrib.asgi.identity import Authenticate, Identity, Unauthorized
from ragcore.errors import ConfigurationError

__all__ = ["from_jwt"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")

PURPOSE = "tokens of an identity provider"
# Keys are fetched again after this time, and when a token names one that is not known; but not more often than the second.
KEYS_SECONDS = 3_600.0
LEAST_SECONDS = 30.0
FETCH_SECONDS = 3.0
MOST_KEYS_BYTES = 256 * 1024
MOST_TOKEN = 16 * 1024


def from_jwt(
    *,
    issuer: str,
    audience: str | Sequence[str],
    jwks_url: str | None = None,
    key: str | bytes | None = None,
    algorithms: Sequence[str] = ("RS256",),
    tenant_claim: str = "sub",
    admin_claim: str | None = None,
    leeway: float = 30.0,
) -> Authenticate:
    """A hook that reads signed tokens (JWT) from the header Authorization (Bearer). Needs the extra `jwt`.

    A token must be signed with one of `algorithms`, name issuer and audience, and have an expiry. Keys of `jwks_url` are kept for an hour; a token with a
    key that is not known has them fetched again, at most every 30 s. While they can't be fetched, the known ones count, and without any the answer is 503.

    Args:
        issuer: the provider, as tokens name it ("iss").
        audience: this service, as tokens name it ("aud"); one of them is enough.
        jwks_url: where the provider publishes its keys, an https address.
        key: the provider's public key (PEM), in place of `jwks_url`.
        algorithms: that a signature may have. Those with a shared secret (HS256) are refused beside `jwks_url`.
        tenant_claim: the claim that names the tenant.
        admin_claim: the claim that is true for administrators; None: nobody is one.
        leeway: seconds by which the clocks may differ.

    Raises:
        ConfigurationError: the options make no sense, or PyJWT is missing.

    Example:
        ```python
        authenticate = asgi.from_jwt(
            issuer="https://login.example.org/", audience="ragcore", jwks_url="https://login.example.org/.well-known/jwks.json"
        )
        ```
    """
    jwt = require("jwt", extra="jwt", purpose=PURPOSE)
    _check(jwks_url, key, algorithms)
    keys = _Keys(jwt, jwks_url) if jwks_url is not None else None

    async def authenticate(scope: Mapping[str, Any]) -> Identity | None:
        kind, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():
            return None
        if len(token) > MOST_TOKEN:
            raise Unauthorized("the token is too long")
        text = token.strip().decode("latin-1")
        try:
            found = key if keys is None else await keys.of(jwt.get_unverified_header(text).get("kid"))
            if found is None:
                raise Unauthorized("the token is signed with a key that is not known")
            claims = jwt.decode(
                text,
                found,
                algorithms=list(algorithms),
                issuer=issuer,
                audience=audience,
                leeway=leeway,
                options={"require": ["exp", "iss", "aud", tenant_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired") from None
        except (
            jwt.PyJWTError,
            TypeError,
            ValueError,
        ) as error:  # TypeError: a key of another kind than the header says
            logger.info("a token was refused: %s", type(error).__name__)
            raise Unauthorized("the token is not valid here") from None
        tenant = claims[tenant_claim]
        if not isinstance(tenant, str):
            raise Unauthorized("the token names no tenant")
        subject = claims.get("sub")
        return Identity(
            tenant,
            admin=admin_claim is not None and claims.get(admin_claim) is True,
            name=subject if isinstance(subject, str) and subject != tenant else "",
        )

    return authenticate


def _check(jwks_url: str | None, key: str | bytes | None, algorithms: Sequence[str]) -> None:
    if (jwks_url is None) == (key is None):
        raise ConfigurationError("from_jwt needs one of jwks_url and key")
    if jwks_url is not None and not _is_safe(jwks_url):
        raise ConfigurationError(
            f"jwks_url is {jwks_url!r}: it must be an https address, or anybody on the way could give keys"
        )
    if isinstance(algorithms, str) or not algorithms:
        raise ConfigurationError("algorithms must be a list of names, such as ['RS256']")
    shared = [
        name
        for name in algorithms
        if name.upper() == "NONE" or (name.upper().startswith("HS") and jwks_url is not None)
    ]
    if shared:
        raise ConfigurationError(f"algorithms has {shared[0]}: with the public keys of jwks_url anybody could sign so")


def _is_safe(url: str) -> bool:
    """Whether keys may be fetched there: encrypted, or from this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    own = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or own)


class _Keys:
    """The provider's keys by their ids."""

    def __init__(self, jwt: Any, url: str) -> None:
        self._jwt = jwt
        self._url = url
        self._known: dict[str | None, Any] = {}
        self._fetched = -math.inf
        self._tried = -math.inf
        self._lock = anyio.Lock()

    async def of(self, name: str | None) -> Any:
        """A key; None if there is no such.

        Raises:
            RuntimeError: no keys could be fetched yet.
        """
        now = anyio.current_time()
        if name in self._known and now - self._fetched < KEYS_SECONDS:
            return self._known[name]
        async with self._lock:
            now = anyio.current_time()
            stale = name not in self._known or now - self._fetched >= KEYS_SECONDS
            if stale and now - self._tried >= LEAST_SECONDS:
                self._tried = now
                await self._fetch(now)
        if not self._known:
            raise RuntimeError(f"the keys of {self._url} can't be fetched")
        return self._known.get(name)

    async def _fetch(self, now: float) -> None:
        import httpx

        try:
            with anyio.fail_after(FETCH_SECONDS):
                async with (
                    httpx.AsyncClient(timeout=FETCH_SECONDS) as client,
                    client.stream("GET", self._url) as response,
                ):
                    response.raise_for_status()
                    body = b""
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MOST_KEYS_BYTES:
                            raise ValueError("more than any provider has")
            keys = self._jwt.PyJWKSet.from_json(body.decode()).keys
        except (httpx.HTTPError, TimeoutError, ValueError, self._jwt.PyJWTError) as error:
            logger.warning("the keys of %s could not be fetched: %s", self._url, type(error).__name__)
            return
        self._known = {one.key_id: one.key for one in keys if one.public_key_use in (None, "sig")}
        self._fetched = now
