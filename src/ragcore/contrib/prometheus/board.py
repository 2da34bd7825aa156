"""A board for Grafana, with six rows: is it healthy, where does the time go, what is degraded, capacity, quality, rollout.

It is one file, because the panels share their expressions and are read together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ragcore.contrib.prometheus.rules import NO_ERRORS

__all__ = ["board"]

WIDTH, ACROSS, HEIGHT = 24, 3, 8
# The board's variables choose jobs and instances.
CHOSEN = 'job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
OPEN, NOT_CLOSED, NOTHING, HIT, ANSWERED = (
    'state="open"',
    'state!="closed"',
    'found="false"',
    'result="hit"',
    'outcome=~"ok|degraded"',
)


@dataclass(frozen=True, slots=True)
class _Panel:
    """A panel: its title, its unit, and its expressions by legend. `what` explains it to the reader."""

    title: str
    what: str
    unit: str
    lines: dict[str, str]
    kind: str = "timeseries"


def _of(name: str, *more: str) -> str:
    return f"{name}{{{','.join((CHOSEN, *more))}}}"


def _rate(name: str, by: str, *more: str) -> str:
    return f"sum by ({by}) (rate({_of(name, *more)}{RATE}))"


def _total(name: str, *more: str) -> str:
    return f"sum(rate({_of(name, *more)}{RATE}))"


def _quantile(share: float, name: str, by: str = "", *more: str) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({_of(f'{name}_bucket', *more)}{RATE})))"


def _rows() -> dict[str, list[_Panel]]:
    answered = ('method=~"ask|stream"', 'outcome=~"ok|degraded"')
    failed = _total("ragcore_calls_total", f'outcome!~"{NO_ERRORS}"')
    differ = _rate("ragcore_rollout_differences_total", "difference")
    return {
        "Is it healthy?": [
            _Panel(
                "Success",
                "Share of the calls that did not fail. Degraded answers count as success; their row shows them.",
                "percentunit",
                {"": f"1 - {failed} / {_total('ragcore_calls_total')}"},
                "stat",
            ),
            _Panel(
                "Breakers that are open",
                "A breaker opens if its dependency fails.",
                "short",
                {"{{dependency}}": f"max by (dependency) ({_of('ragcore_breaker_state', OPEN)})"},
                "stat",
            ),
            _Panel(
                "Hangs",
                "In the last hour: calls that did not return after their deadline, blocks of the event loop, and times that the default executor was full.",
                "short",
                {
                    "calls": f"sum(increase({_of('ragcore_hangs_total')}[1h]))",
                    "blocks of the loop": f"sum(increase({_of('ragcore_event_loop_blocked_total')}[1h]))",
                    "full executor": f"sum(increase({_of('ragcore_executor_saturated_total')}[1h]))",
                },
                "stat",
            ),
            _Panel(
                "Calls by outcome",
                "Errors have the name of their class.",
                "reqps",
                {"{{outcome}}": _rate("ragcore_calls_total", "outcome")},
            ),
            _Panel(
                "Answers, 95th percentile",
                "Duration of answers, from the call to the last piece.",
                "s",
                {
                    "p95": _quantile(0.95, "ragcore_call_duration_seconds", "", *answered),
                    "p50": _quantile(0.5, "ragcore_call_duration_seconds", "", *answered),
                    "first piece, p95": _quantile(0.95, "ragcore_first_token_seconds"),
                },
            ),
            _Panel(
                "Timeouts by stage",
                "Calls that ended at their deadline, by the stage that ran.",
                "reqps",
                {"{{stage}}": _rate("ragcore_timeouts_total", "stage")},
            ),
        ],
        "Where does the time go?": [
            _Panel(
                "Stages, mean",
                "Mean seconds of each stage. Their sum is about the duration of a call.",
                "s",
                {
                    "{{stage}}": f"{_rate('ragcore_stage_duration_seconds_sum', 'stage')} / {_rate('ragcore_stage_duration_seconds_count', 'stage')}"
                },
            ),
            _Panel(
                "Stages, 95th percentile",
                "The slowest stage decides.",
                "s",
                {"{{stage}}": _quantile(0.95, "ragcore_stage_duration_seconds", "stage")},
            ),
            _Panel(
                "Waiting for a place, 95th percentile",
                "Time in the queues of the dependencies and of the connection pool.",
                "s",
                {"{{dependency}}": _quantile(0.95, "ragcore_queue_wait_seconds", "dependency")},
            ),
            _Panel(
                "Event loop lag, 99th percentile",
                "Above 0.1 s, code blocks the loop or the machine is starved.",
                "s",
                {"lag": _quantile(0.99, "ragcore_event_loop_lag_seconds")},
            ),
            _Panel(
                "Loop stopped",
                "Seconds in which code blocked the loop, and in which it got no processor.",
                "s",
                {
                    "blocked": _total("ragcore_event_loop_blocked_seconds_total"),
                    "starved": _total("ragcore_event_loop_starved_seconds_total"),
                },
            ),
            _Panel(
                "Timeouts of dependencies",
                "Attempts that took too long, and calls that ended at their deadline.",
                "reqps",
                {"{{dependency}} {{limit}}": _rate("ragcore_dependency_timeouts_total", "dependency, limit")},
            ),
        ],
        "What is degraded?": [
            _Panel(
                "Degraded stages",
                "A fallback replaced the stage.",
                "reqps",
                {"{{stage}}: {{reason}}": _rate("ragcore_degradations_total", "stage, reason")},
            ),
            _Panel(
                "State of the breakers",
                "Number of processes whose breaker is in the state.",
                "short",
                {
                    "{{dependency}} {{state}}": f"sum by (dependency, state) ({_of('ragcore_breaker_state', NOT_CLOSED)})"
                },
            ),
            _Panel(
                "Changes of the breakers",
                "Changes to a state.",
                "short",
                {
                    "{{dependency}} {{state}}": f"sum by (dependency, state) (increase({_of('ragcore_breaker_transitions_total')}{RATE}))"
                },
            ),
            _Panel(
                "Calls as breakers judge them",
                "Failures open a breaker.",
                "reqps",
                {
                    "{{dependency}} {{outcome}}": _rate(
                        "ragcore_breaker_outcomes_total", "dependency, outcome", 'outcome!="success"'
                    )
                },
            ),
            _Panel(
                "Retries",
                "Retries, and those that the budget refused.",
                "reqps",
                {
                    "{{dependency}}": _rate("ragcore_retries_total", "dependency"),
                    "{{dependency}} refused": _rate("ragcore_retries_refused_total", "dependency"),
                },
            ),
            _Panel(
                "Retry budget, and tenants apart",
                "Retries that are possible now. Tenants for which alone a dependency fails.",
                "short",
                {
                    "{{dependency}} retries left": f"min by (dependency) ({_of('ragcore_retry_budget')})",
                    "{{dependency}} tenants apart": f"sum by (dependency) ({_of('ragcore_breaker_tenants_apart')})",
                },
            ),
        ],
        "Capacity": [
            _Panel(
                "Calls in flight",
                "Calls that run now.",
                "short",
                {"{{instance}}": f"sum by (instance) ({_of('ragcore_calls_running')})"},
            ),
            _Panel(
                "Places in use",
                "Share of the places of each dependency.",
                "percentunit",
                {
                    "{{dependency}}": f"sum by (dependency) ({_of('ragcore_places_used')}) / sum by (dependency) ({_of('ragcore_places')})"
                },
            ),
            _Panel(
                "Queues",
                "Calls that wait for a place.",
                "short",
                {"{{dependency}}": f"sum by (dependency) ({_of('ragcore_queue_waiting')})"},
            ),
            _Panel(
                "Refused",
                "Calls without a place in time, and calls of tenants that used up a limit.",
                "reqps",
                {
                    "{{dependency}}": _rate("ragcore_queue_refused_total", "dependency"),
                    "limit of {{limit}}": _rate("ragcore_limits_exceeded_total", "limit"),
                },
            ),
            _Panel(
                "Connections",
                "The database's pool.",
                "short",
                {
                    "{{state}}": f"sum by (state) ({_of('ragcore_pool_connections')})",
                    "size": f"sum({_of('ragcore_pool_size')})",
                    "waiting callers": f"sum({_of('ragcore_pool_waiting')})",
                },
            ),
            _Panel(
                "Memory",
                "Resident memory, and its limit.",
                "bytes",
                {
                    "{{instance}}": _of("ragcore_resident_memory_bytes"),
                    "limit {{instance}}": f"{_of('ragcore_memory_limit_bytes')} > 0",
                },
            ),
            _Panel(
                "Processors",
                "Processor time a second.",
                "short",
                {"{{instance}}": f"sum by (instance) (rate({_of('ragcore_cpu_seconds_total')}{RATE}))"},
            ),
            _Panel("Tokens", "Used tokens a second.", "short", {"{{kind}}": _rate("ragcore_tokens_total", "kind")}),
            _Panel(
                "Calls to dependencies",
                "Without retries.",
                "reqps",
                {"{{dependency}}": _rate("ragcore_dependency_calls_total", "dependency")},
            ),
        ],
        "Quality": [
            _Panel(
                "Nothing found",
                "Share of the questions that the documents do not answer.",
                "percentunit",
                {"nothing found": f"{_total('ragcore_answers_total', NOTHING)} / {_total('ragcore_answers_total')}"},
            ),
            _Panel(
                "Best score",
                "Best cosine similarity of each search. A shift means that the embedder or the documents changed.",
                "short",
                {
                    "mean": f"{_total('ragcore_top_score_sum')} / {_total('ragcore_top_score_count')}",
                    "p10": _quantile(0.1, "ragcore_top_score"),
                    "p90": _quantile(0.9, "ragcore_top_score"),
                },
            ),
            _Panel(
                "Best score, histogram",
                "Searches by their best score.",
                "short",
                {"{{le}}": f"sum by (le) (increase({_of('ragcore_top_score_bucket')}{RATE}))"},
                "heatmap",
            ),
            _Panel(
                "Cache hits",
                "Share of the look-ups.",
                "percentunit",
                {
                    "{{cache}}": f"{_rate('ragcore_cache_requests_total', 'cache', HIT)} / {_rate('ragcore_cache_requests_total', 'cache')}"
                },
            ),
        ],
        "Rollout": [
            _Panel(
                "Share and status",
                "Share of the tenants that the candidate serves, and the processes with each status.",
                "short",
                {
                    "share": f"max({_of('ragcore_rollout_share')})",
                    "{{status}}": f"sum by (status) ({_of('ragcore_rollout_status')})",
                },
            ),
            _Panel(
                "Changes of the rollout",
                "Each process counts each change. The reason is in the log, and in `ragcore rollout status`.",
                "short",
                {"{{change}}": f"sum by (change) (increase({_of('ragcore_rollout_changes_total')}{RATE}))"},
            ),
            _Panel(
                "Success of each side",
                "Share of the calls with an answer. Of a call's time, the candidate has half.",
                "percentunit",
                {
                    "{{side}}": f"{_rate('ragcore_rollout_calls_total', 'side', ANSWERED)} / {_rate('ragcore_rollout_calls_total', 'side')}"
                },
            ),
            _Panel(
                "Answers of each side, 95th percentile",
                "A stream counts until its first piece.",
                "s",
                {"{{side}}": _quantile(0.95, "ragcore_rollout_call_duration_seconds", "side")},
            ),
            _Panel(
                "Calls and fallbacks",
                "Calls of each side, and calls that the stable side answered because the candidate did not.",
                "reqps",
                {
                    "{{side}} {{outcome}}": _rate("ragcore_rollout_calls_total", "side, outcome"),
                    "fallback: {{outcome}}": _rate("ragcore_rollout_fallbacks_total", "outcome"),
                },
            ),
            _Panel(
                "Answers that differ",
                "Share of the compared questions. Exchanges with the database that fail: processes may disagree.",
                "short",
                {
                    "{{difference}}": f"{differ} / ignoring (difference) group_left {_total('ragcore_rollout_compared_total')}",
                    "failed exchanges": _total("ragcore_rollout_unshared_total"),
                },
            ),
        ],
    }


def board() -> dict[str, Any]:
    """Return the board as JSON-ready data. Import it in Grafana (Dashboards, New, Import), and choose the data source of Prometheus."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in _rows().items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        for number, panel in enumerate(row):
            across, down = number % ACROSS, number // ACROSS
            place = {"h": HEIGHT, "w": WIDTH // ACROSS, "x": across * WIDTH // ACROSS, "y": top + down * HEIGHT}
            panels.append(_shown(panel, len(panels) + 1, place))
        top += -(-len(row) // ACROSS) * HEIGHT
    return {
        "uid": "ragcore",
        "title": "ragcore",
        "description": "A service that uses ragcore. Made by `ragcore dashboards --grafana`.",
        "tags": ["ragcore"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                },
                _variable("job", "label_values(ragcore_calls_running, job)"),
                _variable("instance", 'label_values(ragcore_calls_running{job=~"$job"}, instance)'),
            ]
        },
        "panels": panels,
    }


def _shown(panel: _Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "expr": expression,
            "legendFormat": legend or "__auto",
            "range": True,
            **({"format": "heatmap"} if panel.kind == "heatmap" else {}),
        }
        for index, (legend, expression) in enumerate(panel.lines.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": targets,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
