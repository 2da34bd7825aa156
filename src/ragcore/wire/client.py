"""An HTTP client for OpenAI-compatible servers.

The SDK handles addresses, keys, proxies and Azure. Its typed calls take 650 µs of processor time each and read error bodies without a limit. This module
builds the SDK's requests from prepared bytes (200 µs) and sends them through the SDK's HTTP client.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import anyio
import openai

from ragcore.compat.private import send_by_openai, silence_platform, wrap_network_backend
from ragcore.errors import ConfigurationError
from ragcore.lifecycle.owner import cleaning_up
from ragcore.types.secret import Secret, without_frames
from ragcore.wire.bodies import MAX_BODY, Response, pieces, whole
from ragcore.wire.refusal import ServerError, Undecodable, read_refusal
from ragcore.wire.unsaid import Unsaid

__all__ = ["OpenAIClient"]

logger: logging.Logger = logging.getLogger("ragcore")

# The largest number of bytes of an error body that are read, and the seconds for reading it.
MAX_ERROR = 64 * 1024
ERROR_SECONDS = 2.0
# The largest number of redirects that are followed. A redirect must stay on the same server; for example, it may add a slash at the end of the path.
MOST_REDIRECTS = 3


class OpenAIClient:
    """Opens and closes the SDK's client. A client that the user passes is never closed; its own retries and timeout are overridden.

    Args:
        api_key, base_url: None: the SDK's defaults.
        client: the user's own client, with its headers, proxy and certificates.
        headers: headers of each request.
        key_name: the setting with the key, for errors.
    """

    def __init__(
        self,
        *,
        api_key: str | Secret | None,
        base_url: str | None,
        client: openai.AsyncOpenAI | None,
        headers: Mapping[str, str] | None = None,
        key_name: str = "OPENAI_API_KEY",
    ) -> None:
        self._given = client
        self._api_key = _checked_key(api_key, key_name)
        self._base_url = base_url
        self._headers = {
            # Compression saves little here, and it makes decompression bombs possible.
            "accept-encoding": "identity",
            "content-type": "application/json",
            **{name.lower(): value for name, value in (headers or {}).items()},
        }
        self._login: tuple[str, ...] = ()
        self._sdk: openai.AsyncOpenAI | None = None
        # The SDK's client is made here, so that a missing key raises an error where the component is created. The first `open` takes it.
        self._made: openai.AsyncOpenAI | None = self._make() if client is None else None

    def unsaid(self, body: bytes) -> Unsaid:
        """Return an `Unsaid` for messages about a request. It hides the key, the login in the address, the values of extra headers, and the request's texts."""
        key = getattr(self._sdk, "api_key", None)
        own = {"accept-encoding", "content-type"}
        secrets = (
            *((key,) if isinstance(key, str) and key else ()),
            *(value for name, value in self._headers.items() if name not in own and len(value) >= 8),
            *self._login,
        )
        return Unsaid(secrets, body)

    @property
    def server(self) -> tuple[str, int] | None:
        """The host and the port of the server; None before `open` of a closed client."""
        sdk = self._sdk or self._made or self._given
        if sdk is None:
            return None
        url = sdk.base_url
        return url.host, url.port or (80 if url.scheme == "http" else 443)

    async def open(self) -> None:
        """Prepare for requests on this event loop, without connecting."""
        made, self._made = self._made, None
        if made is None and self._given is None:
            # It is not the first `open`: use a thread, because loading the certificates takes 0.1 s and must not block the event loop.
            made = await anyio.to_thread.run_sync(self._make)
        self._sdk = made or self._make()

    async def close(self) -> None:
        """Close the SDK's client if ragcore made it, within the time limit of a clean-up."""
        sdk, self._sdk = self._sdk, None
        if sdk is not None and self._given is None:
            with cleaning_up():
                await sdk.close()

    async def post(self, path: str, body: bytes, /, *, model: str) -> Response:
        """Send a POST request and return the response with its body unread. The caller closes it.

        Args:
            path: such as "/chat/completions".
            model: the model in the body; Azure also needs it in the address.

        Raises:
            ServerError: the server reported an error, or redirects to another server.
            openai.APIConnectionError: the server can't be reached.
        """
        sdk = self._sdk
        assert sdk is not None  # callers call `open` first
        response = await self._send(sdk, _address(sdk, path, model), body)
        for _ in range(MOST_REDIRECTS):
            target = _same_server(response)
            if target is None:
                break
            with cleaning_up():
                await response.aclose()
            response = await self._send(sdk, target, body)
        if 200 <= response.status_code < 300:
            return response
        try:
            raise await self._refusal(response, body)
        finally:
            with cleaning_up():
                await response.aclose()

    async def ask(self, path: str, body: bytes, /, *, model: str, most: int) -> tuple[object, Mapping[str, str]]:
        """Send a POST request and return the decoded JSON of the answer, with the response's headers.

        Args:
            path, model: as in `post`.
            most: limit for the size of the answer, in bytes.

        Raises:
            Undecodable: the answer is larger than `most`, or not JSON.
        """
        response = await self.post(path, body, model=model)
        try:
            read = await whole(response, most=min(most, MAX_BODY))
        finally:
            with cleaning_up():
                await response.aclose()
        try:
            return json.loads(read.removeprefix(b"\xef\xbb\xbf")), response.headers
        except (ValueError, RecursionError):
            page = "not JSON but a page of HTML: is the base URL right?" if read.lstrip()[:1] == b"<" else "not JSON"
            raise Undecodable(f"its answer, {len(read):,} bytes, is {page}") from None

    async def _send(self, sdk: Any, url: str, body: bytes) -> Response:
        """Send a request. After an error, remove the frames of its traceback, because they hold the request's address, headers and body."""
        try:
            return await self._sent(sdk, url, body)
        except Exception as error:
            raise without_frames(error)  # noqa: B904  # the same error, without its frames

    async def _sent(self, sdk: Any, url: str, body: bytes) -> Response:
        try:
            response: Response = await send_by_openai(sdk, url, body, self._headers)
        except openai.OpenAIError:
            raise
        except Exception as error:
            if type(error).__name__ == "DecodingError":
                raise Undecodable(str(error)) from error
            raise
        return response

    async def _refusal(self, response: Response, sent: bytes) -> ServerError:
        status, headers = response.status_code, response.headers
        if 300 <= status < 400:
            try:
                target = urlsplit(headers.get("location", ""))
                host = f"{target.scheme}://{target.hostname}" if target.hostname else ""
            except ValueError:
                host = "an invalid address"
            where = host or "the same server again"
            return ServerError(f"Location: {where}", status=status, headers=headers)
        body = bytearray()
        try:
            with anyio.move_on_after(ERROR_SECONDS):
                async with aclosing(pieces(response, most=MAX_ERROR)) as read:
                    async for piece in read:
                        body += piece
        except Exception:  # an incomplete body is enough, since the status is known
            logger.debug("reading the body of an error response failed", exc_info=True)
        refusal = read_refusal(bytes(body), status=status, headers=headers, unsaid=self.unsaid(sent))
        assert refusal is not None
        return refusal

    def _make(self) -> openai.AsyncOpenAI:
        made = self._new()
        silence_platform(made)
        # If the address contains a login, move it to the header that the HTTP client would create from it, because the client's log shows addresses.
        address = made.base_url
        if address.userinfo:
            login = f"{address.username}:{address.password}"
            encoded = base64.b64encode(login.encode()).decode()
            self._headers["authorization"] = f"Basic {encoded}"
            self._login = (login, address.userinfo.decode("ascii", "replace"), encoded, address.password)
            made.base_url = address.copy_with(userinfo=b"")
        return made

    def _new(self) -> openai.AsyncOpenAI:
        if self._given is not None:
            return self._given.with_options(max_retries=0, timeout=None)
        try:
            made = openai.AsyncOpenAI(api_key=self._api_key, base_url=self._base_url, max_retries=0, timeout=None)
        except openai.OpenAIError as error:
            raise ConfigurationError(
                "no API key: pass api_key= or set OPENAI_API_KEY; for a server that needs no key, use 'none'"
            ) from error
        # Close connections whose TLS handshake is cancelled. httpcore2 2.16 closes them after an error, but not after a cancellation.
        wrap_network_backend(made, _Backend)
        return made


def _address(sdk: openai.AsyncOpenAI, path: str, model: str) -> str:
    """Return the path. For Azure, put the deployment before it, because Azure's client can't read the model from a body of bytes."""
    if isinstance(sdk, openai.AsyncAzureOpenAI) and "/deployments" not in str(sdk.base_url.path):
        return f"/deployments/{quote(model, safe='')}{path}"
    return path


def _same_server(response: Any) -> str | None:
    """Return the target of a redirect that repeats the request on the same server; None for any other response."""
    if response.status_code not in (307, 308):
        return None
    asked = str(response.request.url)
    try:
        target = urljoin(asked, response.headers.get("location", ""))
        return target if target != asked and _origin(target) == _origin(asked) else None
    except ValueError:  # not a valid address
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _Backend:
    """A network backend that closes a stream whose handshake fails or is cancelled."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(await self._backend.connect_tcp(*args, **kwargs))


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def start_tls(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._stream.start_tls(*args, **kwargs)
        except BaseException:
            with cleaning_up():
                await self._stream.aclose()
            raise


def _checked_key(api_key: str | Secret | None, name: str) -> str | None:
    """Return the key without surrounding white space. Reject a key that is no valid header value: the transport's error would show it."""
    if api_key is None:
        return None
    key = (api_key.reveal() if isinstance(api_key, Secret) else api_key).strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError(
            f"the API key (not shown) is empty or contains characters that are not printable ASCII: check {name}"
        )
    return key
