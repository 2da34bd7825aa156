"""The board for Grafana has the form that Grafana imports, and its expressions name metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import prometheus_client
import pytest
from tests.support.prometheus import program

from ragcore.contrib.prometheus import alerts, board
from ragcore.contrib.prometheus.series import Series

SOURCE = {
    "type": "object",
    "required": ["type", "uid"],
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
# The parts of Grafana's model of a dashboard that this board uses.
# Source: Grafana, "Dashboard JSON model", and kinds/dashboard/dashboard_kind.cue of its repository (schema version 39).
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "maxLength": 40, "pattern": "^[a-zA-Z0-9_-]+$"},
        "title": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "version": {"type": "integer"},
        "editable": {"type": "boolean"},
        "graphTooltip": {"enum": [0, 1, 2]},
        "refresh": {"type": "string"},
        "time": {"type": "object", "required": ["from", "to"], "additionalProperties": {"type": "string"}},
        "timezone": {"type": "string"},
        "templating": {
            "type": "object",
            "required": ["list"],
            "properties": {
                "list": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "type", "query"],
                        "properties": {
                            "type": {"enum": ["query", "datasource"]},
                            "name": {"type": "string"},
                            "refresh": {"enum": [0, 1, 2]},
                            "multi": {"type": "boolean"},
                            "includeAll": {"type": "boolean"},
                            "datasource": SOURCE,
                        },
                    },
                }
            },
        },
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {"oneOf": [{"$ref": "#/$defs/row"}, {"$ref": "#/$defs/panel"}]},
        },
    },
    "additionalProperties": False,
    "$defs": {
        "position": {
            "type": "object",
            "required": ["h", "w", "x", "y"],
            "properties": {
                "h": {"type": "integer", "minimum": 1},
                "w": {"type": "integer", "minimum": 1, "maximum": 24},
                "x": {"type": "integer", "minimum": 0, "maximum": 23},
                "y": {"type": "integer", "minimum": 0},
            },
            "additionalProperties": False,
        },
        "row": {
            "type": "object",
            "required": ["id", "type", "title", "collapsed", "gridPos", "panels"],
            "properties": {
                "id": {"type": "integer"},
                "type": {"const": "row"},
                "title": {"type": "string"},
                "collapsed": {"type": "boolean"},
                "gridPos": {"$ref": "#/$defs/position"},
                "panels": {"type": "array", "maxItems": 0},
            },
            "additionalProperties": False,
        },
        "panel": {
            "type": "object",
            "required": [
                "id",
                "type",
                "title",
                "description",
                "datasource",
                "gridPos",
                "fieldConfig",
                "options",
                "targets",
            ],
            "properties": {
                "id": {"type": "integer"},
                "type": {"enum": ["timeseries", "stat", "heatmap"]},
                "title": {"type": "string", "minLength": 1},
                "description": {"type": "string", "minLength": 1},
                "datasource": SOURCE,
                "gridPos": {"$ref": "#/$defs/position"},
                "fieldConfig": {
                    "type": "object",
                    "required": ["defaults", "overrides"],
                    "properties": {
                        "defaults": {
                            "type": "object",
                            "properties": {
                                "unit": {"enum": ["short", "s", "reqps", "percentunit", "bytes"]},
                                "min": {"const": 0},
                            },
                            "additionalProperties": False,
                        },
                        "overrides": {"type": "array"},
                    },
                },
                "options": {"type": "object"},
                "targets": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["refId", "expr", "legendFormat", "datasource"],
                        "properties": {
                            "refId": {"type": "string", "pattern": "^[A-Z]$"},
                            "expr": {"type": "string", "minLength": 1},
                            "legendFormat": {"type": "string", "minLength": 1},
                            "range": {"type": "boolean"},
                            "format": {"enum": ["time_series", "table", "heatmap"]},
                            "datasource": SOURCE,
                        },
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
    },
}


def expressions() -> list[str]:
    return [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]


def exposed() -> set[str]:
    """Return the names of all samples that the metrics may have."""
    registry = prometheus_client.CollectorRegistry()
    Series(registry)
    names = set()
    for family in registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + end for end in ends}
    return names


def test_the_board_has_the_form_of_grafana() -> None:
    made = json.loads(json.dumps(board()))
    jsonschema_rs.validate(SCHEMA, made)
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    rows = [panel["title"] for panel in made["panels"] if panel["type"] == "row"]
    assert rows == ["Is it healthy?", "Where does the time go?", "What is degraded?", "Capacity", "Quality", "Rollout"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_expressions_of_board_and_rules_name_metrics_that_exist_and_each_metric_is_on_the_board() -> None:
    names = exposed()
    on_board = set(re.findall(r"ragcore_\w+", " ".join(expressions())))
    in_rules = set(re.findall(r"ragcore_\w+", alerts()))
    assert on_board | in_rules <= names
    families = {re.sub(r"_(?:total|bucket|sum|count)$", "", name) for name in names}
    shown = {re.sub(r"_(?:total|bucket|sum|count)$", "", name) for name in on_board | in_rules}
    assert families == shown


def test_each_expression_is_limited_to_the_chosen_jobs_and_instances() -> None:
    for expression in expressions():
        assert len(re.findall(r"ragcore_\w+", expression)) == expression.count('{job=~"$job",instance=~"$instance"'), (
            expression
        )


def test_promtool_accepts_each_expression(tmp_path: Path) -> None:
    promtool = program("promtool")
    rules = [
        {
            "record": f"panel:{number}",
            "expr": re.sub(r"\$(?:job|instance)", ".*", one).replace("$__rate_interval", "1m"),
        }
        for number, one in enumerate(expressions())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.slow
def test_the_command_writes_board_and_rules() -> None:
    def ragcore(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ragcore", "dashboards", *options], capture_output=True, text=True, check=False
        )

    assert json.loads(ragcore("--grafana").stdout) == board()
    assert ragcore("--alerts").stdout == alerts()
    chosen = ragcore("--alerts", "--p95", "2", "--runbooks", "https://docs.example.org/run").stdout
    assert "> 2\n" in chosen
    assert 'runbook_url: "https://docs.example.org/run/slow/"' in chosen
    assert ragcore().returncode == ragcore("--grafana", "--alerts").returncode == 2
