"""Worker processes that are killed, stopped and upgraded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

import atlas.encoder
from atlas import Atlas
from atlas.settings import Settings
from benchmarks.chaos import worker as chaos
from benchmarks.chaos.worker import PROGRAM, Crew, check_whole, crew, requests, wait_until_done

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# what an upgrade changes: the program's version, and the workflows that DBOS would make a version of by itself
UPGRADED = f"""
import importlib.metadata as metadata
before = metadata.version
metadata.version = lambda name: "99.0" if name == "circuit-atlas" else before(name)
from dbos import DBOS
@DBOS.workflow()
def something_new():
    pass
{PROGRAM}"""


@pytest.fixture(autouse=True)
def _without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas.encoder, "load_encoder", lambda settings: None)


@pytest.fixture
def laptop(embedded_settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=embedded_settings) as opened:
        yield opened


@pytest.fixture
def embedded_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    from tests.servers.fixtures import empty_graph

    return empty_graph(request, "embedded", tmp_path)


@pytest.fixture
def hands(embedded_settings: Settings, tmp_path: Path) -> Iterator[Crew]:
    with crew(embedded_settings, tmp_path) as made:
        yield made


def until_running(atlas: Atlas, hands: Crew, job: str) -> None:
    end = time.monotonic() + 120
    while atlas.job(job).state != "running":
        hands.check_alive()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_workers_killed_at_random_moments_do_every_job_once(store_pair: Settings, tmp_path: Path) -> None:
    figures = chaos.play(store_pair, tmp_path, rounds=4, seed=7, told=lambda row: None)
    assert figures["jobs"] >= 4 * chaos.JOBS


@pytest.mark.embedded
def test_a_worker_that_is_started_again_goes_on_with_its_job_also_after_an_upgrade(laptop: Atlas, hands: Crew) -> None:
    jobs = laptop.enqueue_traces(requests(0, 2)).jobs
    hands.start("w1")
    until_running(laptop, hands, jobs[0])
    hands.kill("w1")
    assert laptop.job(jobs[0]).state == "running"
    hands.start("w1", program=UPGRADED)
    wait_until_done(laptop, hands)
    assert hands.stop("w1") == 0
    assert laptop.workers()[0].version == "99.0"
    assert [laptop.job(job).attempts for job in jobs] == [1, 1], "DBOS gave it back to the same name"
    check_whole(laptop)
    with laptop.catalog.read() as session:
        query = text("SELECT DISTINCT application_version, executor_id FROM workflow_status")
        assert [tuple(row) for row in session.execute(query)] == [("1", "w1")]


@pytest.mark.embedded
def test_a_living_worker_takes_over_the_job_of_a_dead_one(laptop: Atlas, hands: Crew) -> None:
    job = laptop.enqueue_traces(requests(0, 1)).jobs[0]
    hands.start("w1")
    until_running(laptop, hands, job)
    hands.kill("w1")
    hands.start("w2")
    wait_until_done(laptop, hands)
    done = laptop.job(job)
    assert (done.state, done.worker, done.attempts) == ("done", "w2", 2)
    hands.start("w1")  # what DBOS gives it back is not its job any more
    laptop.enqueue_traces(requests(1, 2))
    wait_until_done(laptop, hands)
    check_whole(laptop)


@pytest.mark.embedded
def test_sigterm_ends_or_hands_back_the_job_and_the_worker_stops_with_0(laptop: Atlas, hands: Crew) -> None:
    jobs = laptop.enqueue_traces(requests(0, 6)).jobs
    hands.start("w1")
    until_running(laptop, hands, jobs[0])
    assert hands.stop("w1") == 0
    states = {laptop.job(job).state for job in jobs}
    assert states <= {"done", "queued"}
    assert "queued" in states
    assert laptop.workers()[0].state == "stopped"
    hands.start("w1", "--drain").wait(120)
    check_whole(laptop)


@pytest.mark.postgres
@pytest.mark.embedded
def test_a_worker_outlives_a_restart_of_postgres_and_keeps_its_name(
    embedded_settings: Settings, tmp_path: Path, postgres_server, postgres_url: str
) -> None:
    settings = embedded_settings.model_copy(update={"catalog_url": postgres_url})
    with Atlas.open(settings=settings) as laptop, crew(settings, tmp_path) as hands:
        jobs = laptop.enqueue_traces(requests(0, 3)).jobs
        hands.start("w1")
        until_running(laptop, hands, jobs[0])
        postgres_server.kill()
        time.sleep(1)
        postgres_server.start()
        wait_until_done(laptop, hands)
        laptop.enqueue_traces(requests(3, 1))
        wait_until_done(laptop, hands)
        time.sleep(6)  # a sign of life, at which the lock of the name is taken again
        second = Crew(settings, tmp_path / "second")
        second.folder.mkdir()
        assert second.start("w1").wait(120) == 2
        assert "A worker named 'w1' runs already" in second.log("w1")
        assert hands.stop("w1") == 0
        check_whole(laptop)
