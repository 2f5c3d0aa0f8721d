"""What is explained: tokens' logits, differences of two, features, or directions of the residual stream, at any position.

Texts that name targets, as `--targets` takes them, comma-separated:

    Austin                  the logit of a token (exact text, a leading space counts; `Austin` may also mean ` Austin`)
    diff: Austin| Dallas    the first logit less the second
    feature:3/5/123         why feature 123 of layer 3 fires at position 5
    id:345                  a token by its number, also in a difference: for one that text cannot name
    direction:FILE.npy      a vector (d,) on the final residual stream; `direction:3:FILE.npy` on the stream after layer 3

Each may end in `@POSITION` (`@-1`, the default, is the last).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from atlas.circuit import Circuit
from atlas.errors import InputRejected
from ingest.models.base import Frozen, Model


@dataclass(frozen=True)
class TargetSpec:
    """One thing to explain. `tokens`: one id, or two of a difference. `feature`: layer and index. `layer`: of a direction's
    stream, None = the final one. `vector`: (d,) of a direction, kept out of comparisons."""

    kind: Literal["token", "difference", "feature", "direction"]
    what: str
    position: int = -1
    tokens: tuple[int, ...] = ()
    feature: tuple[int, int] | None = None
    layer: int | None = None
    vector: np.ndarray | None = field(default=None, compare=False, repr=False)

    def described(self) -> str:
        """For the trace key: equal for equal questions."""
        if self.kind == "feature" and self.feature is not None:
            return f"feature:{self.feature[0]}/{self.position}/{self.feature[1]}"
        if self.kind == "direction" and self.vector is not None:
            import hashlib

            digest = hashlib.sha256(np.ascontiguousarray(self.vector, "<f4").tobytes()).hexdigest()[:16]
            return f"direction:{'' if self.layer is None else self.layer}:{digest}@{self.position}"
        return f"{self.kind}:{'|'.join(map(str, self.tokens))}@{self.position}"


@dataclass
class Targets:
    """K rows above all sources. Several may share a place; `ids` tells them apart (beyond the vocabulary: no single token)."""

    specs: list[TargetSpec]
    ids: np.ndarray  # (K,) int64
    layers: np.ndarray  # (K,) the number of layers below the stream that is read
    positions: np.ndarray  # (K,)
    vectors: torch.Tensor  # (K, d) gradients at that stream
    values: np.ndarray  # (K,) float32: centred logits, their differences, or the stream along the direction
    constants: np.ndarray  # (K,) float32: what biases above the stream add
    probabilities: np.ndarray  # (K,) float32; NaN where there is none


def salient_tokens(frozen: Frozen, max_logits: int, logit_mass: float, position: int = -1) -> list[int]:
    """The fewest most likely tokens whose probabilities reach `logit_mass` together, at most `max_logits`."""
    probabilities = torch.softmax(frozen.logits_at(position)[0], dim=-1)
    top = torch.topk(probabilities, min(max_logits, len(probabilities)))
    enough = int((torch.cumsum(top.values.cpu().double(), dim=0) < logit_mass).sum()) + 1
    return top.indices[:enough].tolist()


def target_rows(model: Model, frozen: Frozen, specs: Sequence[TargetSpec]) -> Targets:
    """The targets that are not features, tokens of one position by falling probability."""
    length, width = frozen.final.shape
    rows: list[tuple[TargetSpec, int, int, torch.Tensor, float, float, float]] = []
    extra = model.vocabulary
    for spec in specs:
        position = spec.position % length
        if spec.kind in ("token", "difference"):
            ids = torch.tensor(spec.tokens, device=frozen.final.device)
            capped, centred = frozen.logits_at(position)
            signs = torch.tensor([1.0, -1.0][: len(ids)], device=ids.device)
            vector = (frozen.unembed_rows(ids, position).float() * signs[:, None]).sum(0).to(frozen.final.dtype)
            value = float((centred[ids] * signs).sum())
            constant = float((frozen.logit_constants(ids) * signs).sum())
            chance = float(torch.softmax(capped, -1)[ids[0]]) if spec.kind == "token" else float("nan")
            layer, identity = model.n_layers, spec.tokens[0] if spec.kind == "token" else -1
        elif spec.kind == "direction" and spec.vector is not None:
            layer = model.n_layers if spec.layer is None else spec.layer + 1
            vector = torch.from_numpy(np.asarray(spec.vector, np.float32)).to(frozen.final)
            value = float(frozen.stream_after(layer - 1)[position] @ vector)
            constant, chance, identity = 0.0, float("nan"), -1
        else:
            continue
        if identity < 0:
            identity, extra = extra, extra + 1
        rows.append((spec, identity, layer, vector, value, constant, chance))
    if specs and all(spec.kind == "token" for spec in specs):
        rows.sort(key=lambda row: (row[0].position % length, -row[6]))
    return Targets(
        specs=[row[0] for row in rows],
        ids=np.array([row[1] for row in rows], np.int64),
        layers=np.array([row[2] for row in rows], np.int64),
        positions=np.array([row[0].position % length for row in rows], np.int64),
        vectors=torch.stack([row[3] for row in rows]) if rows else frozen.final.new_zeros(0, width),
        values=np.array([row[4] for row in rows], np.float32),
        constants=np.array([row[5] for row in rows], np.float32),
        probabilities=np.array([row[6] for row in rows], np.float32),
    )


def token_targets(token_ids: Sequence[int], texts: Sequence[str], position: int = -1) -> list[TargetSpec]:
    return [TargetSpec("token", text, position, (int(token),)) for token, text in zip(token_ids, texts, strict=True)]


_POSITION = re.compile(r"@(-?\d+)$")


def parse_targets(model: Model, names: Sequence[str | int | TargetSpec]) -> list[TargetSpec]:
    """Targets from their texts or ids; repeats are dropped.

    Raises InputRejected for a text that is not exactly one token, a feature, file or position that does not make sense.
    """
    specs: dict[TargetSpec, None] = {}
    for name in names:
        if isinstance(name, TargetSpec):
            spec = name
        elif isinstance(name, int):
            spec = TargetSpec("token", "", tokens=(name,))
        else:
            spec = _parse(model, name)
        outside = [i for i in spec.tokens if not 0 <= i < len(model.unembedding)]
        if outside:
            raise InputRejected(
                f"The target token id {outside[0]} is outside the vocabulary (0 to {len(model.unembedding) - 1}).",
                "Name a token of the model.",
            )
        if spec.kind == "token":
            spec = TargetSpec("token", model.token_text(spec.tokens[0]), spec.position, spec.tokens)
        specs[spec] = None
    if not specs:
        raise InputRejected("No target was named.", "Name at least one, or leave the targets out.")
    return list(specs)


def _parse(model: Model, text: str) -> TargetSpec:
    found = _POSITION.search(text)
    position = int(found[1]) if found else -1
    body = text[: found.start()] if found else text
    if body.startswith("feature:"):
        if found:
            raise InputRejected(
                f"The target {text!r} names two positions.",
                "A feature's is the second number; leave out what is behind @.",
            )
        return _feature(model, body)
    if body.startswith("direction:"):
        return _direction(model, body.removeprefix("direction:"), position)
    if body.startswith("diff:"):
        pair = body.removeprefix("diff:").split("|")
        if len(pair) != 2:
            raise InputRejected(
                f"The target {text!r} is not a difference of two tokens.", "Write it as diff:FIRST|SECOND."
            )
        ids = tuple(_one_token(model, token) for token in pair)
        if ids[0] == ids[1]:
            raise InputRejected(f"The target {text!r} is a token less itself, always 0.", "Name two tokens.")
        return TargetSpec("difference", f"{pair[0]} − {pair[1]}", position, ids)
    return TargetSpec("token", body, position, (_one_token(model, body),))


def _feature(model: Model, body: str) -> TargetSpec:
    numbers = re.fullmatch(r"feature:(\d+)/(\d+)/(\d+)", body)
    if numbers is None:
        raise InputRejected(f"The target {body!r} is not a feature.", "Write it as feature:LAYER/POSITION/INDEX.")
    layer, place, index = map(int, numbers.groups())
    if layer >= model.n_layers:
        raise InputRejected(
            f"The target {body!r} names layer {layer}; the model {model.name} has layers 0 to {model.n_layers - 1}.",
            "Name one of those.",
        )
    return TargetSpec("feature", body.removeprefix("feature:"), place, feature=(layer, index))


def _direction(model: Model, body: str, position: int) -> TargetSpec:
    numbered = re.match(r"(\d+):", body)
    layer = int(numbered[1]) if numbered else None
    file = Path(body[numbered.end() :] if numbered else body)
    if layer is not None and layer >= model.n_layers:
        raise InputRejected(
            f"The direction {body!r} names layer {layer}; the model {model.name} has layers 0 to {model.n_layers - 1}.",
            "Name one of those.",
        )
    if not file.is_file():
        raise InputRejected(f"There is no file {file} with a direction.", "Name a .npy file, saved with numpy.save.")
    try:
        vector = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputRejected(f"The direction {file} is not a readable .npy file.", "Save it with numpy.save.") from error
    if not isinstance(vector, np.ndarray) or vector.dtype.kind not in "fiu" or vector.shape != (model.width,):
        said = (
            f"has {vector.dtype} of shape {vector.shape}" if isinstance(vector, np.ndarray) else "holds several arrays"
        )
        raise InputRejected(
            f"The direction {file} {said}; the model's width is {model.width}.",
            f"Save real numbers of shape ({model.width},).",
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is told below
        vector = vector.astype(np.float32)
    if not np.isfinite(vector).all() or not vector.any():
        raise InputRejected(
            f"The direction {file} {'is zero' if np.isfinite(vector).all() else 'is not finite in float32'}.",
            "Save a vector that points somewhere.",
        )
    return TargetSpec("direction", file.stem, position, layer=layer, vector=vector)


_ID = re.compile(r"id:(\d+)")


def _one_token(model: Model, text: str) -> int:
    numbered = _ID.fullmatch(text)
    if numbered:
        return int(numbered[1])
    pieces = model.tokenizer.encode(text, add_special_tokens=False)
    if len(pieces) != 1:
        parts = " + ".join(repr(model.token_text(piece)) for piece in pieces) or "nothing"
        raise InputRejected(
            f"The target {text!r} is {len(pieces)} tokens ({parts}), and a target is exactly one.",
            "Name a single token; many tokenizers have words with a leading space as one token.",
        )
    if pieces[0] == model.tokenizer.unk_token_id and text != model.tokenizer.unk_token:
        raise InputRejected(f"The target {text!r} is not in the model's vocabulary.", "Name a token of the model.")
    return pieces[0]


def recorded_targets(model: Model, circuit: Circuit) -> list[TargetSpec]:
    """What a circuit explains, as it was asked. Raises InputRejected for a direction, whose vector it does not hold."""
    specs = []
    for target in circuit.record.targets:
        if target.kind == "token":
            specs.append(TargetSpec("token", target.what, target.position, (target.token_id,)))
        elif target.kind == "feature":
            layer, _, index = target.what.partition("/")
            specs.append(TargetSpec("feature", target.what, target.position, feature=(int(layer), int(index))))
        elif target.kind == "difference":
            names = target.what.split(" − ")
            tokens = tuple(_one_token(model, name) for name in names)
            specs.append(TargetSpec("difference", target.what, target.position, tokens))
        else:
            raise InputRejected(
                f"The circuit {circuit.id} explains a direction, and does not hold the vector.", "Trace it again."
            )
    return specs
