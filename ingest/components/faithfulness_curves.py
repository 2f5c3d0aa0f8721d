"""Faithfulness curves of a circuit that is in the atlas: how much of what the whole model does its best parts do alone.

Component circuits: an edge outside the circuit carries what its source writes on the corrupted prompt, exactly
(`SplitNetwork`); edges are ranked by the scores of the method the circuit was found with, made again for all edges. Feature
graphs: a feature outside is off, everything else free (`ingest.components.features` says why zero); features are ranked by their
total effect in the stored graph, those the graph does not have come between the positive and the negative ones, in random
order. Grid, f, CPR and CMD: `ingest.components.curves`.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atlas.causal_records import CircuitFaithfulnessRequest, Curve, FaithfulnessResult
from atlas.circuit import Circuit
from atlas.errors import InputRejected
from ingest.causal.found import found_pair
from ingest.components import curves
from ingest.components.curves import FRACTIONS
from ingest.components.eap import edge_scores
from ingest.components.features import FeatureRuns, rows_of_features, total_effects
from ingest.components.found import found_model
from ingest.components.metrics import metric
from ingest.components.network import with_clean_logits
from ingest.components.pairs import recorded_cases
from ingest.components.split import SplitNetwork
from ingest.components.units import Kept
from ingest.components.wiring import Wiring
from ingest.trace.attribute import Progress
from ingest.trace.targets import recorded_targets

if TYPE_CHECKING:
    from atlas.api import Atlas
    from ingest.models.base import Model
    from ingest.transcoders.set import TranscoderSet

COMPONENTS = "components"  # what the set of a component circuit is called
AT_ONCE = 8  # circuits between two entries of what is kept of an unfinished run
Measure = Callable[[np.ndarray], np.ndarray]  # (M, n) bool, what stays -> (M,) the metric


def faithfulness(
    atlas: Atlas,
    request: CircuitFaithfulnessRequest,
    model: Model | None = None,
    transcoders: TranscoderSet | None = None,
    progress: Progress | None = None,
    origin: dict[str, Any] | None = None,
    resume_dir: Path | None = None,
) -> FaithfulnessResult:
    """Measure the curves and keep them as a measurement of the circuit.

    model, transcoders: looked for by the circuit's record when None. origin: the job and its worker, for the provenance.
    resume_dir: under it what was measured is kept until the curves are, by default under the atlas's home.
    Raises NotFound, ModelRejected (not here, or other weights), InputRejected (a circuit without edges or targets to measure, a
    metric that the corruption does not move), UsageError (a metric that names a function).
    """
    began = time.monotonic()
    circuit = atlas.load(request.circuit)
    folder = (resume_dir or atlas.settings.home / "unfinished") / f"faithfulness-{circuit.id}"
    if circuit.record.transcoders.name == COMPONENTS:
        result = of_components(circuit, found_model(atlas, circuit, model), request, progress, Kept(folder))
    else:
        pair = found_pair(atlas, circuit, model, transcoders)
        result = of_features(circuit, *pair, request, progress, Kept(folder))
    result.seconds = round(time.monotonic() - began, 3)
    result.provenance |= {"seed": request.seed, "random_circuits": request.random_circuits} | (origin or {})
    atlas.add_measurement(circuit.id, "faithfulness", result)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def of_components(
    circuit: Circuit,
    model: Any,
    request: CircuitFaithfulnessRequest,
    progress: Progress | None = None,
    done: Kept | None = None,
) -> FaithfulnessResult:
    """The curves of a component circuit, not kept. Raises as `faithfulness`."""
    parameters = circuit.record.method.parameters
    if not len(circuit.edges) or "steps" not in parameters:
        raise InputRejected(
            f"The circuit {circuit.id} has no edges to keep or cut.",
            "Heat maps of activation patching have none; find a circuit with `atlas components`.",
        )
    measured = metric(
        parameters["metric"], functions=False
    )  # a stored circuit may be somebody else's: it chooses no code
    cases = recorded_cases(model, circuit.record)
    if measured.needs_clean:
        cases = with_clean_logits(model, cases)
    network = SplitNetwork(model)
    steps = int(parameters["steps"])
    if progress:
        progress(0, 1, "scoring edges")
    scores = _numbers(edge_scores(model, cases, measured, steps).scores)
    plain = scores if steps == 1 else _numbers(edge_scores(model, cases, measured, 1).scores)

    def measure(keeps: np.ndarray) -> np.ndarray:
        values = network.measure(cases, torch.from_numpy(keeps), measured)
        return values.double().mean(1).cpu().numpy()

    piecewise = in_pieces(measure, progress, done)
    result = curves_of(circuit.id, piecewise, scores, plain, request, own=own_edges(circuit, network.wiring))
    result.metric, result.cases, result.unit = parameters["metric"], len(cases), "edges"
    result.provenance["method"] = circuit.record.method.name
    result.provenance["replacement"] = "counterfactual: the source's output on the corrupted prompt"
    return result


def _numbers(scores: Any) -> np.ndarray:
    return scores.double().cpu().numpy() if isinstance(scores, torch.Tensor) else np.asarray(scores, np.float64)


def own_edges(circuit: Circuit, wiring: Wiring) -> np.ndarray:
    """(E,) bool: the edges of the whole network that the stored circuit has. Edges of neurons are parts of their MLP's."""
    nodes = Circuit(circuit.record, wiring.nodes(), circuit.edges.take(np.zeros(0, np.int64)))
    row = np.array([nodes.row_of_key.get(key, -1) for key in circuit.keys], np.int64)
    have = {
        (row[source], row[target], slot)
        for source, target, slot in zip(
            circuit.edges.source.tolist(), circuit.edges.target.tolist(), circuit.edges.slot.tolist(), strict=True
        )
    }
    whole = zip(wiring.edge_source.tolist(), wiring.edge_target.tolist(), wiring.edge_slot.tolist(), strict=True)
    return np.array([edge in have for edge in whole], bool)


def of_features(
    circuit: Circuit,
    model: Any,
    transcoders: TranscoderSet,
    request: CircuitFaithfulnessRequest,
    progress: Progress | None = None,
    done: Kept | None = None,
) -> FaithfulnessResult:
    """The curves of a feature graph, not kept. Raises as `faithfulness`."""
    record = circuit.record
    ids = record.examples[0].token_ids if record.examples else None
    if ids is None:
        raise InputRejected(
            f"The circuit {circuit.id} does not say which token ids it was traced on.", "Trace its prompt again."
        )
    runs = FeatureRuns(model, transcoders, ids, recorded_targets(model, circuit))
    rows = rows_of_features(circuit, runs.features)
    if not (rows >= 0).any():
        raise InputRejected(
            f"None of the features of the circuit {circuit.id} fires on its prompt in the model that is here.",
            "Load the model and the set it was traced with.",
        )
    effects = np.where(rows >= 0, total_effects(circuit)[rows], 0.0)
    piecewise = in_pieces(runs.metric, progress, done)
    result = curves_of(circuit.id, piecewise, effects, runs.gradient_scores(), request, own=rows >= 0)
    result.metric = " + ".join(target.what for target in record.targets)[:200]
    result.cases, result.unit = 1, "features"
    result.provenance["replacement"] = "zero: features off wherever they fire, errors and everything else free"
    result.provenance["metric"] = "sum of the targets' centred logits, weighted by their probabilities"
    absent = int((circuit.nodes.is_kind("feature")).sum() - (rows >= 0).sum())
    if absent:
        result.provenance["features_that_do_not_fire_here"] = absent
    return result


def in_pieces(measure: Measure, progress: Progress | None = None, done: Kept | None = None) -> Measure:
    """The same, a few circuits at a time; what is found in `done` is taken from there."""
    done = done or Kept(None)

    def all_of(keeps: np.ndarray) -> np.ndarray:
        values = []
        for start in range(0, len(keeps), AT_ONCE):
            if progress:
                progress(start, len(keeps), "running circuits")
            part = keeps[start : start + AT_ONCE]
            name = hashlib.sha256(np.packbits(part).tobytes()).hexdigest()[:32]
            value = done.get(name, (len(part),))
            if value is None:
                value = measure(part).astype(np.float64)
                done.put(name, value)
            values.append(value)
        return np.concatenate(values)

    return all_of


def curves_of(
    circuit: str,
    measure: Measure,
    scores: np.ndarray,
    plain: np.ndarray,
    request: CircuitFaithfulnessRequest,
    own: np.ndarray | None = None,
) -> FaithfulnessResult:
    """All curves from one measuring of all circuits that they need, equal ones once.

    scores, plain: (n,) of the method and of plain gradients, positive = the metric would fall without it. own: (n,) bool, the
    circuit as stored. Equal scores are ordered at random, by the request's seed. Raises InputRejected.
    """
    n = len(scores)
    generator = np.random.default_rng(request.seed)
    shuffled = generator.permutation(n)

    def ranked(values: np.ndarray, absolute: bool) -> np.ndarray:
        return shuffled[curves.ranking(values[shuffled], absolute=absolute)]

    orders = {
        "signed": ranked(scores, False),
        "absolute": ranked(scores, True),
        "plain signed": ranked(plain, False),
        "plain absolute": ranked(plain, True),
    }
    orders |= {f"random {i}": generator.permutation(n) for i in range(request.random_circuits)}
    sizes = curves.sizes(n)
    wanted = {(name, size): curves.kept(order, size) for name, order in orders.items() for size in sizes}
    wanted |= {("damage", size): ~curves.kept(orders["signed"], size) for size in sizes}
    wanted |= {("end", 0): np.zeros(n, bool), ("end", n): np.ones(n, bool)}
    if own is not None:
        wanted["own", 0] = own
    different = {mask.tobytes(): mask for mask in wanted.values()}
    values = dict(zip(different, measure(np.stack(list(different.values()))).tolist(), strict=True))
    value = {key: values[mask.tobytes()] for key, mask in wanted.items()}
    empty, full = value["end", 0], value["end", n]

    def curve(name: str) -> list[float]:
        return curves.faithfulness([value[name, size] for size in sizes], full, empty)

    signed, absolute = curve("signed"), curve("absolute")
    plain_signed, plain_absolute = curve("plain signed"), curve("plain absolute")
    random = np.array([curve(f"random {i}") for i in range(request.random_circuits)])
    return FaithfulnessResult(
        circuit=circuit,
        metric="",
        fractions=list(FRACTIONS),
        full=full,
        empty=empty,
        signed=Curve(name="signed score", values=signed),
        absolute=Curve(name="absolute score", values=absolute),
        damage=Curve(name="top removed", values=curves.damage([value["damage", size] for size in sizes], full, empty)),
        baselines=[
            Curve(
                name=f"random circuits of the same size ({request.random_circuits})",
                values=random.mean(0).tolist(),
                low=random.min(0).tolist(),
                high=random.max(0).tolist(),
            ),
            Curve(name="plain gradient, signed", values=plain_signed),
            Curve(name="plain gradient, absolute", values=plain_absolute),
        ],
        cpr=curves.cpr(signed),
        cmd=curves.cmd(absolute),
        baseline_cpr={
            "random": float(np.mean([curves.cpr(row) for row in random])),
            "plain gradient": curves.cpr(plain_signed),
        },
        baseline_cmd={
            "random": float(np.mean([curves.cmd(row) for row in random])),
            "plain gradient": curves.cmd(plain_absolute),
        },
        total=n,
        circuit_size=None if own is None else int(own.sum()),
        circuit_faithfulness=None if own is None else curves.faithfulness([value["own", 0]], full, empty)[0],
        provenance={"circuits_run": len(different)},
    )
