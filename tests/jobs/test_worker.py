"""A worker on real stores with the shipped model, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

import atlas.encoder
from atlas import Atlas
from atlas.catalog import workers
from atlas.catalog.tables import Base
from atlas.catalog.tables import Worker as WorkerTable
from atlas.errors import UsageError
from atlas.settings import Settings
from ingest.organism import model_path, transcoders_path
from ingest.trace.run import _find
from ingest.worker import names
from ingest.worker.worker import STREAK, Worker
from tests.jobs.conftest import asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PROMPT = "The opposite of hot is"


@pytest.fixture(autouse=True)
def _without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings of labels are no part of this, and their encoder takes longer to load than a trace."""
    monkeypatch.setattr(atlas.encoder, "load_encoder", lambda settings: None)


@pytest.fixture
def stores(store_pair: Settings) -> Iterator[Atlas]:
    """An empty atlas, once as on a laptop and once as in a lab."""
    with Atlas.open(settings=store_pair) as opened:
        yield opened


@pytest.fixture
def laptop(graph_settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=graph_settings) as opened:
        yield opened


def work(atlas: Atlas, name: str = "w1", **options: object) -> int:
    return Worker(atlas, name=name, device="cpu").run(drain=True, **options)  # type: ignore[arg-type]


def test_jobs_become_circuits_of_who_asked_and_a_bad_one_does_not_stop_the_rest(stores: Atlas) -> None:
    stores.add_person("editor1", role="editor")
    stores.add_person("editor2", role="editor")
    good = stores.acting_as("editor1").enqueue_traces(asked(PROMPT, collection="mine")).jobs[0]
    gone = stores.enqueue_traces(asked("x", profile=None, model="/absent/model", transcoders="/absent/set")).jobs[0]
    twice = stores.enqueue_traces(asked(PROMPT)).jobs[0]
    disabled = stores.acting_as("editor2").enqueue_traces(asked("The opposite of big is")).jobs[0]
    stores.change_person("editor2", disabled=True)
    label = stores.enqueue("label", {"limit": 5}).jobs[0]
    rebuild = stores.enqueue("rebuild", {}).jobs[0]

    assert work(stores) == 6

    done = stores.job(good)
    assert (done.state, done.attempts, done.worker) == ("done", 1, "w1")
    circuit = stores.show(done.circuit or "")
    assert (circuit.created_by, circuit.status, circuit.collections) == ("editor1", "ready", ["mine"])
    assert circuit.record.provenance.created_by == "editor1"
    assert circuit.record.provenance.source_metadata == {"job": good, "worker": "w1"}
    assert stores.job(twice).circuit == done.circuit
    assert stores.job(twice).result["already"] is True  # type: ignore[index]
    for job, said in ((gone, "There is no model folder /absent/model."), (disabled, "'editor2' is disabled")):
        failed = stores.job(job)
        assert failed.state == "failed"
        assert said in (failed.error or "")
    assert stores.job(label).result["labelled"] == 5  # type: ignore[index]
    assert stores.job(rebuild).result["circuits"] == 1  # type: ignore[index]
    assert len(stores.circuits()) == 1
    assert {entry.actor for entry in stores.audit(subject=good)} == {"editor1"}
    assert stores.workers()[0].state == "stopped"

    # DBOS lives in the same database and disturbs nothing of the catalog
    with Atlas.open(settings=stores.settings) as again:
        assert again.job(good).state == "done"
    stores.retry_job(gone)
    assert work(stores) == 1
    assert (stores.job(gone).state, stores.job(gone).attempts) == ("failed", 2)


@pytest.mark.parametrize("graph_settings", ["embedded"], indirect=True)
class TestOnALaptop:
    def test_a_cancelled_trace_stops_at_its_next_report_and_leaves_no_circuit(self, laptop: Atlas) -> None:
        job = laptop.enqueue_traces(asked(PROMPT)).jobs[0]
        worker = Worker(laptop, name="w1", device="cpu")
        running = threading.Thread(target=lambda: worker.run(drain=True))
        running.start()
        _until(lambda: laptop.job(job).state == "running")
        assert laptop.cancel_job(job).state == "cancelled"  # the model is being loaded now
        running.join(60)
        assert laptop.job(job).state == "cancelled"
        assert not laptop.circuits()
        laptop.retry_job(job)
        work(laptop)
        assert (laptop.job(job).state, laptop.job(job).attempts) == ("done", 2)

    def test_a_queued_token_in_the_middle_is_explained(self, laptop: Atlas) -> None:
        middle = laptop.enqueue_traces(asked(PROMPT, at=4)).jobs[0]
        written = laptop.enqueue_traces(asked(PROMPT, continue_by=2)).jobs[0]
        beyond = laptop.enqueue_traces(asked(PROMPT, at=40)).jobs[0]
        assert work(laptop) == 3
        for job, token in ((middle, "hot"), (written, "cold")):
            circuit = laptop.show(laptop.job(job).circuit or "")
            assert [target.what for target in circuit.record.targets] == [token]
        assert "There is no token at position 40 to explain" in (laptop.job(beyond).error or "")

    def test_a_second_worker_of_the_name_is_refused_while_the_first_runs(self, laptop: Atlas) -> None:
        first = Worker(laptop, name="w1", device="cpu")
        running = threading.Thread(target=first.run)
        running.start()
        try:
            _until(lambda: bool(laptop.workers()))
            with pytest.raises(UsageError, match=r"named 'w1' runs already on .* \(pid \d+\)"):
                Worker(laptop, name="w1", device="cpu").run()
        finally:
            first.stop()
            running.join(60)
        assert laptop.workers()[0].state == "stopped"

    def test_a_model_stays_loaded_but_older_jobs_of_another_get_their_turn(self, laptop: Atlas, tmp_path) -> None:
        other = {"profile": None, "model": str(model_path()), "transcoders": str(transcoders_path())}
        taken = []
        worker = Worker(laptop, name="w1", device="cpu")
        worker._start = lambda claim: taken.append(claim.group_key)  # type: ignore[method-assign]
        laptop.enqueue_traces(asked("first"))
        assert worker._claim()
        laptop.enqueue_traces(asked(*(["x"] * 11), **other))
        for _ in range(5):
            laptop.enqueue_traces(asked(*(["y"] * 11)))
        while worker._claim():
            pass
        mine = taken[0]
        first_other = next(number for number, key in enumerate(taken) if key != mine)
        assert STREAK <= first_other <= STREAK + 2
        assert len(taken) == 67

    def test_a_job_that_was_killed_after_its_replicate_was_stored_finds_it_again(self, laptop: Atlas) -> None:
        job = laptop.enqueue_traces(asked(PROMPT, again=True)).jobs[0]
        work(laptop)
        laptop.catalog.write("tester", lambda session: _as_if_running(session, job))
        work(laptop, "w2")
        assert (laptop.job(job).state, laptop.job(job).attempts) == ("done", 2)
        circuit = laptop.load(laptop.job(job).circuit or "")
        # on a CPU a second trace would be the same to the last digit, so ask what is found before tracing
        assert _find(laptop, circuit.trace_key, True, {"job": job, "worker": "w2"}) == circuit.id
        assert _find(laptop, circuit.trace_key, True, {"job": "another", "worker": "w1"}) is None
        assert _find(laptop, circuit.trace_key, True, None) is None

    def test_a_job_whose_workflow_ended_without_it_is_done_as_another_attempt(self, laptop: Atlas) -> None:
        job = laptop.enqueue_traces(asked(PROMPT)).jobs[0]
        work(laptop)
        # as when a worker is stopped while it cannot reach the catalog to hand its job back
        laptop.catalog.write("tester", lambda session: _as_if_running(session, job, "w1"))
        work(laptop)
        assert (laptop.job(job).state, laptop.job(job).attempts) == ("done", 2)

    def test_the_tables_of_the_catalog_are_what_they_were_and_those_of_dbos_beside_them(self, laptop: Atlas) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        laptop.enqueue_traces(asked("x", profile=None, model="/absent", transcoders="/absent"))
        work(laptop)
        ours = set(Base.metadata.tables)
        with laptop.catalog.engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"include_name": lambda name, kind, _: kind != "table" or name in ours}
            )
            assert compare_metadata(context, Base.metadata) == []


def test_a_worker_is_dead_when_its_process_is_gone_or_it_is_silent(laptop_rows: Atlas) -> None:
    catalog = laptop_rows.catalog
    others = names.Others(catalog)

    def sign_in(name: str, host: str, pid: int) -> None:
        catalog.write(name, lambda session: workers.start(session, name, "i", host, pid, "cpu", "1"))

    def dead(name: str) -> bool:
        with others.if_dead(name) as found:
            return found

    import socket
    import subprocess

    ended = subprocess.Popen(["true"])
    ended.wait()
    sign_in("here", socket.gethostname(), ended.pid)
    sign_in("elsewhere", "another-host", 1)
    assert dead("here")
    assert dead("unknown")
    assert not dead("elsewhere")
    since = time.monotonic()
    others._seen["elsewhere"] = (others._seen["elsewhere"][0], since - names.SILENT_SECONDS - 1)
    assert dead("elsewhere")
    with catalog.lock(names.lock_name("elsewhere"), 0) as held:
        assert held
        assert not dead("elsewhere"), "it holds the lock of its name"
        others._seen["elsewhere"] = (others._seen["elsewhere"][0], since - workers.LOST_SECONDS - 1)
        assert dead("elsewhere"), "but not for ever"
    catalog.write("x", lambda session: session.get_one(WorkerTable, "elsewhere").__setattr__("alive_at", "later"))
    assert not dead("elsewhere"), "a sign of life counts from when it is seen, whatever the clock of that host says"


@pytest.fixture
def laptop_rows(settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=settings) as opened:
        yield opened


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 81, "a/b", "ä"])
def test_names_that_could_not_name_a_lock_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="worker name"):
        names.checked(name)


def test_the_default_name_is_that_of_host_and_device() -> None:
    assert names.checked(names.default_name("cuda:0")).endswith("-cuda-0")


def _as_if_running(session, job_id: str, worker: str = "w-gone") -> None:
    from atlas.catalog.tables import Job

    job = session.get_one(Job, job_id)
    job.state, job.worker, job.result, job.finished_at = "running", worker, None, None


def _until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
