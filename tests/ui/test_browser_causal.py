"""Links that are chosen and marked, charts of evidence and heat maps, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.circuit import Circuit
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.ui.causal_samples import faithfulness, intervention, patching_circuit, verification
from tests.ui.conftest import HOSTILE, PARTS, Filled
from tests.ui.test_browser import address, click_node, expect, open_circuit

pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]


@pytest.fixture(scope="module")
def atlas(filled: Filled) -> Iterator[Atlas]:
    settings = Settings(home=filled.home, actor="somebody", embedded_heap="512m", embedded_idle_seconds=900)
    with Atlas.open(settings=settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def circuit(atlas: Atlas) -> Iterator[Circuit]:
    """Two of its links are tested; it has a verification and faithfulness curves."""
    made = make_circuit("the mountain", weights=(0.5, 1.0, 2.0), features=(36, 37))
    made.extra.update(PARTS)
    atlas.add(made)
    keys = made.keys
    for pair, mark in ((keys[1:3], "confirmed"), (keys[2:4], "refuted")):
        atlas.add_intervention(intervention(made, pair, mark, 1.0, 0.8, kind="cut"))  # type: ignore[arg-type]
    hostile = intervention(made, [keys[1]], "confirmed", -0.6, -0.5, kind="patch", prompt=HOSTILE)
    hostile.moved[0].text = HOSTILE
    atlas.add_intervention(hostile)
    verification(atlas, made, keys[1:3])
    atlas.add_measurement(made.id, "faithfulness", faithfulness(made))
    yield made
    atlas.delete(made.id)  # the home is that of all tests of pages, which count its circuits


@pytest.fixture(scope="module")
def patched(atlas: Atlas) -> Iterator[Circuit]:
    made = patching_circuit("patched in a browser")
    atlas.add(made)
    yield made
    atlas.delete(made.id)


def click_link(page, source: str, target: str) -> None:
    """A true mouse click in the middle of the link."""
    page.locator(".ca .stage").scroll_into_view_if_needed()
    at = page.evaluate("([s, t]) => window.circuitAtlas.canvases.circuit.locateLink(s, t)", [source, target])
    page.mouse.move(at["x"], at["y"])
    expect(page.locator(".ca .tip")).to_contain_text("→")
    page.mouse.click(at["x"], at["y"])


def test_a_click_on_a_link_shows_its_heads_and_its_evidence_and_the_address_brings_it_back(page, circuit: Circuit):
    keys = circuit.keys
    edge = f"{keys[1]}->{keys[2]}"
    canvas = open_circuit(page, circuit)
    expect(canvas).to_have_attribute("data-tested", "2")
    click_link(page, keys[1], keys[2])
    expect(canvas).to_have_attribute("data-edge", edge)
    expect(canvas).to_have_attribute("data-click", "")
    expect(page.locator("aside [data-mark=confirmed]")).to_contain_text("predicted 1, measured 0.8")
    expect(page.get_by_text("How its effect travelled")).to_be_visible()
    expect(page.locator(".ca-chip.mark.confirmed").first).to_be_visible()
    page.wait_for_url(lambda url: "edge=" in url)
    assert address(page)["edge"] == edge

    page.reload()
    expect(canvas).to_have_attribute("data-edge", edge)
    page.locator(f"aside ol.ends button[data-node='{keys[2]}']").click()
    expect(canvas).to_have_attribute("data-click", keys[2])
    expect(canvas).to_have_attribute("data-edge", "")
    page.wait_for_url(lambda url: "node=" in url)
    page.go_back()
    expect(canvas).to_have_attribute("data-edge", edge)
    page.get_by_role("listbox", name="Nodes of the attribution graph").focus()
    page.keyboard.press("Escape")
    expect(canvas).to_have_attribute("data-edge", "")


def test_links_are_chosen_from_the_list_too_and_say_their_mark(page, circuit: Circuit):
    keys = circuit.keys
    canvas = open_circuit(page, circuit, node=keys[2])
    outputs = page.locator("section[data-list=outputs] button.link")
    expect(outputs).to_have_text("✗")
    outputs.click()
    expect(canvas).to_have_attribute("data-edge", f"{keys[2]}->{keys[3]}")
    expect(page.locator("aside [data-mark=refuted]")).to_be_visible()
    page.locator("button[data-action=clear]").click()
    expect(canvas).to_have_attribute("data-edge", "")
    page.get_by_label("tested only (2)").check()
    expect(canvas).to_have_attribute("data-drawn", "2")
    expect(page.locator(".legend")).to_contain_text("refuted: dashed")


def test_a_node_is_still_chosen_where_links_meet_it(page, circuit: Circuit):
    canvas = open_circuit(page, circuit)
    click_node(page, circuit.keys[2])
    expect(canvas).to_have_attribute("data-click", circuit.keys[2])


def test_the_evidence_is_drawn_and_text_of_people_in_it_stays_text(page, circuit: Circuit):
    page.goto(f"/circuit?circuit={circuit.id}&tab=evidence")
    expect(page.get_by_role("tab", name="Evidence")).to_have_attribute("aria-selected", "true")
    charts = page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg.marks")
    expect(charts).to_have_count(4)
    expect(page.get_by_text("Spearman, predicted and measured")).to_be_visible()
    page.locator(".ca-evidence tr", has_text="take from").locator(".ca-chip.mark").click()
    expect(page.get_by_text("12 active features of the same layer")).to_be_visible()
    expect(charts).to_have_count(6)
    assert page.locator("img[src='x']").count() == 0


def test_an_intervention_on_the_chosen_node_is_queued_and_followed(page, atlas: Atlas, circuit: Circuit):
    canvas = open_circuit(page, circuit, node=circuit.keys[1])
    expect(canvas).to_have_attribute("data-click", circuit.keys[1])
    page.get_by_text("Intervene: change it in the real model, and look").click()
    # a click during a run of the page would be lost
    expect(page.locator("[data-testid=stApp]")).to_have_attribute("data-test-script-state", "notRunning")
    page.get_by_role("button", name="Queue the intervention").click()
    expect(page.locator("[data-job][data-state=queued]")).to_be_visible()
    (job,) = atlas.jobs("queued")
    assert atlas.job(job.id).arguments["nodes"] == [circuit.keys[1]]
    atlas.cancel_job(job.id)
    expect(page.locator("[data-job][data-state=cancelled]")).to_be_visible()


def test_a_heat_map_is_drawn_and_a_cell_can_be_kept(page, patched: Circuit):
    page.goto(f"/circuit?circuit={patched.id}")
    maps = page.locator("[data-testid=stVegaLiteChart]")
    expect(maps).to_have_count(4)
    assert page.locator(".ca").count() == 0
    canvas = maps.first.locator("canvas, svg.marks").first
    expect(canvas).to_be_visible()
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.3)
    kept = page.locator("p[role=status]")
    expect(kept).to_contain_text("effect")
    expect(kept).to_contain_text("resid.pre/")
