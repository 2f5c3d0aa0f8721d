"""Load a transcoder set from a folder or by hub name and check that it fits the model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from atlas.circuit import UNKNOWN
from atlas.errors import ModelRejected
from ingest.models.base import Model
from ingest.models.files import Place, content_hash, is_name, locate
from ingest.transcoders import circuit_tracer, gemma_scope, gemma_scope_2, saelens
from ingest.transcoders.layers import only_one
from ingest.transcoders.set import TranscoderSet

LAYOUTS: dict[str, ModuleType] = {  # the first that fits is taken: a config.yaml also chooses among the files beside it
    "circuit-tracer config.yaml": circuit_tracer,
    "SAELens cfg.json": saelens,
    "Gemma Scope params.npz": gemma_scope,
    "Gemma Scope 2 params.safetensors": gemma_scope_2,
}


def load_transcoders(name_or_folder: str | Path, model: Model) -> TranscoderSet:
    """Load the set on the model's device in the model's dtype.

    Names: the set is called what its config says (`scan`: the name that graph files of the field carry), else its hub
    name, else the folder's last part and 8 digits of its hash. A model loaded from a folder is called what the set's config
    says (`model_name`); a model loaded by hub name keeps that. Hub names, OWNER/NAME[@REVISION[/FOLDER]], are resolved by
    huggingface_hub (not run on the real hub).
    Raises ModelRejected: missing, damaged, unknown layout, another width or number of layers than the model's.
    """
    place, layout = find_transcoders(name_or_folder)
    config, files, layers = layout.load(place.folder, model)
    empty = next((number for number, layer in enumerate(layers) if not layer.n_features), None)
    if empty is not None:
        raise ModelRejected(
            f"The transcoder of layer {empty} of {name_or_folder} has no features.", "Fetch or train the set again."
        )
    digest = content_hash(files, place.folder)
    scan, model_name = config.get("scan"), config.get("model_name")
    return TranscoderSet(
        name=scan if is_name(scan) else place.hub_name or f"{place.folder.name}-{digest[:8]}",
        revision=place.revision or UNKNOWN,
        hash=digest,
        model_name=model_name if model.from_folder and is_name(model_name) else model.name,
        input_hook=config["feature_input_hook"],
        output_hook=config["feature_output_hook"],
        layers=layers,
    )


def find_transcoders(name_or_folder: str | Path) -> tuple[Place, ModuleType]:
    """Where the set lies and the layout it is in, nothing read yet. Raises ModelRejected: missing, unknown layout."""
    place = locate(name_or_folder, "transcoder set", _look_over)
    layout = next((layout for layout in LAYOUTS.values() if layout.fits(place.folder)), None)
    if layout is None:
        bare = any(place.folder.glob("*.safetensors"))  # as circuit-tracer's layers lie beside their config
        missing = " it has *.safetensors and no config.yaml beside them." if bare else ""
        raise ModelRejected(
            f"The transcoder set {name_or_folder} is in no known layout{':' if bare else '.'}{missing}",
            f"Known layouts: {', '.join(LAYOUTS)}.",
        )
    return place, layout


def _look_over(files: list[Path]) -> None:
    """Refuse a hub repository that holds several choices for a layer before tens of GB are fetched. Raises ModelRejected."""
    if Path("config.yaml") in files:
        return
    wanted = [file for file in files if "transcoder" in str(file)] or files
    for choices in (gemma_scope.by_layer(wanted), gemma_scope_2.by_layer(wanted)):
        only_one(choices)
