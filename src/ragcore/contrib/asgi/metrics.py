"""The route `/metrics`, for administrators."""

from __future__ import annotations

from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Identity
from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.prometheus.metrics import Metrics
from ragcore.resilience.threads import Threads

__all__ = ["MetricsRoute"]


class MetricsRoute:
    """Shows the metrics to administrators. They hold no data of a tenant, but they tell how busy the service is and which parts fail."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._threads = Threads(1, name="scrapes")

    async def __call__(self, exchange: Exchange, identity: Identity) -> None:
        """Send the metrics in the format that the request accepts."""
        if not identity.admin:
            raise Refused(403, "Forbidden", "only administrators may use this route")
        accept = exchange.header("accept")
        content_type, body = await self._threads.run(lambda: self._metrics.exposition(accept))
        await exchange.send(200, body, content_type=content_type)
