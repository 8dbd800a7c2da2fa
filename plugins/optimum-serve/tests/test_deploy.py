"""The files for containers agree with the server: paths, port, figures. No container engine builds them here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from optimum_serve.application import ENDPOINTS
from optimum_serve.metrics import Metrics
from optimum_serve.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
PATHS = {endpoint.path for endpoint in ENDPOINTS}


def _figures() -> set[str]:
    metrics = Metrics()
    found = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + suffix for suffix in suffixes}
    return found


def test_probes_ask_paths_that_there_are() -> None:
    deployment, service, scaler = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = [container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {probe["path"] for probe in probes} == {"/health", "/ready"} <= PATHS
    ports = {probe["port"] for probe in probes} | {service["spec"]["ports"][0]["targetPort"]}
    assert ports == {Settings(models=()).port, *(item["containerPort"] for item in container["ports"])}
    assert ":" in container["image"]
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    within = container["securityContext"]  # what the level "restricted" of pod security asks for
    assert within["capabilities"]["drop"] == ["ALL"] and within["allowPrivilegeEscalation"] is False
    (rule,) = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text("utf-8"))["rules"]
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(re.findall(r"optimum_\w+", rule["seriesQuery"] + rule["metricsQuery"])) <= _figures()
    drain = Settings(models=()).drain
    assert pod["terminationGracePeriodSeconds"] > drain + container["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_figures_that_are_drawn_and_watched_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    names = {name for text in (*asked, *(rule["expr"] for rule in rules)) for name in re.findall(r"optimum_\w+", text)}
    assert len(names) > 8 and names <= _figures()


def test_the_image_runs_as_nobody_in_particular_and_ends_on_sigterm() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    stages = [line for line in lines if line.startswith("FROM ")]
    assert len(stages) == 2 and "USER 10001" in lines and "STOPSIGNAL SIGTERM" in lines
    root = DEPLOY.parents[2]
    copied = [
        line.split()[1] for line in lines if line.startswith("COPY ") and not line.startswith(("COPY --", "COPY $"))
    ]
    defaults = [line.partition("=")[2].strip('"') for line in lines if line.startswith("ARG ")]
    assert copied and all((root / path).exists() for path in (*copied, *defaults)), (copied, defaults)
    assert "constraints.txt" in copied and any("--constraint constraints.txt" in line for line in lines)
    entry = next(line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT "))
    assert json.loads(entry)[:2] == ["optimum-core", "serve"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    for service in compose.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("$") or (DEPLOY / source).is_file()
