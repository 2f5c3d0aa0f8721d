"""What people wrote is text on every page, and a reader's click is one sentence; Streamlit's own test driver, no browser."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import ui
from atlas import Atlas
from atlas.circuit import Circuit
from atlas.errors import StoreUnavailable
from atlas.settings import Settings
from tests.conftest import make_circuit
from ui import auth, shared

FOLDER = Path(ui.__file__).parent / "pages"
EVIL = "<img src=x onerror=alert(1)> **bold** :red[x] `code` [a](javascript:alert(1))"


@pytest.fixture
def circuit() -> Circuit:
    return make_circuit()


@pytest.fixture(autouse=True)
def _no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self):
        raise StoreUnavailable("No graph server runs in these tests.")

    monkeypatch.setattr(Atlas, "graph", property(refuse))


@pytest.fixture
def as_person(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pages for `person1`, signed in with this role."""

    def sign_in(role: str) -> None:
        atlas.add_person("person1", role=role)
        atlas.settings = atlas.settings.model_copy(update={"accounts": True})
        monkeypatch.setattr(auth, "person_at", lambda given: given.acting_as("person1"))

    return sign_in


@pytest.fixture
def atlas(settings: Settings, circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> Iterator[Atlas]:
    """An atlas of this test's home, whose graph store is never told anything; the pages get the same one."""
    with Atlas.open(settings=settings) as opened:
        opened._project = lambda announced: None
        opened.add(circuit)
        monkeypatch.setattr(shared, "server_atlas", lambda: opened)
        st.cache_resource.clear()
        yield opened
        st.cache_resource.clear()


def page(name: str, **query: str) -> AppTest:
    opened = AppTest.from_file(str(FOLDER / f"{name}.py"), default_timeout=60)
    for key, value in query.items():
        opened.query_params[key] = value
    opened.run()
    assert not opened.exception, [element.value for element in opened.exception]
    return opened


def shown(opened: AppTest) -> str:
    bodies = [element.proto.body for element in opened.get("html")]
    return "\n".join(body for body in bodies if not body.startswith("<style>"))


def labels_of(opened: AppTest) -> str:
    """Everything that Streamlit reads as Markdown."""
    found = [*opened.markdown, *opened.caption, *opened.error]
    widgets = [*opened.button, *opened.text_input, *opened.text_area, *opened.selectbox, *opened.multiselect]
    return "\n".join([*(each.value for each in found), *(f"{each.label} {each.help}" for each in widgets)])


def test_markup_in_every_text_is_escaped_on_every_page(atlas: Atlas, circuit: Circuit) -> None:
    node, feature = circuit.keys[1], circuit.feature_key(1) or ""
    atlas.collect(EVIL, [circuit.id])
    for subject in (circuit.id, f"{circuit.id}#{node}", f"feature:{feature}", f"collection:{EVIL}"):
        for kind in ("note", "tag", "name"):
            atlas.annotate(subject, kind, EVIL)
    atlas.annotate(circuit.id, "supernode", EVIL, nodes=[node])
    for opened in (
        page("collections"),
        page("collections", collection=EVIL),
        page("circuit", circuit=circuit.id, node=node, pins=node),
        page("circuit"),
        page("feature", feature=feature),
        page("home"),
    ):
        assert html.escape(EVIL) in shown(opened)
        assert "<img" not in shown(opened)
        assert "onerror" not in labels_of(opened)
        for toggle in opened.toggle:
            toggle.set_value(True)
        assert "<img" not in shown(opened.run())
        assert "onerror" not in labels_of(opened)


def test_a_reader_sees_what_is_said_and_no_forms(atlas: Atlas, circuit: Circuit, as_person) -> None:
    atlas.annotate(circuit.id, "note", "look here")
    atlas.collect("mine", [circuit.id])
    as_person("reader")
    for opened in (page("circuit", circuit=circuit.id), page("collections", collection="mine"), page("collections")):
        assert not opened.button
        assert not opened.text_area
    assert "look here" in shown(page("circuit", circuit=circuit.id))
    assert "Your role is reader" in labels_of(page("collections", collection="mine"))


def test_who_lost_the_role_after_the_page_opened_is_told_so_in_one_sentence(
    atlas: Atlas, circuit: Circuit, as_person
) -> None:
    as_person("editor")
    opened = page("circuit", circuit=circuit.id)
    opened.text_area[0].set_value("too late")
    atlas.change_person("person1", role="reader")
    next(button for button in opened.button if button.label == "Add").click().run()
    assert not opened.exception
    assert "This needs the role editor, and &#x27;person1&#x27; has the role reader." in shown(opened)
    assert atlas.annotations(history=True) == []


def test_the_author_is_who_is_signed_in(atlas: Atlas, circuit: Circuit, as_person) -> None:
    as_person("editor")
    opened = page("circuit", circuit=circuit.id)
    opened.text_area[0].set_value("by me")
    next(button for button in opened.button if button.label == "Add").click().run()
    assert [(row.text, row.author) for row in atlas.annotations()] == [("by me", "person1")]
    assert "by me" in shown(opened)


def test_circuits_are_listed_by_tag(atlas: Atlas, circuit: Circuit) -> None:
    other = make_circuit("c d")
    atlas.add(other)
    atlas.annotate(circuit.id, "tag", "facts")
    html_of_list = shown(page("circuit", tag="#Facts"))
    assert circuit.id in html_of_list
    assert other.id not in html_of_list


def test_a_collection_that_is_gone_is_said_so(atlas: Atlas) -> None:
    assert "no collection of that name" in shown(page("collections", collection="<b>gone"))
