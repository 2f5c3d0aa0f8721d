"""`intervene`: do something to nodes of a circuit in the real model, and keep what the graph said and what happened.

What is changed is changed in the model itself, with everything else free: a feature by adding (new - old) times its decoder at its
output hook(s), a token by its embedding, an error by its vector. An edge or a path is tested by path patching. Marks: `atlas.evidence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.catalog import annotations as notes
from atlas.causal_records import InterventionRequest, InterventionRow
from atlas.circuit import Circuit
from atlas.evidence import BAND, CONTROLS_NEEDED, QUANTILE, checked_rows, of_components
from atlas.records import ImportedSupernode
from ingest.causal.found import found_pair
from ingest.causal.laboratory import Laboratory
from ingest.causal.network import Progress
from ingest.models.base import Model
from ingest.trace import assemble
from ingest.transcoders.set import TranscoderSet

if TYPE_CHECKING:
    from atlas.api import Atlas

ENGINE = 1  # goes up when the same request would be answered otherwise


def intervene(
    atlas: Atlas,
    request: InterventionRequest,
    *,
    model: Model | None = None,
    transcoders: TranscoderSet | None = None,
    progress: Progress | None = None,
    origin: dict[str, Any] | None = None,
) -> InterventionRow:
    """Do it, and keep the result. Model and set are found by the circuit's record when they are not given.

    origin: the `job` and its worker, for the provenance. Raises NotFound (circuit, node, supernode), UsageError (what makes no
    sense), InputRejected (a prompt of another length), ModelRejected (model or set not here, or not those of the circuit).
    """
    circuit = atlas.load(atlas.resolve(request.circuit))
    request = request.model_copy(update={"circuit": circuit.id})
    rows = checked_rows(circuit, supernodes(atlas, circuit), request)
    if of_components(circuit):
        from ingest.causal import components
        from ingest.components.found import found_model

        found = found_model(atlas, circuit, model)
        parts = components.ComponentLaboratory(found, circuit, request.prompts)
        (result,) = parts.results([components.Trial(request, rows)], progress)
        result.provenance = provenance(found, None, origin)
    else:
        pair = found_pair(atlas, circuit, model, transcoders)
        laboratory = Laboratory(*pair, circuit)
        (result,) = laboratory.results([laboratory.trial(request, rows)], progress)
        result.provenance = provenance(*pair, origin) | {"features_firing": round(laboratory.firing_share, 4)}
    return atlas.add_intervention(result)


def supernodes(atlas: Atlas, circuit: Circuit) -> list[ImportedSupernode]:
    """Those of the circuit as they are now."""
    with atlas.catalog.read() as session:
        return notes.supernodes(session, circuit.id)


def provenance(model: Model, transcoders: TranscoderSet | None, origin: dict[str, Any] | None) -> dict[str, Any]:
    """What a result was made with, and the rule of its mark."""
    made = assemble.provenance(model, "")
    pair = {} if transcoders is None else {"transcoders": transcoders.name, "transcoders_hash": transcoders.hash}
    return {
        "engine": ENGINE,
        "network": "the real model, attention, norms and MLPs free; a cut holds later MLP outputs at clean values",
        "rule": {"controls_needed": CONTROLS_NEEDED, "quantile": QUANTILE, "ratio": [round(b, 4) for b in BAND]},
        "model": model.name if transcoders is None else transcoders.model_name,
        "model_revision": model.revision,
        "weights_hash": model.weights_hash,
        "dtype": made.dtype,
        "device": made.device,
        "versions": made.versions,
        **pair,
        **(origin or {}),
    }
