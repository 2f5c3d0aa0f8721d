"""Jobs of causal work: patching, component circuits, faithfulness curves, interventions, verifications.

A job that was killed and is done again finds what it has stored: a circuit by what was asked, an intervention or a measurement by
the job in its provenance, the interventions of a verification by their battery, which is the job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atlas.api import Atlas
from atlas.catalog.jobs import Claim
from atlas.causal_records import (
    CircuitFaithfulnessRequest,
    ComponentsRequest,
    InterventionRequest,
    MeasurementKind,
    PatchRequest,
    VerifyRequest,
)
from atlas.errors import UsageError
from ingest.worker.models import LoadedModels

Progress = Callable[[int, int, str], None]


def perform(atlas: Atlas, claim: Claim, models: LoadedModels, report: Progress) -> dict[str, Any]:
    """The job's result, as its row keeps it: what was found, without what is stored elsewhere. Raises AtlasError, JobLost."""
    work = {
        "patch": _patch,
        "components": _components,
        "faithfulness": _faithfulness,
        "intervene": _intervene,
        "verify": _verify,
    }[claim.kind]
    report(0, 0, "loading the model")
    return work(atlas, claim, models, report)


def _patch(atlas: Atlas, claim: Claim, models: LoadedModels, report: Progress) -> dict[str, Any]:
    from ingest.components.patching import patch

    request = PatchRequest.model_validate(claim.arguments)
    _no_functions(request.metric)
    model = models.model(request)
    report(0, 0, "patching")
    return patch(atlas, request, model=model, progress=report, origin=_origin(claim)).model_dump(mode="json")


def _components(atlas: Atlas, claim: Claim, models: LoadedModels, report: Progress) -> dict[str, Any]:
    from ingest.components.circuit import component_circuit

    request = ComponentsRequest.model_validate(claim.arguments)
    _no_functions(request.metric)
    model = models.model(request)
    report(0, 0, "scoring edges")
    return component_circuit(atlas, request, model=model, progress=report, origin=_origin(claim)).model_dump(
        mode="json"
    )


def _faithfulness(atlas: Atlas, claim: Claim, models: LoadedModels, report: Progress) -> dict[str, Any]:
    from ingest.components.faithfulness_curves import faithfulness

    request = CircuitFaithfulnessRequest.model_validate(claim.arguments)
    known = _measured(atlas, request.circuit, "faithfulness", claim)
    if known is not None:
        return _without(known, "provenance")
    found = models.of_circuit(atlas, request.circuit)
    report(0, 0, "measuring")
    result = faithfulness(atlas, request, **found, progress=report, origin=_origin(claim))
    return _without(result.model_dump(mode="json"), "provenance")


def _intervene(atlas: Atlas, claim: Claim, models: LoadedModels, report: Progress) -> dict[str, Any]:
    from ingest.interventions import intervene

    request = InterventionRequest.model_validate(claim.arguments)
    made = atlas.interventions(request.circuit)
    row = next((row for row in made if row.provenance.get("job") == claim.id), None)
    if row is None:
        found = models.of_circuit(atlas, request.circuit)
        report(0, 0, "intervening")
        row = intervene(atlas, request, **found, progress=report, origin=_origin(claim))
    first = row.targets[0] if row.targets else None
    return {
        **row.model_dump(mode="json", include={"id", "circuit", "mark", "reason", "spearman"}),
        "predicted": first.predicted if first else None,
        "actual": first.measured if first else None,
    }


def _verify(atlas: Atlas, claim: Claim, models: LoadedModels, report: Progress) -> dict[str, Any]:
    from ingest.verification import verify

    request = VerifyRequest.model_validate(claim.arguments)
    known = _measured(atlas, request.circuit, "verification", claim)
    if known is None:
        found = models.of_circuit(atlas, request.circuit)
        report(0, 0, "verifying")
        known = verify(atlas, request, **found, progress=report, origin=_origin(claim)).model_dump(mode="json")
    return _without(known, "points", "provenance") | {"interventions": len(known["interventions"])}


def _measured(atlas: Atlas, circuit: str, kind: MeasurementKind, claim: Claim) -> dict[str, Any] | None:
    """What this job stored before it was killed."""
    rows = atlas.measurements(circuit, kind)
    return next((row.document for row in rows if row.document.get("provenance", {}).get("job") == claim.id), None)


def _without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def _origin(claim: Claim) -> dict[str, Any]:
    return {"job": claim.id, "worker": claim.worker}


def _no_functions(metric: str) -> None:
    """What comes from a queue must not choose code to run."""
    if metric.startswith("function:"):
        raise UsageError("A worker does not run functions of others.", "Choose another metric, or leave the queue out.")
