"""The model and transcoder set of the last job, kept loaded for the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from atlas.circuit import UNKNOWN
from atlas.errors import ModelRejected, UsageError
from atlas.group_records import TraceRequest
from atlas.jobs import SHIPPED
from atlas.settings import Settings
from ingest.models import Model, load_model
from ingest.models.files import content_hash
from ingest.transcoders import TranscoderSet, load_transcoders

if TYPE_CHECKING:
    from atlas import Atlas
    from atlas.circuit import CircuitRecord

COMPONENTS = "components"  # what a circuit of heads and MLPs has in place of a transcoder set


class AsksForModel(Protocol):
    """A request that names a model by itself or by a profile."""

    model: str | None
    profile: str | None


class LoadedModels:
    """At most one model, with at most one set, on one device. Loads again when the files have changed or are gone."""

    def __init__(self, settings: Settings, device: str | None, dtype: str | None) -> None:
        self._settings = settings
        self._device, self._dtype = device, dtype
        self._model: tuple[tuple[Any, ...], Model] | None = None
        self._set: tuple[tuple[Any, ...], TranscoderSet] | None = None

    @property
    def name(self) -> str:
        """The model that is loaded, '' for none."""
        if self._set is not None:
            return self._set[1].model_name
        return self._model[1].name if self._model is not None else ""

    @property
    def loaded(self) -> dict[str, tuple[Model, TranscoderSet]]:
        """As `label_features` takes it."""
        return {self.name: (self._model[1], self._set[1])} if self._model and self._set else {}

    def get(self, request: TraceRequest) -> tuple[Model, TranscoderSet]:
        """Raises ModelRejected, UsageError (profile)."""
        place, set_place = places(self._settings, request)
        if not set_place:
            raise UsageError(f"The profile {request.profile} names no transcoders.", "Name them in atlas.toml.")
        return self._pair(place, set_place)

    def model(self, request: AsksForModel) -> Model:
        """The model alone, for work on components. Raises ModelRejected, UsageError (profile)."""
        return self._one(_places(self._settings, request.profile, request.model, None)[0])

    def of_circuit(
        self, atlas: Atlas, circuit: str, model: str | None = None, transcoders: str | None = None
    ) -> dict[str, Any]:
        """`model` and `transcoders` (None for a circuit of components) of a circuit, as the engines take them.

        model, transcoders: where they are; else those that are loaded, the shipped ones and those of profiles are tried.
        Raises NotFound (circuit), ModelRejected saying what is missing.
        """
        record = atlas.load(circuit).record
        alone = record.transcoders.name == COMPONENTS
        if model is not None:
            if not alone and transcoders is None:
                raise UsageError(
                    f"The circuit {circuit} has features of the set {record.transcoders.name}, so its model is not enough.",
                    "Pass --transcoders too.",
                )
            return self._arguments(model, None if alone else transcoders)
        if self._fits(record, alone):
            return self._arguments(None, None if alone else "")
        for place, set_place in self._known(record.model.name):
            if not alone and not set_place:
                continue
            here, made_with = _weights(place), record.model.weights_hash
            if here != made_with and UNKNOWN not in (here, made_with):
                continue
            try:
                found = self._arguments(place, None if alone else set_place)
            except ModelRejected:
                continue  # a profile whose folder is not on this machine
            if self._fits(record, alone):
                return found
        what = f"the model {record.model.name}" + ("" if alone else f" with the set {record.transcoders.name}")
        raise ModelRejected(
            f"The circuit {circuit} needs {what}, with the weights it was made with; that is not on this machine.",
            "Name its folder in a profile of atlas.toml.",
        )

    def _arguments(self, place: str | None, set_place: str | None) -> dict[str, Any]:
        """As the engines take them; a place of None or '' is what is loaded."""
        if place is not None:
            if set_place:
                self._pair(place, set_place)
            else:
                self._one(place)
        assert self._model is not None
        return {
            "model": self._model[1],
            "transcoders": self._set[1] if self._set is not None and set_place is not None else None,
        }

    def _fits(self, record: CircuitRecord, alone: bool) -> bool:
        """Whether what is loaded is what the circuit was made with: the weights, or where they are unknown the name."""
        if self._model is None or (self._set is None and not alone):
            return False
        model = self._model[1]
        if record.model.weights_hash == UNKNOWN:
            same = record.model.name == self.name
        else:
            same = record.model.weights_hash == model.weights_hash
        if alone or not same:
            return same
        assert self._set is not None
        recorded, own = record.transcoders, self._set[1]
        return recorded.name == own.name and recorded.hash in (UNKNOWN, own.hash)

    def _known(self, name: str) -> list[tuple[str, str]]:
        """Model and set of the shipped profile and of those in the settings; likely ones first, because loading takes time."""
        profiles = self._settings.profiles
        pairs = [_places(self._settings, each, None, None) for each in {SHIPPED: None, **profiles}]
        return sorted(pairs, key=lambda pair: Path(pair[0]).name.lower() not in name.lower())

    def drop(self) -> None:
        if self._model is None:
            return
        on_gpu = self._model[1].device.type == "cuda"
        self._model = self._set = None
        if on_gpu:
            import torch

            torch.cuda.empty_cache()

    def _one(self, place: str) -> Model:
        key = (place, _files(place))
        if self._model is None or self._model[0] != key:
            self.drop()  # first: two models may not fit on the device together
            self._model = key, load_model(place, device=self._device, dtype=self._dtype)
        return self._model[1]

    def _pair(self, place: str, set_place: str) -> tuple[Model, TranscoderSet]:
        model = self._one(place)
        key = (set_place, _files(set_place))
        if self._set is None or self._set[0] != key:
            self._set = None
            self._set = key, load_transcoders(set_place, model)
        return model, self._set[1]


def trace_arguments(request: TraceRequest) -> dict[str, Any]:
    """What `ingest.trace` takes of a request, besides the prompt and the loaded pair."""
    return request.model_dump(exclude={"prompt", "model", "transcoders", "profile"})


def places(settings: Settings, request: TraceRequest) -> tuple[str, str]:
    """Where the model and the set are: folders or hub names. Raises UsageError for an unknown profile."""
    return _places(settings, request.profile, request.model, request.transcoders)


def _places(settings: Settings, profile: str | None, model: str | None, transcoders: str | None) -> tuple[str, str]:
    if profile is None:
        return model or "", transcoders or ""
    if profile == SHIPPED and SHIPPED not in settings.profiles:
        from ingest.organism import model_path, transcoders_path

        return str(model_path()), str(transcoders_path())
    chosen = settings.profile(profile)
    return chosen.model, chosen.transcoders


def _weights(place: str) -> str:
    """Hash of a folder's weights without loading them; `unknown` for a hub name, or where there are none."""
    files = sorted(Path(place).expanduser().glob("*.safetensors"))
    return content_hash(files) if files else UNKNOWN


def _files(place: str) -> tuple[Any, ...]:
    """What tells whether a folder has changed; nothing for a hub name."""
    folder = Path(place).expanduser()
    try:
        stats = [(entry.name, entry.stat()) for entry in sorted(folder.iterdir()) if entry.is_file()]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
