"""Which loaded model and transcoder set stand behind feature keys, and which texts fit the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import ModelRejected
from ingest.models import load_model
from ingest.models.base import Model
from ingest.transcoders import load_transcoders
from ingest.transcoders.set import TranscoderSet

if TYPE_CHECKING:
    from atlas.api import Atlas

SENTENCES = 6000


@dataclass
class Source:
    model: Model
    transcoders: TranscoderSet
    shipped: bool = False

    @property
    def names(self) -> tuple[str, str]:
        """The model's and the set's name, as feature keys have them."""
        return self.transcoders.model_name, self.transcoders.name

    def holds(self, layer: int, index: int) -> bool:
        return layer < len(self.transcoders.layers) and index < self.transcoders.layers[layer].n_features


class Sources:
    """Finds the source of a (model, set) among `models`, the shipped model and the profiles; each is loaded at most once."""

    def __init__(self, atlas: Atlas, models: Mapping[str, tuple[Model, TranscoderSet]] | None) -> None:
        self._found: dict[tuple[str, str], Source] = {}
        for name, (model, transcoders) in (models or {}).items():
            source = Source(model, transcoders, shipped=_is_shipped(model))
            self._found[source.names] = source
            self._found[name, transcoders.name] = source
        self._untried = _loaders(atlas)

    def find(self, model: str, transcoders: str) -> Source | None:
        wanted = (model, transcoders)
        while wanted not in self._found:
            load = next(self._untried, None)
            if load is None:
                return None
            try:
                source = load()
            except ModelRejected:
                continue  # a profile whose folder is not on this machine: its features are counted as skipped
            self._found.setdefault(source.names, source)
        return self._found[wanted]

    @property
    def names(self) -> set[tuple[str, str]]:
        """(model, set) of all that were loaded so far."""
        return set(self._found)


def _loaders(atlas: Atlas) -> Iterator[Callable[[], Source]]:
    from ingest.organism import model_path, transcoders_path

    if model_path().is_dir():
        yield lambda: _load(model_path(), transcoders_path(), shipped=True)
    for profile in atlas.settings.profiles.values():
        if profile.transcoders:
            yield partial(_load, profile.model, profile.transcoders)


def _load(model: str | Path, transcoders: str | Path, shipped: bool = False) -> Source:
    loaded = load_model(model)
    return Source(loaded, load_transcoders(transcoders, loaded), shipped or _is_shipped(loaded))


def _is_shipped(model: Model) -> bool:
    from ingest.models.files import content_hash
    from ingest.organism import model_path

    files = sorted(model_path().glob("*.safetensors"))
    return bool(files) and content_hash(files) == model.weights_hash


def texts_for(atlas: Atlas, source: Source, texts: Iterable[str] | None, seed: int) -> tuple[Iterable[str], str]:
    """(texts, where they are from): those given, else held-out sentences of the shipped model's language, else prompts."""
    if texts is not None:
        return texts, "given texts"
    if source.shipped:
        from ingest.organism.grammar import held_out_sentences

        return held_out_sentences(SENTENCES, seed), "held-out sentences"
    circuits = atlas.circuits(model=source.names[0], limit=10_000)
    return [row.prompt for row in reversed(circuits) if row.prompt], "prompts of the circuits"
