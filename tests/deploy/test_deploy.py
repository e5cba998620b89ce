"""What can be said of the deployment files without deploying them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from needs import missing, needs
from prometheus_client.parser import text_string_to_metric_families

from mosso.checkpoint.models import FOLDER_VARIABLES
from mosso.cli.environment import NIM, variables
from mosso.cli.serve_command import command as serve

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/mosso"
BIN = Path(sys.executable).parent
CASES: dict[str, list[str]] = {
    "default": [],
    "everything": [
        "pull=true", "model=20b", "apiKeys.secret=keys", "huggingFaceToken.secret=hub",
        "serviceMonitor.enabled=true", "autoscaling.enabled=true", "cache.storageClass=fast",
        "args={--preset=throughput,--python-tool}", "env[0].name=NIM_LOG_LEVEL", "env[0].value=DEBUG",
    ],
    "cpu": ["gpus=0", "podDisruptionBudget.enabled=false", "cache.existingClaim=mine"],
}  # fmt: skip

SILENT = {"mosso:client_disconnects_total", "mosso:repairs_total", "mosso:responses_not_stored_total"}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "helm", *arguments], capture_output=True, text=True, timeout=60)


def rendered(values: list[str]) -> list[dict[str, Any]]:
    sets = [part for value in values for part in ("--set", value)]
    done = helm("template", "release", str(CHART), *sets)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def container(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (server,) = [each for each in documents if each["kind"] == "StatefulSet"]
    return server["spec"]["template"]["spec"]["containers"][0]


def test_helm_finds_nothing_to_complain_of():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_what_kubernetes_takes(case):
    documents = rendered(CASES[case])
    assert {"StatefulSet", "Service"} <= {each["kind"] for each in documents}
    for document in documents:
        if document["kind"] != "ServiceMonitor":  # of the Prometheus operator, not of Kubernetes
            kubernetes_validate.validate(document, "1.34", strict=True)


def test_the_chart_takes_the_values_of_the_documents():
    text = (ROOT / "docs/deployment.md").read_text()
    lines = re.findall(r"^    helm install (\S+) deploy/helm/mosso (.+)", text, re.MULTILINE)
    assert lines
    for name, values in lines:
        done = helm("template", name, str(CHART), *shlex.split(values))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", CASES)
def test_the_server_would_take_its_arguments(case):
    arguments = container(rendered(CASES[case]))["args"]
    assert arguments[0] == "serve"
    context = serve.make_context("serve", arguments[1:], resilient_parsing=True)
    known = {option for parameter in serve.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {argument.partition("=")[0] for argument in arguments[1:] if argument.startswith("--")}
    assert given <= known
    assert context.params["port"] == 8000


def test_it_may_do_nothing_that_it_need_not():
    documents = rendered(CASES["everything"])
    (server,) = [each for each in documents if each["kind"] == "StatefulSet"]
    pod = server["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for each in (*pod["containers"], *pod["initContainers"]):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["initContainers"][0]["env"][0]["valueFrom"]["secretKeyRef"] == {"key": "token", "name": "hub"}


def test_a_wrong_value_is_refused():
    assert "gpus" in helm("template", "x", str(CHART), "--set", "gpus=2").stderr
    assert "modle" in helm("template", "x", str(CHART), "--set", "modle=20b").stderr


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/mosso.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


@pytest.fixture(scope="module")
def exposed() -> Iterator[str]:
    """/metrics of the demo after one request."""
    command = [sys.executable, "-m", "mosso.cli", "serve", "demo", "--port", "0", "--log-level", "error"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        found = re.search(r"http://[\d.:]+", server.stdout.readline())
        assert found
        body = {"messages": [{"role": "user", "content": "What is 2 + 3?"}]}
        httpx.post(f"{found.group()}/v1/chat/completions", json=body, timeout=60).raise_for_status()
        yield httpx.get(f"{found.group()}/metrics", timeout=60).text
        server.terminate()


def test_every_metric_of_the_dashboard_is_one_of_ours(exposed):
    """A counter with labels has no samples before its first event, but its family is there: SILENT."""
    families = list(text_string_to_metric_families(exposed))
    ours = {sample.name for family in families for sample in family.samples}
    silent = {family.name + "_total" for family in families if not family.samples}
    named = {name for text in expressions() for name in re.findall(r"\b(?:vllm|mosso):\w+", text)}
    assert len(named) > 20
    assert named - ours <= silent & SILENT


def test_dashboards_and_datasources_agree():
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    dashboard = (ROOT / "deploy/grafana/dashboards/mosso.json").read_text()
    uids = set(re.findall(r'"uid": "(\w+)"', dashboard)) - {"mosso"}
    assert uids == {source["datasources"][0]["uid"]}


def test_the_dockerfile_is_linted():
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def composed(file: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / file).read_text())
    return read


def test_compose_needs_a_gpu_only_where_the_gpus_file_goes_along():
    """A reservation, of no device too, would be refused where NVIDIA's runtime is missing."""
    assert "deploy" not in composed("compose.yaml")["services"]["mosso"]
    added = composed("compose.gpu.yaml")["services"]
    assert set(added) == {"mosso"}
    (device,) = added["mosso"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "nvidia/cuda" in added["mosso"]["build"]["args"]["BASE"]


def test_compose_names_files_that_are_there():
    compose = composed("compose.yaml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            path = volume.split(":")[0]
            assert not path.startswith(".") or (ROOT / "deploy" / path).exists(), path
    scraped = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["mosso:8000"]
    assert compose["services"]["mosso"]["read_only"] is True


def set_by(file: str) -> set[str]:
    """The variables that the image or the unit sets."""
    text = re.sub(r"\\\n *", " ", (ROOT / file).read_text())
    lines = re.findall(r"^(?:ENV |Environment=)(.*)", text, re.MULTILINE)
    return {part.partition("=")[0] for line in lines for part in line.split()}


@pytest.mark.parametrize("file", ["Dockerfile", "deploy/systemd/mosso.service"])
def test_no_variable_of_ours_silences_one_of_nims(file):
    """MOSSO_* are stronger than NIM_*: set here, they would leave those that a person sets no effect."""
    flags = {variables(parameter)[0] for parameter in serve.params if parameter.name in NIM}
    assert len(flags) == len(NIM)
    assert {"HOME", FOLDER_VARIABLES[1]} <= set_by(file)
    assert not (flags | {FOLDER_VARIABLES[0]}) & set_by(file)


def test_what_ci_lacks_fails_there(monkeypatch):
    assert "export MOSSO_CI=1" in (ROOT / ".ci/run").read_text()
    monkeypatch.delenv("MOSSO_CI", raising=False)
    assert needs(False, "none").args == (True,)
    with pytest.raises(pytest.skip.Exception):
        missing("none")
    monkeypatch.setenv("MOSSO_CI", "1")
    assert needs(False, "none").args == (False,)
    with pytest.raises(pytest.fail.Exception):
        missing("none")


@needs(shutil.which("systemd-analyze") is not None, "there is no systemd")
def test_the_unit_is_one_that_systemd_reads():
    unit = ROOT / "deploy/systemd/mosso.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "not executable" not in line]
    assert complaints == []
