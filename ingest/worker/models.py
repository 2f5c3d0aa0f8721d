"""The model and transcoder set of the last trace, kept loaded for the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas.group_records import TraceRequest
from atlas.jobs import SHIPPED
from atlas.settings import Settings
from ingest.models import Model, load_model
from ingest.transcoders import TranscoderSet, load_transcoders


class LoadedModels:
    """At most one model with its set, on one device. Loads again when the files have changed or are gone."""

    def __init__(self, settings: Settings, device: str | None, dtype: str | None) -> None:
        self._settings = settings
        self._device, self._dtype = device, dtype
        self._key: tuple[Any, ...] = ()
        self._pair: tuple[Model, TranscoderSet] | None = None

    @property
    def name(self) -> str:
        """The model that is loaded, '' for none."""
        return self._pair[1].model_name if self._pair else ""

    @property
    def loaded(self) -> dict[str, tuple[Model, TranscoderSet]]:
        """As `label_features` takes it."""
        return {self.name: self._pair} if self._pair else {}

    def get(self, request: TraceRequest) -> tuple[Model, TranscoderSet]:
        """Raises ModelRejected, UsageError (profile)."""
        model, transcoders = places(self._settings, request)
        key = (model, transcoders, _files(model), _files(transcoders))
        if self._pair is None or key != self._key:
            self.drop()  # first: two models may not fit on the device together
            loaded = load_model(model, device=self._device, dtype=self._dtype)
            self._pair = loaded, load_transcoders(transcoders, loaded)
            self._key = key
        return self._pair

    def drop(self) -> None:
        if self._pair is None:
            return
        on_gpu = self._pair[0].device.type == "cuda"
        self._pair, self._key = None, ()
        if on_gpu:
            import torch

            torch.cuda.empty_cache()


def trace_arguments(request: TraceRequest) -> dict[str, Any]:
    """What `ingest.trace` takes of a request, besides the prompt and the loaded pair."""
    return request.model_dump(exclude={"prompt", "model", "transcoders", "profile"})


def places(settings: Settings, request: TraceRequest) -> tuple[str, str]:
    """Where the model and the set are: folders or hub names. Raises UsageError for an unknown profile."""
    if request.profile is None:
        return request.model or "", request.transcoders or ""
    if request.profile == SHIPPED and SHIPPED not in settings.profiles:
        from ingest.organism import model_path, transcoders_path

        return str(model_path()), str(transcoders_path())
    chosen = settings.profile(request.profile)
    return chosen.model, chosen.transcoders


def _files(place: str) -> tuple[Any, ...]:
    """What tells whether a folder has changed; nothing for a hub name."""
    folder = Path(place).expanduser()
    try:
        stats = [(entry.name, entry.stat()) for entry in sorted(folder.iterdir()) if entry.is_file()]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
