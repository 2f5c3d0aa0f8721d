"""`verify`: a standard battery of interventions that gives a circuit a causal score, beside what simpler things would score.

Of a feature graph: its strongest features and its supernodes are ablated one by one in the real model, every edge on its strongest
paths is cut, matched controls stand beside each. The score is the rank correlation of predicted and measured effect on the first
target over the features, one by one (supernodes are made of them and would count twice).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.causal_records import (
    BaselineScore,
    InterventionRequest,
    InterventionResult,
    InterventionRow,
    VerifyRequest,
    VerifyResult,
)
from atlas.circuit import Circuit
from atlas.evidence import (
    bootstrap_interval,
    check_has_paths,
    checked_rows,
    control_p_value,
    of_components,
    rank_correlation,
)
from atlas.path_search import find_paths
from ingest.causal.found import found_pair
from ingest.causal.full_graph import full_predictions
from ingest.causal.laboratory import Laboratory
from ingest.causal.network import Progress
from ingest.interventions import ENGINE, provenance, supernodes
from ingest.models.base import Model
from ingest.transcoders.permuted import permuted_set
from ingest.transcoders.set import TranscoderSet

if TYPE_CHECKING:
    from atlas.api import Atlas

GROUP = 12  # interventions measured and stored together: what a kill loses
SUPERNODES = 20  # at most


def verify(
    atlas: Atlas,
    request: VerifyRequest,
    *,
    model: Model | None = None,
    transcoders: TranscoderSet | None = None,
    progress: Progress | None = None,
    origin: dict[str, Any] | None = None,
) -> VerifyResult:
    """Do the battery, store its interventions and the result; model and set are found by the circuit's record when not given.

    Interventions of the same battery (same circuit, request, model and engine) that are stored already are not made again, so
    that a killed verification goes on where it was; one that was completed is returned as it is. Raises as `intervene` does.
    """
    began = time.monotonic()
    circuit = atlas.load(atlas.resolve(request.circuit))
    request = request.model_copy(update={"circuit": circuit.id})
    check_has_paths(circuit)
    if of_components(circuit):
        return _verify_components(atlas, circuit, request, model, progress, origin, began)
    pair = found_pair(atlas, circuit, model, transcoders)
    groups = {group.name: group.node_keys for group in supernodes(atlas, circuit)}
    made_with = provenance(*pair, origin)
    made_with |= {"battery": battery_id(request, made_with, groups)}
    known = completed(atlas, circuit.id, made_with["battery"])
    if known is not None:
        return known
    laboratory = Laboratory(*pair, circuit)
    made_with |= {
        "unit": "ablations of single features; effect on the first target",
        "features_firing": round(laboratory.firing_share, 4),
    }
    asked = _battery(circuit, laboratory, request, groups)

    def measure(part: list[InterventionRequest]) -> list[InterventionResult]:
        names = supernodes(atlas, circuit)
        trials = [laboratory.trial(one, checked_rows(circuit, names, one)) for one in part]
        return laboratory.results(trials, progress)

    rows = measured_rows(atlas, circuit, asked, measure, made_with, progress)
    single = [row for row in rows if row.request.kind != "cut" and row.request.supernode is None]
    result = summary(request, rows, single, _baselines(laboratory, single, request, progress))
    result.provenance = made_with
    return stored(atlas, result, began)


def _verify_components(
    atlas: Atlas,
    circuit: Circuit,
    request: VerifyRequest,
    model: Model | None,
    progress: Progress | None,
    origin: dict[str, Any] | None,
    began: float,
) -> VerifyResult:
    """The same for heads and MLPs on all cases of the circuit: scores against measured effects of the corrupted outputs."""
    from ingest.causal.component_battery import baselines, battery
    from ingest.causal.components import ComponentLaboratory, Trial
    from ingest.components.found import found_model

    found = found_model(atlas, circuit, model)
    made_with = provenance(found, None, origin)
    made_with |= {"battery": battery_id(request, made_with, {})}
    known = completed(atlas, circuit.id, made_with["battery"])
    if known is not None:
        return known
    laboratory = ComponentLaboratory(found, circuit, request.prompts)
    made_with |= {"unit": "heads and MLPs replaced by their output on corrupted prompts; effect on the metric"}

    def measure(part: list[InterventionRequest]) -> list[InterventionResult]:
        return laboratory.results([Trial(one, checked_rows(circuit, [], one)) for one in part], progress)

    asked = battery(circuit, laboratory, request)
    rows = measured_rows(atlas, circuit, asked, measure, made_with, progress)
    single = [row for row in rows if row.request.kind != "cut"]
    result = summary(request, rows, single, baselines(laboratory, single, progress))
    result.provenance = made_with
    return stored(atlas, result, began)


# -- the battery


def battery_id(request: VerifyRequest, made_with: dict[str, Any], groups: dict[str, list[str]]) -> str:
    """`b1-` and 20 hex digits, the same for the same questions to the same model by the same engine."""
    what = [
        request.model_dump(),
        [made_with.get(name) for name in ("engine", "weights_hash", "transcoders_hash", "dtype")],
        sorted(groups.items()),
        ENGINE,
    ]
    return "b1-" + hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]


def completed(atlas: Atlas, circuit: str, battery: str) -> VerifyResult | None:
    for row in atlas.measurements(circuit, "verification", limit=None):
        if row.document.get("provenance", {}).get("battery") == battery:
            return VerifyResult.model_validate(row.document)
    return None


def strongest_nodes(circuit: Circuit, kinds: Sequence[str], count: int) -> list[int]:
    """Rows of these kinds by falling influence on the targets."""
    rows = np.flatnonzero(circuit.nodes.is_kind(*kinds))
    influence = np.nan_to_num(np.abs(circuit.nodes.influence[rows].astype(np.float64)))
    return rows[np.argsort(-influence, kind="stable")][:count].tolist()


def _battery(
    circuit: Circuit, laboratory: Laboratory, request: VerifyRequest, groups: dict[str, list[str]]
) -> list[InterventionRequest]:
    """What is asked."""

    def ask(kind: Any, **more: Any) -> InterventionRequest:
        return InterventionRequest(
            circuit=circuit.id,
            kind=kind,
            controls=request.controls,
            prompts=request.prompts,
            seed=request.seed,
            **more,
        )

    targets = set(laboratory.target_rows)
    features = [row for row in strongest_nodes(circuit, ("feature",), len(circuit.nodes)) if row not in targets]
    features = features[: request.features]
    changeable = circuit.nodes.is_kind("feature", "error", "token")
    strength = np.nan_to_num(circuit.nodes.influence.astype(np.float64))
    whole = {
        name: [circuit.row(key) for key in keys]
        for name, keys in groups.items()
        if len(keys) > 1 and all(changeable[circuit.row(key)] for key in keys)
    }
    chosen = sorted(whole, key=lambda name: -strength[whole[name]].sum())[:SUPERNODES]
    asked = [ask("ablate", nodes=[circuit.keys[row]]) for row in features]
    asked += [ask("ablate", supernode=name) for name in chosen]
    asked += [
        ask("cut", nodes=[circuit.keys[s], circuit.keys[t]])
        for s, t in path_edges(circuit, laboratory.target_rows[0], request.paths)
    ]
    return asked


def path_edges(circuit: Circuit, target: int, paths: int) -> list[tuple[int, int]]:
    """Every edge of the strongest paths from tokens to a target, once. Of a graph without tokens, from its beginnings."""
    if not paths:
        return []
    sources = np.flatnonzero(circuit.nodes.is_kind("token"))
    if not len(sources):
        sources = np.setdiff1d(circuit.edges.source, circuit.edges.target)
    found = find_paths(circuit, sources, np.array([target]), paths).paths
    pairs = {
        (int(circuit.edges.source[edge]), int(circuit.edges.target[edge])): None
        for path in found
        for edge in path.edges
    }
    return list(pairs)


def _key(request: InterventionRequest) -> tuple[str, str | None, tuple[str, ...]]:
    return request.kind, request.supernode, tuple(request.nodes)


def measured_rows(
    atlas: Atlas,
    circuit: Circuit,
    asked: list[InterventionRequest],
    measure: Callable[[list[InterventionRequest]], list[InterventionResult]],
    made_with: dict[str, Any],
    progress: Progress | None,
) -> list[InterventionRow]:
    """All of the battery's interventions in the order asked; those that are stored are not made again."""
    battery = made_with["battery"]
    found = {_key(row.request): row for row in atlas.interventions(circuit.id, battery=battery, limit=None)}
    todo = [request for request in asked if _key(request) not in found]
    for start in range(0, len(todo), GROUP):
        if progress:
            progress(len(asked) - len(todo) + start, len(asked), "interventions")
        results = measure(todo[start : start + GROUP])
        for result in results:
            result.provenance = made_with
        found |= {_key(row.request): row for row in atlas.add_interventions(results, battery=battery)}
    return [found[_key(request)] for request in asked]


# -- the score


def summary(
    request: VerifyRequest, rows: list[InterventionRow], single: list[InterventionRow], baselines: list[BaselineScore]
) -> VerifyResult:
    """rows: the whole battery. single: nodes ablated one by one, over which the score is."""
    points = [row.targets[0].model_copy(update={"node": row.nodes[0], "text": row.mark}) for row in single]
    predicted = np.array([[_zero(point.predicted) for point in points]])
    measured = np.array([[point.measured for point in points]])
    over_prompts = bool(single) and min(len(row.prompts) for row in single) > 1
    if over_prompts:
        predicted = np.array([[_zero(one.predicted) for one in row.prompts] for row in single]).T
        measured = np.array([[one.measured for one in row.prompts] for row in single]).T
    nodes = [row for row in rows if row.request.kind != "cut"]
    edges = [row for row in rows if row.request.kind == "cut"]
    means = predicted.mean(axis=0), measured.mean(axis=0)
    return VerifyResult(
        circuit=request.circuit,
        spearman=rank_correlation(*means),
        interval=bootstrap_interval(predicted, measured, request.seed),
        interval_over="prompts" if over_prompts else "nodes",
        p_value=control_p_value(*means, [row.controls.effects for row in single], request.seed),
        tested=len(nodes),
        confirmed=_count(nodes, "confirmed"),
        refuted=_count(nodes, "refuted"),
        inconclusive=_count(nodes, "inconclusive"),
        controls=len({key for row in rows for key in row.controls.features}),
        edges_confirmed=_count(edges, "confirmed"),
        edges_refuted=_count(edges, "refuted"),
        edges_inconclusive=_count(edges, "inconclusive"),
        baselines=baselines,
        points=points,
        interventions=[row.id for row in rows],
    )


def _count(rows: list[InterventionRow], mark: str) -> int:
    return sum(row.mark == mark for row in rows)


def _zero(predicted: float | None) -> float:
    """No path to the target: the graph says that nothing happens."""
    return 0.0 if predicted is None else predicted


def baseline(
    name: str, predictions: Sequence[float] | np.ndarray, measured: Sequence[float], note: str
) -> BaselineScore:
    sizes = rank_correlation(np.abs(predictions), np.abs(measured))
    of_sizes = "" if sizes is None else f"; of absolute values {sizes:.2f}"
    return BaselineScore(name=name, spearman=rank_correlation(predictions, measured), note=note + of_sizes)


def _baselines(
    laboratory: Laboratory, single: list[InterventionRow], request: VerifyRequest, progress: Progress | None
) -> list[BaselineScore]:
    """What simpler things predict of the same measured effects."""
    circuit, first = laboratory.circuit, laboratory.target_rows[0]
    rows = [circuit.row(row.nodes[0]) for row in single]
    measured = [row.targets[0].measured for row in single]
    features = [laboratory.features[row] for row in rows]
    activations = np.array([laboratory.own.value(feature) for feature in features])
    direct = np.array([laboratory.graph.direct(row, first) for row in rows]) * activations
    found = [
        baseline(
            "raw activation", -activations, measured, "the more a feature fires, the more its loss lowers the target"
        ),
        baseline("direct edge", -direct, measured, "the weight of the feature's own edge to the target, 0 without one"),
    ]
    if len(single) < 3:
        return found

    def by_graph(transcoders: TranscoderSet) -> np.ndarray:
        cap = circuit.record.method.parameters.get("max_features")
        on = laboratory.own.ids
        return full_predictions(laboratory.model, transcoders, on, laboratory.first_target, features, cap)

    unpruned = by_graph(laboratory.transcoders)
    found.append(baseline("unpruned graph", unpruned, measured, "the same trace with nothing cut away"))
    scores = []
    for number in range(request.permuted):
        if progress:
            progress(number, request.permuted, "graphs of permuted transcoders")
        score = rank_correlation(by_graph(permuted_set(laboratory.transcoders, request.seed + number)), measured)
        scores += [] if score is None else [score]
    if scores:
        note = f"mean of {len(scores)} unpruned graphs, {min(scores):.2f} to {max(scores):.2f}; on the circuit's own prompt"
        found.append(BaselineScore(name="permuted transcoders", spearman=float(np.mean(scores)), note=note))
    return found


def stored(atlas: Atlas, result: VerifyResult, began: float) -> VerifyResult:
    """Keep it; what comes back carries the verdict that the circuit has from now on."""
    result.seconds = round(time.monotonic() - began, 3)
    return VerifyResult.model_validate(atlas.add_measurement(result.circuit, "verification", result).document)
