"""Evidence, marks on links and heat maps on the Circuit page; Streamlit's own test driver, no browser and no worker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.ipc
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from atlas import Atlas
from atlas.circuit import Circuit
from atlas.graph import embedded
from atlas.group_records import JobDetail
from tests.conftest import make_circuit
from tests.ui.causal_samples import (
    component_circuit,
    faithfulness,
    intervention,
    patching_circuit,
    verification,
)
from tests.ui.conftest import HOSTILE, PARTS
from tests.ui.test_pages import opened, payload_of, shown
from ui import shared

pytestmark = pytest.mark.embedded


@pytest.fixture(autouse=True)
def _one_atlas_per_test(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "_warm", lambda atlas: None)
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One graph server for all tests of this file; every test has a circuit of its own."""
    home = tmp_path_factory.mktemp("causal") / "home"
    yield home
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def atlas(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Atlas]:
    """The atlas that the pages of the test are over, as the local person sees it."""
    monkeypatch.setenv("ATLAS_HOME", str(home))
    monkeypatch.setenv("ATLAS_ACTOR", "tester")
    monkeypatch.setenv("ATLAS_EMBEDDED_HEAP", "512m")
    with Atlas.open() as opened_atlas:
        for job in opened_atlas.jobs("queued"):
            opened_atlas.cancel_job(job.id)
        yield opened_atlas


@pytest.fixture
def circuit(atlas: Atlas, request: pytest.FixtureRequest) -> Circuit:
    made = make_circuit(f"the {request.node.name}", weights=(0.5, 1.0, 2.0))
    made.extra.update(PARTS)
    atlas.add(made)
    return made


def queued(atlas: Atlas) -> list[JobDetail]:
    return [atlas.job(job.id) for job in atlas.jobs("queued")]


def charts(page: AppTest) -> list[dict]:
    """Specifications, each with its own data beside it, which Streamlit sends apart."""
    found = []
    for element in page.get("vega_lite_chart"):
        data = element.proto.data.data or element.proto.datasets[0].data.data
        found.append({**json.loads(element.proto.spec), "rows": pyarrow.ipc.open_stream(data).read_all().to_pylist()})
    return found


def values(spec: dict) -> list[dict]:
    return spec["rows"]


def press(page: AppTest, label: str) -> AppTest:
    next(button for button in page.button if button.label == label).click().run()
    assert not page.exception, [element.value for element in page.exception]
    return page


def cut(circuit: Circuit, source: int, target: int, mark: str, **given):
    return intervention(circuit, [circuit.keys[source], circuit.keys[target]], mark, 1.0, 0.8, kind="cut", **given)  # type: ignore[arg-type]


# -- nothing yet


def test_a_circuit_that_nobody_tested_says_so_and_what_to_do(atlas: Atlas, circuit: Circuit):
    page = opened("circuit", circuit=circuit.id)
    html = shown(page)
    assert "Nobody has verified this circuit." in html
    assert "every edge is untested" in html
    assert "No faithfulness curves were measured." in html
    assert "marks" not in payload_of(page)
    assert charts(page) == []
    assert "Choose a node or a link above" in html


# -- queueing


def test_the_chosen_node_is_queued_to_be_ablated(atlas: Atlas, circuit: Circuit):
    page = opened("circuit", circuit=circuit.id, node=circuit.keys[1])
    press(page, "Queue the intervention")
    (job,) = queued(atlas)
    asked = job.arguments
    assert (job.kind, asked["kind"], asked["nodes"]) == ("intervene", "ablate", [circuit.keys[1]])
    assert asked["circuit"] == circuit.id
    html = shown(page)
    assert f'data-job="{job.id}" data-state="queued"' in html
    assert "No worker is alive" in html


@pytest.mark.parametrize(
    ("kind", "label", "value", "field"),
    [("scale", "Factor", 3.0, "factor"), ("steer", "Add", -2.5, "value")],
)
def test_a_kind_asks_for_its_number(atlas: Atlas, circuit: Circuit, kind: str, label: str, value: float, field: str):
    page = opened("circuit", circuit=circuit.id, node=circuit.keys[1])
    page.selectbox(key="ca-how").select(kind).run()
    next(box for box in page.number_input if box.label == label).set_value(value).run()
    page.text_area(key="ca-prompts").set_value("the city\n\n the river").run()
    press(page, "Queue the intervention")
    (asked,) = [job.arguments for job in queued(atlas)]
    assert (asked["kind"], asked[field]) == (kind, value)
    assert asked["prompts"] == ["the city", " the river"]


def test_what_no_worker_could_do_is_refused_in_one_sentence(atlas: Atlas, circuit: Circuit):
    page = opened("circuit", circuit=circuit.id, node=circuit.keys[1])
    page.selectbox(key="ca-how").select("patch").run()
    press(page, "Queue the intervention")
    assert not queued(atlas)
    assert 'role="alert"' in shown(page)


def test_the_chosen_link_is_queued_to_be_cut(atlas: Atlas, circuit: Circuit):
    page = opened("circuit", circuit=circuit.id, edge=f"{circuit.keys[1]}->{circuit.keys[2]}")
    press(page, "Queue the intervention")
    (asked,) = [job.arguments for job in queued(atlas)]
    assert (asked["kind"], asked["nodes"]) == ("cut", circuit.keys[1:3])


def test_pins_in_a_row_are_a_path_and_others_are_not(atlas: Atlas, circuit: Circuit):
    keys = circuit.keys
    page = opened("circuit", circuit=circuit.id, pins=",".join([keys[3], keys[1], keys[2]]))
    what = next(box for box in page.selectbox if box.label == "What")
    assert what.options == ["the pinned nodes", "the path of the pinned nodes"]
    what.select("the path of the pinned nodes").run()
    press(page, "Queue the intervention")
    (asked,) = [job.arguments for job in queued(atlas)]
    assert (asked["kind"], asked["nodes"]) == ("cut", keys[1:])

    page = opened("circuit", circuit=circuit.id, pins=f"{keys[0]},{keys[2]}")
    assert not [box for box in page.selectbox if box.label == "What"]


def test_a_supernode_is_ablated_as_a_whole(atlas: Atlas, circuit: Circuit):
    atlas.annotate(circuit.id, "supernode", HOSTILE, nodes=circuit.keys[1:3])
    page = opened("circuit", circuit=circuit.id)
    press(page, "Queue the intervention")
    (asked,) = [job.arguments for job in queued(atlas)]
    assert asked["supernode"] == HOSTILE
    assert "nodes" not in asked
    assert "<img" not in shown(page)


def test_a_verification_and_curves_are_queued_with_what_was_chosen(atlas: Atlas, circuit: Circuit):
    page = opened("circuit", circuit=circuit.id, tab="evidence")
    page.number_input(key="ca-verify-features").set_value(7).run()
    press(page, "Queue the verification")
    page.number_input(key="ca-faithfulness-random").set_value(9).run()
    press(page, "Queue the curves")
    asked = {job.kind: job.arguments for job in queued(atlas)}
    assert asked["verify"] == {"circuit": circuit.id, "features": 7}
    assert asked["faithfulness"] == {"circuit": circuit.id, "random_circuits": 9}


# -- what came of it


def test_marks_are_on_the_links_and_the_newest_test_counts(atlas: Atlas, circuit: Circuit):
    atlas.add_intervention(cut(circuit, 1, 2, "refuted"))
    atlas.add_intervention(cut(circuit, 1, 2, "confirmed"))
    atlas.add_intervention(cut(circuit, 2, 3, "inconclusive"))
    marks = payload_of(opened("circuit", circuit=circuit.id))["marks"]
    assert dict(zip(marks["link"], marks["mark"], strict=True)) == {1: "confirmed", 2: "inconclusive"}


def test_the_chosen_link_shows_its_heads_and_its_evidence(atlas: Atlas, circuit: Circuit):
    row = atlas.add_intervention(cut(circuit, 1, 2, "confirmed"))
    page = opened("circuit", circuit=circuit.id, edge=f"{circuit.keys[1]}->{circuit.keys[2]}")
    assert page.session_state.circuit_view.edge == f"{circuit.keys[1]}->{circuit.keys[2]}"
    html = shown(page)
    assert "How its effect travelled" in html
    assert "<code>1.2</code>" in html
    assert "150%" in html
    assert "✓ confirmed" in html
    assert row.reason in html
    assert f"intervention={row.id}" in html
    html = shown(opened("circuit", circuit=circuit.id, edge=f"{circuit.keys[0]}->{circuit.keys[1]}"))
    assert "No intervention has cut this edge." in html
    assert "does not store through which attention heads" in html


def test_the_chosen_node_shows_what_was_done_to_it(atlas: Atlas, circuit: Circuit):
    row = atlas.add_intervention(intervention(circuit, [circuit.keys[1]], "refuted", -0.6, 0.02))
    html = shown(opened("circuit", circuit=circuit.id, node=circuit.keys[1]))
    assert " ablate: predicted −0.6, measured 0.02" in html
    assert f"node=feature%2F0%2F1%2F6&amp;intervention={row.id}" in html
    assert " ablate: predicted" not in shown(opened("circuit", circuit=circuit.id, node=circuit.keys[2]))


def test_an_edge_that_is_not_there_is_not_chosen(atlas: Atlas, circuit: Circuit):
    for wrong in ("nonsense", f"{circuit.keys[0]}->{circuit.keys[3]}", "<b>-><i>"):
        page = opened("circuit", circuit=circuit.id, edge=wrong)
        assert page.session_state.circuit_view.edge == ""


def test_a_verification_shows_its_score_beside_baselines_and_its_points(atlas: Atlas, circuit: Circuit):
    result = verification(atlas, circuit, circuit.keys[1:3])
    page = opened("circuit", circuit=circuit.id)
    html = shown(page)
    for expected in (
        "<b>0.81</b>",
        "0.55 to 0.93",
        "bootstrap over nodes",
        "<b>0.0005</b>",
        "permuted transcoders",
        "−0.05",
    ):
        assert expected in html
    spec = charts(page)[0]
    assert [value["predicted"] for value in values(spec)] == [point.predicted for point in result.points]
    stored = [atlas.intervention(one) for one in result.interventions]
    assert [value["mark"] for value in values(spec)] == [row.mark for row in stored]
    assert all(value["high"] > 0 and value["low"] == -value["high"] for value in values(spec))


def test_the_table_of_interventions_says_what_was_done_and_why_the_mark(atlas: Atlas, circuit: Circuit):
    atlas.add_intervention(intervention(circuit, [circuit.keys[1]], "confirmed", -0.6, -0.5, kind="scale", factor=2.0))
    atlas.add_intervention(cut(circuit, 1, 2, "refuted"))
    page = opened("circuit", circuit=circuit.id)
    html = shown(page)
    assert "scale by 2 " in html
    assert "✗ refuted" in html
    assert "Made up: predicted -0.6, measured -0.5." in html
    assert "Interventions (2)" in html


def test_one_intervention_opens_by_its_address_with_controls_and_what_moved(atlas: Atlas, circuit: Circuit):
    row = atlas.add_intervention(intervention(circuit, [circuit.keys[1]], "confirmed", -0.6, -0.5))
    page = opened("circuit", circuit=circuit.id, intervention=row.id)
    beside, moved = charts(page)[:2]
    assert [value["what"] for value in values(beside)] == ["predicted", "measured"]
    band, _zero, ticks, _dots = beside["layer"]
    assert len(ticks["data"]["values"]) == 12
    assert band["data"]["values"] == [{"low": -row.controls.quantile, "high": row.controls.quantile}]
    assert len(values(moved)) == len(row.moved) + 1
    html = shown(page)
    assert "Spearman 0.84" in html
    assert "12 active features of the same layer, 9 of them at the same position" in html


def test_an_intervention_that_is_not_there_is_a_plain_message(atlas: Atlas, circuit: Circuit):
    assert 'role="alert"' in shown(opened("circuit", circuit=circuit.id, intervention="nothing"))
    other = make_circuit("the city")
    atlas.add(other)
    row = atlas.add_intervention(intervention(other, [other.keys[1]], "refuted", 1.0, 0.0))
    assert "of another circuit" in shown(opened("circuit", circuit=circuit.id, intervention=row.id))


def test_curves_are_drawn_with_the_band_of_random_circuits(atlas: Atlas, circuit: Circuit):
    result = faithfulness(circuit)
    atlas.add_measurement(circuit.id, "faithfulness", result)
    page = opened("circuit", circuit=circuit.id)
    kept, removed = charts(page)
    names = {value["name"] for value in values(kept)}
    assert names == {"by signed score", "by absolute score", "random circuits", "plain gradients"}
    band = next(layer for layer in kept["layer"] if layer["mark"].get("type") == "area")
    assert {value["name"] for value in band["data"]["values"]} == {"random circuits"}
    assert len(values(removed)) == len(result.fractions)
    html = shown(page)
    for expected in ("0.78", "0.21", "420 of 11,000 edges", "are enough for 85%"):
        assert expected in html


# -- patching and components


def test_a_patching_circuit_is_drawn_as_heat_maps_and_not_as_a_graph(atlas: Atlas):
    made = patching_circuit("maps", layers=4, heads=3)
    atlas.add(made)
    page = opened("circuit", circuit=made.id)
    assert not [e for e in page.get("bidi_component") if e.proto.component_name.endswith("canvas")]
    stream, attention, mlp, heads = charts(page)
    effect = made.extra["patching.effect"]
    assert [value["effect"] for value in values(stream)] == pytest.approx(effect[:28].tolist(), rel=1e-3)
    assert len(values(attention)) == len(values(mlp)) == 4 * 7
    assert {(value["layer"], value["across"]) for value in values(heads)} == {
        (layer, f"head {head}") for layer in range(4) for head in range(3)
    }
    html = shown(page)
    assert "1 Mary …" in json.dumps(stream, ensure_ascii=False)  # the cases differ there
    assert "2 and" in json.dumps(stream)
    assert "the corrupted run with one part from the clean run" in html
    assert "Largest effects" in html
    assert 'role="alert"' not in html


def test_the_colour_scale_of_every_map_ends_at_the_largest_effect(atlas: Atlas):
    made = patching_circuit("scale", seed=1)
    atlas.add(made)
    most = float(np.abs(made.extra["patching.effect"]).max())
    for spec in charts(opened("circuit", circuit=made.id)):
        assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"][-1] == pytest.approx(most)


def test_heads_patched_by_position_are_shown_where_they_do_most_or_at_one_position(atlas: Atlas):
    made = patching_circuit("by position", seed=2)
    heads = made.nodes.is_kind("head")
    made.nodes.position[heads] = np.arange(int(heads.sum())) % 2 + 3
    atlas.add(made)
    page = opened("circuit", circuit=made.id)
    box = next(box for box in page.selectbox if box.label == "Heads at")
    assert box.options == ["where each does most", "3 John", "4 gave"]
    assert len(values(charts(page)[3])) == 12
    box.select("4 gave").run()
    assert len(values(charts(page)[3])) == 6


def test_a_circuit_of_components_is_drawn_with_a_column_for_each_head(atlas: Atlas):
    made = component_circuit()
    atlas.add(made)
    payload = payload_of(opened("circuit", circuit=made.id, node="head/1/-1/2"))
    assert payload["columns"] == "parts"
    assert "q" in payload["links"]["slot"]


def test_text_of_people_is_never_html_or_markdown_in_the_evidence(atlas: Atlas, circuit: Circuit):
    row = intervention(circuit, [circuit.keys[1]], "confirmed", -0.6, -0.5, kind="patch", prompt=HOSTILE)
    row.reason = HOSTILE
    stored = atlas.add_intervention(row)
    page = opened("circuit", circuit=circuit.id, intervention=stored.id)
    assert "<img" not in shown(page)
    for element in (*page.markdown, *page.caption):
        assert HOSTILE not in element.value
