"""What differs between two circuits."""

from __future__ import annotations

import itertools

import streamlit as st

from atlas.circuit import Circuit
from atlas.records import CircuitRow, ComparedEdge, Comparison
from ui import markup
from ui.canvas import contract
from ui.canvas.component import canvas
from ui.listing import circuit_name
from ui.shared import asked, begin, get_atlas, guarded, heading, note, remember, show

MOST_EDGES = 60
NEWEST = 40  # circuits looked through for a first pair
begin("Compare")
with guarded():
    atlas = get_atlas()
    rows = {row.id: row for row in atlas.circuits(limit=1000)}

if len(rows) < 2:
    note("Comparing needs two circuits; this atlas has fewer.")
    st.stop()


def choose(column, name: str, fallback: str) -> str:
    ids = list(rows)
    wanted = asked(name.lower())
    return column.selectbox(
        f"Circuit {name}",
        ids,
        index=ids.index(wanted if wanted in rows else fallback),
        format_func=lambda i: f"{circuit_name(rows[i])} — {rows[i].prompt}",
    )


def first_pair() -> tuple[str, str]:
    """Among the newest circuits of one model and set the two whose prompts share the most words: those tell most."""

    def alike(pair: tuple[CircuitRow, CircuitRow]) -> tuple[bool, float]:
        a, b = pair
        words = set(a.prompt.split()), set(b.prompt.split())
        together = len(words[0] & words[1]) / (len(words[0] | words[1]) or 1)
        return (a.model, a.transcoders) == (b.model, b.transcoders), together

    a, b = max(itertools.combinations(list(rows.values())[:NEWEST], 2), key=alike)
    return a.id, b.id


first, second = first_pair()
left, right = st.columns(2)
a, b = choose(left, "A", first), choose(right, "B", second)
remember(a=a, b=b)


@st.cache_resource(show_spinner="Comparing ...", max_entries=6)
def compared(a: str, b: str, made: tuple[str, ...]) -> tuple[Comparison, dict, list[dict[str, str]]]:
    """Comparison, payload and the nodes' names in A and in B, read-only; `made` changes when replicates arrive."""
    result = atlas.compare(a, b)
    circuits = atlas.load(a), atlas.load(b)
    labels = atlas.node_labels(a), atlas.node_labels(b)
    payload = contract.difference(*circuits, *labels, floor=result.floor)
    contract.check(payload)
    return result, payload, [name_by_key(c, known) for c, known in zip(circuits, labels, strict=True)]


def name_by_key(circuit: Circuit, labels: dict[int, str]) -> dict[str, str]:
    return dict(zip(circuit.keys, contract.node_names(circuit, labels), strict=True))


with guarded():
    made = (*atlas.show(a).replicates, "|", *atlas.show(b).replicates)
    result, payload, names = compared(a, b, made)

show(
    markup.tag(
        "div",
        *(
            markup.tag("div", markup.tag("b", value), markup.tag("span", what))
            for what, value in (
                ("edges in both", f"{result.shared:,}"),
                ("only in A", f"{result.only_a:,}"),
                ("only in B", f"{result.only_b:,}"),
                ("similarity (1 = equal)", f"{result.similarity:.3f}"),
                ("of all edge share lies between nodes of both", markup.share(result.aligned_share)),
                ("noise floor", "not measured" if result.floor is None else markup.share(result.floor)),
            )
        ),
        cls="ca-numbers",
    )
)
if result.floor is None:
    note(
        "Neither circuit has a replicate (a second trace of the same question: `atlas trace ... --again` on another machine or "
        "device), so nothing says which differences are larger than the noise of tracing; “above noise” is left open."
    )
else:
    note("“Above noise” means: larger than any difference between two traces of the same question (the noise floor).")
canvas(payload, key="compare")

heading("Largest differences")


def name_of(key: str, edge: ComparedEdge) -> str:
    """Keys are of A; those of an edge that only B has are of B."""
    name = names[1 if edge.a is None else 0].get(key, key)
    return f"{markup.visible(name)} ({'/'.join(key.split('/')[:3])})"


show(
    markup.table(
        ["From", "To", "A", "B", "B − A", "Above noise"],
        [
            [
                name_of(edge.source, edge),
                name_of(edge.target, edge),
                markup.share(edge.a, signed=True),
                markup.share(edge.b, signed=True),
                markup.share(edge.delta, signed=True),
                {None: "–", True: "yes", False: "no"}[edge.above_noise],
            ]
            for edge in result.edges[:MOST_EDGES]
        ],
        numeric=[2, 3, 4],
    )
)
if len(result.edges) > MOST_EDGES:
    note(f"The {MOST_EDGES} largest of {len(result.edges):,}; all of them: atlas compare A B --json.")
note(
    "Numbers are signed shares of the target's total input; – = that circuit does not have the edge (it may have been pruned away)."
)
