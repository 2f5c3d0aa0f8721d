"""Causal work is asked for without a model: what is refused before it waits, and what a worker finds in the queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.causal_records import (
    CircuitFaithfulnessRequest,
    ComponentsRequest,
    InterventionRequest,
    PatchRequest,
    PromptPair,
    VerifyRequest,
)
from atlas.errors import NotFound, UsageError
from atlas.records import Annotations, ImportedSupernode
from atlas.settings import Settings
from tests.causal.results import FIRST, SECOND
from tests.causal.test_kept import CatalogOnly
from tests.conftest import make_circuit

PAIR = PromptPair(clean="Ann gave it to", corrupted="Bob gave it to", answer=" Bob", wrong=" Ann")


def filled(settings: Settings) -> Atlas:
    atlas = CatalogOnly.open(settings=settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"}))
    group = ImportedSupernode(name="both", node_keys=[FIRST, SECOND])
    twice = [ImportedSupernode(name="twice", node_keys=[key]) for key in (FIRST, SECOND)]
    atlas.add(make_circuit(), annotations=Annotations(supernodes=[group, *twice]))
    return atlas


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    with filled(catalog_settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atlas]:
    """For what leaves nothing behind, whichever the database."""
    with filled(Settings(home=tmp_path_factory.mktemp("queue"), actor="tester")) as opened:
        yield opened


def test_every_kind_waits_with_what_was_asked_and_the_id_of_its_circuit(atlas: Atlas) -> None:
    circuit = atlas.resolve("a-b")
    asked = {
        "patch": PatchRequest(profile="demo", template="ioi", count=3),
        "components": ComponentsRequest(model="owner/model", pairs=[PAIR], steps=1),
        "faithfulness": CircuitFaithfulnessRequest(circuit="a-b"),
        "intervene": InterventionRequest(circuit="a-b", kind="ablate", supernode="both"),
        "verify": VerifyRequest(circuit="a-b", features=3),
    }
    titles = {}
    for kind, request in asked.items():
        (job_id,) = atlas.enqueue(kind, request).jobs
        job = atlas.job(job_id)
        wanted = request.model_copy(update={"circuit": circuit}) if hasattr(request, "circuit") else request
        assert (job.kind, job.state) == (kind, "queued")
        assert type(request).model_validate(job.arguments) == wanted
        titles[kind] = job.title
    assert titles == {
        "patch": "patch demo, 3 ioi pairs",
        "components": "components of owner/model, 1 pairs",
        "faithfulness": "faithfulness of a-b",
        "intervene": "ablate both in a-b",
        "verify": "verify a-b",
    }
    atlas.enqueue("verify", {"circuit": "a-b"})  # the same as a dict
    assert atlas.job_counts() == {"queued": 6}


def test_jobs_of_one_kind_are_not_estimated_by_those_of_another(atlas: Atlas) -> None:
    from atlas.catalog import jobs as rows

    atlas.enqueue("verify", VerifyRequest(circuit="a-b"))
    claim = atlas.catalog.write("worker", lambda session: rows.claim(session, "w", ["verify"]))
    atlas.catalog.write("worker", lambda session: rows.finish(session, claim, {"circuit": claim.arguments["circuit"]}))
    assert atlas.job(claim.id).circuit == atlas.resolve("a-b")
    assert atlas.enqueue("verify", VerifyRequest(circuit="a-b")).seconds is not None
    atlas.cancel_job(atlas.jobs(state="queued")[0].id)
    assert atlas.enqueue("faithfulness", CircuitFaithfulnessRequest(circuit="a-b")).seconds is None


def intervention(**more) -> InterventionRequest:
    return InterventionRequest(**({"circuit": "a-b", "kind": "ablate", "nodes": [FIRST]} | more))


@pytest.mark.parametrize(
    ("kind", "request_", "error", "sentence"),
    [
        ("patch", PatchRequest(template="ioi"), UsageError, "either a model or a profile"),
        ("patch", PatchRequest(model="m", profile="demo", template="ioi"), UsageError, "either a model or a profile"),
        ("patch", PatchRequest(profile="absent", template="ioi"), UsageError, "no profile 'absent'"),
        ("patch", PatchRequest(profile="demo"), UsageError, "either pairs or a template"),
        ("patch", PatchRequest(profile="demo", pairs=[]), UsageError, "no pairs"),
        ("patch", PatchRequest(profile="demo", template="ioi", metric="beauty"), UsageError, "no metric 'beauty'"),
        ("patch", PatchRequest(profile="demo", template="ioi", metric="function:os:system"), UsageError, "Python code"),
        (
            "components",
            ComponentsRequest(profile="demo", pairs=[PAIR, PAIR.model_copy(update={"corrupted": None})]),
            UsageError,
            "Pair 2: There is no corrupted prompt",
        ),
        ("patch", PatchRequest(profile="demo", pairs=[PromptPair(clean=" ", answer="x")]), UsageError, "blank"),
        ("faithfulness", CircuitFaithfulnessRequest(circuit="nowhere"), NotFound, "nowhere"),
        ("verify", VerifyRequest(circuit="a-b", prompts=[]), UsageError, "empty"),
        ("verify", VerifyRequest(circuit="a-b", prompts=["a", " "]), UsageError, "blank"),
        ("intervene", intervention(nodes=["feature/9/9/9"]), NotFound, "feature/9/9/9"),
        ("intervene", intervention(nodes=[]), UsageError, "either nodes or a supernode"),
        ("intervene", intervention(supernode="both"), UsageError, "either nodes or a supernode"),
        ("intervene", intervention(nodes=[], supernode="absent"), NotFound, "no supernode 'absent'"),
        ("intervene", intervention(nodes=[], supernode="twice"), UsageError, "2 supernodes"),
        ("intervene", intervention(nodes=[], supernode="both", kind="cut"), UsageError, "cannot be cut"),
        ("intervene", intervention(kind="cut"), UsageError, "two nodes"),
        ("intervene", intervention(nodes=[FIRST, FIRST]), UsageError, "twice"),
        ("intervene", intervention(kind="scale"), UsageError, "needs a factor"),
        ("intervene", intervention(value=1.0), UsageError, "takes no value"),
        ("intervene", intervention(kind="patch", prompt=" "), UsageError, "blank"),
        ("dance", {}, UsageError, "no kind of job 'dance'"),
        ("verify", {"circuit": "a-b", "features": 0}, UsageError, "'features' of a verify job"),
    ],
)
def test_what_no_worker_could_do_is_refused_in_one_sentence(unchanged, kind, request_, error, sentence) -> None:
    with pytest.raises(error, match=sentence) as told:
        unchanged.enqueue(kind, request_)
    assert told.value.hint
    assert unchanged.jobs() == []


def test_mean_ablation_needs_no_corrupted_prompt(atlas: Atlas) -> None:
    pair = PAIR.model_copy(update={"corrupted": None})
    assert atlas.enqueue("patch", PatchRequest(profile="demo", pairs=[pair], replacement="mean")).jobs
