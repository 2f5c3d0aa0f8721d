"""What is in the atlas."""

from __future__ import annotations

import streamlit as st

from atlas.api import Atlas
from ui import markup, work
from ui.listing import circuit_table
from ui.shared import begin, get_atlas, guarded, heading, note, show

begin("Circuit Atlas")


def what_is_new(atlas: Atlas) -> None:
    """A line of what is new and one of the queue, where there is any of it."""
    news, counts = atlas.news(), atlas.job_counts()
    failed = sum(job.state == "failed" for job in news.jobs)
    said = [
        sentence
        for n, sentence in (
            (news.circuit_count, markup.counted(news.circuit_count, "new circuit")),
            (news.labels, markup.counted(news.labels, "new label")),
            (len(news.annotations), markup.counted(len(news.annotations), "new annotation")),
            (len(news.jobs) - failed, f"{markup.counted(len(news.jobs) - failed, 'job')} of yours ended"),
            (failed, f"{markup.counted(failed, 'job')} of yours failed"),
        )
        if n
    ]
    lines = []
    if said:
        lines.append(markup.tag("p", ", ".join(said), " · ", markup.link("news", "What is new"), cls="ca-line"))
    busy = work.counted_states({state: counts.get(state, 0) for state in ("queued", "running")})
    if busy:
        lines.append(markup.tag("p", f"The queue: {busy} · ", markup.link("jobs", "Jobs"), cls="ca-line"))
    if lines:
        show(*lines)


with guarded():
    overview = get_atlas().overview()
    what_is_new(get_atlas())

if not overview.circuits:
    note("The atlas is empty. Fill it from a terminal, then reload this page:")
    st.code(
        "atlas demo                 # traces sample prompts with the small model that is shipped\n"
        "atlas import PATH          # graph files of other tools, or a folder of them\n"
        'atlas trace "The capital of France is" --model FOLDER --transcoders FOLDER',
        language="bash",
    )
    show(markup.tag("p", "Or, with a worker running: ", markup.link("trace", "trace prompts"), " here.", cls="ca-line"))
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
        "A circuit is a hypothesis about how the model came to its answer. Its verdict says how far its scores bear it out; “crisp” needs interventions in the model, and “untested” means that nothing could be judged."
    )

pairs: list[tuple[object, object]] = [("Models", ", ".join(overview.models) or "none yet")]
if overview.collections:
    pairs.append(("Collections", ", ".join(overview.collections)))
pairs += [("Graph server", overview.graph), ("Home", get_atlas().settings.home)]
heading("This atlas")
show(markup.facts(pairs))
