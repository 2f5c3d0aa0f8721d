"""Features by description."""

from __future__ import annotations

import streamlit as st

from ui import markup
from ui.shared import asked, begin, get_atlas, guarded, note, remember, show

begin("Search")
with guarded():
    atlas = get_atlas()
    models = atlas.overview().models

text = st.text_input(
    "What the feature is about", value=asked("q"), placeholder="capital cities, French, opening brackets ..."
)
left, middle, right = st.columns([2, 1, 1])
choices = ["", *models]
wanted = asked("model")
model = left.selectbox(
    "Model", choices, index=choices.index(wanted) if wanted in choices else 0, format_func=lambda m: m or "every model"
)
layers = middle.text_input(
    "Layers", value=asked("layers"), placeholder="0-11", help="A range such as 3-8, or one layer."
)
limit = right.number_input("At most", 1, 200, 20)


def layer_range(given: str) -> tuple[int, int] | None:
    """'3-8' -> (3, 8), '5' -> (5, 5); ValueError for anything else."""
    if not given.strip():
        return None
    first, _, last = given.partition("-")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high:
        raise ValueError(given)
    return low, high


try:
    chosen = layer_range(layers)
except ValueError:
    st.error("Layers must be one number or a range such as 3-8.")
    st.stop()

remember(q=text, model=model, layers=layers)
if not text.strip():
    note(
        "Search finds labelled features by the words of their label and, with the sentence encoder installed, by meaning."
    )
    st.stop()

with guarded(), st.spinner("Searching ..."):
    hits = atlas.search(text, model=model or None, layers=chosen, limit=int(limit))

if not hits:
    note(
        "No labelled feature fits. Features get labels with `atlas label`, or bring them when their graph file is imported."
    )
    st.stop()
show(
    markup.table(
        ["Label", "Feature", "Layer", "Matched by", "Label score", "Circuits"],
        [
            [
                markup.link("feature", hit.label, feature=hit.feature),
                hit.feature,
                hit.layer if hit.layer >= 0 else "–",
                hit.matched or "–",
                markup.number(hit.label_score, 2),
                hit.circuits,
            ]
            for hit in hits
        ],
        numeric=[2, 4, 5],
    )
)
note(
    "Label score: how well the label alone predicts where the feature fires (AUROC; 0.5 = chance). – = never measured."
)
