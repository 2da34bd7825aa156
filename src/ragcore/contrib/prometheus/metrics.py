"""The metrics of a client, from its events and from a sample of its state each second."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from ragcore import events
from ragcore.client.rag import RAG
from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, RagcoreError
from ragcore.lifecycle.part import Part
from ragcore.operating.memory import Memory, read_memory
from ragcore.resilience.threads import Threads

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["Metrics"]

SAMPLE_SECONDS = 1.0
# If it is set, prometheus_client keeps its values in files of this folder, which all processes of a server share.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics(Part):
    """Measures a client, and shows the metrics to Prometheus. Start it after the client, and close it before: `async with rag, Metrics(rag)`.

    `contrib.asgi.app(rag, metrics=…)` starts and closes it, and shows the metrics to administrators at `/metrics`. A port of its own needs no token, and also
    answers while the event loop is blocked.

    Durations and outcomes come from the events of this process. If a process has several clients, measure only one of them.

    If the environment variable PROMETHEUS_MULTIPROC_DIR names a folder, each process shows the sums over all processes.

    Args:
        rag: the client.
        registry: the registry that gets the metrics, for example `prometheus_client.REGISTRY`; None: a new one.
        port: a port for Prometheus, without authentication; 0: any free one; None: none.
        host: the address of that port. Keep it private.

    Raises:
        ConfigurationError: the extra `prometheus` is not installed. At the start: the port is not available.

    Examples:
        ```python
        async with rag, prometheus.Metrics(rag, port=9464):
            ...
        ```
    """

    def __init__(
        self,
        rag: RAG,
        /,
        *,
        registry: CollectorRegistry | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        client = require("prometheus_client", extra="prometheus", purpose="contrib.prometheus")
        # These modules import prometheus_client.
        from ragcore.contrib.prometheus.listening import Listening
        from ragcore.contrib.prometheus.sampling import Sampling
        from ragcore.contrib.prometheus.series import Series

        self._rag = rag
        self._registry: CollectorRegistry = client.CollectorRegistry() if registry is None else registry
        self._series = Series(self._registry)
        self._folder = os.environ.get(FOLDER)
        self._shown: Any = _WithoutCreated(self._registry)
        if self._folder:
            self._shown = client.CollectorRegistry()
            self._shown.register(_AllProcesses(self._folder))
        self._sampling = Sampling(self._series)
        self._listening = Listening(self._series, self._sampling.dependency)
        self._unsubscribe: Callable[[], None] | None = None
        self._threads = Threads(1, name="metrics")
        self._host = host
        self._wanted_port = port
        self._server: Any = None
        self._sampling.take(rag.stats(), None)

    @property
    def port(self) -> int | None:
        """The port on which Prometheus may scrape; None if there is none."""
        return None if self._server is None else int(self._server.server_port)

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Return the content type and the text of the metrics. It blocks for some milliseconds: call it on a thread.

        Args:
            accept: the header Accept of the request, which chooses Prometheus's text format or OpenMetrics.
        """
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._shown)

    async def _open(self) -> None:
        owner = self._owner
        assert owner is not None
        self._unsubscribe = events.subscribe(self._listening, names=self._listening.names)
        self._series.started.set(datetime.now(UTC).timestamp())
        await self._sample()
        owner.spawn(self._keep_sampling, name="samples")
        if self._wanted_port is not None:
            self._server = await self._threads.run(self._listen)

    async def _close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        server, self._server = self._server, None
        if server is not None:
            await self._threads.run(lambda: _stop(server))
        if self._folder:
            await self._threads.run(lambda: _multiprocess().mark_process_dead(os.getpid(), self._folder))

    async def _keep_sampling(self) -> None:
        expected = anyio.current_time() + SAMPLE_SECONDS
        while True:
            await anyio.sleep_until(expected)
            now = anyio.current_time()
            self._series.lag.observe(max(0.0, now - expected))
            await self._sample()
            expected = max(expected, now) + SAMPLE_SECONDS

    async def _sample(self) -> None:
        memory: Memory | None
        try:
            memory = await self._threads.run(lambda: read_memory(self._rag.settings.memory_mb))
        except (OSError, ValueError, RagcoreError):
            memory = None
        self._sampling.take(self._rag.stats(), memory)

    def _listen(self) -> Any:
        """Answer scrapes on threads, so that a blocked event loop does not stop them."""
        from prometheus_client import start_http_server

        try:
            server, _ = start_http_server(self._wanted_port or 0, self._host, self._shown)
        except OSError as error:
            raise ConfigurationError(
                f"cannot bind {self._host}:{self._wanted_port} for metrics ({error.strerror}): choose another port, or stop the program that uses it"
            ) from error
        return server


class _WithoutCreated:
    """A registry without the times at which each series began (`_created`). They are half of all series, and no query needs them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if metric.name.startswith("ragcore_"):  # a registry of the user's has other metrics as well
                metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def restricted_registry(self, names: Iterable[str]) -> Any:
        """Return the metrics that a scrape names."""
        return self._registry.restricted_registry(names)


class _AllProcesses:
    """Collects the sums over all processes that share a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the metrics. The gauges of processes that no longer exist are removed first: a process that is killed can't remove them itself."""
        from prometheus_client import CollectorRegistry

        files = _multiprocess()
        for process in {int(path.stem.rpartition("_")[2]) for path in Path(self._folder).glob("gauge_live*.db")}:
            if not _is_alive(process):
                files.mark_process_dead(process, self._folder)
        found: Iterable[Metric] = files.MultiProcessCollector(CollectorRegistry(), self._folder).collect()
        return found


def _multiprocess() -> Any:  # the module has no types
    from prometheus_client import multiprocess

    return multiprocess


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _stop(server: Any) -> None:
    server.shutdown()
    server.server_close()
