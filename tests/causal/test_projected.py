"""Evidence on its way from the catalog to the graph, on both pairs of stores: told at once, after a kill, by a rebuild."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas import Atlas
from atlas.catalog.projector import Projector
from atlas.causal_records import Moved
from atlas.diagnosis import examine
from atlas.settings import Settings
from tests.causal.results import FIRST, LOGIT, SECOND, TOKEN, ablated, cut, scored, verification
from tests.conftest import make_circuit
from tests.graph_content import graph_content

MARKS = "MATCH (:Node)-[e:ATTRIBUTES]->(:Node) RETURN e.evidence ORDER BY e.weight"
QUESTIONS = Path(__file__).resolve().parents[2] / "docs" / "questions.md"


def documented(beginning: str) -> str:
    """The query of docs/questions.md that begins so."""
    found = re.findall(rf'atlas cypher "({re.escape(beginning)}[^"]*)"', QUESTIONS.read_text("utf-8"))
    assert len(found) == 1, beginning
    return found[0]


@pytest.fixture
def atlas(store_pair: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=store_pair) as opened:
        opened.add(scored(make_circuit()))
        yield opened


def test_a_mark_reaches_the_edge_of_a_circuit_that_is_long_loaded(atlas: Atlas) -> None:
    atlas.add(make_circuit("c d"))  # with edges between the same features, which nobody tested
    assert atlas.cypher(MARKS).rows == [["untested"]] * 6
    atlas.add_intervention(cut("a-b", FIRST, SECOND, mark="refuted"))
    atlas.add_intervention(cut("a-b", FIRST, SECOND, mark="confirmed"))
    told = (
        "MATCH (c:Circuit)-[:CONTAINS]->()-[e:ATTRIBUTES]->() WHERE e.evidence <> 'untested' RETURN c.name, e.evidence"
    )
    assert atlas.cypher(told).rows == [["a-b", "confirmed"]]
    assert atlas.show("a-b").status == "ready"


def test_paths_whose_every_edge_was_confirmed_are_one_query(atlas: Atlas) -> None:
    path = (TOKEN, FIRST, SECOND, LOGIT)
    edges = list(itertools.pairwise(path))
    atlas.add_interventions([cut("a-b", *edge) for edge in edges[:2]])
    question = documented("MATCH path = ")
    assert atlas.cypher(question).rows == []
    atlas.add_intervention(cut("a-b", *edges[2]))
    circuit = atlas.resolve("a-b")
    assert atlas.cypher(question).rows == [[circuit, [f"{circuit}/{key}" for key in path], [0.5, 0.5, 0.5]]]
    atlas.add_intervention(cut("a-b", *edges[0], mark="inconclusive"))
    assert atlas.cypher(question).rows == []


def test_where_graph_and_model_disagree_is_one_query(atlas: Atlas) -> None:
    atlas.add_intervention(ablated("a-b"))
    question = documented("MATCH (p:Node)<-[:PERTURBED]-")
    assert atlas.cypher(question).rows == []
    moved = [Moved(node=SECOND, before=1.0, measured=0.5, predicted=-1.0)]
    atlas.add_intervention(ablated("a-b", moved=moved, mark="refuted"))
    circuit = atlas.resolve("a-b")
    assert atlas.cypher(question).rows == [["ablate", f"{circuit}/{FIRST}", f"{circuit}/{SECOND}", -1.0, 0.5]]
    assert atlas.cypher(documented("MATCH ()-[e:ATTRIBUTES]->() RETURN e.evidence")).rows == [["untested", 3]]


def test_the_verdict_in_the_graph_follows_the_evidence(atlas: Atlas) -> None:
    atlas.add_intervention(ablated("a-b"))
    atlas.add_measurement("a-b", "verification", verification("a-b"))
    assert atlas.cypher("MATCH (c:Circuit) RETURN c.verdict").rows == [["crisp"]]
    atlas.add_measurement("a-b", "verification", verification("a-b", spearman=-0.5))
    assert atlas.cypher("MATCH (c:Circuit) RETURN c.verdict").rows == [["partial"]]


def everything_tested(atlas: Atlas) -> None:
    atlas.add_interventions(
        [cut("a-b", FIRST, SECOND), ablated("a-b", mark="refuted"), cut("a-b", FIRST, SECOND, LOGIT), ablated("a-b")],
        battery="one",
    )
    atlas.add_measurement("a-b", "verification", verification("a-b"))


def test_a_rebuild_makes_the_same_evidence_again(atlas: Atlas) -> None:
    everything_tested(atlas)
    before = graph_content(atlas)
    assert (len(before["interventions"]), len(before["moved"])) == (5, 6)
    atlas.rebuild()
    assert graph_content(atlas) == before


def test_deleting_the_circuit_leaves_nothing_in_the_graph(atlas: Atlas) -> None:
    everything_tested(atlas)
    atlas.delete("a-b")
    assert atlas.cypher("MATCH (n) WHERE NOT n:Meta RETURN labels(n)").rows == []


def _test_and_die(settings: Settings, step: str) -> None:
    """Dies after the catalog has it and before the graph is told, or after the graph was told and before that is noted."""
    real = Projector._put_evidence

    def dies(self, *arguments) -> None:
        if step == "after":
            real(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    Projector._put_evidence = dies
    with Atlas.open(settings=settings) as atlas:
        atlas.add_interventions([cut("a-b", FIRST, SECOND), ablated("a-b")])


@pytest.mark.parametrize("step", ["before", "after"])
def test_evidence_survives_a_kill_between_catalog_and_graph(atlas: Atlas, step: str) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_test_and_die, args=(atlas.settings, step))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert len(atlas.interventions("a-b")) == 2
    assert atlas.cypher(MARKS).rows == [["confirmed"], ["untested"], ["untested"]]
    healed = graph_content(atlas)
    assert len(healed["interventions"]) == 2
    atlas.rebuild()
    assert graph_content(atlas) == healed


def test_doctor_finds_evidence_that_the_graph_lacks_and_mends_it(atlas: Atlas) -> None:
    everything_tested(atlas)
    before = graph_content(atlas)
    breaks = (
        "MATCH (i:Intervention {kind: 'ablate'}) DETACH DELETE i",
        "MATCH (:Node)-[e:ATTRIBUTES {evidence: 'confirmed'}]->(:Node) SET e.evidence = 'untested'",
    )
    for statement in breaks:
        atlas.graph._connection.write(lambda tx, statement=statement: tx.run(statement).consume())
        found = {check.name: check for check in examine(atlas.settings, False)}["projection"]
        assert not found.ok
        assert "1 circuits with evidence not as in the catalog" in found.found
        assert {check.name: check for check in examine(atlas.settings, True)}["projection"].mended
        assert graph_content(atlas) == before
