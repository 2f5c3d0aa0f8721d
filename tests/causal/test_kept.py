"""Interventions and measurements in the catalog, on both databases: what is kept, what it says together, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.causal import CausalVerbs
from atlas.causal_records import Curve, FaithfulnessResult, Moved
from atlas.errors import AccessDenied, InputRejected, NotFound, StoreUnavailable, UsageError
from atlas.settings import Settings
from tests.causal.results import FIRST, LOGIT, SECOND, TOKEN, ablated, cut, scored, verification
from tests.conftest import make_circuit


class CatalogOnly(Atlas):
    """The graph server is down; the change is kept all the same, and that is not what is tested here."""

    def _project(self, announced, progress=None) -> None:
        pass


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    settings = catalog_settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"})
    with CatalogOnly.open(settings=settings) as opened:
        opened.add(scored(make_circuit()))
        yield opened


CURVES = FaithfulnessResult(
    circuit="a-b",
    metric="logit-difference",
    fractions=[0.0, 0.5, 1.0],
    full=2.0,
    empty=-1.0,
    signed=Curve(name="signed", values=[0.0, 0.75, 1.0]),
    absolute=Curve(name="absolute", values=[0.0, 0.5, 1.0]),
    damage=Curve(name="damage", values=[0.0, 0.9, 1.0]),
    cpr=0.6,
    cmd=0.4,
)


def test_an_intervention_comes_back_as_it_was_with_its_author_and_time(atlas: Atlas) -> None:
    given = ablated("a-b", node=FIRST)
    row = atlas.add_intervention(given, battery="first")
    assert (row.author, row.battery, row.circuit) == ("tester", "first", atlas.resolve("a-b"))
    expected = given.model_copy(update={"request": given.request.model_copy(update={"circuit": row.circuit})})
    assert row.model_dump(include=set(given.model_dump())) == expected.model_dump()
    assert atlas.intervention(row.id) == row
    assert atlas.interventions("a-b") == [row]
    assert atlas.audit(limit=1)[0].detail == {"intervention": row.id, "kind": "ablate", "nodes": 1, "mark": "confirmed"}


def test_interventions_are_found_by_node_and_battery_newest_first(atlas: Atlas) -> None:
    rows = [
        atlas.add_intervention(ablated("a-b", FIRST), "one"),
        atlas.add_intervention(ablated("a-b", SECOND), "two"),
        atlas.add_intervention(cut("a-b", FIRST, SECOND), "two"),
    ]
    assert atlas.interventions("a-b") == rows[::-1]
    assert atlas.interventions("a-b", node=FIRST) == [rows[2], rows[0]]
    assert atlas.interventions("a-b", battery="two", limit=1) == [rows[2]]
    assert atlas.interventions("a-b", node=TOKEN) == []
    with pytest.raises(NotFound, match="feature/9/9/9"):
        atlas.interventions("a-b", node="feature/9/9/9")


def test_the_newest_test_of_an_edge_is_its_mark(atlas: Atlas) -> None:
    assert atlas.edge_marks("a-b") == []
    atlas.add_intervention(cut("a-b", FIRST, SECOND, mark="refuted"))
    newest = atlas.add_intervention(cut("a-b", FIRST, SECOND, mark="confirmed"))
    atlas.add_intervention(cut("a-b", FIRST, SECOND, LOGIT, mark="refuted"))  # of a path, not of its edges
    atlas.add_intervention(ablated("a-b", FIRST, mark="refuted"))
    atlas.add_intervention(cut("a-b", FIRST, SECOND, mark="untested"))  # done, and judged by nobody
    (mark,) = atlas.edge_marks("a-b")
    assert (mark.source, mark.target, mark.mark, mark.intervention) == (FIRST, SECOND, "confirmed", newest.id)
    assert (mark.predicted, mark.measured) == (0.5, 1.0)
    tested, other = atlas.edge("a-b", FIRST, SECOND), atlas.edge("a-b", SECOND, LOGIT)
    assert (tested.mark, tested.measured, tested.intervention) == ("confirmed", 1.0, newest.id)
    assert (other.mark, other.measured, other.intervention) == ("untested", None, None)


def test_evidence_counts_every_thing_once_by_its_newest_test(atlas: Atlas) -> None:
    atlas.add_interventions(
        [
            ablated("a-b", FIRST, mark="refuted"),
            ablated("a-b", FIRST, mark="confirmed"),
            ablated("a-b", SECOND, mark="inconclusive"),
            cut("a-b", FIRST, SECOND, mark="refuted"),
            cut("a-b", FIRST, SECOND, LOGIT),
        ]
    )
    said = atlas.show("a-b").evidence
    assert said.interventions == 5
    assert (said.nodes.confirmed, said.nodes.refuted, said.nodes.inconclusive) == (1, 0, 1)
    assert (said.edges.refuted, said.paths.confirmed, said.verification) == (1, 1, None)


def test_a_verification_makes_a_circuit_crisp_and_a_newer_one_may_take_that_back(atlas: Atlas) -> None:
    assert atlas.show("a-b").verdict == "partial"
    atlas.add_intervention(ablated("a-b", FIRST))
    shown = atlas.show("a-b")
    assert shown.verdict == "partial"
    assert any("confirmed 1, refuted 0" in reason for reason in shown.verdict_reasons)

    row = atlas.add_measurement("a-b", "verification", verification("a-b"))
    shown = atlas.show("a-b")
    assert (shown.verdict, row.document["verdict"], atlas.circuits()[0].verdict) == ("crisp",) * 3
    assert (shown.evidence.verification, shown.evidence.spearman, shown.evidence.interval) == (row.id, 0.8, (0.4, 0.9))
    assert not any("Stored as" in reason for reason in shown.verdict_reasons)

    atlas.add_measurement("a-b", "verification", verification("a-b", p_value=0.4))
    assert atlas.show("a-b").verdict == "partial"
    atlas.add_measurement("a-b", "verification", verification("a-b"))
    atlas.add_interventions([ablated("a-b", SECOND, mark="refuted"), cut("a-b", FIRST, SECOND, mark="refuted")])
    assert atlas.show("a-b").verdict == "partial"  # more refuted than confirmed


def test_a_circuit_without_scores_stays_untested_and_says_what_interventions_said(atlas: Atlas) -> None:
    atlas.add(make_circuit("c d"))
    atlas.add_intervention(ablated("c-d", FIRST))
    shown = atlas.show("c-d")
    assert shown.verdict == "untested"
    assert shown.verdict_reasons[-1].startswith("Interventions confirmed 1, refuted 0 and left open 0")


def test_measurements_are_kept_beside_each_other(atlas: Atlas) -> None:
    atlas.add(make_circuit("c d"))
    curves = atlas.add_measurement("a-b", "faithfulness", CURVES)
    said = atlas.add_measurement("a-b", "verification", verification("a-b").model_dump())
    other = atlas.add_measurement("c-d", "faithfulness", CURVES)
    assert atlas.measurements() == [other, said, curves]
    assert atlas.measurements("a-b") == [said, curves]
    assert atlas.measurements("a-b", "faithfulness") == [curves]
    assert FaithfulnessResult.model_validate(curves.document).signed.values == [0.0, 0.75, 1.0]
    assert curves.document["circuit"] == atlas.resolve("a-b")


def test_deleting_a_circuit_deletes_its_evidence(atlas: Atlas) -> None:
    row = atlas.add_intervention(ablated("a-b", FIRST))
    atlas.add_measurement("a-b", "verification", verification("a-b"))
    atlas.delete("a-b")
    assert atlas.measurements() == []
    with pytest.raises(NotFound, match="no intervention"):
        atlas.intervention(row.id)
    atlas.add(scored(make_circuit()))
    assert (atlas.interventions("a-b"), atlas.show("a-b").verdict) == ([], "partial")


def test_numbers_and_texts_that_databases_refuse_are_kept_as_far_as_they_can_be(atlas: Atlas) -> None:
    odd = ablated("a-b", prompt="nul \x00 in it", spearman=math.nan, provenance={"loss": math.inf, "who": "a\x00b"})
    row = atlas.add_intervention(odd)
    assert (row.spearman, row.provenance["loss"]) == (None, None)
    assert "\x00" not in row.prompt + row.provenance["who"]


@pytest.mark.parametrize(
    ("result", "kind", "sentence"),
    [
        (ablated("nowhere"), NotFound, "nowhere"),
        (ablated("a-b", "feature/0/1/99"), NotFound, "feature/0/1/99"),
        (ablated("a-b", nodes=[]), InputRejected, "names no node"),
        (ablated("a-b", targets=[]), InputRejected, "no target"),
        (
            ablated("a-b", targets=[Moved(node=LOGIT, before=1.0, measured=math.nan)]),
            InputRejected,
            "targets.0.measured",
        ),
        (cut("a-b", FIRST, SECOND, nodes=[FIRST]), InputRejected, "two nodes"),
    ],
)
def test_what_is_no_measurement_is_refused_and_leaves_nothing(atlas: Atlas, result, kind, sentence) -> None:
    with pytest.raises(kind, match=sentence) as told:
        atlas.add_interventions([ablated("a-b"), result] if result.request.circuit == "a-b" else [result])
    assert told.value.hint
    assert atlas.interventions("a-b") == []


def test_other_bad_input_is_one_sentence(atlas: Atlas) -> None:
    atlas.add(make_circuit("c d"))
    for kind, ask in (
        (UsageError, lambda: atlas.add_interventions([ablated("a-b"), ablated("c-d")])),
        (UsageError, lambda: atlas.add_interventions([])),
        (UsageError, lambda: atlas.add_measurement("a-b", "opinion", {})),
        (InputRejected, lambda: atlas.add_measurement("a-b", "verification", {"circuit": "a-b", "spearman": "high"})),
        (InputRejected, lambda: atlas.add_measurement("a-b", "faithfulness", verification("a-b"))),
        (NotFound, lambda: atlas.measurements("nowhere")),
        (UsageError, lambda: atlas.interventions("a-b", limit=-1)),
    ):
        with pytest.raises(kind):
            ask()


def test_a_reader_adds_no_evidence(atlas: Atlas) -> None:
    atlas.add_person("reader1")
    reader = atlas.acting_as("reader1")
    with pytest.raises(AccessDenied):
        reader.add_intervention(ablated("a-b"))
    with pytest.raises(AccessDenied):
        reader.add_measurement("a-b", "verification", verification("a-b"))
    assert reader.interventions("a-b") == []


def test_when_the_graph_server_is_down_the_evidence_is_kept(catalog_settings: Settings) -> None:
    settings = catalog_settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"})
    with Atlas.open(settings=settings) as atlas:
        with pytest.raises(StoreUnavailable):
            atlas.add(make_circuit())
        with pytest.raises(StoreUnavailable, match="kept in the catalog"):
            atlas.add_intervention(ablated("a-b"))
        assert [row.mark for row in atlas.interventions("a-b")] == ["confirmed"]
        assert atlas.show("a-b").status == "pending"


def test_the_verbs_are_those_of_every_atlas() -> None:
    assert issubclass(Atlas, CausalVerbs)
