"""What stands under deploy/ is consistent with itself and with the code. The containers themselves are not run here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from openmsi_streams import __version__
from openmsi_streams.config import Settings, checks, load
from openmsi_streams.worker.metrics import REGISTRY

yaml = pytest.importorskip("yaml")

DEPLOY = Path(__file__).parents[3] / "deploy"
NEEDED = {"S3_ACCESS_KEY", "S3_SECRET_KEY", "WEB_TOKEN", "GRAFANA_PASSWORD"}


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    told: dict[str, Any] = read("compose.yaml")
    return told


def filled(text: str) -> str:
    """Put a value where compose would take one from the environment."""
    return re.sub(
        r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: "secret-of-24-characters!" if m[1] in NEEDED else m[2], text
    )


def known_metrics() -> set[str]:
    source = (Path(__file__).parents[3] / "openmsi_streams/web/collect.py").read_text(encoding="utf-8")
    names = set(re.findall(r'"(openmsi_streams_\w+)"', source))
    for family in REGISTRY.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {f"{family.name}{ending}" for ending in endings}
    return names


# -- compose ---------------------------------------------------------------------------------------------------------


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        _, _, tag = service["image"].rpartition(":")
        assert tag and tag != "latest" and (tag == "local" or tag[-1].isdigit()), name


def test_only_kafka_is_open_to_the_network(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert name == "kafka" or port.startswith("127.0.0.1:"), f"{name} is open to all: {port}"


def test_secrets_have_no_default_and_are_in_the_example(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for name in NEEDED:
        assert f"${{{name}:?" in text and f"${{{name}:-" not in text
    example = dict(line.split("=", 1) for line in (DEPLOY / "example.env").read_text().splitlines() if "=" in line)
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    assert all(example[name] == "" for name in NEEDED)


def test_settings_of_the_workers_are_known_and_without_mistakes(compose: dict[str, Any], tmp_path: Path) -> None:
    for name in ("worker-1", "worker-2", "topics"):
        environment = {key: filled(str(value)) for key, value in compose["services"][name]["environment"].items()}
        settings = load(environment={**environment, "OPENMSI_STREAMS__DISK__ROOT": str(tmp_path)})
        assert [one.line() for one in checks.problems(settings, "worker") if one.severity == "error"] == []
        assert settings.worker.topics == ["lab"] and settings.s3["main"].bucket == "lab-data"


def test_everything_that_is_named_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for other in service.get("depends_on", []):
            assert other in compose["services"], name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"


def test_workers_are_closed_in(compose: dict[str, Any]) -> None:
    for name in ("worker-1", "worker-2"):
        worker = compose["services"][name]
        assert worker["read_only"] is True and worker["cap_drop"] == ["ALL"] and "healthcheck" in worker


# -- the image -------------------------------------------------------------------------------------------------------


def test_the_image_runs_without_root_and_from_a_pinned_base() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert lines.index("USER 10001:10001") < next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    assert re.search(r"^ARG PYTHON=3\.\d+-", "\n".join(lines), re.MULTILINE)
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (DEPLOY.parent / source).exists(), source
        found = re.match(r" *(?:ENV )?(OPENMSI_STREAMS__\w+)=", line)
        if found:
            load(environment={found[1]: "/x"})


# -- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    text = (DEPLOY / "kubernetes/openmsi-streams.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_manifests_have_what_every_object_needs(manifests: dict[str, dict[str, Any]]) -> None:
    assert set(manifests) == {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget"}
    for manifest in manifests.values():
        assert manifest["apiVersion"] and manifest["metadata"]["name"] == "openmsi-streams"


def test_selectors_meet_the_labels(manifests: dict[str, dict[str, Any]]) -> None:
    labels = manifests["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_pods_are_closed_in_and_watched(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["automountServiceAccountToken"] is False
    names = {volume["name"] for volume in pod["volumes"]} | {"data"}
    for container in pod["initContainers"] + pod["containers"]:
        closed = container["securityContext"]
        assert closed["readOnlyRootFilesystem"] is True and closed["allowPrivilegeEscalation"] is False
        assert {mount["name"] for mount in container["volumeMounts"]} <= names
        assert container["image"].endswith(f":{__version__}")
    (worker,) = pod["containers"]
    assert worker["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert worker["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_settings_of_the_manifests_are_known_and_without_mistakes(
    manifests: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "openmsi-streams.toml"
    path.write_text(manifests["ConfigMap"]["data"]["openmsi-streams.toml"])
    environment = {
        "OPENMSI_STREAMS__WEB__TOKEN": "a-token-of-24-characters",
        "OPENMSI_STREAMS__BROKER__OPTIONS__SASL_PASSWORD": "x",
        "OPENMSI_STREAMS__S3__MAIN__ACCESS_KEY_ID": "x",
        "OPENMSI_STREAMS__S3__MAIN__SECRET_ACCESS_KEY": "x",
    }
    header = (DEPLOY / "kubernetes/openmsi-streams.yaml").read_text()
    assert all(name in header for name in environment)
    settings: Settings = load(path, environment=environment)
    settings.worker.data = str(tmp_path)
    assert [one.line() for one in checks.problems(settings, "worker") if one.severity == "error"] == []


# -- monitoring ------------------------------------------------------------------------------------------------------


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bopenmsi_streams_\w+", expression))


def test_alerts_use_metrics_that_exist_and_say_what_to_do() -> None:
    rules = [rule for group in read("prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert names_in(rule["expr"]) <= known_metrics(), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]
        for page in re.findall(r"docs/[\w-]+\.md", rule["annotations"]["action"]):
            assert (DEPLOY.parent / page).exists(), page


def test_the_dashboard_uses_metrics_that_exist() -> None:
    board = json.loads((DEPLOY / "grafana/dashboards/openmsi-streams.json").read_text())
    used = set()
    for panel in board["panels"]:
        assert panel["targets"] and panel["title"]
        for target in panel["targets"]:
            used |= names_in(target["expr"])
    assert len(used) > 15 and used <= known_metrics(), used - known_metrics()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_reads_its_rules_and_the_workers_of_compose(compose: dict[str, Any]) -> None:
    told = read("prometheus/prometheus.yaml")
    assert all((DEPLOY / "prometheus" / name).exists() for name in told["rule_files"])
    (job,) = told["scrape_configs"]
    for target in job["static_configs"][0]["targets"]:
        assert target.split(":")[0] in compose["services"]
