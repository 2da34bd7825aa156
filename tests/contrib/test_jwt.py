"""Tokens of an identity provider, with a provider that serves its keys on a socket."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ragcore import ConfigurationError
from ragcore.contrib import asgi
from ragcore.contrib.asgi import jwt as own

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]
ISSUER, AUDIENCE = "https://login.example.org/", "ragcore"
# Tokens of parametrised tests are made when the tests are collected, minutes before some of the tests run. So they must be valid for long.
HOUR = 3_600
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def token(key: Any = KEY, *, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "member-42", "exp": time.time() + HOUR, **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def scope(text: str) -> dict[str, Any]:
    return {"headers": [(b"authorization", f"Bearer {text}".encode())]}


def jwk(key: Any, kid: str) -> dict[str, Any]:
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


class Provider:
    """An identity provider that publishes its keys over HTTP."""

    def __init__(self) -> None:
        self.keys = [jwk(KEY, "one")]
        self.asked = 0
        self.broken = False
        self.url = ""

    async def answer(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            self.asked += 1
            body = b"<html>" if self.broken else json.dumps({"keys": self.keys}).encode()
            status = b"503 No" if self.broken else b"200 OK"
            await stream.send(
                b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)
            )


@pytest.fixture
async def provider(anyio_backend: str) -> AsyncIterator[Provider]:
    made = Provider()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        made.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/jwks.json"
        group.start_soon(listener.serve, made.answer)
        yield made
        group.cancel_scope.cancel()


def hook(provider: Provider, **options: Any) -> asgi.Authenticate:
    return asgi.from_jwt(issuer=ISSUER, audience=AUDIENCE, jwks_url=provider.url, **options)


async def test_a_good_token_names_its_tenant(provider: Provider) -> None:
    authenticate = hook(provider, admin_claim="ops")
    assert await authenticate(scope(token())) == asgi.Identity("member-42")
    assert await authenticate(scope(token(ops=True))) == asgi.Identity("member-42", admin=True)
    assert await authenticate(scope(token(ops="yes"))) == asgi.Identity("member-42")
    assert await hook(provider)(scope(token(ops=True))) == asgi.Identity("member-42")
    assert await authenticate({"headers": []}) is None
    assert await authenticate({"headers": [(b"authorization", b"Basic abc")]}) is None
    assert provider.asked == 2  # once for each hook


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (token(exp=time.time() - 60), "expired"),
        (token(OTHER), "not valid"),
        (token(iss="https://evil.example.org/"), "not valid"),
        (token(aud="another-service"), "not valid"),
        (token(exp=None), "not valid"),
        (token(sub=None), "not valid"),
        (token(nbf=time.time() + 600), "not valid"),
        (token(kid="unknown"), "unknown key"),
        (token("a shared secret of thirty-two bytes", algorithm="HS256"), "not valid"),
        (jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "m", "exp": time.time() + HOUR}, "", algorithm="none", headers={"kid": "one"}), "not valid"),
        (token(ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"), "not valid"),
        ("not.a.token", "not valid"),
        ("x" * 20_000, "too long"),
    ],
)  # fmt: skip
async def test_a_bad_token_is_refused_with_a_reason(provider: Provider, text: str, said: str) -> None:
    with pytest.raises(asgi.Unauthorized, match=said):
        await hook(provider)(scope(text))


async def test_a_key_of_another_type_than_the_header_says_makes_the_token_invalid(provider: Provider) -> None:
    elliptic = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(elliptic.public_key()))
    provider.keys.append({**public, "kid": "elliptic", "use": "sig", "alg": "ES256"})
    with pytest.raises(asgi.Unauthorized, match="not valid"):
        await hook(provider)(scope(token(kid="elliptic")))


async def test_clocks_may_differ_a_little(provider: Provider) -> None:
    assert await hook(provider)(scope(token(exp=time.time() - 10)))
    with pytest.raises(asgi.Unauthorized):
        await hook(provider, leeway=5)(scope(token(exp=time.time() - 10)))


async def test_new_keys_are_fetched_but_not_for_each_forged_token(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticate = hook(provider)
    assert await authenticate(scope(token()))
    provider.keys = [jwk(OTHER, "two")]
    for _ in range(20):
        with pytest.raises(asgi.Unauthorized, match="unknown key"):
            await authenticate(scope(token(OTHER, kid="two")))
    assert provider.asked == 1
    monkeypatch.setattr(own, "LEAST_SECONDS", 0.0)
    assert await authenticate(scope(token(OTHER, kid="two")))
    assert provider.asked == 2


async def test_known_keys_stay_valid_while_the_provider_is_down(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider.broken = True
    authenticate = hook(provider)
    with pytest.raises(RuntimeError, match="no keys could be fetched"):  # which the application answers with 503
        await authenticate(scope(token()))
    assert "keys could not be fetched" in caplog.text
    monkeypatch.setattr(own, "LEAST_SECONDS", 0.0)
    provider.broken = False
    assert await authenticate(scope(token()))
    provider.broken = True
    monkeypatch.setattr(own, "KEYS_SECONDS", 0.0)
    assert await authenticate(scope(token()))  # with the known keys


async def test_many_requests_at_once_fetch_the_keys_once(provider: Provider) -> None:
    authenticate = hook(provider)

    async def one() -> None:
        assert await authenticate(scope(token()))

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(one)
    assert provider.asked == 1


async def test_a_caller_that_leaves_does_not_stop_the_fetch(provider: Provider) -> None:
    """Otherwise all requests of the next 30 s would get status 503, since the keys are fetched at most once in that time."""
    authenticate = hook(provider)

    async def ask() -> None:
        await authenticate(scope(token()))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert await authenticate(scope(token()))
    assert provider.asked == 1


async def test_a_given_public_key_replaces_the_providers_address() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    authenticate = asgi.from_jwt(issuer=ISSUER, audience=["other", AUDIENCE], key=pem, tenant_claim="member")
    assert await authenticate(scope(token(kid=None, member="m-1"))) == asgi.Identity("m-1", name="member-42")
    with pytest.raises(asgi.Unauthorized, match="no tenant"):
        await authenticate(scope(token(member=42)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"jwks_url": "https://x/jwks", "key": "k"},
        {"jwks_url": "http://login.example.org/jwks"},
        {"jwks_url": "http://localhost.evil.example/jwks"},
        {"jwks_url": "http://127.0.0.1.evil.example/jwks"},
        {"jwks_url": "http://localhost@evil.example/jwks"},
        {"jwks_url": "https://"},
        {"jwks_url": "http://[::1/jwks"},
        {"jwks_url": "https://x/jwks", "algorithms": ["HS256"]},
        {"key": "k", "algorithms": ["none"]},
        {"key": "k", "algorithms": "RS256"},
        {"key": "k", "algorithms": []},
    ],
)
async def test_invalid_options_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        asgi.from_jwt(issuer=ISSUER, audience=AUDIENCE, **options)
