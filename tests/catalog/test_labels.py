from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import select

from atlas.catalog import details, labels, models
from atlas.catalog.labels import EncoderRecord
from atlas.catalog.tables import Label
from atlas.errors import NotFound
from atlas.records import ActivationExample, NewLabel

KEY = "toy/toy-set/0/6"


def new(text: str, method: str = "tokens", feature: str = KEY, **more) -> NewLabel:
    return NewLabel(feature=feature, text=text, method=method, **more)


def current(read, key: str = KEY) -> str | None:
    return label.text if (label := read(labels.current, [key]).get(key)) else None


@pytest.mark.parametrize(
    ("methods", "wins"),
    [
        (["tokens"], 0),
        (["tokens", "tokens"], 1),
        (["tokens", "graph file"], 1),
        (["graph file", "tokens"], 0),
        (["person", "graph file", "tokens"], 0),
        (["person", "tokens", "person"], 2),
        (["graph file", "llm", "graph file", "llm"], 2),
    ],
)
def test_the_current_label_is_a_persons_then_a_files_then_a_programs_and_the_newest_of_these(
    write, read, methods, wins
):
    for number, method in enumerate(methods):
        write(labels.put, [new(f"label {number}", method)])
    assert current(read) == f"label {wins}"
    versions = [version for version, _ in read(labels.versions, KEY)]
    assert len(versions) == len(methods)
    assert [version.text for version in versions if version.current] == [f"label {wins}"]


def test_a_version_that_says_nothing_new_is_not_stored_again(write, read):
    assert write(labels.put, [new("cities", score=0.9), new("cities", score=0.9)]) == [KEY]
    assert write(labels.put, [new("cities", score=0.9, parameters={"run": 2})]) == []
    assert write(labels.put, [new("cities", score=0.95)]) == [KEY]
    assert write(labels.put, [new("  ")]) == []
    assert len(read(labels.versions, KEY)) == 2


def test_importing_two_files_again_and_again_adds_no_versions(write, read):
    for _ in range(3):
        for text in ("from file A", "from file B"):
            write(labels.put, [new(text, "graph file")])
    assert len(read(labels.versions, KEY)) == 2
    assert current(read) == "from file B"


def test_examples_tokens_and_scores_come_back(write, read, make_circuit, keep):
    keep(make_circuit())
    example = ActivationExample(tokens=["a", "b"], activations=[0.0, 2.5])
    write(labels.put, [new("cities", score=0.75, random_score=0.5, examples=[example], promoted=[" Austin"])])
    write(labels.put, [new("my word", "person")])
    detail = read(details.feature_detail, KEY)
    assert detail.label == "my word"
    assert (detail.labels[1].score, detail.labels[1].random_score) == (0.75, 0.5)
    assert detail.examples == [example]  # of the newest version that has any
    assert detail.promoted == [" Austin"]
    assert [(o.node, o.token, o.activation) for o in detail.occurrences] == [("feature/0/1/6", "b", 2.0)]


def test_an_unknown_feature_is_not_found(read):
    with pytest.raises(NotFound, match="no feature"):
        read(details.feature_detail, KEY)
    with pytest.raises(NotFound, match="not a feature key"):
        read(details.feature_detail, "nonsense")


def test_embeddings_are_kept_to_the_bit_beside_their_version(write, read):
    vectors = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    other = "toy/toy-set/1/7"
    write(labels.put, [new("a"), new("b", feature=other)], vectors, EncoderRecord("tiny", 4))
    found = read(labels.current, [KEY, other], embeddings=True)
    np.testing.assert_array_equal([found[KEY].embedding, found[other].embedding], vectors)
    assert read(labels.encoder) == EncoderRecord("tiny", 4)


def test_another_encoder_replaces_embeddings_of_current_labels_only(catalog, write, read):
    write(labels.put, [new("old")], np.ones((1, 4), np.float32), EncoderRecord("tiny", 4))
    write(labels.put, [new("newer")])
    stale = read(labels.without_embedding, "tiny")
    assert [text for _, text in stale] == ["newer"]
    write(labels.set_embeddings, [stale[0][0]], np.full((1, 4), 2, np.float32), EncoderRecord("tiny", 4))
    assert read(labels.without_embedding, "tiny") == []
    assert [text for _, text in read(labels.without_embedding, "large")] == ["newer"]
    with catalog.read() as session:
        assert {row.text for row in session.scalars(select(Label))} == {"old", "newer"}


def test_features_without_a_label_are_those_that_occur(write, read, make_circuit, keep):
    keep(make_circuit())
    keep(make_circuit(model="other"))
    assert read(labels.missing) == ["other/toy-set/0/6", "other/toy-set/1/7", KEY, "toy/toy-set/1/7"]
    write(labels.put, [new("cities", "graph file"), new("elsewhere", feature="toy/toy-set/9/9")])
    assert read(labels.missing, read(models.model_id, "toy")) == ["toy/toy-set/1/7"]
    assert read(labels.missing, limit=1) == ["other/toy-set/0/6"]
    assert read(labels.count) == 2


def test_hundreds_of_labels_at_once_keep_one_current_each(write, read):
    many = [new(f"label {index}", feature=f"toy/toy-set/0/{index}") for index in range(1200)]
    assert len(write(labels.put, many)) == 1200
    assert len(read(labels.current, read(labels.all_labelled))) == 1200


def test_a_file_that_brings_back_our_own_label_does_not_hide_its_score(write, read):
    write(labels.put, [new("cities", score=0.9)])
    assert write(labels.put, [new("cities", "graph file")]) == []
    assert read(labels.current, [KEY])[KEY].score == 0.9
    assert write(labels.put, [new("towns", "graph file")]) == [KEY]
