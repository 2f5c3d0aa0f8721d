"""A real Postgres from the system's own binaries, for tests and benchmarks: loopback only, random password, fsync on."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

START_SECONDS = 120
STOP_SECONDS = 30
_TRUSTED = "postgres"  # the account of the package: Postgres does not run as root

CONFIGURATION = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 100
shared_buffers = 64MB
logging_collector = off
"""


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres` (newest version): on the path, or where Debian keeps them; None = not here."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", str(folder))], default=None)


class PostgresServer:
    """`url(database)`, `kill`, `start`, `stop`. `folder` must be reachable by other accounts when this runs as root."""

    user = "atlas"

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        self.password = secrets.token_hex(18)
        self.process: subprocess.Popen | None = None
        self.account = _TRUSTED if os.geteuid() == 0 else getpass.getuser()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "password"
        note.touch(mode=0o600)
        note.write_text(self.password)
        if os.geteuid() == 0:
            shutil.chown(folder, self.account)
            shutil.chown(note, self.account)
        subprocess.run(
            [
                *(str(binaries / "initdb"), "-D", str(self.data), "-U", self.user, "--pwfile", str(note)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            **self._as_account(),
        )
        note.unlink()
        with open(self.data / "postgresql.conf", "a") as configuration:
            configuration.write(CONFIGURATION.format(port=self.port))

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "output.log"

    def url(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """The address of a database, as ATLAS_CATALOG_URL takes it."""
        return f"postgresql://{user or self.user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when it answers. After `kill`, recovery is part of the start."""
        deadline = time.monotonic() + START_SECONDS
        self._spawn()
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Postgres did not start: {self._tail()}") from error
            assert self.process is not None
            if self.process.poll() is not None:  # for a moment after a kill its shared memory is still in use
                time.sleep(0.1)
                self._spawn()
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power switch would, of every process: kill -9."""
        if self.process is not None:
            try:
                children = psutil.Process(self.process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                children = []
            self.process.kill()
            for child in children:
                try:
                    child.kill()
                except psutil.NoSuchProcess:
                    continue
            self.process.wait()
            psutil.wait_procs(children, 10)
            self.process = None

    def stop(self) -> None:
        """Ends open connections, then the server."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
                self.process = None
            except subprocess.TimeoutExpired:
                self.kill()

    def create(self, database: str, template: str = "template1") -> None:
        """A new database, a copy of `template`."""
        self._administer("CREATE DATABASE {} TEMPLATE {}", database, template)

    def drop(self, database: str) -> None:
        """Drops a database together with the connections to it."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", database)

    def _administer(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _spawn(self) -> None:
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [str(self.binaries / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._as_account(),
            )

    def _as_account(self) -> dict:
        """Never as root, which Postgres refuses."""
        options: dict = {"cwd": self.folder}
        if os.geteuid() == 0:
            options |= {"user": self.account, "group": self.account, "extra_groups": []}
        return options

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]
