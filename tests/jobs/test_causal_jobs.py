"""Jobs of causal work on real stores with the shipped model: done for who asked, done once, stopped, gone on with."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

import atlas.encoder
import ingest.worker.models
from atlas import Atlas
from atlas.catalog import jobs as rows
from atlas.causal_records import (
    CircuitFaithfulnessRequest,
    ComponentsRequest,
    InterventionRequest,
    PatchRequest,
    PromptPair,
    VerifyRequest,
)
from atlas.settings import Settings
from benchmarks.chaos.worker import crew, wait_until_done
from ingest.worker.worker import Worker
from tests.jobs.conftest import asked

pytestmark = [pytest.mark.slow, pytest.mark.embedded, pytest.mark.timeout(300)]
PROMPT = "The opposite of hot is"
PAIR = PromptPair(clean=PROMPT, corrupted="The opposite of big is", answer=" cold", wrong=" small")
QUICK = {"features": 4, "paths": 2, "controls": 8, "permuted": 1}


@pytest.fixture(autouse=True)
def _without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas.encoder, "load_encoder", lambda settings: None)


@pytest.fixture
def laptop(request: pytest.FixtureRequest, tmp_path) -> Iterator[Atlas]:
    from tests.servers.fixtures import empty_graph

    with Atlas.open(settings=empty_graph(request, "embedded", tmp_path)) as opened:
        yield opened


def work(atlas: Atlas, name: str = "w1") -> int:
    return Worker(atlas, name=name, device="cpu").run(drain=True)


def traced(atlas: Atlas) -> str:
    job = atlas.enqueue_traces(asked(PROMPT)).jobs[0]
    work(atlas)
    return atlas.job(job).circuit or ""


def done(atlas: Atlas, job: str) -> dict:
    found = atlas.job(job)
    assert found.state == "done", found.error
    return found.result or {}


def test_causal_jobs_leave_circuits_and_evidence_of_who_asked_with_one_model_loaded(
    laptop: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    real = ingest.worker.models.load_model
    monkeypatch.setattr(ingest.worker.models, "load_model", lambda *a, **named: loads.append(1) or real(*a, **named))
    laptop.add_person("editor1", role="editor")
    editor = laptop.acting_as("editor1")
    trace = editor.enqueue_traces(asked(PROMPT)).jobs[0]
    patched = editor.enqueue("patch", PatchRequest(profile="demo", pairs=[PAIR], sites=["resid"])).jobs[0]
    found = editor.enqueue("components", ComponentsRequest(profile="demo", pairs=[PAIR], steps=2)).jobs[0]
    assert work(laptop) == 3
    graph, heat_map, parts = (laptop.job(job).circuit or "" for job in (trace, patched, found))
    assert laptop.show(heat_map).record.method.name == "activation patching"
    assert laptop.show(parts).record.transcoders.name == "components"
    assert laptop.show(parts).record.provenance.source_metadata["job"] == found
    assert {laptop.show(circuit).created_by for circuit in (graph, heat_map, parts)} == {"editor1"}

    node = next(n.key for n in laptop.show(graph).top_nodes if n.kind == "feature")
    ablated = editor.enqueue("intervene", InterventionRequest(circuit=graph, kind="ablate", nodes=[node])).jobs[0]
    verified = editor.enqueue("verify", VerifyRequest(circuit=graph, **QUICK)).jobs[0]
    curves = editor.enqueue("faithfulness", CircuitFaithfulnessRequest(circuit=parts, random_circuits=1)).jobs[0]
    assert work(laptop, "w2") == 3
    assert len(loads) == 2, "once at each of the two workers"

    intervention = laptop.intervention(done(laptop, ablated)["id"])
    assert (intervention.author, intervention.nodes, intervention.provenance["job"]) == ("editor1", [node], ablated)
    assert done(laptop, ablated)["actual"] == intervention.targets[0].measured
    result = done(laptop, verified)
    assert result["interventions"] >= result["tested"] >= 4
    assert "points" not in result
    (kept,) = laptop.measurements(graph, "verification")
    assert (kept.author, kept.document["spearman"]) == ("editor1", result["spearman"])
    (measured,) = laptop.measurements(parts, "faithfulness")
    assert measured.document["cpr"] == done(laptop, curves)["cpr"]


def test_a_job_that_was_killed_after_it_had_stored_finds_that_again(laptop: Atlas) -> None:
    graph = traced(laptop)
    node = next(n.key for n in laptop.show(graph).top_nodes if n.kind == "feature")
    jobs = [
        laptop.enqueue("intervene", InterventionRequest(circuit=graph, kind="scale", factor=2, nodes=[node])).jobs[0],
        laptop.enqueue("verify", VerifyRequest(circuit=graph, **QUICK)).jobs[0],
        laptop.enqueue("faithfulness", CircuitFaithfulnessRequest(circuit=graph, random_circuits=1)).jobs[0],
    ]
    work(laptop)
    first = [done(laptop, job) for job in jobs]
    evidence = len(laptop.interventions(graph, limit=None)), len(laptop.measurements(graph))
    for job in jobs:
        laptop.catalog.write("tester", lambda session, job=job: _as_if_running(session, job))
    work(laptop, "w2")
    assert [done(laptop, job) for job in jobs] == first
    assert (len(laptop.interventions(graph, limit=None)), len(laptop.measurements(graph))) == evidence
    assert [laptop.job(job).attempts for job in jobs] == [2, 2, 2]


def test_a_cancelled_verification_stops_at_its_next_report(laptop: Atlas) -> None:
    graph = traced(laptop)
    job = laptop.enqueue("verify", VerifyRequest(circuit=graph)).jobs[0]
    worker = Worker(laptop, name="w1", device="cpu")
    running = threading.Thread(target=lambda: worker.run(drain=True))
    running.start()
    _until(lambda: laptop.job(job).state == "running")
    laptop.cancel_job(job)
    running.join(60)
    assert laptop.job(job).state == "cancelled"
    assert not laptop.measurements(graph)
    laptop.retry_job(job)
    work(laptop)
    assert done(laptop, job)["tested"] > 4


def test_a_verification_whose_worker_is_killed_goes_on_and_repeats_no_intervention(laptop: Atlas, tmp_path) -> None:
    graph = traced(laptop)
    job = laptop.enqueue("verify", VerifyRequest(circuit=graph, features=40, paths=20)).jobs[0]
    with crew(laptop.settings, tmp_path) as hands:
        hands.start("w1")
        _until(lambda: bool(laptop.interventions(graph)) or laptop.job(job).state == "done")
        hands.kill("w1")
        before = laptop.interventions(graph, limit=None)
        hands.start("w1")
        wait_until_done(laptop, hands)
        assert hands.stop("w1") == 0
    result = done(laptop, job)
    after = laptop.interventions(graph, limit=None)
    assert {row.id for row in before} <= {row.id for row in after}
    assert len(after) == result["interventions"]
    assert max(Counter((row.request.kind, tuple(row.nodes)) for row in after).values()) == 1
    assert len(laptop.measurements(graph, "verification")) == 1


def test_a_function_that_came_into_the_queue_by_another_way_is_not_run(laptop: Atlas, settings: Settings) -> None:
    request = PatchRequest(profile="demo", pairs=[PAIR], metric="function:os:getcwd")
    draft = rows.Draft("patch", "patch", request.model_dump(exclude_defaults=True), "g")
    (job,) = laptop.catalog.write("tester", lambda session: rows.put(session, [draft], None, 10))
    work(laptop)
    assert laptop.job(job).state == "failed"
    assert "A worker does not run functions of others." in (laptop.job(job).error or "")
    assert not laptop.circuits()


def test_a_job_of_a_circuit_whose_model_is_not_here_fails_with_what_is_missing(laptop: Atlas) -> None:
    from dataclasses import replace

    from tests.conftest import make_circuit

    made = make_circuit("a b", (1.0, 1.0, 1.0))
    elsewhere = made.record.model.model_copy(update={"name": "gpt-9", "weights_hash": "0" * 64})
    circuit = laptop.add(replace(made, record=made.record.model_copy(update={"model": elsewhere}))).circuit
    job = laptop.enqueue("verify", VerifyRequest(circuit=circuit)).jobs[0]
    work(laptop)
    assert laptop.job(job).state == "failed"
    assert "needs the model gpt-9" in (laptop.job(job).error or "")


def _as_if_running(session, job_id: str) -> None:
    from atlas.catalog.tables import Job

    job = session.get_one(Job, job_id)
    job.state, job.worker, job.result, job.finished_at = "running", "w-gone", None, None


def _until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
