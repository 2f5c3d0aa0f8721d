"""The pages in a real browser: one true mouse click on the canvas, keys, the address, and no request to anywhere else."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright import sync_api as playwright_api

from tests.ui.conftest import FEATURE, Filled

expect = playwright_api.expect
pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]


def address(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def open_circuit(page, circuit, **query: str):
    extra = "".join(f"&{name}={quote(value, safe='')}" for name, value in query.items())
    page.goto(f"/circuit?circuit={circuit.id}{extra}")
    canvas = page.locator(".ca")
    expect(canvas).to_have_attribute("data-ready", "yes")
    return canvas


def click_node(page, key: str, slot: str = "circuit") -> None:
    """A true mouse click where the node is drawn."""
    page.locator(".ca .stage").scroll_into_view_if_needed()
    at = page.evaluate("([slot, key]) => window.circuitAtlas.canvases[slot].locate(key)", [slot, key])
    page.mouse.move(at["x"], at["y"])
    page.mouse.click(at["x"], at["y"])


def test_home_leads_to_a_circuit(page, filled: Filled):
    page.goto("/")
    expect(page.get_by_role("heading", name="Circuit Atlas")).to_be_visible()
    page.get_by_role("link", name=filled.city.record.name, exact=True).click()
    expect(page.locator(".ca")).to_have_attribute("data-key", filled.city.id)


def test_search_leads_to_a_feature_with_its_examples(page):
    page.goto("/search")
    page.get_by_label("What the feature is about").fill("capital")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="capital cities").click()
    expect(page.get_by_role("heading", name="capital cities")).to_be_visible()
    expect(page.get_by_text("Label score 0.91 beside 0.52")).to_be_visible()
    expect(page.locator(".ca-shaded span.top")).to_have_text(" Paris")
    assert address(page)["feature"] == FEATURE


def test_a_click_on_the_canvas_shows_the_card_and_the_address_brings_it_back(page, filled: Filled):
    key = filled.capital.keys[1]
    canvas = open_circuit(page, filled.capital)
    click_node(page, key)
    expect(canvas).to_have_attribute("data-click", key)
    expect(page.get_by_text("Label score 0.91 beside 0.52")).to_be_visible()
    inputs = page.locator("section[data-list=inputs] button[data-node]")
    expect(inputs).to_have_count(1)
    expect(inputs).to_contain_text("+50%")
    expect(page.locator("section[data-list=outputs] button[data-node]")).to_contain_text("−50%")
    page.locator("button[data-action=pin]").click()
    expect(canvas).to_have_attribute("data-pins", key)
    page.wait_for_url(lambda url: "pins=" in url)

    page.reload()
    expect(canvas).to_have_attribute("data-ready", "yes")
    expect(canvas).to_have_attribute("data-click", key)
    expect(canvas).to_have_attribute("data-pins", key)
    expect(page.get_by_text("Label score 0.91 beside 0.52")).to_be_visible()


def test_connections_in_the_panel_lead_on_and_the_back_button_returns(page, filled: Filled):
    keys = filled.capital.keys
    canvas = open_circuit(page, filled.capital, node=keys[1])
    expect(canvas).to_have_attribute("data-click", keys[1])
    page.locator(f"section[data-list=outputs] button[data-node='{keys[2]}']").click()
    expect(canvas).to_have_attribute("data-click", keys[2])
    page.wait_for_url(lambda url: quote(keys[2], safe="") in url)
    page.go_back()
    expect(canvas).to_have_attribute("data-click", keys[1])


def test_the_keyboard_walks_and_pins_and_a_burst_is_not_overtaken_by_its_echo(page, filled: Filled):
    keys = filled.capital.keys
    canvas = open_circuit(page, filled.capital, node=keys[1])
    expect(canvas).to_have_attribute("data-click", keys[1])
    page.get_by_role("listbox", name="Nodes of the attribution graph").focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(canvas).to_have_attribute("data-click", keys[3])
    page.wait_for_url(lambda url: quote(keys[3], safe="") in url)
    expect(canvas).to_have_attribute("data-click", keys[3])
    page.keyboard.press("Space")
    expect(canvas).to_have_attribute("data-pins", keys[3])
    page.keyboard.press("Escape")
    expect(canvas).to_have_attribute("data-click", "")
    assert page.get_by_role("option").count() == len(keys)


def test_hovering_sends_nothing_and_a_click_does_not_send_the_graph_again(page, filled: Filled):
    received: list[int] = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda data: received.append(len(data or ""))))
    canvas = open_circuit(page, filled.capital)
    page.wait_for_timeout(1500)
    received.clear()
    mounts = canvas.get_attribute("data-key")
    click_node(page, filled.capital.keys[1])
    expect(page.get_by_text("Label score 0.91 beside 0.52")).to_be_visible()
    assert canvas.get_attribute("data-key") == mounts
    assert sum(received) < 20_000


def test_a_path_found_opens_lit_in_its_circuit(page, filled: Filled):
    page.goto("/paths")
    page.get_by_role("textbox", name="From").fill("token:the")
    page.get_by_role("textbox", name="To").fill("logit:x")
    page.get_by_role("button", name="Find paths").click()
    chain = page.locator(".ca-chain").first
    expect(chain).to_contain_text("capital cities")
    page.get_by_role("link", name=filled.capital.record.name, exact=True).first.click()
    expect(page.locator(".ca")).to_have_attribute("data-mode", "path")


def test_two_circuits_are_compared_on_one_canvas(page, filled: Filled):
    page.goto(f"/compare?a={filled.capital.id}&b={filled.city.id}")
    canvas = page.locator(".ca")
    expect(canvas).to_have_attribute("data-mode", "diff")
    before = int(canvas.get_attribute("data-drawn"))
    page.get_by_label("only B (2)").check()
    expect(canvas).to_have_attribute("data-drawn", str(before + 2))
    click_node(page, filled.capital.keys[1], slot="compare")
    expect(canvas).to_have_attribute("data-click", filled.capital.keys[1])
    expect(page.get_by_role("heading", name="Largest differences")).to_be_visible()


def test_cypher_answers_and_a_write_is_refused_in_one_sentence(page):
    page.goto("/cypher")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("3 rows.")).to_be_visible()
    expect(page.get_by_role("button", name="Save as CSV")).to_be_visible()
    query = page.get_by_label("Query")
    query.fill("CREATE (n:Feature {key: 'x'}) RETURN n")
    query.press("Control+Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    alert = page.locator(".ca-alert")
    expect(alert).to_be_visible()
    expect(alert).not_to_contain_text("Traceback")
    expect(page.get_by_text("3 rows.")).to_have_count(0)


def test_markup_in_names_tokens_and_labels_stays_text(page, filled: Filled):
    canvas = open_circuit(page, filled.hostile, node=filled.hostile.keys[2])
    expect(canvas).to_have_attribute("data-click", filled.hostile.keys[2])
    expect(
        page.get_by_role("heading", name="<img src=x onerror=alert(1)> **bold** :red[x] `code`").first
    ).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    page.goto(f"/feature?feature={quote(FEATURE, safe='')}")
    expect(page.locator(".ca-shaded")).to_contain_text("<img src=x onerror=alert(1)> **bold**")
    assert page.locator("img[src='x']").count() == 0


def test_a_circuit_that_is_not_there_is_two_sentences(page):
    page.goto("/circuit?circuit=c1-nothing")
    expect(page.get_by_role("alert").first).to_contain_text("c1-nothing")
    expect(page.get_by_text("Traceback")).to_have_count(0)
