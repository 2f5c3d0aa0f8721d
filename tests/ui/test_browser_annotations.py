"""Notes, names and collections as people click them, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from atlas import Atlas
from atlas.circuit import Circuit
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.ui.conftest import HOSTILE, Filled
from tests.ui.test_browser import expect, open_circuit

pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]


@pytest.fixture(scope="module")
def atlas(filled: Filled) -> Iterator[Atlas]:
    settings = Settings(home=filled.home, actor="somebody", embedded_heap="512m", embedded_idle_seconds=900)
    with Atlas.open(settings=settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def circuit(atlas: Atlas) -> Iterator[Circuit]:
    made = make_circuit("the river", features=(26, 27))
    atlas.add(made)
    yield made
    atlas.delete(made.id)  # the home is that of all tests of pages, which count its circuits


def card(page, text: str):
    return page.locator("[data-annotation]", has_text=text)


def row_of(page, text: str):
    return page.locator("[class*='st-key-ca-row-']", has_text=text)


def choose(page, option: str) -> None:
    page.get_by_role("radio", name=option, exact=True).click()


def say(page, kind: str, text: str) -> None:
    if kind != "Note":
        choose(page, kind)
    box = page.get_by_placeholder("What should others know?")
    box.fill(text)
    box.press("Tab")  # what is typed belongs to the form from here on
    page.get_by_role("button", name="Add", exact=True).click()


def test_a_note_is_added_changed_removed_and_brought_back(page, atlas: Atlas, circuit: Circuit):
    open_circuit(page, circuit)
    say(page, "Note", f"first words {HOSTILE}")
    expect(card(page, "first words")).to_contain_text(HOSTILE)
    assert page.locator("img[src='x']").count() == 0
    row_of(page, "first words").get_by_role("button", name="Edit").click()
    box = page.get_by_label("Text", exact=True).last
    box.fill("other words")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(card(page, "other words")).to_contain_text("changed")
    expect(card(page, "first words")).to_have_count(0)

    row_of(page, "other words").get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_text("Nobody has said anything here yet.")).to_be_visible()
    page.get_by_text("History", exact=True).click()
    removal = page.locator("[class*='st-key-ca-row-']", has_text="removed")
    expect(removal).to_have_count(1)
    expect(card(page, "first words")).to_have_count(1)
    removal.get_by_role("button", name="Undo", exact=True).click()
    expect(page.get_by_text("Undone.")).to_be_visible()
    assert [row.text for row in atlas.annotations(circuit.id)] == ["other words"]
    assert {row.author for row in atlas.annotations(circuit.id, history=True)} != {"somebody"}  # the pages' own actor


def test_a_name_changes_the_heading_and_a_tag_and_a_supernode_are_made(page, atlas: Atlas, circuit: Circuit):
    keys = circuit.keys
    open_circuit(page, circuit, pins=",".join(keys[1:3]))
    say(page, "Name", "River of *stars*")
    expect(page.locator("h1.ca-title")).to_have_text("River of *stars*")
    say(page, "Tag", "#Rivers")
    expect(page.locator(".ca-chip.tag")).to_have_text("# rivers")
    say(page, "Supernode", "water")
    expect(card(page, "water")).to_contain_text("2 nodes")
    assert atlas.show("River of *stars*").supernodes[0].node_keys == keys[1:3]
    assert [row.id for row in atlas.circuits(tag="rivers")] == [circuit.id]


def test_a_chosen_nodes_feature_is_named_everywhere(page, atlas: Atlas, circuit: Circuit):
    canvas = open_circuit(page, circuit, node=circuit.keys[1])
    expect(canvas).to_have_attribute("data-click", circuit.keys[1])
    expect(page.locator("[data-test-script-state=notRunning]")).to_have_count(1)
    choose(page, "its feature, everywhere")
    say(page, "Name", "flowing water")
    expect(page.get_by_role("heading", name="flowing water", level=2)).to_be_visible()
    assert atlas.node_labels(circuit.id)[1] == "flowing water"
    page.goto(f"/feature?feature={quote(circuit.feature_key(1) or '', safe='')}")
    expect(page.get_by_role("heading", name="flowing water", level=2)).to_be_visible()
    row_of(page, "flowing water").get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("not labelled"), level=2)).to_be_visible()
    expect(page.get_by_text("taken back")).to_be_visible()


def test_a_collection_is_made_filled_renamed_and_deleted(page, atlas: Atlas, filled: Filled):
    page.goto("/collections")
    expect(page.get_by_role("link", name="samples", exact=True)).to_be_visible()
    page.get_by_label("Name of a new collection").fill("<b>mine</b> *x*")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("h1.ca-title")).to_have_text("<b>mine</b> *x*")
    expect(page.get_by_text("It is empty.")).to_be_visible()
    page.get_by_label("Put circuits in").fill(filled.city.record.name)
    page.get_by_role("option", name=re.compile(re.escape(filled.city.record.name))).first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Put in", exact=True).click()
    expect(page.get_by_text("Put in: 1 circuit.")).to_be_visible()
    expect(page.get_by_role("link", name=filled.city.record.name, exact=True)).to_be_visible()

    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("ours")
    page.get_by_role("button", name="Rename", exact=True).last.click()
    expect(page.locator("h1.ca-title")).to_have_text("ours")
    expect(page.get_by_role("link", name=filled.city.record.name, exact=True)).to_be_visible()

    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("Deleted; its circuits stay.")).to_be_visible()
    expect(page.get_by_role("link", name="ours", exact=True)).to_have_count(0)
    assert [row.name for row in atlas.collections()] == ["samples"]
    assert atlas.resolve(filled.city.id) == filled.city.id
