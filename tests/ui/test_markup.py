"""Hostile text stays text, and numbers are said honestly."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from atlas.circuit import Scores
from atlas.records import ActivationExample, FeatureDetail, LabelVersion
from ui import cards, explain, markup

UI = Path(markup.__file__).parent
HOSTILE = "<img src=x onerror=alert(1)>\"'&</p><script>"


def test_text_is_escaped_and_pieces_made_here_are_not():
    assert markup.tag("b", HOSTILE) == (
        "<b>&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;&lt;/p&gt;&lt;script&gt;</b>"
    )
    assert markup.tag("p", markup.tag("b", "x")) == "<p><b>x</b></p>"


def test_hostile_text_is_escaped_in_attributes_links_and_tables():
    for piece in (
        markup.tag("span", "x", title=HOSTILE),
        markup.link("feature", HOSTILE, feature=HOSTILE),
        markup.table([HOSTILE], [[HOSTILE]]),
        markup.facts([(HOSTILE, HOSTILE)]),
        markup.shaded(ActivationExample(tokens=[HOSTILE], activations=[1.0]), 1.0),
        markup.prompt([HOSTILE]),
    ):
        assert "<img" not in piece
        assert "<script" not in piece
        assert "</p><s" not in piece


def test_a_link_keeps_what_it_is_given_in_the_address():
    assert markup.link("circuit", "go", circuit="c1-1", node="a/b c", pins=None) == (
        '<a href="circuit?circuit=c1-1&amp;node=a%2Fb+c">go</a>'
    )


MARKDOWN = {"markdown", "write", "error", "warning", "info", "success", "caption", "title", "header", "subheader"}


def test_calls_that_read_markdown_are_given_fixed_texts_only():
    calls = [
        (f"{path.name}:{node.lineno}", node)
        for path in sorted(UI.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in MARKDOWN
        and getattr(node.func.value, "id", "") == "st"
    ]
    assert calls
    varying = [place for place, call in calls if not all(isinstance(given, ast.Constant) for given in call.args)]
    assert not varying, "text that varies must go through ui.shared.show"


def test_shading_is_relative_to_the_strongest_example_and_never_negative():
    piece = markup.shaded(ActivationExample(tokens=["a", "b", "c"], activations=[-1.0, 2.0, 4.0]), 8.0)
    assert "--a:19%" in piece
    assert "--a:38%" in piece
    assert piece.count("--a:") == 2
    assert 'class="top"' in piece


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.1234, "12.3%"), (1.0, "100%"), (0.00123, "0.12%"), (-0.5, "−50.0%"), (0, "0%")]
)
def test_shares_read_as_percent(value, text):
    assert markup.share(value) == text


def test_a_p_value_comes_with_the_size_of_its_null():
    assert markup.p_value(0.005, 199) == "0.005 (n = 199)"
    assert markup.p_value(None, 0) == "not tested"


def scored(score, random_score):
    version = LabelVersion(
        text="x", method="tokens", author="a", score=score, random_score=random_score, created_at="", current=True
    )
    return FeatureDetail(
        feature="m/s/0/1", model="m", transcoders="s", layer=0, index=1, label="x", score=score, labels=[version]
    )


def test_a_label_hardly_better_than_a_random_one_is_called_that():
    assert "do not rely" in cards.score_sentence(scored(0.56, 0.54))
    assert "do not rely" not in cards.score_sentence(scored(0.9, 0.5))
    assert "never scored" in cards.score_sentence(scored(None, None))


def test_scores_of_a_file_are_called_that_and_an_untested_circuit_is_no_truth():
    said = " ".join(explain.score_sentences(Scores(replacement=0.72, computed_on="file"), "untested"))
    assert "72%" in said
    assert "not of the full graph" in said
    assert "no intervention" in said
    assert "no scores" in explain.score_sentences(Scores(), "untested")[0]
