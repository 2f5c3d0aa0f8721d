"""`atlas doctor` on the catalog and the queue, on SQLite and on Postgres."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from importlib.metadata import version

import psycopg
import pytest

from atlas import Atlas
from atlas.catalog import Catalog, jobs, migrate, workers
from atlas.catalog.tables import Worker
from atlas.diagnosis import examine, queue
from atlas.diagnosis.check import Check
from atlas.group_records import TraceRequest
from atlas.settings import Settings


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=catalog_settings) as opened:
        yield opened


@contextmanager
def running_worker(atlas: Atlas, name: str = "gpu1") -> Iterator[subprocess.Popen]:
    """A process that is signed in as a worker and has taken a job."""
    atlas.enqueue_traces([TraceRequest(prompt="a b", model="toy", transcoders="toy-set")])
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:

        def begin(session) -> None:
            workers.start(session, name, "instance", socket.gethostname(), process.pid, "cpu", version("circuit-atlas"))
            assert jobs.claim(session, name, ["trace"]) is not None

        atlas.catalog.write("worker", begin)
        yield process
    finally:
        process.kill()
        process.wait()


def set_alive(atlas: Atlas, seconds_ago: float, name: str = "gpu1", host: str = "elsewhere") -> None:
    def change(session) -> None:
        row = session.get(Worker, name)
        row.host = host
        row.alive_at = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="microseconds")

    atlas.catalog.write("worker", change)


def test_a_job_of_a_killed_worker_is_queued_again(atlas: Atlas) -> None:
    with running_worker(atlas) as process:
        assert named(queue.examine(atlas, mend=True), "jobs").found == "none without its worker"
        process.kill()
        process.wait()
        found = named(queue.examine(atlas, mend=False), "jobs")
        assert not found.ok
        assert "1 run at workers that are gone: gpu1" in found.found
        assert atlas.jobs()[0].state == "running"
        mended = named(queue.examine(atlas, mend=True), "jobs")
        assert (mended.ok, mended.mended) == (True, True)
        assert atlas.jobs()[0].state == "queued"
        assert atlas.audit(verb="mend")[0].detail == {"queued_again": True}
        assert named(queue.examine(atlas, mend=True), "jobs").found == "none without its worker"


def test_a_job_of_a_worker_that_stopped_or_is_unknown_is_queued_again(atlas: Atlas) -> None:
    with running_worker(atlas):
        atlas.catalog.write("worker", lambda session: workers.stop(session, "gpu1", "instance"))
        assert named(queue.examine(atlas, mend=True), "jobs").mended
    with running_worker(atlas, "gpu2"):
        atlas.catalog.write("worker", lambda session: session.delete(session.get(Worker, "gpu2")))
        assert named(queue.examine(atlas, mend=True), "jobs").mended


def test_a_worker_of_another_version_is_told(atlas: Atlas) -> None:
    with running_worker(atlas):
        assert named(queue.examine(atlas, mend=False), "workers").found == "1 alive, 0 not"

        def older(session) -> None:
            session.get(Worker, "gpu1").version = "0.0.1"

        atlas.catalog.write("worker", older)
        found = named(queue.examine(atlas, mend=True), "workers")
        assert not found.ok
        assert "gpu1 (0.0.1) of another version" in found.found


def test_a_clock_that_is_ahead_is_told(atlas: Atlas) -> None:
    with running_worker(atlas):
        set_alive(atlas, seconds_ago=-60)
        found = named(queue.examine(atlas, mend=True), "workers")
        assert not found.ok
        assert "worker gpu1 on elsewhere is 60 s ahead" in found.found
        assert "time server" in found.hint


@pytest.mark.slow
def test_a_living_worker_whose_clock_is_behind_keeps_its_job(atlas: Atlas) -> None:
    with running_worker(atlas):
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(1):
                set_alive(atlas, seconds_ago=600)

        thread = threading.Thread(target=beat)
        set_alive(atlas, seconds_ago=600)
        thread.start()
        try:
            found = queue.examine(atlas, mend=True)
        finally:
            ended.set()
            thread.join()
        assert "worker gpu1 is 60" in named(found, "workers").found
        assert named(found, "jobs").found == "none without its worker"
        assert atlas.jobs()[0].state == "running"


def test_an_older_schema_is_told_and_migrated_only_when_asked(catalog_settings: Settings) -> None:
    settings = catalog_settings.model_copy(update={"graph_url": "bolt://127.0.0.1:1"})
    settings.home.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(settings.resolved_catalog_url())
    with resources.as_file(resources.files("migrations")) as folder, catalog.engine.connect() as connection:
        from alembic import command

        with connection.begin():
            config = migrate.alembic_config(str(folder))
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
    found = named(examine(settings), "catalog")
    assert not found.ok
    assert "schema 0001" in found.found
    assert migrate.revision(catalog) == "0001"
    mended = named(examine(settings, mend=True), "catalog")
    assert (mended.ok, mended.mended) == (True, True)
    assert migrate.revision(catalog) == migrate.HEAD
    catalog.close()


def test_a_read_only_sqlite_catalog_is_told(settings: Settings) -> None:
    with Atlas.open(settings=settings) as atlas:
        file = atlas.catalog.file
    frozen = {"catalog_url": f"sqlite:///file:{file}?mode=ro&uri=true", "graph_url": "bolt://127.0.0.1:1"}
    found = named(examine(settings.model_copy(update=frozen), mend=True), "catalog")
    assert not found.ok
    assert "read-only" in found.found


@pytest.mark.postgres
def test_a_read_only_postgres_catalog_is_told(settings: Settings, postgres_url: str) -> None:
    settings = settings.model_copy(update={"catalog_url": postgres_url, "graph_url": "bolt://127.0.0.1:1"})
    with Atlas.open(settings=settings):
        pass
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    found = named(examine(settings, mend=True), "catalog")
    assert not found.ok
    assert "read-only" in found.found


def test_health_asks_for_a_living_worker_of_this_machine(atlas: Atlas) -> None:
    from atlas.health import health

    assert health(atlas, worker_here=True).ready is False
    with running_worker(atlas):
        seen = health(atlas, worker_here=True)
        assert (seen.ready, seen.workers_alive, seen.queue) == (True, 1, 1)
        set_alive(atlas, seconds_ago=0)
        assert health(atlas, worker_here=True).ready is False, "a worker of another machine"
        set_alive(atlas, seconds_ago=300, host=socket.gethostname())
        assert health(atlas, worker_here=True).ready is False, "a silent worker"
