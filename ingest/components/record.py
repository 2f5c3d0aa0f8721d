"""The record of a component circuit: what was asked, on which cases, and which model a request means."""

from __future__ import annotations

import re
from typing import Any

from atlas.causal_records import _OnPairs
from atlas.circuit import CircuitRecord, Method, ModelRef, SetRef, Target
from atlas.errors import AtlasError, UsageError
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from ingest.components.metrics import Metric
from ingest.components.pairs import Cases
from ingest.models import Model, load_model
from ingest.models.decoder import DecoderModel

SET = SetRef(name="components")  # in place of a transcoder set


def requested_model(settings: Settings, request: _OnPairs, model: Model | None = None) -> tuple[DecoderModel, str]:
    """The model of a request, loaded unless given, and the name it goes by in the atlas.

    A profile's model goes by the name that its transcoder set gives it, as in its feature circuits. Raises UsageError,
    ModelRejected.
    """
    if (request.model is None) == (request.profile is None) and model is None:
        raise UsageError("Name a model or a profile.", "One of the two, not both.")
    transcoders = ""
    place = request.model or ""
    if request.profile is not None:
        from ingest.worker.models import places

        place, transcoders = places(settings, TraceRequest(profile=request.profile))
    found = model or load_model(place)
    if not isinstance(found, DecoderModel):
        raise UsageError(f"The model {found.name} has no parts to patch.", "Choose a decoder-only transformer.")
    return found, _name(found, transcoders)


def _name(model: Model, transcoders: str) -> str:
    if not transcoders:
        return model.name
    from ingest.transcoders import load_transcoders

    try:
        return load_transcoders(transcoders, model).model_name
    except AtlasError:  # components need no transcoders, so a set that is gone is no reason to stop
        return model.name


def question(
    model: Model, model_name: str, cases: Cases, method: str, metric: Metric, parameters: dict[str, Any]
) -> CircuitRecord:
    """The record of what is asked; its trace key is known before the model runs.

    parameters: what else is asked; the metric, the answers' ids and the dtype are put beside it.
    """
    first, many = cases.pairs[0], len(cases) > 1
    what = metric.name
    if not many and metric.name in ("logit-difference", "probability"):
        what = first.answer.strip() + (f" − {(first.wrong or '').strip()}" if metric.name == "logit-difference" else "")
    words = re.sub(r"\W+", "-", first.clean).strip("-").lower()[:50].rstrip("-")
    return CircuitRecord(
        name=f"{words}-{'and-others-' if many else ''}{'patching' if method == 'activation patching' else 'components'}",
        prompt=first.clean,
        examples=cases.examples(model),
        targets=[Target(kind="token" if metric.name == "probability" else "difference", what=what)],
        model=ModelRef(
            name=model_name, revision=model.revision, weights_hash=model.weights_hash, layers=model.n_layers
        ),
        transcoders=SET,
        method=Method(
            name=method,
            weight_unit=metric.unit,
            parameters=parameters | {"metric": metric.name, "answers": cases.answer_ids(), "dtype": model.dtype_name},
        ),
    )


def source_of(request: _OnPairs, origin: dict[str, Any] | None) -> dict[str, Any]:
    """For `Provenance.source_metadata`: the template that made the cases, and the job."""
    made = {"template": request.template, "count": request.count, "seed": request.seed} if request.template else {}
    return made | (origin or {})
