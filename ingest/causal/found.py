"""The model and transcoder set behind a circuit, by the circuit's own record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.circuit import UNKNOWN, Circuit
from atlas.errors import ModelRejected
from ingest.labels.sources import Sources
from ingest.models.decoder import DecoderModel
from ingest.transcoders.set import TranscoderSet

if TYPE_CHECKING:
    from atlas.api import Atlas
    from ingest.models.base import Model


def found_pair(
    atlas: Atlas, circuit: Circuit, model: Model | None = None, transcoders: TranscoderSet | None = None
) -> tuple[DecoderModel, TranscoderSet]:
    """Those given, else looked for by name among the shipped model and the profiles of the settings.

    Raises ModelRejected, saying which is missing, or that what is here has other weights than the circuit was traced with.
    """
    record = circuit.record
    if model is None or transcoders is None:
        sources = Sources(atlas, None)
        source = sources.find(record.model.name, record.transcoders.name)
        if source is None:
            here = any(name == record.model.name for name, _ in sources.names)
            missing = f"the model {record.model.name}" if not here else f"the transcoder set {record.transcoders.name}"
            more = "" if here else f" with the transcoder set {record.transcoders.name}"
            raise ModelRejected(
                f"To intervene on the circuit {circuit.id}, {missing}{more} is needed, which is not on this machine.",
                "Name model and transcoders in a profile of atlas.toml: [profiles.NAME].",
            )
        model, transcoders = source.model, source.transcoders
    check_same("model", record.model.name, record.model.weights_hash, model.weights_hash, circuit.id)
    check_same("transcoder set", record.transcoders.name, record.transcoders.hash, transcoders.hash, circuit.id)
    return decoder(model), transcoders


def decoder(model: Model) -> DecoderModel:
    if not isinstance(model, DecoderModel):
        raise ModelRejected(f"The model {model.name} is no decoder-only transformer.", "Use one that is.")
    return model


def check_same(what: str, name: str, recorded: str, here: str, circuit: str) -> None:
    if UNKNOWN not in (recorded, here) and recorded != here:
        raise ModelRejected(
            f"The {what} {name} here has the weights {here[:8]}, the circuit {circuit} was traced with {recorded[:8]}.",
            f"Load the {what} it was traced with, or trace the prompt again.",
        )
