"""A TCP proxy on loopback that injects faults between a client and a server."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.lowlevel import current_token

from ragcore.lifecycle.owner import Owner
from ragcore.testing.faults import Deaf, Drip, Fail, Fault, Faults, HalfClose, Hang, Reset, Slow, Stall

__all__ = ["FaultProxy"]

# SO_LINGER with a timeout of 0. With this option, closing a socket sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class FaultProxy:
    """Passes bytes between its own port and a server. Each new connection takes the next fault from `faults`.

    `Fail` and `Reset` reset the connection, `Slow` delays every piece of data, and `Hang` accepts and never passes a byte. `Stall`, `Drip`,
    `HalfClose` and `Deaf` behave as their docstrings describe. Faults apply to new connections only. To affect open connections, call
    `freeze` or `reset`.

    Args:
        host: host of the server, or the path of its Unix socket.
        port: port of the server.

    Examples:
        ```python
        async with FaultProxy("127.0.0.1", 5432) as proxy:
            proxy.faults.next(Hang())
            await connect("127.0.0.1", proxy.port)
        ```
    """

    faults: Faults
    port: int

    def __init__(self, host: str, port: int = 0) -> None:
        self._target = (host, port)
        self._owner = Owner("FaultProxy")
        self._listening: anyio.CancelScope | None = None
        self._clients: dict[anyio.abc.SocketStream, anyio.CancelScope] = {}
        self._flowing = anyio.Event()
        self.faults = Faults()
        self.port = 0

    @property
    def connections(self) -> int:
        """Number of open client connections."""
        return len(self._clients)

    def freeze(self) -> None:
        """Stop all data in both directions. Open connections stay open, and new ones are accepted."""
        if self._flowing.is_set():
            self._flowing = anyio.Event()

    def thaw(self) -> None:
        """Let data pass again, first the data that arrived while frozen."""
        self._flowing.set()

    def reset(self) -> None:
        """Reset all open connections."""
        for client, scope in self._clients.items():
            _reset_on_close(client)
            scope.cancel()

    def refuse(self) -> None:
        """Refuse new connections from now on, as if no server were running."""
        if self._listening is not None:
            self._listening.cancel()

    async def listen(self) -> None:
        """Accept connections. After `refuse`, call it to accept connections again, on the same port."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # anyio, not Django
        scope = self._listening = anyio.CancelScope()

        async def serve() -> None:
            with scope:
                async with listener:
                    await listener.serve(self._serve)

        self._owner.spawn(serve, name="listener")

    async def __aenter__(self) -> Self:
        self._flowing.set()
        await self._owner.start()
        await self.listen()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._owner.stop()

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        # The owner runs each connection, because connections must stay open when the listener stops.
        self._owner.spawn(lambda: self._accept(client), name="connection")

    async def _accept(self, client: anyio.abc.SocketStream) -> None:
        scope = self._clients[client] = anyio.CancelScope()
        try:
            with scope:
                await self._pass(client, self.faults.take())
        except GONE:
            pass
        finally:
            del self._clients[client]
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(client)

    async def _pass(self, client: anyio.abc.SocketStream, fault: Fault | None) -> None:
        match fault:
            case Fail() | Reset(at="connect"):
                _reset_on_close(client)
                return
            case Reset(at="request"):
                await client.receive()
                _reset_on_close(client)
                return
            case Hang():
                await anyio.sleep_forever()
        await self._flowing.wait()
        host, port = self._target
        server = await (_connect_unix(host) if host.startswith("/") else anyio.connect_tcp(host, port))
        ended = anyio.Event()
        async with anyio.create_task_group() as group:
            pause = fault.seconds if isinstance(fault, Slow) else 0.0

            async def to_server(data: bytes) -> None:
                if not (isinstance(fault, Deaf) and data[:1] == b"X"):  # PostgreSQL's Terminate
                    await server.send(data)

            answer = _Answer(client, fault, lambda: self._flowing.wait())
            bye = anyio.sleep_forever if isinstance(fault, Deaf) else anyio.lowlevel.checkpoint
            group.start_soon(self._pump, client, to_server, pause, bye, ended.set)
            group.start_soon(self._pump, server, answer.send, pause, None, ended.set)
            try:
                await ended.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(server)
                group.cancel_scope.cancel()

    async def _pump(
        self,
        source: anyio.abc.ByteStream,
        send: Callable[[bytes], Awaitable[None]],
        pause: float,
        at_end: Callable[[], Awaitable[None]] | None,
        done: Callable[[], None],
    ) -> None:
        try:
            while True:
                data = await source.receive()
                await anyio.sleep(pause)
                await self._flowing.wait()
                await send(data)
        except GONE:
            pass
        await self._flowing.wait()
        if at_end is not None:
            await at_end()
        done()


class _Answer:
    """Sends the answer to the client and applies the fault to it."""

    def __init__(
        self, client: anyio.abc.SocketStream, fault: Fault | None, flowing: Callable[[], Awaitable[object]]
    ) -> None:
        self._client = client
        self._flowing = flowing
        self._fault = fault
        self._passed = 0

    async def send(self, data: bytes) -> None:
        match self._fault:
            case Drip(interval):
                for byte in data:
                    await anyio.sleep(interval)
                    await self._flowing()
                    await self._client.send(bytes([byte]))
            case Stall(after):
                await self._up_to(after, data)
                if self._passed >= after:
                    await anyio.sleep_forever()
            case HalfClose(after):
                await self._up_to(after, data)
                if self._passed >= after:
                    await self._client.send_eof()
                    await anyio.sleep_forever()
            case Reset(after=after):
                await self._up_to(after, data)
                if self._passed >= after:
                    _reset_on_close(self._client)
                    raise anyio.BrokenResourceError
            case _:
                await self._client.send(data)

    async def _up_to(self, most: int, data: bytes) -> None:
        part = data[: max(0, most - self._passed)]
        if part:
            await self._client.send(part)
        self._passed += len(part)


async def _connect_unix(path: str) -> anyio.abc.ByteStream:
    """Connect to a Unix socket. On asyncio, use its own streams, because anyio's can fail when a read is cancelled."""
    if current_token().backend_class.__module__.endswith("_trio"):
        return await anyio.connect_unix(path)
    return _UnixStream(*await asyncio.open_unix_connection(path))


class _UnixStream(anyio.abc.ByteStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await self._reader.read(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        self._writer.write(item)
        await self._writer.drain()

    async def send_eof(self) -> None:
        self._writer.write_eof()

    async def aclose(self) -> None:
        self._writer.transport.abort()


def _reset_on_close(client: anyio.abc.SocketStream) -> None:
    raw: socket.socket = client.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  # anyio, not Django
    with suppress(OSError):  # the client may have closed it already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
