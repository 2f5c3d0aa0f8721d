"""Full graphs as circuit-tracer saves them (`Graph.to_pt`), read without running anything that they hold, and pruned into circuits.

A `.pt` file is a zip with a pickle in it, and a pickle can call any function. So its opcodes are looked through first: it may name
nothing but the few classes below. Then `torch.load(weights_only=True)` reads it with stand-ins for the two classes of the reference,
which is not needed for that. torch is imported only when a file got so far.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from atlas.catalog.values import clean
from atlas.circuit import UNKNOWN, Circuit, CircuitRecord, Example, Method, ModelRef, Provenance, SetRef, Target
from atlas.errors import InputRejected
from atlas.records import Annotations
from atlas.settings import Settings, load_settings
from ingest.formats import ImportedGraph
from ingest.formats.files import read_bytes
from ingest.formats.names import read_names

if TYPE_CHECKING:
    from ingest.trace.graph import FullGraph

SUFFIXES = (".pt", ".pth")
DIALECT = "circuit-tracer-pt"
THRESHOLDS: dict[str, float | None] = {"node": 0.8, "edge": 0.98}
_LARGEST = 2**31 - 1
_HUB_NAME = re.compile(r"[\w-][\w.-]*/([\w-][\w.-]*)")
_HINT = "Save the graph again with Graph.to_pt of circuit-tracer."


class _Config:
    """Stands in for the reference's configuration: whatever it held becomes attributes, and only a few are read."""


class _LogitTarget(NamedTuple):
    token_str: str
    vocab_idx: int


_CONFIGS = (
    "circuit_tracer.utils.tl_nnsight_mapping.UnifiedConfig",
    "transformer_lens.HookedTransformerConfig.HookedTransformerConfig",
    "transformer_lens.config.hooked_transformer_config.HookedTransformerConfig",
)
_LOGIT_TARGET = "circuit_tracer.attribution.targets.LogitTarget"
_TENSORS = (
    "torch._utils._rebuild_tensor_v2",
    "collections.OrderedDict",
    "torch.device",
    *(f"torch.{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int")),
    *(f"torch.{kind}" for kind in ("float32", "float64", "float16", "bfloat16")),
)
_ALLOWED = {*_CONFIGS, _LOGIT_TARGET, *_TENSORS}
# Ways of naming a global other than in plain words; torch.save writes none of them.
_INDIRECT = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ"}


def is_reference_graph(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def read_reference_graph(path: str | Path, settings: Settings | None = None) -> ImportedGraph:
    """The circuit of a `.pt` file, pruned at the usual thresholds. Raises InputRejected, and nothing else."""
    settings = settings or load_settings()
    name = Path(path).name
    data = read_bytes(path, name, settings.import_max_bytes)
    _look_through(data, name, settings.import_max_bytes)
    try:
        full, record, capped = _full_graph(_Saved(_load(data, name), name, settings.import_max_bytes))
        from ingest.trace.make import cut
    except ImportError as error:
        raise InputRejected(
            f"{name} needs torch to be read, which the extra [ingest] brings.",
            "Run: pip install 'circuit-atlas[ingest]'",
        ) from error
    nodes, edges, scores, _ = cut(full, record)
    if capped:  # what flowed through the features that were left out is in no row of the matrix
        scores.computed_on = "file"
        nodes.input_total[:] = nodes.input_abs_total[:] = np.nan
    circuit = Circuit(record.model_copy(update={"scores": scores}), nodes, edges)
    return ImportedGraph(circuit, Annotations(), DIALECT, dict(record.provenance.mended))


def _rejected(name: str, what: str, place: str = "") -> InputRejected:
    return InputRejected(f"{name} {what}", _HINT, place)


def _look_through(data: bytes, name: str, limit: int) -> None:
    """Refuse, unread, what is not a zip as torch.save writes it or whose pickle names anything that a graph does not need."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            entries = packed.infolist()
            pickles = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1 or len({entry.filename for entry in entries}) != len(entries):
                raise _rejected(name, "is not a graph that torch.save wrote: it holds not one pickle.")
            if sum(entry.file_size for entry in entries) > limit:
                raise InputRejected(
                    f"{name} is larger than {limit} bytes unpacked.",
                    "Raise ATLAS_IMPORT_MAX_BYTES if the file is wanted.",
                )
            code = packed.read(pickles[0])
    except InputRejected:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise _rejected(name, "is not a torch file, or a damaged one.") from error
    foreign = next((named for named in _globals(code, name) if named not in _ALLOWED), None)
    if foreign is not None:
        raise InputRejected(
            f"{name} names {foreign[:120]!r}, which no graph needs; nothing of the file was run.",
            "Do not open it with other programs unless you trust who made it.",
        )


def _globals(code: bytes, name: str) -> Iterator[str]:
    """`module.name` of everything that a pickle refers to."""
    try:
        for opcode, argument, _ in pickletools.genops(code):
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif opcode.name in _INDIRECT:
                yield opcode.name
    except (ValueError, IndexError, KeyError, UnicodeError) as error:
        raise _rejected(name, "holds a damaged pickle.") from error


def _load(data: bytes, name: str) -> dict[str, Any]:
    import torch

    stand_ins: list[Any] = [*((_Config, place) for place in _CONFIGS), (_LogitTarget, _LOGIT_TARGET)]
    try:
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise is the same to the user
        raise _rejected(name, "is damaged: torch cannot read it.") from error
    if not isinstance(loaded, dict):
        raise _rejected(name, "is a torch file, but not a graph of circuit-tracer.")
    return loaded


@dataclass
class _Saved:
    """The entries of a saved graph, each checked for type and shape when it is asked for."""

    entries: dict[str, Any]
    name: str
    limit: int

    def __getitem__(self, key: str) -> Any:
        if key not in self.entries:
            raise _rejected(self.name, f"is not a graph of circuit-tracer: {key} is missing.", key)
        return self.entries[key]

    def array(self, key: str, shape: tuple[int | None, ...], whole: bool) -> np.ndarray:
        """A tensor as int64 (`whole`) or float32; None in `shape` = any length."""
        import torch

        value = self[key]
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.dtype == torch.bool:
            raise _rejected(self.name, f"is damaged: {key} is not a tensor of numbers.", key)
        fits = len(shape) == value.dim() and all(b is None or a == b for a, b in zip(value.shape, shape, strict=True))
        if not fits:
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            found = " x ".join(map(str, value.shape)) or "a single number"
            raise _rejected(self.name, f"is damaged: {key} is {found}, not {wanted}.", key)
        # A tensor of strides 0 is small on disk and as large in memory as it likes.
        if value.numel() * 4 > self.limit:
            raise InputRejected(
                f"{key} of {self.name} is larger than {self.limit} bytes.",
                "Raise ATLAS_IMPORT_MAX_BYTES if the file is wanted.",
                key,
            )
        if whole and value.dtype.is_floating_point:
            raise _rejected(self.name, f"is damaged: {key} holds no whole numbers.", key)
        if not whole and not bool(torch.isfinite(value).all()):
            raise _rejected(self.name, f"holds a value in {key} that is not a finite number.", key)
        return value.to(torch.int64 if whole else torch.float32).numpy()

    def within(self, key: str, values: np.ndarray, below: int) -> None:
        if len(values) and not (values.min() >= 0 and values.max() < below):
            raise _rejected(self.name, f"is damaged: {key} is not within 0 and {below - 1}.", key)

    def text(self, value: Any) -> str:
        """Text that every database can hold; '' for anything else."""
        return clean(value) if isinstance(value, str) else ""


def _full_graph(saved: _Saved) -> tuple[FullGraph, CircuitRecord, bool]:
    """The graph with features in our order, what was asked, and whether features were left out of it."""
    from ingest.trace.graph import FullGraph, NodeOrder
    from ingest.trace.targets import TargetSpec

    ids = saved.array("input_tokens", (None,), whole=True)
    saved.within("input_tokens", ids, _LARGEST)
    config = saved["cfg"]
    layers = getattr(config, "n_layers", None)
    if not isinstance(config, _Config) or type(layers) is not int or not 0 < layers < 10**5 or not len(ids):
        raise _rejected(saved.name, "is damaged: cfg or input_tokens do not say how many layers and tokens there are.")
    active = saved.array("active_features", (None, 3), whole=True)
    for column, below in enumerate((layers, len(ids), _LARGEST)):
        saved.within("active_features", active[:, column], below)
    selected = saved.array("selected_features", (None,), whole=True)
    saved.within("selected_features", selected, len(active))
    values = saved.array("activation_values", (None,), whole=False)
    if len(values) == len(active):
        values = values[selected]
    elif len(values) != len(selected):
        raise _rejected(saved.name, f"is damaged: {len(values)} activation_values for {len(active)} features.")
    texts, vocabulary = _logits(saved)
    order = NodeOrder(len(selected), layers, len(ids), len(texts))
    probabilities = saved.array("logit_probabilities", (order.n_logits,), whole=False)
    if (probabilities < 0).any():
        raise _rejected(saved.name, "is damaged: logit_probabilities holds a number below 0.", "logit_probabilities")
    dense = saved.array("adjacency_matrix", (order.size, order.size), whole=False)
    features = active[selected]
    if len(np.unique(features, axis=0)) != len(features):
        raise _rejected(saved.name, "is damaged: it holds a feature twice.", "selected_features")
    ours = np.arange(order.size)
    ours[order.features] = np.lexsort(features.T[::-1])
    sort = ours[order.features]
    matrix = sparse.csr_array(dense)
    if not np.array_equal(sort, np.arange(len(sort))):
        matrix = sparse.csr_array(matrix[ours][:, ours])
    matrix.eliminate_zeros()
    features, values = features[sort], values[sort]
    _check_direction(saved, order, features, matrix)
    positions = np.full(order.n_logits, len(ids) - 1, np.int64)
    unknown = np.full(order.size, np.nan, np.float32)
    n_vocabulary = saved.entries.get("vocab_size")
    virtual = vocabulary >= n_vocabulary if type(n_vocabulary) is int else np.zeros(len(vocabulary), bool)
    specs = [
        TargetSpec("direction" if made else "token", what, -1, (int(i),))
        for what, i, made in zip(texts, vocabulary, virtual, strict=True)
    ]
    graph = FullGraph(
        order=order,
        token_ids=ids.tolist(),
        features=features.astype(np.int32),
        activations=values,
        logit_token_ids=vocabulary,
        logit_probabilities=probabilities,
        matrix=matrix,
        constants=unknown,
        pre_activations=unknown,
        arrays={},
        targets=specs,
        logit_targets=specs,
        logit_layers=np.full(order.n_logits, layers, np.int64),
        logit_positions=positions,
    )
    return graph, _record(saved, config, graph, virtual), len(selected) < len(active)


def _logits(saved: _Saved) -> tuple[list[str], np.ndarray]:
    """(K) texts and (K,) vocabulary ids; older files hold the ids alone."""
    key = "logit_targets" if "logit_targets" in saved.entries else "logit_tokens"
    given = saved[key]
    if isinstance(given, (list, tuple)):
        good = [
            isinstance(t, _LogitTarget) and type(t.vocab_idx) is int and isinstance(t.token_str, str) for t in given
        ]
        if not given or not all(good):
            raise _rejected(saved.name, f"is damaged: {key} is not a list of targets.", key)
        if not all(0 <= t.vocab_idx < _LARGEST for t in given):
            raise _rejected(saved.name, f"is damaged: {key} is not within 0 and {_LARGEST - 1}.", key)
        texts, ids = [saved.text(t.token_str) for t in given], np.array([t.vocab_idx for t in given], np.int64)
    else:
        ids = saved.array(key, (None,), whole=True)
        saved.within(key, ids, _LARGEST)
        texts = [_unread(i) for i in ids.tolist()]
    if len(np.unique(ids)) != len(ids) or not len(ids):
        raise _rejected(saved.name, f"is damaged: {key} is empty or names a token twice.", key)
    return texts, ids


def _check_direction(saved: _Saved, order: Any, features: np.ndarray, matrix: sparse.csr_array) -> None:
    """Influence flows from lower layers to higher ones, from tokens and errors, into logits; anything else is no such graph."""
    level = np.empty(order.size, np.int64)
    level[order.features] = features[:, 0]
    level[order.errors] = np.repeat(np.arange(order.n_layers), order.n_positions)
    level[order.tokens], level[order.logits] = -1, order.n_layers
    rows = np.repeat(np.arange(order.size), np.diff(matrix.indptr))
    has_input = np.zeros(order.size, bool)
    has_input[order.features] = has_input[order.logits] = True
    if not (has_input[rows] & (level[matrix.indices] < level[rows])).all():
        raise _rejected(saved.name, "is damaged: an edge of adjacency_matrix runs backwards.", "adjacency_matrix")


def _unread(token_id: int) -> str:
    """The file holds ids, not texts; a text from a tokenizer that may be here would give other circuits elsewhere."""
    return f"<{token_id}>"


def _record(saved: _Saved, config: _Config, graph: FullGraph, virtual: np.ndarray) -> CircuitRecord:
    specs, ids = graph.logit_targets, graph.token_ids
    known = {spec.tokens[0]: spec.what for spec, made in zip(specs, virtual, strict=True) if not made}
    tokens = [known.get(i) or _unread(i) for i in ids]
    prompt = saved.text(saved.entries.get("input_string"))
    scan = saved.entries.get("scan")
    parts = [saved.text(part) for part in scan] if isinstance(scan, (list, tuple)) else []
    model, transcoders = read_names({"scan": saved.text(scan), "transcoder_list": [part for part in parts if part]})
    dtype = str(getattr(config, "dtype", None)).rpartition(".")[2]
    return CircuitRecord(
        name=saved.name.rpartition(".")[0] or saved.name,
        prompt=prompt,
        examples=[Example(tokens=tokens, token_ids=ids, text=prompt)],
        targets=[
            Target(
                kind="direction" if made else "token",
                what=spec.what,
                token_id=-1 if made else spec.tokens[0],
                position=len(ids) - 1,
                probability=float(chance),
            )
            for spec, made, chance in zip(specs, virtual, graph.logit_probabilities, strict=True)
        ],
        model=ModelRef(
            name=_model_name(saved.text(getattr(config, "model_name", "")).strip(), model), layers=graph.order.n_layers
        ),
        transcoders=SetRef(name=transcoders.name, revision=transcoders.revision),
        method=Method(),
        thresholds=dict(THRESHOLDS),
        provenance=Provenance(
            dtype=dtype if dtype in ("float32", "float64", "float16", "bfloat16") else UNKNOWN,
            source_file=saved.name,
            source_dialect=DIALECT,
            mended={"missing_prompt_tokens": 1},
        ),
    )


def _model_name(name: str, told: ModelRef) -> str:
    """As the set's name tells it, or the configuration's; `org/name` counts as `name`, and a path is no name."""
    if told.name != UNKNOWN:
        return told.name
    if found := _HUB_NAME.fullmatch(name):
        return found[1]
    return read_names({"scan": name})[0].name if "/" not in name else UNKNOWN
