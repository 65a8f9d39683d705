"""docker-compose.yml against its schema, the files it names and the service it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from service.settings import Settings, read_settings
from tests.deploy.dockerfile import read_dockerfile

SERVICES = ("convoy", "convoy-gpu", "prometheus", "grafana")
OURS = ("convoy", "convoy-gpu")

Compose = dict[str, Any]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, compose: Compose) -> dict[str, Any]:
    service: dict[str, Any] = compose["services"][request.param]
    return service


@pytest.fixture(params=OURS)
def settings(
    request: pytest.FixtureRequest, compose: Compose, root: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """What the service in a container would run with."""
    image = read_dockerfile(root / "deploy/Dockerfile")[-1]
    variables = image.environment | compose["services"][request.param]["environment"]
    for name, value in variables.items():
        if name.startswith("CONVOY_"):
            monkeypatch.setenv(name, value)
    return read_settings([])


def binds(service: dict[str, Any]) -> list[list[str]]:
    return [volume.split(":") for volume in service["volumes"] if volume.startswith(".")]


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_compose_file_fits_the_schema(compose: Compose) -> None:
    schema = json.loads(Path(__file__).with_name("compose_spec.json").read_text())
    Draft7Validator(schema).validate(compose)
    assert set(compose["services"]) == set(SERVICES)


def test_every_bind_exists_and_is_read_only(service: dict[str, Any], root: Path) -> None:
    for source, _, *options in binds(service):
        assert (root / source).is_dir()
        assert options == ["ro"]


def test_every_named_volume_is_declared(service: dict[str, Any], compose: Compose) -> None:
    named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")}
    assert named <= set(compose["volumes"])


def test_ports_are_published_to_this_machine_only(service: dict[str, Any]) -> None:
    for published in service["ports"]:
        address, outside, inside = published.split(":")
        assert address == "127.0.0.1"
        assert outside == inside


def test_every_service_is_locked_down(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "pids_limit"} <= set(service)


def test_every_image_has_a_version(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].partition(":")
    assert name.count("/") <= 1
    assert tag.lstrip("v")[:1].isdigit()


def test_builds_name_files_that_exist(compose: Compose, root: Path) -> None:
    for name in OURS:
        build = compose["services"][name]["build"]
        assert (root / build["context"] / build["dockerfile"]).is_file()


def test_container_listens_where_the_ports_lead(settings: Settings, compose: Compose) -> None:
    addresses = settings.grpc_address, settings.http_address
    assert [address.split(":")[0] for address in addresses] == ["0.0.0.0", "0.0.0.0"]
    for name in OURS:
        inside = [port(published) for published in compose["services"][name]["ports"]]
        assert inside == [port(address) for address in addresses]


def test_ports_are_the_defaults_of_the_service(settings: Settings) -> None:
    for name in ("grpc_address", "http_address"):
        assert port(getattr(settings, name)) == port(Settings.model_fields[name].default)


def test_models_are_mounted_where_the_service_looks(settings: Settings, compose: Compose) -> None:
    for name in OURS:
        assert [str(settings.models)] == [
            inside for _, inside, _ in binds(compose["services"][name])
        ]


def test_grace_period_is_longer_than_the_drain(settings: Settings, compose: Compose) -> None:
    for name in OURS:
        grace = compose["services"][name]["stop_grace_period"]
        assert float(grace.removesuffix("s")) > settings.drain_timeout + 5


def test_gpu_profile_reserves_a_gpu_and_insists_on_it(compose: Compose) -> None:
    gpu = compose["services"]["convoy-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["environment"]["CONVOY_DEVICE"] == "cuda"
    assert gpu["build"]["args"] == {"EXTRA": "gpu"}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_prometheus_scrapes_the_service_by_either_name(
    settings: Settings, compose: Compose, root: Path
) -> None:
    (group,) = json.loads((root / "deploy/prometheus/targets/convoy.json").read_text())
    assert group["targets"] == [f"convoy:{port(settings.http_address)}"]
    assert compose["services"]["convoy-gpu"]["networks"]["default"]["aliases"] == ["convoy"]


def test_prometheus_reads_the_mounted_configuration(compose: Compose, root: Path) -> None:
    prometheus = compose["services"]["prometheus"]
    ((source, inside, _),) = binds(prometheus)
    (flag,) = [one for one in prometheus["command"] if one.startswith("--config.file=")]
    name = Path(flag.partition("=")[2]).relative_to(inside)
    assert (root / source / name).is_file()


def test_grafana_finds_its_data_source_and_dashboards(compose: Compose, root: Path) -> None:
    provisioning = root / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    inside = compose["services"]["prometheus"]["ports"][0].split(":")[-1]
    assert source["url"] == f"http://prometheus:{inside}"
    (provider,) = yaml.safe_load((provisioning / "dashboards/convoy.yml").read_text())["providers"]
    grafana = compose["services"]["grafana"]
    mounts = {inside: root / outside for outside, inside, _ in binds(grafana)}
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (mounts[str(home.parent)] / home.name).is_file()
