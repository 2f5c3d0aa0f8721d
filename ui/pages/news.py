"""What others did since one's last visit, and one's own jobs that ended. Read only when the reader says so: looking at the
page again, or on another machine, shows the same until then."""

from __future__ import annotations

import streamlit as st

from atlas.group_records import News
from ui import markup, work
from ui.listing import annotation_table, circuit_name, circuit_table, when
from ui.shared import begin, get_atlas, guarded, heading, note, show

NAMED = 1000  # circuits whose names are looked up; an older one is shown by its id
begin("What is new")


def read_until(time: str) -> None:
    with guarded():
        get_atlas().visited(time)


def numbers(news: News) -> None:
    counts = (
        (news.circuit_count, "circuit", " by others"),
        (news.labels, "label", " by others"),
        (len(news.annotations), "annotation", " by others"),
        (len(news.jobs), "job", " of yours that ended"),
    )
    show(
        markup.tag(
            "div",
            *(
                markup.tag(
                    "div", markup.tag("b", f"{n:,}"), markup.tag("span", f"{what}{'' if n == 1 else 's'}{whose}")
                )
                for n, what, whose in counts
                if n
            ),
            cls="ca-numbers",
        )
    )


with guarded():
    news = get_atlas().news()
if news.since:
    note(f"Since {when(news.since)} UTC, when you marked everything as read.")
else:
    note("You have not marked anything as read yet, so everything is new.")
if not work.any_news(news):
    note("Nothing since then. Circuits, labels and annotations by others appear here, and your own jobs when they end.")
    st.stop()
st.button(
    "Mark all as read",
    on_click=read_until,
    args=(news.until,),
    type="primary",
    help="Until you press it, all this stays new. What came after this page was opened stays new in any case.",
)
numbers(news)
if news.jobs:
    heading("Your jobs that ended")
    show(*(work.job_card(job) for job in news.jobs))
if news.annotations:
    heading("Notes, tags, names and supernodes")
    with guarded():
        names = {row.id: circuit_name(row) for row in get_atlas().circuits(limit=NAMED)}
    show(annotation_table(news.annotations, names))
if news.circuits:
    heading("Circuits")
    show(circuit_table(news.circuits))
    if news.circuit_count > len(news.circuits):
        note(f"The newest {len(news.circuits)} of {news.circuit_count:,}.")
if news.labels:
    note(f"{markup.counted(news.labels, 'label')} by others; the page of a feature shows who wrote which.")
