"""Graph files into the atlas and circuits out of it. torch is imported for `.pt` files only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atlas import circuit_file
from atlas.errors import AtlasError, InputRejected, UsageError
from atlas.records import Annotations, ImportResult, LoadedFile, RejectedFile
from atlas.settings import Settings
from ingest.formats import ImportedGraph, find_files, read_graph, write_graphml, write_neuronpedia
from ingest.reference_graph import is_reference_graph, read_reference_graph

if TYPE_CHECKING:
    from atlas.api import Atlas

Progress = Callable[[int, int, str], None]


def import_paths(
    atlas: Atlas, paths: Sequence[str | Path], *, collection: str | None = None, progress: Progress | None = None
) -> ImportResult:
    """Load files or folders of files. A bad file is listed in `rejected` and the rest goes on.

    Raises StoreUnavailable when the catalog or graph server fails: then nothing more could be loaded either.
    """
    result = ImportResult()
    files, missing = _expand(paths)
    result.rejected.extend(missing)
    for number, path in enumerate(files):
        if progress:
            progress(number, len(files), path.name)
        try:
            graph = _read(path, atlas.settings)
            added = atlas.add(graph.circuit, annotations=graph.annotations, collection=collection)
        except InputRejected as error:
            result.rejected.append(RejectedFile(path=str(path), reason=str(error)))
            continue
        result.loaded.append(LoadedFile(path=str(path), mended=graph.mended, **added.model_dump()))
    if progress:
        progress(len(files), len(files), "")
    return result


def _read(path: Path, settings: Settings) -> ImportedGraph:
    if not is_reference_graph(path):
        return read_graph(path, settings=settings)
    return read_reference_graph(path, settings)


def _expand(paths: Sequence[str | Path]) -> tuple[list[Path], list[RejectedFile]]:
    files: list[Path] = []
    rejected: list[RejectedFile] = []
    for path in map(Path, paths):
        try:
            found = find_files([path])
        except (AtlasError, OSError) as error:
            rejected.append(RejectedFile(path=str(path), reason=str(error)))
            continue
        if not found:
            rejected.append(
                RejectedFile(path=str(path), reason=f"{path} holds no graph file (.json, .json.gz, .safetensors, .pt).")
            )
        files.extend(found)
    return files, rejected


def export_bytes(atlas: Atlas, circuit: str, format: str) -> bytes:
    """One circuit as `neuronpedia` (circuit-tracer schema-1 JSON), `graphml` or `circuit` (our binary form)."""
    detail = atlas.show(circuit)
    loaded = atlas.load(detail.id)
    if format == "circuit":
        return circuit_file.to_bytes(loaded)
    labels = atlas.node_labels(detail.id)
    if format == "graphml":
        return write_graphml(loaded, labels)
    if format == "neuronpedia":
        annotations = Annotations(supernodes=detail.supernodes, pins=detail.pins)
        return write_neuronpedia(loaded, annotations, labels)
    raise UsageError(f"There is no export format {format!r}.", "Choose neuronpedia, graphml or circuit.")
