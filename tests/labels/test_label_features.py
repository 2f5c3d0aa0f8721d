"""From traced circuits to label versions in the atlas, with the shipped model."""

from __future__ import annotations

import pytest

from atlas.api import Atlas
from atlas.circuit import parse_feature_key
from atlas.errors import InputRejected, UsageError
from atlas.records import NewLabel
from atlas.settings import Profile, Settings
from ingest.labels import label_features
from ingest.models import load_model
from ingest.organism import model_path, transcoders_path
from ingest.trace import trace
from ingest.transcoders import load_transcoders

pytestmark = [pytest.mark.slow, pytest.mark.embedded]

BUDGET = 12_000


@pytest.fixture(scope="module")
def shipped():
    model = load_model(model_path(), device="cpu")
    return model, load_transcoders(transcoders_path(), model)


@pytest.fixture(scope="module")
def settings(embedded_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return Settings(home=embedded_home, actor="tester", catalog_url=f"sqlite:///{folder / 'catalog.sqlite'}")


@pytest.fixture(scope="module")
def atlas(settings, shipped):
    """An atlas with one circuit of the shipped model and one of a model that is not here, labelled."""
    from tests.conftest import make_circuit

    model, transcoders = shipped
    with Atlas.open(settings=settings) as opened:
        opened.rebuild(take_over=True)  # the server is shared with other tests
        opened.add(make_circuit(model="elsewhere"))
        trace(opened, "The capital of the state containing Dallas is", model=model, transcoders=transcoders)
        yield opened


@pytest.fixture(scope="module")
def name(shipped) -> str:
    return shipped[1].model_name


@pytest.fixture(scope="module")
def first(atlas, name):
    """The result of the first labelling, and what was there to label."""
    person = atlas.features_without_label(model=name)[0]
    atlas.put_labels([NewLabel(feature=person, text="my own name", method="person")])
    todo = atlas.features_without_label(method="tokens")
    return label_features(atlas, token_budget=BUDGET), todo, person


def test_features_of_the_shipped_model_are_labelled_and_others_counted(first, atlas):
    result, todo, _ = first
    assert result.skipped == 2
    assert result.labelled == len(todo) - 2 > 5
    assert len(atlas.features_without_label(method="tokens")) == 2


def test_labels_predict_better_than_labels_of_other_features(first):
    result, _, _ = first
    assert result.mean_score > result.random_score + 0.1
    assert result.random_score == pytest.approx(0.5, abs=0.05)


def test_a_label_has_its_examples_score_and_parameters(first, atlas, name):
    _, todo, person = first
    key = next(k for k in todo if k != person and parse_feature_key(k)[0] == name)
    detail = atlas.feature(key)
    (version,) = detail.labels
    assert version.method == "tokens"
    assert detail.label == version.text
    assert detail.examples
    assert all(max(example.activations) > 0 for example in detail.examples)
    assert len(detail.promoted) > 0


def test_what_a_person_wrote_stays_the_label(first, atlas):
    person = atlas.feature(first[2])
    assert person.label == "my own name"
    assert {version.method for version in person.labels} == {"person", "tokens"}


def test_labelled_features_are_found_by_search(first, atlas, name):
    hits = atlas.search("Dallas", model=name)
    assert any("Dallas" in hit.label for hit in hits[:5])


def test_a_second_run_has_nothing_to_do_and_relabelling_says_the_same(first, atlas):
    again = label_features(atlas, token_budget=BUDGET)
    assert (again.labelled, again.mean_score) == (0, None)
    key = atlas.circuits(model=None)[0].id
    before = atlas.node_labels(key)
    relabelled = label_features(atlas, token_budget=BUDGET, relabel=True)
    assert (relabelled.labelled, relabelled.mean_score) == (first[0].labelled, pytest.approx(first[0].mean_score))
    assert atlas.node_labels(key) == before


def test_a_limit_is_kept_and_the_next_run_goes_on(tmp_path, embedded_home, shipped, name):
    model, transcoders = shipped
    settings = Settings(
        home=embedded_home,
        actor="tester",
        catalog_url=f"sqlite:///{tmp_path / 'catalog.sqlite'}",
        profiles={"gone": Profile(model=str(tmp_path / "no-model"), transcoders="none")},
    )
    with Atlas.open(settings=settings) as atlas:
        atlas.rebuild(take_over=True)
        trace(atlas, "The opposite of hot is", model=model, transcoders=transcoders)
        todo = len(atlas.features_without_label())
        models = {name: shipped}
        texts = ["The opposite of hot is cold .", "The opposite of tall is short .", "cold is the opposite of hot ."]
        seen = []
        result = label_features(
            atlas, limit=5, texts=texts, models=models, progress=lambda done, total, what="": seen.append((done, total))
        )
        assert (result.labelled, result.skipped, result.mean_score) == (5, 0, None)  # too few texts to score on
        assert seen[-1] == (5, 5)
        assert label_features(atlas, texts=texts, models=models).labelled == todo - 5
        with pytest.raises(InputRejected, match="no text"):
            label_features(atlas, texts=[" "], relabel=True)


def test_an_unknown_labeler_is_one_sentence(atlas):
    with pytest.raises(UsageError, match="labeler"):
        label_features(atlas, labeler="magic")
