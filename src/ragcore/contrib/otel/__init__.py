"""Traces and metrics with OpenTelemetry, by its conventions for generative AI. Needs the extra `otel`.

`Telemetry` uses OpenTelemetry's API only. Set up its SDK and an exporter as for the rest of your service.
"""

from ragcore.compat.extras import require

require("opentelemetry.trace", extra="otel", purpose="ragcore.contrib.otel")

from ragcore.contrib.otel.telemetry import Telemetry  # noqa: E402  # after the check, so that its error names the extra

__all__ = ["Telemetry"]
