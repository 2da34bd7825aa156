"""A TCP proxy on loopback that makes things go wrong between a client and a server."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
import anyio.abc

from ragcore.resilience.owner import Owner
from ragcore.testing.faults import Fail, Faults, Hang, Slow

__all__ = ["FaultProxy"]

# SO_LINGER with a timeout of 0: closing sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Passes bytes between its own port and a server; each connection meets the next of its faults.

    `Fail` resets the connection, `Slow` delays every piece of it, `Hang` accepts and never passes a byte. Faults that are set while
    connections are open strike new ones only.

    Args:
        host: of the server; a path is its socket.
        port: of the server.

    Example:
        ```python
        async with FaultProxy("127.0.0.1", 5432) as proxy:
            proxy.faults.next(Hang())
            await connect("127.0.0.1", proxy.port)
        ```
    """

    def __init__(self, host: str, port: int = 0) -> None:
        self._target = (host, port)
        self._owner = Owner("FaultProxy")
        self._listener: anyio.abc.Listener[anyio.abc.SocketStream] | None = None
        self.faults = Faults()
        self.port = 0
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        assert self._listener is not None
        self.port = self._listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # anyio, not Django
        await self._owner.start()
        listener = self._listener
        self._owner.spawn(lambda: listener.serve(self._serve), name="listener")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._owner.stop()
        if self._listener is not None:
            await self._listener.aclose()

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        self.connections += 1
        try:
            await self._pass(client)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
            pass
        finally:
            self.connections -= 1
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(client)

    async def _pass(self, client: anyio.abc.SocketStream) -> None:
        pause = 0.0
        match self.faults.take():
            case Fail():
                raw: socket.socket = client.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  # anyio, not Django
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return
            case Hang():
                await anyio.sleep_forever()
            case Slow(seconds):
                pause = seconds
        host, port = self._target
        server = await (anyio.connect_unix(host) if host.startswith("/") else anyio.connect_tcp(host, port))
        async with server, anyio.create_task_group() as group:
            group.start_soon(self._pump, client, server, pause, group.cancel_scope.cancel)
            group.start_soon(self._pump, server, client, pause, group.cancel_scope.cancel)

    @staticmethod
    async def _pump(
        source: anyio.abc.ByteStream, target: anyio.abc.ByteStream, pause: float, done: Callable[[], None]
    ) -> None:
        try:
            async for data in source:
                await anyio.sleep(pause)
                await target.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        done()
