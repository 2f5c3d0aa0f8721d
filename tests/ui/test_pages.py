"""Every page found in the folder opens, on an empty atlas and on a filled one; Streamlit's own test driver, no browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import ui
from tests.ui.conftest import FEATURE, HOSTILE, Filled
from ui import markup, shared
from ui.canvas import contract

pytestmark = pytest.mark.embedded
FOLDER = Path(ui.__file__).parent / "pages"
FOUND = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


@pytest.fixture(autouse=True)
def _one_atlas_per_test(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "_warm", lambda atlas: None)
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def at_home(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> Filled:
    monkeypatch.setenv("ATLAS_HOME", str(filled.home))
    return filled


@pytest.fixture
def at_empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "empty"))


def opened(name: str, **query: str) -> AppTest:
    page = AppTest.from_file(str(FOLDER / f"{name}.py"), default_timeout=120)
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception, [element.value for element in page.exception]
    return page


def shown(page: AppTest) -> str:
    """The HTML of a page, without the style and the script that are on every page."""
    own = markup.css() + markup.follow_links()
    return "\n".join(element.proto.body for element in page.get("html") if element.proto.body != own)


def payload_of(page: AppTest) -> dict:
    """What the canvas was given; without a browser that is all there is of it."""
    found = [json.loads(e.proto.json) for e in page.get("bidi_component") if e.proto.component_name.endswith("canvas")]
    assert len(found) == 1
    return found[0]


def test_every_page_of_the_folder_is_in_the_navigation():
    assert sorted(ui.PAGES) == FOUND


@pytest.mark.parametrize("name", FOUND)
def test_the_page_opens_on_an_empty_atlas(name: str, at_empty_home: None):
    opened(name)


@pytest.mark.parametrize("name", FOUND)
def test_the_page_opens_on_a_filled_atlas(name: str, at_home: Filled):
    opened(name)


def test_an_empty_atlas_says_which_commands_fill_it(at_empty_home: None):
    commands = opened("home").code[0].value
    for command in ("atlas demo", "atlas import", "atlas trace"):
        assert command in commands


def test_home_counts_and_links_the_circuits(at_home: Filled):
    html = shown(opened("home"))
    assert "<b>3</b><span>circuits</span>" in html
    assert f"circuit?circuit={at_home.city.id}" in html
    assert "toy" in html


def test_a_circuit_opens_with_the_payload_of_its_contract(at_home: Filled):
    payload = payload_of(opened("circuit", circuit=at_home.capital.id))
    contract.check(payload)
    assert payload["nodes"]["id"] == at_home.capital.keys
    assert payload["nodes"]["label"][1] == "capital cities"


def test_the_address_chooses_a_node_and_its_card_appears(at_home: Filled):
    page = opened("circuit", circuit=at_home.capital.id, node=at_home.capital.keys[1])
    html = shown(page)
    assert "capital cities" in html
    assert "Label score 0.91 beside 0.52" in html
    assert page.session_state.circuit_view.click == at_home.capital.keys[1]


def test_the_card_shows_through_which_heads_the_strongest_inputs_came(at_home: Filled):
    html = shown(opened("circuit", circuit=at_home.city.id, node=at_home.city.keys[2]))
    assert "Strongest inputs" in html
    row = html.partition("Strongest inputs")[2].partition("<tbody>")[2].partition("</table>")[0]
    assert [text for text in re.sub(r"<[^>]+>", "|", row).split("|") if text.strip()] == [
        "capital cities", "1", "25%", "1.2", " the → city ", "150%", "1.0", " city → city ", "−50%", "−25%",
    ]  # fmt: skip
    assert "1 of 1 input." in html


def test_a_node_without_opened_inputs_has_no_such_table(at_home: Filled):
    for circuit, row in ((at_home.city, 1), (at_home.city, 0), (at_home.capital, 2)):
        assert "Strongest inputs" not in shown(opened("circuit", circuit=circuit.id, node=circuit.keys[row]))


def test_a_circuit_opens_by_name_and_an_unknown_one_is_a_plain_message(at_home: Filled):
    assert at_home.capital.id in shown(opened("circuit", circuit="the-capital"))
    html = shown(opened("circuit", circuit="no such <b>"))
    assert 'role="alert"' in html
    assert "no such &lt;b&gt;" in html


def test_a_path_in_the_address_is_lit(at_home: Filled):
    keys = at_home.capital.keys
    payload = payload_of(opened("circuit", circuit=at_home.capital.id, path=",".join(keys)))
    assert payload["path"]["links"] == [0, 1, 2]


def test_pins_of_the_file_are_shown_at_first(at_home: Filled):
    page = opened("circuit", circuit=at_home.hostile.id)
    assert page.session_state.circuit_view.pins == (at_home.hostile.keys[3],)


def test_the_scores_tab_says_what_the_numbers_do_not_mean(at_home: Filled):
    assert "no intervention has borne this circuit out" in shown(opened("circuit", circuit=at_home.capital.id))


def test_search_finds_a_feature_and_keeps_the_question_in_the_address(at_home: Filled):
    page = opened("search", q="capital")
    html = shown(page)
    assert "capital cities" in html
    assert "0.91" in html
    assert page.query_params["q"] in ("capital", ["capital"])


def test_layers_that_are_no_range_are_said_so(at_home: Filled):
    page = opened("search", q="capital", layers="high")
    assert "range" in page.error[0].value


def test_the_feature_page_shows_score_examples_history_and_places(at_home: Filled):
    html = shown(opened("feature", feature=FEATURE))
    for expected in ("Label score 0.91", "<span", " Paris", "Promotes", "Suppresses", "Label history", "In 3 places"):
        assert expected in html
    assert "Outputs over circuits" in html
    assert "toy/toy-set/1/7" in html


def test_an_unknown_feature_is_a_plain_message(at_home: Filled):
    assert 'role="alert"' in shown(opened("feature", feature="toy/toy-set/0/999"))
    assert 'role="alert"' in shown(opened("feature", feature="<script>"))


def test_paths_read_as_chains_with_their_numbers_and_open_the_circuit(at_home: Filled):
    html = shown(opened("paths", **{"from": "token:the", "to": "logit:x", "circuit": at_home.capital.id}))
    assert "capital cities" in html
    assert "share" in html
    assert "(n = 199)" in html
    assert f"circuit?circuit={at_home.capital.id}&amp;path=" in html


def test_ends_that_nothing_connects_are_said_so(at_home: Filled):
    html = shown(opened("paths", **{"from": "token:zebra", "to": "logit:x"}))
    assert "No path connects" in html or 'role="alert"' in html


def test_compare_shows_counts_differences_and_the_missing_noise_floor(at_home: Filled):
    page = opened("compare", a=at_home.capital.id, b=at_home.city.id)
    payload = payload_of(page)
    contract.check(payload)
    assert payload["mode"] == "diff"
    html = shown(page)
    assert "not measured" in html
    assert "Largest differences" in html
    assert "capital cities" in html


def test_cypher_answers_and_refuses_to_write(at_home: Filled):
    page = opened("cypher", q="MATCH (c:Circuit) RETURN c.name AS name ORDER BY name")
    page.button[0].click().run()
    assert not page.exception
    assert list(page.dataframe[0].value["name"]) == sorted(
        c.record.name for c in (at_home.capital, at_home.city, at_home.hostile)
    )
    page.text_area[0].set_value("CREATE (n:Feature) RETURN n").run()
    page.button[0].click().run()
    assert not page.exception
    assert 'role="alert"' in shown(page)
    assert not page.dataframe


def test_markup_in_labels_and_tokens_is_never_html(at_home: Filled):
    for page in (
        opened("home"),
        opened("circuit", circuit=at_home.hostile.id, node=at_home.hostile.keys[2]),  # tokens beside heads too
        opened("feature", feature=f"{at_home.hostile.feature_key(2)}"),
        opened("feature", feature=FEATURE),
        opened("paths", **{"from": "token:a", "to": "logit:x", "circuit": at_home.hostile.id}),
        opened("compare", a=at_home.hostile.id, b=at_home.city.id),
        opened("search", q="bold"),
    ):
        html = shown(page)
        assert "<img" not in html
        assert "<script" not in html
        for element in (*page.markdown, *page.error, *page.warning):
            assert HOSTILE not in element.value
