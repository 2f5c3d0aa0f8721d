"""Results of causal work made up for tests of pages: what the engines would have stored."""

from __future__ import annotations

import numpy as np

from atlas import Atlas
from atlas.causal_records import (
    BaselineScore,
    Controls,
    Curve,
    FaithfulnessResult,
    InterventionRequest,
    InterventionResult,
    InterventionRow,
    Mark,
    Moved,
    VerifyResult,
)
from atlas.circuit import (
    KIND,
    SITE,
    SLOT,
    Circuit,
    CircuitRecord,
    Edges,
    Example,
    Method,
    ModelRef,
    Nodes,
    SetRef,
    Target,
)

METRIC = "logit-difference"


def pair_record(name: str, method: str, cases: int = 2, **parameters: object) -> CircuitRecord:
    """A record of work on pairs: clean and corrupted differ in one token, and the cases in another."""
    clean, corrupted = ["When", " Mary", " and", " John", " gave", " it", " to"], [" Anna", " Paul"]
    examples = [
        Example(
            tokens=[*clean[:1], [" Mary", " Jane"][i % 2], *clean[2:]],
            text="When Mary and John gave it to",
            corrupted_tokens=[*clean[:1], corrupted[i % 2], *clean[2:]],
        )
        for i in range(cases)
    ]
    return CircuitRecord(
        name=name,
        prompt="When Mary and John gave it to",
        examples=examples,
        targets=[Target(kind="difference", what=METRIC)],
        model=ModelRef(name="toy", layers=4),
        transcoders=SetRef(name="components"),
        method=Method(name=method, weight_unit=METRIC, parameters={"metric": METRIC, **parameters}),
    )


def patching_circuit(name: str = "patched", layers: int = 4, heads: int = 3, seed: int = 0) -> Circuit:
    """Activation patching of stream, attention, MLPs by position, and heads over all positions; no edges."""
    record = pair_record(name, "activation patching", direction="denoise", seed=seed)
    positions = len(record.examples[0].tokens)
    places = [
        (k, s, la, p, -1)
        for k, s in (("resid", "pre"), ("attn", "out"), ("mlp", "out"))
        for la in range(layers)
        for p in range(positions)
    ]
    places += [("head", "out", la, -1, h) for la in range(layers) for h in range(heads)]
    draw = np.random.default_rng(seed)
    effect = (draw.normal(0, 0.06, len(places))).astype(np.float32)
    for at, (kind, _, layer, position, head) in enumerate(places):
        if kind == "resid":
            effect[at] += (
                max(0.0, 1 - layer / 2) * (position == 3)
                + max(0.0, layer / 2 - 0.5) * (position == positions - 1) * 0.8
            )
        if kind == "head" and (layer, head) in {(2, 1), (3, 0)}:
            effect[at] = 0.7 if layer == 2 else -0.42
    metric = (1.5 + 2.5 * effect).astype(np.float32)
    nodes = Nodes(
        kind=[KIND[place[0]] for place in places],
        site=[SITE[place[1]] for place in places],
        layer=[place[2] for place in places],
        position=[place[3] for place in places],
        index=[place[4] for place in places],
        activation=metric,
        influence=np.abs(effect),
    )

    return Circuit(record, nodes, Edges(length=0), {"patching.effect": effect, "patching.metric": metric})


def component_circuit(name: str = "components", layers: int = 3, heads: int = 4) -> Circuit:
    """Embeddings, heads and MLPs, pooled over positions, with edges into q, k, v and straight."""
    places = [("token", -1, -1), *(("head", la, h) for la in range(layers) for h in range(heads))]
    places += [*(("mlp", la, -1) for la in range(layers)), ("logit", layers, -1)]
    row = {place: at for at, place in enumerate(places)}
    edges = [(row["token", -1, -1], row["head", 0, 1], slot, 0.5 - 0.2 * i) for i, slot in enumerate("qkv")]
    edges += [
        (row["head", 0, 1], row["mlp", 0, -1], "direct", 0.4),
        (row["head", 0, 1], row["head", 1, 2], "k", 0.8),
        (row["mlp", 0, -1], row["head", 1, 2], "q", -0.3),
        (row["head", 1, 2], row["head", 2, 0], "v", 0.6),
        (row["head", 1, 2], row["logit", layers, -1], "direct", 0.9),
        (row["head", 2, 0], row["logit", layers, -1], "direct", 1.4),
        (row["head", 2, 3], row["logit", layers, -1], "direct", -0.7),
        (row["mlp", 2, -1], row["logit", layers, -1], "direct", 0.2),
    ]
    nodes = Nodes(
        kind=[KIND[place[0]] for place in places],
        layer=[place[1] for place in places],
        index=[place[2] for place in places],
        influence=np.linspace(0.1, 1.0, len(places)),
    )
    made = Edges(
        source=[e[0] for e in edges],
        target=[e[1] for e in edges],
        slot=[SLOT[e[2]] for e in edges],
        weight=[e[3] for e in edges],
    )
    record = pair_record(name, "edge attribution patching", steps=5)
    return Circuit(record, nodes, made, {"eap.node_score": nodes.influence})


def intervention(
    circuit: Circuit,
    nodes: list[str],
    mark: Mark,
    predicted: float,
    measured: float,
    *,
    kind: str = "ablate",
    controls: int = 12,
    seed: int = 0,
    **request: object,
) -> InterventionResult:
    """One with made-up controls and changes downstream; the target of a cut is its last node, else the last logit."""
    draw = np.random.default_rng(seed)
    effects = np.round(draw.normal(0, 0.08, controls), 4).tolist()
    last = nodes[-1] if kind == "cut" else circuit.keys[int(np.flatnonzero(circuit.nodes.is_kind("logit"))[0])]
    downstream = [key for key in circuit.keys if not key.startswith(("token", "error", "logit"))][-20:]
    expected = draw.normal(0, 0.3, len(downstream))
    moved = [
        Moved(
            node=key,
            text=key,
            before=1.0,
            measured=round(float(0.8 * e + draw.normal(0, 0.08)), 4),
            predicted=round(float(e), 4),
        )
        for key, e in zip(downstream, expected, strict=True)
    ]
    quantile = float(np.quantile(np.abs(effects), 0.95)) if effects else None
    return InterventionResult(
        request=InterventionRequest(circuit=circuit.id, kind=kind, nodes=nodes, **request),
        nodes=nodes,
        prompt=circuit.record.prompt,
        targets=[Moved(node=last, text=last, before=2.0, measured=measured, predicted=predicted)],
        moved=[] if kind == "cut" else moved,
        controls=Controls(
            count=controls, same_position=min(controls, 9), features=[], quantile=quantile, effects=effects
        ),
        mark=mark,
        reason=f"Made up: predicted {predicted:.3g}, measured {measured:.3g}.",
        spearman=None if kind == "cut" else 0.84,
        provenance={"device": "cpu", "dtype": "float32"},
    )


def verification(atlas: Atlas, circuit: Circuit, tested: list[str], seed: int = 0) -> VerifyResult:
    """Stores one intervention for each of the nodes and the verification that they are part of; returns it."""
    draw = np.random.default_rng(seed)
    rows: list[InterventionRow] = []
    for at, key in enumerate(tested):
        predicted = round(float(draw.normal(0, 0.5)), 4)
        measured = (
            round(predicted * 0.8 + float(draw.normal(0, 0.12)), 4) if at % 5 else round(float(draw.normal(0, 0.05)), 4)
        )
        mark: Mark = "refuted" if at % 5 == 0 else "confirmed" if abs(predicted) > 0.2 else "inconclusive"
        rows.append(atlas.add_intervention(intervention(circuit, [key], mark, predicted, measured, seed=at), "battery"))
    count = {mark: sum(row.mark == mark for row in rows) for mark in ("confirmed", "refuted", "inconclusive")}
    result = VerifyResult(
        circuit=circuit.id,
        spearman=0.81,
        interval=(0.55, 0.93),
        interval_over="nodes",
        p_value=0.0005,
        tested=len(rows),
        **count,
        controls=12 * len(rows),
        edges_confirmed=2,
        edges_refuted=1,
        baselines=[
            BaselineScore(name="raw activation", spearman=0.31),
            BaselineScore(name="direct edge to the logit", spearman=0.62),
            BaselineScore(name="permuted transcoders", spearman=-0.05, note="mean of 3 graphs"),
        ],
        points=[row.targets[0].model_copy(update={"node": row.nodes[0]}) for row in rows],
        interventions=[row.id for row in rows],
        seconds=21.4,
    )
    atlas.add_measurement(circuit.id, "verification", result)
    return result


def faithfulness(circuit: Circuit) -> FaithfulnessResult:
    fractions = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    at = np.log10(np.array(fractions) * 1000) / 3
    curve = lambda name, power, room=0.0: Curve(  # noqa: E731
        name=name,
        values=np.round(at**power, 4).tolist(),
        low=np.round(at**power - room * (1 - at), 4).tolist() if room else None,
        high=np.round(at**power + room * (1 - at), 4).tolist() if room else None,
    )
    return FaithfulnessResult(
        circuit=circuit.id,
        metric=METRIC,
        fractions=fractions,
        full=4.1,
        empty=-3.9,
        signed=curve("signed", 0.4),
        absolute=curve("absolute", 0.6),
        damage=curve("damage", 0.3),
        baselines=[curve("random circuits", 4, 0.12), curve("plain gradients", 1.2)],
        cpr=0.78,
        cmd=0.21,
        baseline_cpr={"random circuits": 0.2, "plain gradients": 0.5},
        baseline_cmd={"random circuits": 0.8, "plain gradients": 0.49},
        total=11_000,
        circuit_size=420,
        circuit_faithfulness=0.87,
        cases=50,
        seconds=8.0,
    )
