"""The command of every service and its health check, word for word as in docker-compose.yml, against real servers.

What a container engine does is done here by hand: the environment is that of the file with its names of hosts, its folder
of secrets and its ports mapped to this machine. Not run on a real Docker engine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import neo4j
import pytest
from neo4j import exceptions
from sqlalchemy import make_url

from tests.ops.compose import services
from tests.servers.neo4j_server import Neo4jServer, jars
from tests.servers.postgres_server import PostgresServer, binaries

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
SECRET = "metrics-token-of-the-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stack:
    """The services of the file, on this machine."""

    def __init__(self, folder: Path, catalog_url: str, graph: Any) -> None:
        self.folder = folder
        url = make_url(catalog_url)
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        for name, value in {
            "postgres_password": url.password,
            "neo4j_password": graph.password,
            "neo4j_auth": f"neo4j/{graph.password}",
            "metrics_token": SECRET,
        }.items():
            (self.secrets / name).write_text(f"{value}\n")
        self.words = {
            "/run/secrets": str(self.secrets),
            "postgresql://atlas@postgres:5432/atlas": url._replace(password=None).render_as_string(),
            "bolt://neo4j:7687": graph.url,
            "bolt://127.0.0.1:7687": graph.url,
            "/var/lib/atlas": str(folder / "home"),
            "/models": str(folder / "models"),
            "/tmp": str(folder),
            "0.0.0.0": "127.0.0.1",
            "8501": str(free_port()),
            "9100": str(free_port()),
        }
        self.services = services()

    def mapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.mapped(item) for item in value]
        for word, here in self.words.items():
            if word in str(value):
                return str(value).replace(word, here)
        return str(value)

    def environment(self, name: str) -> dict[str, str]:
        given = {key: self.mapped(value) for key, value in self.services[name]["environment"].items()}
        return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **given}

    def run(self, name: str, command: list[str], seconds: float = 150) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm NAME COMMAND`."""
        return subprocess.run(
            self.mapped(command), env=self.environment(name), capture_output=True, text=True, timeout=seconds, cwd="/"
        )

    def healthy(self, name: str, path: str = "") -> bool:
        """One run of the health check."""
        kind, *command = self.mapped(self.services[name]["healthcheck"]["test"])
        command = ["sh", "-c", command[0]] if kind == "CMD-SHELL" else command
        environment = self.environment(name)
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
        return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 0

    @contextmanager
    def up(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """`docker compose up NAME`, until it is healthy; at the end SIGTERM."""
        log = open(self.folder / f"{name}.log", "w")  # noqa: SIM115
        process = subprocess.Popen(
            self.mapped(self.services[name]["command"]),
            env=self.environment(name),
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
        )
        try:
            deadline = time.monotonic() + 200
            while not self.healthy(name):
                assert process.poll() is None, (self.folder / f"{name}.log").read_text()
                assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
                time.sleep(0.5)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
            log.close()

    def log(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def stack(tmp_path: Path, postgres_url: str, neo4j_server: Any) -> Stack:
    from atlas.graph import GraphStore
    from atlas.settings import Settings

    made = Stack(tmp_path, postgres_url, neo4j_server)
    settings = Settings(home=tmp_path, graph_url=neo4j_server.url, graph_password=neo4j_server.password)
    store = GraphStore.connect(settings)
    store.clear()
    store.close()
    return made


def fetch(url: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.postgres
@pytest.mark.neo4j
def test_migrate_prepares_both_stores_again_and_again_and_twice_at_once(stack: Stack) -> None:
    command = stack.mapped(stack.services["migrate"]["command"])
    options: dict[str, Any] = {"env": stack.environment("migrate"), "text": True, "cwd": "/"}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert json.loads(out)["graph"].startswith("Neo4j 5.26")
    again = stack.run("migrate", stack.services["migrate"]["command"])
    assert again.returncode == 0
    told = again.stdout + again.stderr
    for secret in stack.secrets.iterdir():
        assert secret.read_text().strip() not in told


@pytest.mark.postgres
@pytest.mark.neo4j
def test_the_pages_and_the_worker_come_up_healthy_and_tell_monitoring(stack: Stack) -> None:
    assert stack.run("migrate", stack.services["migrate"]["command"]).returncode == 0
    assert not stack.healthy("ui")
    assert not stack.healthy("worker")
    added = stack.run("ui", ["atlas", "people", "add", "admin1", "--role", "admin", "--token", "--json"])
    assert added.returncode == 0, added.stderr
    with stack.up("ui"), stack.up("worker"):
        pages, worker = (f"http://127.0.0.1:{stack.words[port]}" for port in ("8501", "9100"))
        assert fetch(f"{pages}/healthz") == (200, '{"status":"ok"}')
        assert json.loads(fetch(f"{pages}/readyz")[1]) == {"status": "ready", "catalog": "ok", "graph": "ok"}
        assert fetch(f"{pages}/metrics")[0] == 401
        assert fetch(f"{pages}/metrics", "another-token-altogether")[0] == 401
        status, told = fetch(f"{pages}/metrics", SECRET)
        assert status == 200
        for line in ("atlas_catalog_up 1.0", "atlas_workers_alive 1.0", 'atlas_jobs{state="queued"} 0.0'):
            assert line in told
        assert "atlas_worker_traces_total" in fetch(f"{worker}/metrics")[1]
    assert not stack.healthy("ui")
    assert not stack.healthy("worker")
    entries = stack.log("ui") + stack.log("worker")
    assert entries
    assert all({"at", "level", "logger", "message"} <= set(entry) for entry in entries)
    secrets = [secret.read_text().strip() for secret in stack.secrets.iterdir()]
    secrets += re.findall(r'"secret": ?"([^"]+)"', added.stdout)
    text = json.dumps(entries)
    assert not [secret for secret in secrets if secret in text]


@pytest.mark.postgres
def test_the_health_check_of_postgres_tells_a_running_server_from_none(postgres_server: PostgresServer) -> None:
    command = services()["postgres"]["healthcheck"]["test"][1:]
    path = f"{binaries()}{os.pathsep}{os.environ['PATH']}"
    for port, code in ((postgres_server.port, 0), (free_port(), 2)):
        done = subprocess.run(command, env={"PATH": path, "PGPORT": str(port)}, capture_output=True, text=True)
        assert done.returncode == code, done.stdout


def neo4j_configuration(environment: dict[str, Any]) -> dict[str, str]:
    """The settings that the image makes of its environment: `_` is a dot, `__` an underscore."""

    def setting(name: str) -> str:
        return name.removeprefix("NEO4J_").replace("__", " ").replace("_", ".").replace(" ", "_")

    return {setting(name): str(value) for name, value in environment.items() if name != "NEO4J_AUTH_FILE"}


SHELL = """#!{python}
import os, sys
import neo4j
address, query = sys.argv[sys.argv.index("--address") + 1], sys.argv[-1]
with neo4j.GraphDatabase.driver(address, auth=(os.environ["NEO4J_USERNAME"], os.environ["NEO4J_PASSWORD"])) as driver:
    driver.execute_query(query)
"""


@pytest.mark.neo4j
def test_neo4j_takes_the_settings_of_the_file_and_is_closed_by_them(tmp_path: Path) -> None:
    folder = jars()
    if folder is None:
        pytest.skip("Neo4j runs in a container here, which has these settings already")
    home = tmp_path / "neo4j"
    server = Neo4jServer(folder, home)
    wanted = neo4j_configuration(services()["neo4j"]["environment"])
    assert len(wanted) == len(services()["neo4j"]["environment"]) - 1
    listening = f"server.bolt.listen_address=127.0.0.1:{server.port}\nserver.default_listen_address=127.0.0.1\n"
    lines = "".join(f"{name}={value}\n" for name, value in wanted.items())
    (home / "conf" / "neo4j.conf").write_text(listening + lines)
    server.start()
    try:
        check_closed(server, wanted)
        check_shell(server, tmp_path)
    finally:
        server.stop()


def check_closed(server: Neo4jServer, wanted: dict[str, str]) -> None:
    with neo4j.GraphDatabase.driver(server.url, auth=(server.user, server.password)) as driver:
        shown = driver.execute_query("SHOW SETTINGS YIELD name, value").records
        values = {record["name"]: record["value"] for record in shown}
        assert values["db.transaction.timeout"] == "2m"
        assert values["db.checkpoint.interval.time"] == "10s"
        assert set(wanted) - set(values) <= {"internal.dbms.cypher_ip_blocklist"}
        for place in ("file:///etc/passwd", f"http://127.0.0.1:{free_port()}/a.csv"):
            with pytest.raises(exceptions.Neo4jError, match=r"(?i)not allowed|blocked|disabled|denied|Cannot load"):
                driver.execute_query(f"LOAD CSV FROM '{place}' AS row RETURN row")


def check_shell(server: Neo4jServer, folder: Path) -> None:
    """The health check of the file; `cypher-shell` comes with the image only, so the driver stands in for it."""
    shell = folder / "cypher-shell"
    shell.write_text(SHELL.format(python=sys.executable))
    shell.chmod(0o755)
    (folder / "neo4j_auth").write_text(f"neo4j/{server.password}\n")
    line = services()["neo4j"]["healthcheck"]["test"][1]
    here = line.replace("/run/secrets", str(folder)).replace("bolt://127.0.0.1:7687", server.url)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run(["sh", "-c", here], env=environment, timeout=60).returncode == 0
    (folder / "neo4j_auth").write_text("neo4j/wrong\n")
    assert subprocess.run(["sh", "-c", here], env=environment, timeout=60, stderr=subprocess.DEVNULL).returncode != 0
