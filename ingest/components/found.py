"""The model behind a component circuit, by the circuit's own record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.circuit import UNKNOWN, Circuit
from atlas.errors import ModelRejected
from ingest.causal.found import check_same, decoder
from ingest.models import load_model
from ingest.models.base import Model
from ingest.models.decoder import DecoderModel
from ingest.models.files import content_hash, locate
from ingest.organism import model_path

if TYPE_CHECKING:
    from atlas.api import Atlas


def found_model(atlas: Atlas, circuit: Circuit, model: Model | None = None) -> DecoderModel:
    """The one given, else the one with the recorded weights among the shipped model and the profiles of the settings.

    Raises ModelRejected: not here, or given with other weights than the circuit was found with.
    """
    asked = circuit.record.model
    if model is None:
        places = [str(model_path()), *(profile.model for profile in atlas.settings.profiles.values())]
        place = next((place for place in places if _hash(place) == asked.weights_hash != UNKNOWN), None)
        if place is None:
            raise ModelRejected(
                f"The model {asked.name} of the circuit {circuit.id} is not on this machine.",
                "Name its folder in a profile of atlas.toml: [profiles.NAME].",
            )
        model = load_model(place)
    check_same("model", asked.name, asked.weights_hash, model.weights_hash, circuit.id)
    return decoder(model)


def _hash(place: str) -> str | None:
    try:
        return content_hash(sorted(locate(place, "model").folder.glob("*.safetensors")))
    except (ModelRejected, OSError):
        return None  # a profile whose folder is not on this machine
