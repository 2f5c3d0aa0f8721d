"""One feature: label and score, where it fires, where it occurs, what it works with."""

from __future__ import annotations

import streamlit as st

from ui import cards, markup
from ui.annotation_panel import panel
from ui.shared import asked, begin, get_atlas, guarded, note, remember, show

begin("Feature")
key = st.text_input(
    "Feature key",
    value=asked("feature"),
    placeholder="model/set/layer/index",
    help="Search finds features by description.",
).strip()
remember(feature=key)
if not key:
    note("A feature is opened from a search, from a circuit, or by its key.")
    show(markup.tag("p", markup.link("search", "Search features by description"), cls="ca-line"))
    st.stop()
with guarded(), st.spinner("Looking it up ..."):
    detail = get_atlas().feature(key)
cards.full(detail)
panel({"this feature": f"feature:{detail.feature}"}, place="feature")
