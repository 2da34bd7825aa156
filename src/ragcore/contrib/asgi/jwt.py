"""Identifies callers by JSON Web Tokens that an identity provider has signed.

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
# Keys are fetched again after KEYS_SECONDS. They are also fetched again when a token names an unknown key, but at most once in LEAST_SECONDS.
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
    """Make a hook that accepts signed tokens (JWT) in the header Authorization (Bearer). Needs the extra `jwt`.

    A token must be signed with one of `algorithms`, name the issuer and the audience, and have an expiry. The keys of `jwks_url` are kept for an hour. They
    are fetched again if a token names an unknown key, at most every 30 s. While they can't be fetched, the known keys stay valid; without any keys, requests
    get status 503.

    Args:
        issuer: the provider's name in tokens ("iss").
        audience: this service's names in tokens ("aud"); a token must have one of them.
        jwks_url: the https address at which the provider publishes its keys.
        key: the provider's public key (PEM), instead of `jwks_url`.
        algorithms: the accepted signature algorithms. Algorithms with a shared secret (HS256) are refused together with `jwks_url`.
        tenant_claim: the claim that names the tenant.
        admin_claim: the claim that is true for administrators; None: there are no administrators.
        leeway: seconds by which the clocks may differ.

    Raises:
        ConfigurationError: an option is invalid, or PyJWT is missing.

    Examples:
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
                raise Unauthorized("the token is signed with an unknown key")
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
        ) as error:  # TypeError: the type of the key does not match the algorithm in the header
            logger.info("token refused: %s", type(error).__name__)
            raise Unauthorized("the token is not valid for this service") from None
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
        raise ConfigurationError("from_jwt needs either jwks_url or key")
    if jwks_url is not None and not _is_safe(jwks_url):
        raise ConfigurationError(
            f"jwks_url is {jwks_url!r}: it must be an https address, since over http an attacker could replace the keys"
        )
    if isinstance(algorithms, str) or not algorithms:
        raise ConfigurationError("algorithms must be a list of names, such as ['RS256']")
    shared = [
        name
        for name in algorithms
        if name.upper() == "NONE" or (name.upper().startswith("HS") and jwks_url is not None)
    ]
    if shared:
        raise ConfigurationError(f"algorithms has {shared[0]}: remove it, since with it anyone can forge a token")


def _is_safe(url: str) -> bool:
    """Return whether keys may be fetched from an address. The address must use encryption or be on this machine."""
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
        """Return the key with an id; None if the provider does not have it.

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
            raise RuntimeError(f"no keys could be fetched from {self._url}")
        return self._known.get(name)

    async def _fetch(self, now: float) -> None:
        import httpx

        try:
            # Shielded: if the caller disconnects, the keys are fetched nevertheless. They can't be fetched again for LEAST_SECONDS.
            with anyio.fail_after(FETCH_SECONDS, shield=True):
                async with (
                    httpx.AsyncClient(timeout=FETCH_SECONDS) as client,
                    client.stream("GET", self._url) as response,
                ):
                    response.raise_for_status()
                    body = b""
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MOST_KEYS_BYTES:
                            raise ValueError("the response is too large")
            keys = self._jwt.PyJWKSet.from_json(body.decode()).keys
        # AttributeError: the response is JSON of another shape.
        except (httpx.HTTPError, TimeoutError, ValueError, AttributeError, self._jwt.PyJWTError) as error:
            logger.warning("keys could not be fetched from %s: %s", self._url, type(error).__name__)
            return
        self._known = {one.key_id: one.key for one in keys if one.public_key_use in (None, "sig")}
        self._fetched = now
