"""`atlas show` says what was tested, of a circuit and of an edge."""

from __future__ import annotations

from atlas import Atlas
from atlas.settings import load_settings
from tests.causal.results import FIRST, LOGIT, SECOND, ablated, cut, scored, verification
from tests.causal.test_kept import CatalogOnly
from tests.cli.conftest import atlas_command  # noqa: F401
from tests.conftest import make_circuit


def test_show_counts_evidence_and_names_the_newest_verification(atlas_command, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("ATLAS_GRAPH_URL", "bolt://127.0.0.1:9")  # nothing here asks the graph
    with CatalogOnly.open(settings=load_settings()) as atlas:
        atlas.add(scored(make_circuit()))
        assert "evidence" not in atlas_command("show", "a-b").out
        atlas.add_interventions([ablated("a-b"), cut("a-b", FIRST, SECOND, mark="refuted")])
        row = atlas.add_measurement("a-b", "verification", verification("a-b"))
    text = " ".join(atlas_command("show", "a-b").out.split())
    assert "nodes: 1 confirmed, 0 refuted, 0 inconclusive; edges: 0 confirmed, 1 refuted, 0 inconclusive" in text
    assert "by tester: rank correlation 0.80 (0.40 to 0.90 over nodes), p 0.01" in text
    shown = atlas_command("show", "a-b", "--json").json
    assert (shown["evidence"]["verification"], shown["evidence"]["edges"]["refuted"]) == (row.id, 1)


def test_an_edge_says_its_mark_and_what_was_measured(atlas_command, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("ATLAS_GRAPH_URL", "bolt://127.0.0.1:9")
    with CatalogOnly.open(settings=load_settings()) as atlas:
        atlas.add(opened_edges())
        atlas.add_intervention(cut("a-b", FIRST, SECOND))
    tested = atlas_command("show", "a-b", "--edge", f"{FIRST}->{SECOND}")
    assert "confirmed: cut, 0.5 was predicted and 1 measured at the target" in tested.out, tested.err
    assert atlas_command("show", "a-b", "--edge", f"{FIRST}->{SECOND}", "--json").json["mark"] == "confirmed"
    assert "untested: no intervention" in atlas_command("show", "a-b", "--edge", f"{SECOND}->{LOGIT}").out


def opened_edges():
    """`make_circuit` with its parts stored, so that no model is needed to show an edge."""
    import numpy as np

    circuit = make_circuit()
    circuit.extra.update(
        {
            "heads.edge": np.array([1, 2], np.uint32),
            "heads.layer": np.array([-1, -1], np.int16),
            "heads.head": np.array([-1, -1], np.int16),
            "heads.source_position": np.array([1, 1], np.int32),
            "heads.weight": np.array([-1.0, 2.0], np.float32),
        }
    )
    return circuit


def test_a_notebook_gets_records(settings) -> None:
    place = settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"})
    with CatalogOnly.open(settings=place) as atlas:
        atlas.add(make_circuit())
        atlas.add_interventions([ablated("a-b"), cut("a-b", FIRST, SECOND)])
        frame = atlas.edge_marks("a-b").to_pandas()
    assert isinstance(atlas, Atlas)
    assert frame[["source", "target", "mark"]].values.tolist() == [[FIRST, SECOND, "confirmed"]]
