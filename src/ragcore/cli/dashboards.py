"""`ragcore dashboards`: writes the board for Grafana and the rules for Prometheus."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ragcore.cli.session import print_json
from ragcore.contrib.prometheus.board import board
from ragcore.contrib.prometheus.rules import RUNBOOKS, AlertLimits, alerts

__all__ = ["dashboards"]

DEFAULTS = AlertLimits()


def dashboards(
    grafana: Annotated[bool, typer.Option("--grafana", help="Write a board for Grafana, as JSON.")] = False,
    rules: Annotated[bool, typer.Option("--alerts", help="Write rules for alerts of Prometheus, as YAML.")] = False,
    runbooks: Annotated[
        str, typer.Option(help="With --alerts: the folder or the address of the manual's runbook pages.")
    ] = RUNBOOKS,
    p95: Annotated[
        float, typer.Option(help="With --alerts: seconds that 95 % of the answers must not exceed.", min=0.001)
    ] = DEFAULTS.p95,
    error_rate: Annotated[
        float, typer.Option(help="With --alerts: the share of calls that may fail.", min=0.0, max=1.0)
    ] = DEFAULTS.error_rate,
    nothing_found: Annotated[
        float, typer.Option(help="With --alerts: the share of questions that may find nothing.", min=0.0, max=1.0)
    ] = DEFAULTS.nothing_found,
) -> None:
    """Write what Grafana and Prometheus need to watch a service, to stdout: `ragcore dashboards --grafana > ragcore.json`."""
    if grafana == rules:
        raise typer.BadParameter("pass --grafana or --alerts")
    if grafana:
        print_json(board())
        return
    limits = AlertLimits(p95=p95, error_rate=error_rate, nothing_found=nothing_found)
    sys.stdout.write(alerts(limits=limits, runbooks=runbooks))
