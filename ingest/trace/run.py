"""`trace`: one prompt, from words to a circuit in the atlas."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.catalog import circuits
from atlas.circuit import Circuit, CircuitRecord, Edges, Example, Method, ModelRef, Nodes, SetRef
from atlas.errors import UsageError
from atlas.records import Added, TraceResult, TraceScores
from ingest.models import Model, load_model
from ingest.trace import full_file
from ingest.trace.attribute import Warn
from ingest.trace.make import prune_again, traced
from ingest.trace.prompt import continued, prompt_ids
from ingest.trace.rows import Progress
from ingest.trace.targets import TargetSpec, parse_targets
from ingest.transcoders import TranscoderSet, load_transcoders

if TYPE_CHECKING:
    from atlas import Atlas


def trace(
    atlas: Atlas,
    prompt: str | None = None,
    *,
    model: Model | str | Path,
    transcoders: TranscoderSet | str | Path,
    token_ids: Sequence[int] | None = None,
    targets: Sequence[str | int | TargetSpec] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    chat: bool = False,
    continue_by: int = 0,
    at: int | None = None,
    keep_full: bool = False,
    stream: bool | None = None,
    collection: str | None = None,
    again: bool = False,
    origin: dict[str, Any] | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> TraceResult:
    """Trace a prompt and keep the circuit; a trace that the atlas has already is returned as it is unless `again`.

    model, transcoders: loaded objects, folders or hub names. token_ids: exact ids in place of `prompt`, nothing is put in
    front. targets: what to explain, as texts (`ingest.trace.targets`: tokens, differences, features, directions, at any
    position), token ids or specs; default: the fewest most likely tokens that reach `logit_mass`, at most `max_logits`.
    max_features: trace only so many features, chosen by influence on the way; the others count as unexplained.
    continue_by: let the model write so many tokens first (the likeliest each time). at: explain the token at this position of
    what then stands there, so everything from it on is cut off. keep_full: keep the full graph for `prune_circuit`; a
    trace whose full graph was not kept is made again. stream: do without the full graph (True), which takes less memory, more time
    and gives the same circuit; None: where it would take more than half of the free memory.
    Thresholds of 1 keep every node and every non-zero edge. origin: the `job` and its worker, for the provenance; with
    `again`, a circuit of the same job is returned all the same (the job was killed after it). Raises UsageError, InputRejected or ModelRejected.
    """
    began = time.monotonic()
    _check_numbers(max_logits, logit_mass, max_features, node_threshold, edge_threshold)
    if not isinstance(model, Model):
        model = load_model(model)
    if not isinstance(transcoders, TranscoderSet):
        transcoders = load_transcoders(transcoders, model)
    ids, specs = understood(model, prompt, token_ids, targets, chat=chat, continue_by=continue_by, at=at)
    parameters = {
        "targets": specs and _described(specs),
        "max_logits": None if specs else max_logits,
        "logit_mass": None if specs else logit_mass,
        "max_features": max_features,
        "dtype": model.dtype_name,
    }
    thresholds = {"node": node_threshold, "edge": edge_threshold}
    asked = question(model, transcoders, ids, prompt, parameters, thresholds)

    known = _find(atlas, Circuit(asked, Nodes(0), Edges(0)).trace_key, again, origin)
    if known and not (keep_full and not full_file.place(atlas.settings, known).is_file()):
        circuit = atlas.load(known)
        if collection:
            atlas.add(circuit, collection=collection)
        already = True
    else:
        how: dict[str, Any] = {"stream": stream, "keep_full": keep_full, "progress": progress, "warn": warn}
        circuit, full = traced(model, transcoders, asked, specs, actor=atlas.actor, **how)
        if origin:
            circuit.record.provenance.source_metadata.update(origin)
        if progress:
            progress(1, 1, "storing")
        added = atlas.add(circuit, collection=collection)
        known, already = added.circuit, added.already
        if full is not None:
            full_file.save(full_file.place(atlas.settings, known), full, asked)
    s = circuit.record.scores
    return TraceResult(
        circuit=known,
        nodes=len(circuit.nodes),
        edges=len(circuit.edges),
        already=already,
        scores=TraceScores(
            replacement=s.replacement,
            completeness=s.completeness,
            replacement_pruned=s.replacement_pruned,
            completeness_pruned=s.completeness_pruned,
        ),
        settings=_settings(model, transcoders, circuit.record),
        seconds=round(time.monotonic() - began, 3),
    )


def understood(
    model: Model,
    prompt: str | None,
    token_ids: Sequence[int] | None,
    targets: Sequence[str | int | TargetSpec] | None,
    *,
    chat: bool,
    continue_by: int,
    at: int | None,
) -> tuple[list[int], list[TargetSpec] | None]:
    """(ids to trace, what to explain or None for the likeliest tokens). Arguments and errors as of `trace`."""
    ids, written = continued(model, prompt_ids(model, prompt, token_ids, chat), continue_by, at)
    if written is not None and targets is None:
        targets = [written]
    return ids, None if targets is None else parse_targets(model, targets)


PRUNED = "-pruned-"


def prune_circuit(
    atlas: Atlas,
    circuit: str,
    *,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    collection: str | None = None,
) -> Added:
    """A circuit of the same trace at other thresholds, from its kept full graph. Raises NotFound where none was kept."""
    _check_numbers(1, 1.0, None, node_threshold, edge_threshold)
    loaded = atlas.load(circuit)
    full, _ = full_file.load(full_file.place(atlas.settings, loaded.id))
    fresh = prune_again(full, loaded, node_threshold, edge_threshold)
    # a name of its own, so that the trace can still be told by its name
    name = f"{loaded.record.name.split(PRUNED)[0]}{PRUNED}{node_threshold:g}-{edge_threshold:g}"
    fresh = fresh.with_record(name=name)
    added = atlas.add(fresh, collection=collection)
    file = full_file.place(atlas.settings, added.circuit)
    if not file.exists():
        full_file.save(file, full, fresh.record)
    return added


def _find(atlas: Atlas, trace_key: str, again: bool, origin: dict[str, Any] | None) -> str | None:
    """The circuit that answers the question already, if it may be used."""
    if not again:
        return atlas.find_trace(trace_key)
    if origin is None:
        return None
    with atlas.catalog.read() as session:
        made = circuits.by_trace_key(session, trace_key)
    jobs = ((circuit_id, atlas.load(circuit_id).record.provenance.source_metadata.get("job")) for circuit_id in made)
    return next((circuit_id for circuit_id, job in jobs if job == origin["job"]), None)


def question(
    model: Model,
    transcoders: TranscoderSet,
    ids: list[int],
    prompt: str | None,
    parameters: dict[str, Any],
    thresholds: dict[str, float],
) -> CircuitRecord:
    """The record of what is asked; its trace key is known before any tracing."""
    text = prompt if prompt is not None else model.tokenizer.decode(ids, skip_special_tokens=True)
    return CircuitRecord(
        name=re.sub(r"\W+", "-", text).strip("-").lower()[:60].rstrip("-") or "prompt",
        prompt=text,
        examples=[Example(tokens=[model.token_text(i) for i in ids], token_ids=ids, text=text)],
        model=ModelRef(
            name=transcoders.model_name,
            revision=model.revision,
            weights_hash=model.weights_hash,
            layers=model.n_layers,
        ),
        transcoders=SetRef(name=transcoders.name, revision=transcoders.revision, hash=transcoders.hash),
        method=Method(parameters=parameters),
        thresholds=dict(thresholds),
    )


def _described(specs: Sequence[TargetSpec]) -> list[Any]:
    """For the trace key. Tokens at the last position are their ids, as they always were: old traces are found again."""
    if all(spec.kind == "token" and spec.position == -1 for spec in specs):
        return sorted(spec.tokens[0] for spec in specs)
    return sorted(spec.described() for spec in specs)


def _settings(model: Model, transcoders: TranscoderSet, record: CircuitRecord) -> dict[str, Any]:
    """What the trace was made with, defaults included."""
    p, ids = record.method.parameters, record.examples[0].token_ids or []
    unknown = model.tokenizer.unk_token_id
    return {
        "model": record.model.name,
        "transcoders": record.transcoders.name,
        "tokens": len(ids),
        "unknown_tokens": sum(i == unknown for i in ids) if unknown is not None else 0,
        "targets": [t.what for t in record.targets],
        "max_logits": p["max_logits"],
        "logit_mass": p["logit_mass"],
        "max_features": p["max_features"],
        "node_threshold": record.thresholds["node"],
        "edge_threshold": record.thresholds["edge"],
        "device": record.provenance.device,
        "dtype": p["dtype"],
    }


def _check_numbers(
    max_logits: int, logit_mass: float, max_features: int | None, node_threshold: float, edge_threshold: float
) -> None:
    for name, value in (("node threshold", node_threshold), ("edge threshold", edge_threshold)):
        if not 0 <= value <= 1:
            raise UsageError(f"The {name} is {value}, not between 0 and 1.", "Pass a share such as 0.8.")
    if not 0 < logit_mass <= 1:
        raise UsageError(f"The logit mass is {logit_mass}, not above 0 and at most 1.", "Pass a share such as 0.95.")
    if max_logits < 1:
        raise UsageError(f"At most {max_logits} logits leave nothing to explain.", "Pass at least 1.")
    if max_features is not None and max_features < 1:
        raise UsageError(f"At most {max_features} features leave nothing to show.", "Pass at least 1.")
