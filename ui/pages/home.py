"""What is in the atlas."""

from __future__ import annotations

import streamlit as st

from ui import markup
from ui.listing import circuit_table
from ui.shared import begin, get_atlas, guarded, heading, note, show

begin("Circuit Atlas")
with guarded():
    overview = get_atlas().overview()

if not overview.circuits:
    note("The atlas is empty. Fill it from a terminal, then reload this page:")
    st.code(
        "atlas demo                 # traces sample prompts with the small model that is shipped\n"
        "atlas import PATH          # graph files of other tools, or a folder of them\n"
        'atlas trace "The capital of France is" --model FOLDER --transcoders FOLDER',
        language="bash",
    )
else:
    counts = [
        ("circuits", overview.circuits),
        ("distinct prompts", overview.prompts),
        ("features", overview.features),
        ("features with a label", overview.labelled),
    ]
    show(
        markup.tag(
            "div",
            *(markup.tag("div", markup.tag("b", f"{n:,}"), markup.tag("span", what)) for what, n in counts),
            cls="ca-numbers",
        )
    )
    heading("Recent circuits")
    show(circuit_table(overview.recent))
    if overview.circuits > len(overview.recent):
        show(markup.tag("p", markup.link("circuit", f"All {overview.circuits:,} circuits"), cls="ca-line"))
    note(
        "A circuit is a hypothesis about how the model came to its answer. Its verdict stays “untested” until interventions in the model have judged it."
    )

pairs: list[tuple[object, object]] = [("Models", ", ".join(overview.models) or "none yet")]
if overview.collections:
    pairs.append(("Collections", ", ".join(overview.collections)))
pairs += [("Graph server", overview.graph), ("Home", get_atlas().settings.home)]
heading("This atlas")
show(markup.facts(pairs))
