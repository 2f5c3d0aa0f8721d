"""The feature card: on its own page, and under the canvas for the chosen node."""

from __future__ import annotations

import streamlit as st

from atlas.records import FeatureDetail
from ui import markup
from ui.listing import influence_table, occurrence_table, when
from ui.shared import heading, note, show


def title(detail: FeatureDetail, level: str = "h2") -> None:
    name = detail.label or f"Feature {detail.layer}/{detail.index}, not labelled"
    show(markup.tag(level, name, cls="ca-head"))


def score_sentence(detail: FeatureDetail) -> str:
    """The label's score beside the random label's, in words."""
    if not detail.label:
        return "This feature has no label yet; `atlas label` makes one where the model is at hand."
    current = next((version for version in detail.labels if version.current), None)
    if detail.score is None:
        return "This label was never scored: nothing says how well it fits."
    beside = ""
    if current is not None and current.random_score is not None:
        beside = f" beside {current.random_score:.2f} for another feature's label"
        if detail.score - current.random_score < 0.05:
            beside += ": hardly better, so do not rely on it"
    return f"Label score {detail.score:.2f}{beside} (AUROC of predicting where it fires; 0.5 = chance)."


def identity(detail: FeatureDetail) -> None:
    show(
        markup.facts(
            [
                ("Model", detail.model),
                ("Transcoders", detail.transcoders),
                ("Layer, index", f"{detail.layer}, {detail.index}"),
                ("Key", markup.tag("code", detail.feature)),
            ]
        )
    )


def tokens(detail: FeatureDetail) -> None:
    if not (detail.promoted or detail.suppressed):
        return
    for name, kind, values in (("Promotes", "raise", detail.promoted), ("Suppresses", "lower", detail.suppressed)):
        if values:
            chips = [markup.chip(markup.visible(value), kind) for value in values]
            show(markup.tag("p", markup.tag("strong", name + " "), *chips, cls="ca-line"))


def examples(detail: FeatureDetail, most: int = 12) -> None:
    if not detail.examples:
        note("No activation examples are stored for this feature.")
        return
    top = max((max(example.activations, default=0.0) for example in detail.examples), default=0.0)
    show(*(markup.shaded(example, top) for example in detail.examples[:most]))
    note(f"Darker = stronger, up to {top:.3g}; hover shows the number.")


def history(detail: FeatureDetail) -> None:
    show(
        markup.table(
            ["Label", "Method", "By", "Score", "Random", "When", ""],
            [
                [
                    version.text,
                    version.method,
                    version.author,
                    markup.number(version.score, 2),
                    markup.number(version.random_score, 2),
                    when(version.created_at),
                    markup.chip("current" if version.current else "taken back")
                    if version.current or version.taken_back
                    else "",
                ]
                for version in detail.labels
            ],
            numeric=[3, 4],
        )
    )


def influences(detail: FeatureDetail) -> None:
    if detail.graph_fault:
        heading("Inputs and outputs over circuits")
        note(detail.graph_fault)
        return
    left, right = st.columns(2)
    with left:
        heading("Inputs over circuits")
        if detail.inputs:
            show(influence_table(detail.inputs))
        else:
            note("No other feature feeds it in any circuit.")
    with right:
        heading("Outputs over circuits")
        if detail.outputs:
            show(influence_table(detail.outputs))
        else:
            note("It feeds no other feature in any circuit.")


def full(detail: FeatureDetail) -> None:
    """Everything known about a feature."""
    title(detail)
    note(score_sentence(detail))
    left, right = st.columns([3, 2], gap="large")
    with left:
        heading("Where it fires")
        examples(detail)
    with right:
        heading("What it is")
        identity(detail)
        tokens(detail)
        if detail.labels:
            heading("Label history")
            history(detail)
    heading(f"In {markup.counted(len(detail.occurrences), 'place')}")
    if detail.occurrences:
        show(occurrence_table(detail.occurrences))
    else:
        note("It occurs in no circuit of this atlas.")
    influences(detail)
    note(
        "Mean share is over the circuits in which both features occur and are connected; replicates of one prompt count "
        "once. “Raises in” is the share of those circuits in which the effect was positive."
    )


def brief(detail: FeatureDetail) -> None:
    """The card under the canvas: few elements, because Streamlit pays for each."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        title(detail)
        note(score_sentence(detail))
        tokens(detail)
        more = markup.link("feature", "Everything about this feature", feature=detail.feature)
        show(markup.tag("p", more, f" · in {markup.counted(len(detail.occurrences), 'place')}", cls="ca-line"))
    with right:
        examples(detail, 6)
