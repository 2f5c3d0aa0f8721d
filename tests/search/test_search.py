"""Search from text to hits on real stores: catalog, encoder, and every graph server."""

from __future__ import annotations

import pytest

from atlas.api import Atlas
from atlas.circuit import feature_key
from atlas.errors import NotFound, UsageError
from atlas.records import NewLabel
from atlas.search import search

LABELS = {
    ("toy", 0, 6): 'on "Dallas", "Houston"; then "is"; promotes "Austin", "Texas"',
    ("toy", 1, 7): 'on "Oakland", "Fresno"; promotes "California"',
    ("toy", 2, 1): 'on numbers such as "45", "62"; promotes "63"',
    ("toy", 3, 2): "on the verb of a clause",
    ("other", 1, 3): 'on "Dallas"; promotes "cowboys"',
}


def key(model: str, layer: int, index: int) -> str:
    return feature_key(model, "toy-set", layer, index)


@pytest.fixture
def atlas(store_pair, make_circuit):
    with Atlas.open(settings=store_pair) as opened:
        opened.add(make_circuit())
        opened.put_labels(
            [NewLabel(feature=key(*where), text=text, method="person", score=0.9) for where, text in LABELS.items()]
        )
        yield opened


def test_a_word_of_a_label_and_its_meaning_are_found_together(atlas):
    hits = search(atlas, "Dallas")
    assert {hit.feature for hit in hits[:2]} == {key("toy", 0, 6), key("other", 1, 3)}
    assert [hit.matched for hit in hits[:2]] == ["both", "both"]
    assert {hit.matched for hit in hits[2:]} == {"meaning"}
    by_key = {hit.feature: hit for hit in hits}
    assert (by_key[key("toy", 0, 6)].circuits, by_key[key("other", 1, 3)].circuits) == (1, 0)
    assert by_key[key("toy", 0, 6)].label == LABELS["toy", 0, 6]
    assert by_key[key("toy", 0, 6)].label_score == 0.9
    assert by_key[key("toy", 2, 1)].layer == 2


def test_a_description_without_a_common_word_finds_by_meaning(atlas):
    hits = search(atlas, "cities in the south of the United States")
    assert hits[0].feature in {key("toy", 0, 6), key("other", 1, 3)}
    assert hits[0].matched == "meaning"


def test_model_layers_and_limit_restrict_the_answer(atlas):
    assert {hit.feature for hit in search(atlas, "Dallas", model="other")} == {key("other", 1, 3)}
    assert {hit.layer for hit in search(atlas, "Dallas", layers=(1, 2))} == {1, 2}
    assert [hit.feature for hit in search(atlas, "Dallas", model="toy", layers=(0, 0))] == [key("toy", 0, 6)]
    with pytest.raises(NotFound, match="no model 'nobody'"):
        search(atlas, "Dallas", model="nobody")
    assert len(search(atlas, "Dallas", limit=1)) == 1


def test_a_filter_that_the_index_answer_misses_is_answered_exactly(atlas, monkeypatch):
    monkeypatch.setattr("atlas.search.DEPTH", 1)  # the index is asked for 2 * 1 * 1 features, of which none passes
    monkeypatch.setattr("atlas.search.OVERFETCH", 1)
    hits = search(atlas, "Dallas cowboys", layers=(2, 3), limit=1)
    assert [(hit.layer, hit.matched) for hit in hits] == [(2, "meaning")]
    assert [hit.layer for hit in search(atlas, "a verb in a clause", layers=(2, 3), limit=2)] == [3, 2]
    assert search(atlas, "Dallas", layers=(5, 900), limit=1) == []


def test_the_same_search_gives_the_same_answer(atlas):
    assert search(atlas, "numbers") == search(atlas, "numbers")


def test_punctuation_and_other_scripts_are_only_text(atlas):
    for text in ['"Dallas" OR (*', "\\", "達拉斯", "🤠", "a" * 5000]:
        assert isinstance(search(atlas, text), list)


def test_a_newer_label_replaces_the_old_one_in_both_rankings(atlas):
    atlas.put_labels([NewLabel(feature=key("toy", 0, 6), text="fires on poultry", method="person")])
    assert search(atlas, "poultry")[0].label == "fires on poultry"
    texts = [hit.feature for hit in search(atlas, "Houston") if hit.matched != "meaning"]
    assert texts == []


def test_without_an_encoder_words_are_found_and_a_label_with_some_of_them_too(store_pair, monkeypatch, make_circuit):
    monkeypatch.setattr("atlas.encoder.load_encoder", lambda settings: None)
    with Atlas.open(settings=store_pair) as atlas:
        atlas.add(make_circuit())
        atlas.put_labels([NewLabel(feature=key(*where), text=text, method="person") for where, text in LABELS.items()])
        hits = search(atlas, "Dallas Houston")
        assert [(hit.feature, hit.matched) for hit in hits] == [(key("toy", 0, 6), "text")]
        some = search(atlas, "Dallas cowboys with lassos")
        assert [hit.feature for hit in some] == [key("other", 1, 3), key("toy", 0, 6)]
        assert search(atlas, "zebra") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "  "}, "empty"),
        ({"text": "x", "limit": 0}, "limit 0"),
        ({"text": "x", "layers": (3, 1)}, "layers 3-1"),
    ],
)
def test_a_wrong_question_is_one_sentence(settings, arguments, message):
    with Atlas.open(settings=settings) as atlas, pytest.raises(UsageError, match=message):
        search(atlas, **arguments)
