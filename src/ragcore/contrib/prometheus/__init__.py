"""Shows a client to Prometheus and Grafana: metrics, rules for alerts, and a board. Metrics need the extra `prometheus`."""

from ragcore.contrib.prometheus.board import board
from ragcore.contrib.prometheus.metrics import Metrics
from ragcore.contrib.prometheus.rules import AlertLimits, AlertTiming, alerts

__all__ = ["AlertLimits", "AlertTiming", "Metrics", "alerts", "board"]
