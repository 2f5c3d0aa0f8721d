"""Read-only Cypher over the whole atlas."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from atlas.errors import AtlasError
from ui.shared import asked, begin, get_atlas, guarded, note, problem

EXAMPLES = {
    "Circuits by size": "MATCH (c:Circuit)-[:CONTAINS]->(n:Node)\nRETURN c.name AS circuit, c.prompt AS prompt, count(n) AS nodes\nORDER BY nodes DESC LIMIT 20",
    "Features in most circuits": "MATCH (f:Feature)\nRETURN f.key AS feature, f.label AS label, f.circuits AS circuits\nORDER BY circuits DESC LIMIT 20",
    "Strongest influences between features": "MATCH (a:Feature)-[i:INFLUENCES]->(b:Feature)\nRETURN a.label AS source, b.label AS target, i.mean_share AS share, i.circuits AS circuits\nORDER BY circuits DESC, share DESC LIMIT 20",
    "What feeds the outputs": "MATCH (s:Node)-[e:ATTRIBUTES]->(t:Node {kind: 'logit'})\nRETURN t.token AS output, s.key AS source, e.weight AS weight, e.share AS share\nORDER BY share DESC LIMIT 20",
}
begin("Cypher")
with guarded():
    atlas = get_atlas()
    settings = atlas.settings


def fill() -> None:
    if st.session_state.example:
        st.session_state.query = EXAMPLES[st.session_state.example]


if "query" not in st.session_state:
    st.session_state.query = asked("q") or next(iter(EXAMPLES.values()))
st.selectbox(
    "Examples", list(EXAMPLES), index=None, placeholder="Choose one to start from", key="example", on_change=fill
)
query = st.text_area("Query", key="query", height=170)
left, right = st.columns([1, 4], vertical_alignment="bottom")
limit = left.number_input("Row limit", 1, settings.cypher_row_limit, min(200, settings.cypher_row_limit))
run = right.button("Run", type="primary")
note(
    f"Reading only: anything that writes is refused, also under EXPLAIN. At most {settings.cypher_row_limit:,} rows "
    f"and {settings.cypher_timeout_seconds:g} seconds. Nodes: Circuit, Node, Feature, Component, Concept, Supernode, Collection; "
    "relationships: CONTAINS, ATTRIBUTES, OCCURRENCE_OF, INFLUENCES, GROUPS, HAS_SUPERNODE, HAS."
)


def column_of(values: list) -> list:
    """Values of one column as a table can hold them: of one type; graph values and mixed ones become text."""
    types = {type(value) for value in values if value is not None}
    if len(types) <= 1 and not types & {dict, list}:
        return values
    return [
        None if v is None else v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False)
        for v in values
    ]


if run and query.strip():
    st.query_params["q"] = query
    try:
        with st.spinner("Running ..."):
            st.session_state.answer = atlas.cypher(query, limit=int(limit))
    except AtlasError as error:
        st.session_state.pop("answer", None)
        problem(error)

answer = st.session_state.get("answer")
if answer is not None:
    note(f"{len(answer.rows):,} rows" + (", cut off at the row limit." if answer.truncated else "."))
    columns = [f"{name} ({i})" if answer.columns.count(name) > 1 else name for i, name in enumerate(answer.columns)]
    frame = pd.DataFrame({name: column_of([row[i] for row in answer.rows]) for i, name in enumerate(columns)})
    st.dataframe(frame, hide_index=True, width="stretch")
    st.download_button("Save as CSV", frame.to_csv(index=False), "cypher.csv", "text/csv")
