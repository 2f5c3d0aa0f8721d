"""The Compose files: valid by the official schema, closed where they say so, and in step with the program."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import typer

from atlas.cli import verbs  # noqa: F401
from atlas.cli.main import app
from atlas.settings import Settings
from tests.ops.compose import GPU, MAIN, ROOT, TESTS, filled, load, services

OURS = ("migrate", "worker", "ui")
DATABASES = ("postgres", "neo4j")


@pytest.mark.parametrize("file", [MAIN, GPU, TESTS], ids=lambda file: file.name)
def test_the_files_are_valid_by_the_official_schema(file: Path) -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose" / "compose-spec.json").read_text("utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    assert list(validator.iter_errors(load(file))) == []
    wrong = load(file)
    next(iter(wrong["services"].values()))["helthcheck"] = {}
    assert list(validator.iter_errors(wrong)), "the schema finds a misspelt key"


def test_all_services_are_there_and_each_that_stays_up_has_a_health_check() -> None:
    found = services()
    assert set(found) == {*OURS, *DATABASES}
    for name, service in found.items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert ("healthcheck" in service) == (name != "migrate"), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["logging"]["options"]["max-size"], name


def test_only_the_pages_are_published_and_by_default_on_loopback() -> None:
    assert {name: service["ports"] for name, service in services().items() if "ports" in service} == {
        "ui": ["127.0.0.1:8501:8501"]
    }
    assert all(port.startswith("127.0.0.1:") for port in filled(load(TESTS))["services"]["neo4j"]["ports"])


def test_the_databases_are_on_a_network_that_leads_nowhere() -> None:
    networks = load(MAIN)["networks"]
    assert networks["stores"]["internal"] is True
    for name in DATABASES:
        assert services()[name]["networks"] == ["stores"]


def test_our_containers_have_no_rights_and_a_root_that_cannot_be_written() -> None:
    for name in OURS:
        service = services()[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "privileged" not in service
        assert all(not volume.startswith(("/", ".")) for volume in service["volumes"]), "no folder of the host"


def test_secrets_come_from_files_that_are_declared_and_given() -> None:
    declared = load(MAIN)["secrets"]
    assert all(set(secret) == {"file"} for secret in declared.values())
    for name, service in services().items():
        for variable, value in service["environment"].items():
            if re.search("(?i)password|token|auth", variable) and variable != "POSTGRES_INITDB_ARGS":
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.removeprefix("/run/secrets/") in service["secrets"]
            assert not re.search(r"://[^/@:]+:[^@/]+@", str(value)), f"{name}: a password in {variable}"
        assert set(service["secrets"]) <= set(declared)


def test_every_setting_named_is_one_of_the_program() -> None:
    known = {f"ATLAS_{field}".upper() for field in Settings.model_fields}
    for name in OURS:
        named = {v.removesuffix("_FILE") for v in services()[name]["environment"] if v.startswith("ATLAS_")}
        assert named <= known, name


def test_services_start_in_order() -> None:
    found = services()
    assert {name: rule["condition"] for name, rule in found["migrate"]["depends_on"].items()} == {
        "postgres": "service_healthy",
        "neo4j": "service_healthy",
    }
    for name in ("worker", "ui"):
        assert found[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_volumes_networks_and_images_named_are_declared() -> None:
    whole = load(MAIN)
    for service in services().values():
        assert set(service["networks"]) <= set(whole["networks"])
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(whole["volumes"])
        name, tag = service["image"].rsplit(":", 1)
        assert "/" not in name, "no host of a registry"
        assert tag != "latest"
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in (ROOT / service["build"]["dockerfile"]).read_text("utf-8")


@pytest.mark.parametrize("name", OURS)
def test_our_commands_and_health_checks_are_verbs_with_options_that_exist(name: str) -> None:
    service = services()[name]
    lines = [service["command"]]
    if "healthcheck" in service and service["healthcheck"]["test"][1] == "atlas":
        lines.append(service["healthcheck"]["test"][1:])
    for program, *arguments in lines:
        assert program == "atlas"
        command = typer.main.get_command(app)
        command.make_context("atlas", list(arguments), resilient_parsing=False)
        verb = command.commands[arguments[0]]
        verb.make_context(arguments[0], list(arguments[1:]))


def test_the_gpu_override_gives_the_worker_one_gpu() -> None:
    (device,) = filled(load(GPU))["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}


def test_the_script_makes_secrets_once_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        environment = {**os.environ, "ATLAS_SECRETS": str(tmp_path / "secrets")}
        subprocess.run([ROOT / "docker" / "make-secrets.sh"], check=True, env=environment, capture_output=True)
        return {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}

    first = make()
    assert set(first) == set(load(MAIN)["secrets"])
    assert first["neo4j_auth"] == f"neo4j/{first['neo4j_password']}"
    assert len({first["postgres_password"], first["neo4j_password"], first["metrics_token"]}) == 3
    assert all(len(secret) >= 48 for secret in first.values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert make() == first


def test_neo4j_has_the_settings_that_the_page_on_servers_names() -> None:
    page = (ROOT / "docs" / "servers.md").read_text("utf-8").split("## Neo4j settings")[1].split("## ")[0]
    rows = re.findall(r"^\| ([a-z][^|]+?) \| ([^|]+?) \|", page, re.M)
    assert len(rows) >= 6
    given = services()["neo4j"]["environment"]
    for names, value in rows:
        for name in (each for each in names.split(", ") if each != "setting"):
            variable = "NEO4J_" + name.replace("_", "__").replace(".", "_")
            assert str(given[variable]) == value.removesuffix(" or more"), name
