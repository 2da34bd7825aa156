"""The deployment files follow security rules, and match the application."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcore import Config, Settings
from ragcore.cli.serve import GRACE_SECONDS

from .test_config import FULL

HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))
ANALYZE = shutil.which("systemd-analyze")
DEPLOY = Path(__file__).parents[1] / "examples" / "deploy"


def documents() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / "ragcore.yaml").read_text())}


def test_the_pod_has_no_rights_that_it_does_not_need() -> None:
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert not container["image"].endswith(":latest")


def test_the_nightly_job_runs_an_existing_command() -> None:
    job = documents()["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    program, *arguments = container["command"]
    done = subprocess.run([Path(sys.executable).with_name(program), *arguments, "--help"], capture_output=True)
    assert done.returncode == 0
    assert job["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_pods_environment_is_valid_and_holds_no_secret() -> None:
    (container,) = documents()["Deployment"]["spec"]["template"]["spec"]["containers"]
    plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert Config.from_env({**FULL, **plain}).settings.drain == 10
    secret = [one["name"] for one in container["env"] if "valueFrom" in one]
    assert secret == ["DATABASE_URL", "OPENAI_API_KEY"]
    assert not [name for name in plain if re.search("KEY|URL|PASSWORD|TOKEN(?!S_PER)", name)]


def test_probes_use_routes_without_a_token_and_liveness_checks_no_dependency() -> None:
    (container,) = documents()["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_grace_periods_are_longer_than_the_drain() -> None:
    needed = Settings().drain + GRACE_SECONDS
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    waits = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > needed + waits
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert float(compose["services"]["application"]["stop_grace_period"].rstrip("s")) > needed
    stop = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "ragcore.service").read_text(), re.MULTILINE)
    assert stop is not None
    assert float(stop[1]) > needed


def test_labels_names_and_ports_match() -> None:
    found = documents()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    ports = [one["name"] for one in found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] in ports


def test_the_image_is_built_from_the_wheel_and_runs_without_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.13-slim-bookworm"] * 2
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
    assert text.index("USER ") < text.index("ENTRYPOINT")
    assert "--wheel" in text
    assert not re.search(r"^(ADD|COPY) .*(\.env|tokens|secret)", text, re.MULTILINE)
    assert not re.search(r"(KEY|PASSWORD|TOKEN)=", text)
    extras = re.search(r"\[([a-z,]+)\]", text)
    project = (DEPLOY.parents[1] / "pyproject.toml").read_text()
    assert extras is not None
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))


@pytest.mark.parametrize("line", ["NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes", "PrivateTmp=yes"])
def test_the_unit_is_sandboxed(line: str) -> None:
    assert line in (DEPLOY / "ragcore.service").read_text().splitlines()


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert ANALYZE is not None
    unit = (DEPLOY / "ragcore.service").read_text().replace("/opt/ragcore/venv/bin/ragcore", "/bin/true")
    (tmp_path / "ragcore.service").write_text(unit)
    done = subprocess.run(
        [ANALYZE, "verify", tmp_path / "ragcore.service"], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "ragcore.service" in line]
    assert ours == []
