"""A real Neo4j Community from its Maven jars (Java 17), for tests and benchmarks."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import neo4j
from neo4j import exceptions

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 300

CONFIGURATION = """\
server.default_listen_address=127.0.0.1
server.bolt.listen_address=127.0.0.1:{port}
server.bolt.advertised_address=127.0.0.1:{port}
server.http.enabled=false
server.https.enabled=false
server.memory.pagecache.size=128m
dbms.usage_report.enabled=false
dbms.security.allow_csv_import_from_file_urls=false
internal.dbms.cypher_ip_blocklist=0.0.0.0/0,::/0
db.transaction.timeout=120s
db.checkpoint.interval.time=10s
"""


def jars() -> Path | None:
    """The folder of the jars: ATLAS_NEO4J_JARS, else .cache/neo4j/lib of the repository; None when there is none."""
    folder = Path(os.environ.get("ATLAS_NEO4J_JARS") or REPOSITORY / ".cache" / "neo4j" / "lib")
    return folder if any(folder.glob("neo4j-5*.jar")) else None


@dataclass(frozen=True)
class RunningNeo4j:
    """A Neo4j that somebody else started and stops."""

    url: str
    password: str
    user: str = "neo4j"


def in_docker() -> RunningNeo4j | None:
    """The container that scripts/test-servers.sh started where there is no Java; it left address and password behind."""
    note = REPOSITORY / ".cache" / "neo4j" / "docker"
    return RunningNeo4j(*note.read_text().split()) if note.is_file() else None


class Neo4jServer:
    """`url`, `user`, `password`, and the process by its pid. `start` returns when it answers."""

    user = "neo4j"

    def __init__(self, jars: Path, home: Path, heap: str = "768m") -> None:
        self.jars, self.home, self.heap = jars, home, heap
        self.password = secrets.token_hex(18)  # none begins with a dash, as an option does
        self.process: subprocess.Popen | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"bolt://127.0.0.1:{self.port}"
        (home / "conf").mkdir(parents=True, exist_ok=True)
        (home / "conf" / "neo4j.conf").write_text(CONFIGURATION.format(port=self.port))
        environment = {**os.environ, "NEO4J_HOME": str(home), "NEO4J_CONF": str(home / "conf")}
        subprocess.run(
            ["java", "-cp", f"{jars}/*", "org.neo4j.cli.AdminTool", "dbms", "set-initial-password", self.password],
            env=environment,
            check=True,
            capture_output=True,
        )

    @property
    def log(self) -> Path:
        return self.home / "output.log"

    def start(self) -> None:
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [
                    "java",
                    f"-Xmx{self.heap}",
                    "-cp",
                    f"{self.jars}/*",
                    "org.neo4j.server.CommunityEntryPoint",
                    f"--home-dir={self.home}",
                    f"--config-dir={self.home / 'conf'}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        with neo4j.GraphDatabase.driver(self.url, auth=(self.user, self.password)) as driver:
            while True:
                try:
                    driver.verify_connectivity()
                    return
                except (exceptions.DriverError, exceptions.Neo4jError, OSError) as error:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        logs = [self.log, self.home / "logs" / "neo4j.log"]
                        tail = "".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
                        raise RuntimeError(f"Neo4j did not start: {tail}") from error
                    time.sleep(0.2)

    def kill(self) -> None:
        """As a power switch would: kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
