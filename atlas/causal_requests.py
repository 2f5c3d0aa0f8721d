"""Requests of causal work: what can be told of one without a model, before it waits in a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from atlas.catalog import job_times
from atlas.causal_records import (
    CircuitFaithfulnessRequest,
    ComponentsRequest,
    InterventionRequest,
    PatchRequest,
    VerifyRequest,
    _OnPairs,
)
from atlas.circuit import Circuit
from atlas.errors import NotFound, UsageError
from atlas.records import ImportedSupernode, Record
from atlas.settings import Settings

SHIPPED = "demo"  # the profile that is there without any atlas.toml
METRICS = ("logit-difference", "probability", "kl")
FUNCTION = "function:"  # a metric by its Python name
REQUESTS: dict[str, type[Record]] = {
    "patch": PatchRequest,
    "components": ComponentsRequest,
    "faithfulness": CircuitFaithfulnessRequest,
    "intervene": InterventionRequest,
    "verify": VerifyRequest,
}
CircuitOf = Callable[[str], tuple[Circuit, str, list[ImportedSupernode]]]  # by id or name: it, its name, its supernodes


def read(kind: str, arguments: dict[str, Any], requests: dict[str, type[Record]]) -> Record:
    """The request of a kind. Raises UsageError naming the argument that cannot be used."""
    if kind not in requests:
        raise UsageError(
            f"There is no kind of job {kind!r} to queue.", f"Queue {', '.join(requests)}, or trace prompts."
        )
    try:
        return requests[kind].model_validate(arguments)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part)[:60] for part in fault["loc"])
        raise UsageError(
            f"The argument {place!r} of a {kind} job cannot be used: {fault['msg']}.",
            f"Arguments are: {', '.join(requests[kind].model_fields) or 'none'}.",
        ) from None


def prepared(settings: Settings, request: Record, circuit_of: CircuitOf) -> tuple[Record, str, str]:
    """(the request with the id of its circuit, title, group): as it is queued. Raises UsageError, NotFound, Ambiguous."""
    if isinstance(request, _OnPairs):
        check_pairs(settings, request)
        what = (
            f"{len(request.pairs)} pairs" if request.pairs is not None else f"{request.count} {request.template} pairs"
        )
        verb = "patch" if isinstance(request, PatchRequest) else "components of"
        place = request.profile or request.model or ""
        return request, f"{verb} {place}, {what}", _group(request)
    assert isinstance(request, CircuitFaithfulnessRequest | InterventionRequest | VerifyRequest)
    circuit, name, supernodes = circuit_of(request.circuit)
    title = f"verify {name}" if isinstance(request, VerifyRequest) else f"faithfulness of {name}"
    if isinstance(request, InterventionRequest):
        nodes = check_intervention(circuit, supernodes, request)
        arrow = "->" if request.kind == "cut" else ", "
        title = f"{request.kind} {request.supernode or arrow.join(nodes[:3])} in {name}"
    elif isinstance(request, VerifyRequest):
        check_prompts(request.prompts)
    record = circuit.record
    group = job_times.group_of("circuit", record.model.name, record.transcoders.name)
    return request.model_copy(update={"circuit": circuit.id}), title, group


def _group(request: _OnPairs) -> str:
    if request.profile is not None:
        return job_times.group_of("profile", request.profile)
    return job_times.group_of("model", request.model or "", "")


def check_pairs(settings: Settings, request: _OnPairs) -> None:
    """Raises UsageError for cases, a model or a metric that no worker could use."""
    if (request.model is None) == (request.profile is None):
        raise UsageError("This needs either a model or a profile.", f"Name one of the two, e.g. the profile {SHIPPED}.")
    if request.profile is not None and request.profile != SHIPPED:
        settings.profile(request.profile)
    if (request.pairs is None) == (request.template is None):
        raise UsageError("The cases come from either pairs or a template.", "Pass one of the two.")
    if request.metric.startswith(FUNCTION):
        raise UsageError(
            f"The metric {request.metric!r} is Python code, which no queue and no server takes.",
            "Run it on the machine that has the code, without the queue.",
        )
    if request.metric not in METRICS:
        raise UsageError(f"There is no metric {request.metric!r}.", f"Metrics: {', '.join(METRICS)}.")
    if request.pairs is None:
        return
    if not request.pairs:
        raise UsageError("There are no pairs.", "Pass at least one.")
    counterfactual = isinstance(request, ComponentsRequest) or getattr(request, "replacement", "") == "counterfactual"
    for number, pair in enumerate(request.pairs, start=1):
        where = f"Pair {number}: " if len(request.pairs) > 1 else ""
        if not pair.clean.strip():
            raise UsageError(f"{where}The clean prompt is blank.", "Pass some text.")
        if not pair.answer:
            raise UsageError(f"{where}The answer is empty.", "Pass the text of one token, with its leading blank.")
        if counterfactual and not (pair.corrupted or "").strip():
            raise UsageError(f"{where}There is no corrupted prompt.", "Pass one, or patch with mean or zero.")


def check_intervention(
    circuit: Circuit, supernodes: list[ImportedSupernode], request: InterventionRequest
) -> list[str]:
    """The keys of the nodes that a request means. Raises UsageError or NotFound for one that cannot be done in this circuit."""
    if bool(request.nodes) == (request.supernode is not None):
        raise UsageError("An intervention needs either nodes or a supernode.", "Pass one of the two.")
    for kind, field in (("scale", "factor"), ("steer", "value"), ("patch", "prompt")):
        given = getattr(request, field) is not None
        if given != (request.kind == kind):
            what = "needs a" if request.kind == kind else "takes no"
            raise UsageError(f"The kind {request.kind} {what} {field}.", f"`{field}` is for the kind {kind}.")
    nodes = list(request.nodes)
    if request.supernode is not None:
        if request.kind == "cut":
            raise UsageError("A supernode cannot be cut.", "Name the nodes of an edge or a path.")
        nodes = _members(supernodes, request.supernode)
    for key in nodes:
        circuit.row(key)
    if len(set(nodes)) < len(nodes):
        raise UsageError("A node is named twice.", "Name each node once.")
    if request.kind == "cut" and len(nodes) < 2:
        raise UsageError("A cut needs two nodes or more.", "Name the source first and the target last.")
    if request.prompt is not None and not request.prompt.strip():
        raise UsageError("The prompt to take values from is blank.", "Pass some text.")
    check_prompts(request.prompts)
    return nodes


def _members(supernodes: list[ImportedSupernode], name: str) -> list[str]:
    found = [group for group in supernodes if group.name == name]
    if len(found) == 1:
        return list(dict.fromkeys(found[0].node_keys))
    if found:
        raise UsageError(f"The circuit has {len(found)} supernodes {name!r}.", "Name the nodes by their keys instead.")
    names = ", ".join(repr(group.name) for group in supernodes[:5]) or "none"
    raise NotFound(f"The circuit has no supernode {name!r}.", f"It has: {names}.")


def check_prompts(prompts: list[str] | None) -> None:
    """Raises UsageError."""
    if prompts is not None and not prompts:
        raise UsageError("The set of prompts is empty.", "Pass at least one, or none for the circuit's own.")
    if prompts is not None and not all(prompt.strip() for prompt in prompts):
        raise UsageError("One of the prompts is blank.", "Leave it out.")
