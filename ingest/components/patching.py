"""Activation patching: one part of one run put into another, every part in its turn, and what that does to the metric.

Method: Vig et al. 2020; Meng et al. 2022 ("causal tracing"); Heimersheim & Nanda 2024, *How to use and interpret activation
patching*. **Denoising** patches the corrupted run from the clean one, **noising** the clean run from the corrupted one (or from a
mean, zero, or another case). Every number is of the real network with everything else free.

Cost. A patch at layer l and position p leaves everything below and before as it was, so only the layers above are run, over the
positions from p on (`tail.py`), for all parts and all layers of a position in one growing batch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from atlas.causal_records import PatchRequest, Replacement, Site
from atlas.circuit import KIND, SITE, Circuit, Edges, Nodes
from atlas.errors import InputRejected, UsageError
from atlas.records import Added
from ingest.components.alignment import Alignment
from ingest.components.metrics import Metric
from ingest.components.metrics import metric as metric_named
from ingest.components.network import Place, SiteName, answer_logits, every_place, run, with_clean_logits
from ingest.components.pairs import Cases, make_cases, requested_pairs
from ingest.components.record import question, requested_model, source_of
from ingest.components.tail import Tail, Whole
from ingest.components.units import Kept, slot_groups
from ingest.memory import if_it_fits
from ingest.models import Model
from ingest.models.decoder import DecoderModel
from ingest.trace.assemble import provenance

if TYPE_CHECKING:
    from atlas import Atlas

Progress = Callable[[int, int, str], None]  # how many, of how many, of what
Direction = Literal["denoise", "noise"]
Slot = tuple[SiteName, int]  # a site, and a head or -1
CASES_AT_ONCE = 8  # part of what is kept of an unfinished run, so the same on every device
SITE_OF: dict[Site, SiteName] = {"resid": "resid.pre", "attn": "attn.out", "mlp": "mlp.out", "head": "head.out"}
PARTS: dict[SiteName, tuple[str, str]] = {
    "resid.pre": ("resid", "pre"),
    "attn.out": ("attn", "out"),
    "mlp.out": ("mlp", "out"),
    "head.out": ("head", "out"),
}
NOTHING = 1e-6  # a difference of the metric between the two runs below this share of its size explains nothing


@dataclass
class Patched:
    """n parts patched on B cases. Rows by site, layer, position, head; position -1: a head at all positions at once.

    Positions are the clean prompts'. Of prompts of different lengths only those with a counterpart are patched (`alignment`).
    """

    parts: list[tuple[SiteName, int, int, int]]  # site, layer, position, head or -1
    values: np.ndarray  # (n, B) float64 metric with the part replaced; NaN where a case has no such position to patch
    clean: np.ndarray  # (B,) metric of the clean run
    corrupted: np.ndarray | None  # (B,) of the corrupted run
    direction: Direction
    normalised_by: str  # see `effects`

    @property
    def metric(self) -> np.ndarray:
        """(n,) mean over the cases that have the position, and a counterpart of it."""
        return np.nanmean(self.values, axis=1)

    def effects(self) -> np.ndarray:
        """(n,) signed, means over the cases first: denoising (m - m_corrupted) / (m_clean - m_corrupted), noising
        (m - m_clean) / (m_corrupted - m_clean); 1 is all of the difference.

        `normalised_by` zero: cases without corrupted prompts, (m_clean - m) / m_clean. nothing: such cases under a metric that
        is 0 on the clean run (kl), m_clean - m.
        """
        has = np.isfinite(self.values)
        mean = lambda per_case: (has * per_case).sum(axis=1) / has.sum(axis=1)  # noqa: E731
        m, clean = self.metric, mean(self.clean)
        if self.normalised_by == "nothing":
            return clean - m
        other = np.zeros_like(clean) if self.corrupted is None else mean(self.corrupted)
        start, end = (other, clean) if self.direction == "denoise" else (clean, other)
        span = end - start
        enough = np.abs(span) > NOTHING * np.maximum(np.abs(start), np.abs(end))
        return np.divide(m - start, span, out=np.full_like(span, np.nan), where=enough)

    def columns(self) -> tuple[Nodes, Edges, dict[str, np.ndarray]]:
        """As a circuit has them. `activation` is the metric with the part replaced, `influence` the absolute effect."""
        effect = self.effects()
        kinds = [PARTS[site] for site, *_ in self.parts]
        nodes = Nodes(
            kind=[KIND[kind] for kind, _ in kinds],
            site=[SITE[site] for _, site in kinds],
            layer=[layer for _, layer, _, _ in self.parts],
            position=[position for _, _, position, _ in self.parts],
            index=[head for *_, head in self.parts],
            activation=self.metric,
            influence=np.abs(effect),
        )
        nan = np.full(1, np.nan)
        baselines = [self.clean.mean(), (nan if self.corrupted is None else self.corrupted).mean()]
        extra = {
            "patching.effect": effect.astype(np.float32),
            "patching.metric": self.metric.astype(np.float32),
            "patching.cases": np.isfinite(self.values).sum(axis=1).astype(np.float32),
            "patching.baselines": np.array(baselines, np.float32),  # of the clean and the corrupted runs
        }
        return nodes, Edges(0), extra


def patch(
    atlas: Atlas,
    request: PatchRequest,
    model: Model | None = None,
    progress: Progress | None = None,
    origin: dict[str, Any] | None = None,
    resume_dir: Path | None = None,
) -> Added:
    """Patch as asked and keep the heat maps as a circuit; one that answers the same question already is returned.

    A replacement by mean, zero or resampling is noising, whatever direction is asked. origin: the job and its worker; with it,
    metrics that name functions are refused. resume_dir: under it finished pieces are kept until the circuit is, by default
    under the atlas's home. Raises UsageError, InputRejected, ModelRejected.
    """
    chosen = metric_named(request.metric, functions=origin is None)
    direction: Direction = request.direction if request.replacement == "counterfactual" else "noise"
    found, name = requested_model(atlas.settings, request, model)
    pairs = requested_pairs(found, request)
    two_runs = request.replacement == "counterfactual"
    cases = make_cases(found, pairs, metric=request.metric, corrupted=two_runs, aligned=True)
    sites = [site for site in SITE_OF if site in request.sites]
    parameters: dict[str, Any] = {
        "sites": sites,
        "direction": direction,
        "replacement": request.replacement,
        "normalised_by": normalised_by(cases, chosen),
    }
    if request.replacement == "resample":
        parameters["seed"] = request.seed
    parameters |= cases.left_out() if two_runs else {}
    asked = question(found, name, cases, "activation patching", chosen, parameters)
    key = Circuit(asked, Nodes(0), Edges(0)).trace_key
    known = atlas.find_trace(key)
    if known:
        return atlas.add(atlas.load(known), collection=request.collection)
    folder = (resume_dir or atlas.settings.home / "unfinished") / key
    patched = patch_activations(
        found,
        cases,
        sites,
        direction,
        request.replacement,
        chosen,
        seed=request.seed,
        progress=progress,
        resume_dir=folder,
    )
    nodes, edges, extra = patched.columns()
    made = provenance(found, atlas.actor)
    made.source_metadata.update(source_of(request, origin))
    added = atlas.add(
        Circuit(asked.model_copy(update={"provenance": made}), nodes, edges, extra), collection=request.collection
    )
    shutil.rmtree(folder, ignore_errors=True)
    return added


def normalised_by(cases: Cases, metric: Metric) -> str:
    """What effects are divided by: see `Patched.effects`."""
    if cases.corrupted is not None:
        return "corrupted"
    return "nothing" if metric.needs_clean else "zero"


@torch.inference_mode()
def patch_activations(
    model: DecoderModel,
    cases: Cases,
    sites: Sequence[Site],
    direction: Direction,
    replacement: Replacement,
    metric: Metric,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    resume_dir: Path | None = None,
    tokens_at_once: int | None = None,
) -> Patched:
    """Every layer, every position and, for heads, every head and all positions together, on every case.

    replacement: counterfactual = from the other run; mean over the cases' clean runs by position; zero; resample = the clean run
    of another case of as many tokens, by `seed`. The last three are noising. resume_dir: what is done is kept there and taken
    from there; name one per question. tokens_at_once: rows times positions of one pass, by default what fits; it is halved
    when memory runs out. Raises UsageError, InputRejected, ModelRejected.
    """
    _check(cases, direction, replacement, metric)
    if metric.needs_clean:
        cases = with_clean_logits(model, cases)
    clean = metric(answer_logits(model, cases.clean, cases.lengths), cases).double()
    corrupted = None
    if cases.corrupted is not None:
        corrupted = metric(answer_logits(model, cases.corrupted, cases.corrupted_lengths), cases).double()
        _check_difference(metric, clean, corrupted)
    work = _Work(model, cases, sites, direction, replacement, metric, seed, tokens_at_once)
    values = work.all(progress, Kept(resume_dir))
    parts, rows = work.in_order(values)
    return Patched(
        parts=parts,
        values=rows,
        clean=clean.cpu().numpy(),
        corrupted=None if corrupted is None else corrupted.cpu().numpy(),
        direction=direction,
        normalised_by=normalised_by(cases, metric),
    )


class _Work:
    """Goes through groups of cases and positions; see `patch_activations`."""

    def __init__(
        self,
        model: DecoderModel,
        cases: Cases,
        sites: Sequence[Site],
        direction: Direction,
        replacement: Replacement,
        metric: Metric,
        seed: int,
        tokens_at_once: int | None,
    ) -> None:
        self.model, self.cases, self.metric, self.replacement = model, cases, metric, replacement
        self.tail = Tail(model)
        self.names = [SITE_OF[site] for site in SITE_OF if site in sites]
        block = self.tail.blocks[0]
        heads = range(block.query.weight.shape[0] // block.head_size) if "head.out" in self.names else range(0)
        self.slots: list[Slot] = [(name, -1) for name in self.names if name != "head.out"]
        self.slots += [("head.out", head) for head in heads]
        self.reads = every_place(model, self.names)
        self.tokens = tokens_at_once or _tokens_that_fit(model)
        groups = cases.by_alignment() if replacement == "counterfactual" else cases.by_length()
        self.chunks = [group[i : i + CASES_AT_ONCE] for group in groups for i in range(0, len(group), CASES_AT_ONCE)]
        self.base = cases.corrupted if direction == "denoise" and cases.corrupted is not None else cases.clean
        self.into_corrupted = self.base is not cases.clean
        self.source = self._source(direction, seed)
        self.means = self._means() if replacement == "mean" else {}

    def all(self, progress: Progress | None, kept: Kept) -> dict[tuple[int, int], np.ndarray]:
        """(number of the chunk, position) -> (L, slots, b) metric."""
        found: dict[tuple[int, int], np.ndarray] = {}
        layers = self.model.n_layers
        units = [(number, p) for number in range(len(self.chunks)) for p in self._positions(number)]
        total = sum(layers * len(self._slots(p)) * len(self.chunks[number]) for number, p in units)
        done, current, runs = 0, -1, None
        for number, position in units:
            shape = (layers, len(self._slots(position)), len(self.chunks[number]))
            name = f"{number}-{position}"
            values = kept.get(name, shape)
            if values is None:
                if current != number:
                    current, runs = number, None  # the last chunk's activations go first
                    runs = self._runs(number)
                assert runs is not None
                values = self._unit(number, position, *runs)
                kept.put(name, values)
            found[number, position] = values
            done += values.size
            if progress:
                progress(done, total, "patches")
        return found

    def in_order(
        self, found: dict[tuple[int, int], np.ndarray]
    ) -> tuple[list[tuple[SiteName, int, int, int]], np.ndarray]:
        """The parts, by site, layer, position, head, and their (n, B) values."""
        rows: dict[tuple[int, int, int, int], np.ndarray] = {}
        for (number, position), values in found.items():
            for place, (name, head) in enumerate(self._slots(position)):
                for layer in range(self.model.n_layers):
                    key = (self.names.index(name), layer, position, head)
                    row = rows.setdefault(key, np.full(len(self.cases), np.nan))
                    row[self.chunks[number]] = values[layer, place]
        keys = sorted(rows)
        parts = [(self.names[site], layer, position, head) for site, layer, position, head in keys]
        return parts, np.stack([rows[key] for key in keys])

    def _positions(self, number: int) -> list[int]:
        return [*([-1] if "head.out" in self.names else []), *self._alignment(number).positions]

    def _alignment(self, number: int) -> Alignment:
        """The cases of a chunk are all aligned alike."""
        row = self.chunks[number][0]
        if self.replacement == "counterfactual":
            return self.cases.alignment(row)
        length = int(self.cases.lengths[row])
        return Alignment(length, length, length, 0)

    def _slots(self, position: int) -> list[Slot]:
        return self.slots if position >= 0 else [slot for slot in self.slots if slot[0] == "head.out"]

    def _source(self, direction: Direction, seed: int) -> torch.Tensor | None:
        """(B, P) ids of the run that values are taken from; None where they come from none."""
        if self.replacement == "counterfactual":
            return self.cases.clean if direction == "denoise" else self.cases.corrupted
        if self.replacement != "resample":
            return None
        generator = torch.Generator().manual_seed(seed)
        other = torch.empty(len(self.cases), dtype=torch.int64)
        for group in self.cases.by_length():
            order = torch.tensor(group)[torch.randperm(len(group), generator=generator)]
            other[order] = order.roll(1)  # one cycle: nobody gets its own
        return self.cases.clean[other.to(self.cases.clean.device)]

    def _means(self) -> dict[Place, torch.Tensor]:
        """(P, ...) by place: mean over the clean runs of the cases that have the position."""
        longest = int(self.cases.lengths.max())
        sums: dict[Place, torch.Tensor] = {}
        for chunk in self.chunks:
            part = self.cases.take(chunk)
            for place, value in run(self.model, part.clean, reads=self.reads).values.items():
                there = sums.setdefault(place, value.new_zeros(longest, *value.shape[2:]))
                there[: value.shape[1]] += value.sum(0)
        count = (torch.arange(longest, device=self.cases.lengths.device)[:, None] < self.cases.lengths).sum(1)
        shaped = {
            place: count.to(value.device, value.dtype).view(-1, *[1] * (value.ndim - 1))
            for place, value in sums.items()
        }
        return {place: value / shaped[place] for place, value in sums.items()}

    def _runs(self, number: int) -> tuple[Whole, dict[Place, torch.Tensor], int]:
        """Of a chunk: the run that is patched, (b, P, ...) values to put in by place, and the first position they differ at.

        P: positions of the run that is patched.
        """
        rows = torch.tensor(self.chunks[number], device=self.base.device)
        aligned = self._alignment(number)
        length = aligned.corrupted if self.into_corrupted else aligned.clean
        ids = self.base[rows, :length]
        if aligned.shift:
            return self._aligned_runs(rows, ids, aligned)
        if self.source is not None:
            other = self.source[rows, :length]
            differs = (other != ids).any(0).nonzero()
            first = int(differs[0]) if len(differs) else length
            return self.tail.whole(ids), run(self.model, other, reads=self.reads).values, first
        if self.replacement == "mean":
            means = {
                place: mean[None, :length].expand(len(rows), *[-1] * mean.ndim) for place, mean in self.means.items()
            }
            return self.tail.whole(ids), means, 0
        base = self.tail.whole(ids, self.reads)
        return base, {place: torch.zeros_like(base.values[place]) for place in self.reads}, 0

    def _aligned_runs(
        self, rows: torch.Tensor, ids: torch.Tensor, aligned: Alignment
    ) -> tuple[Whole, dict[Place, torch.Tensor], int]:
        """`_runs` of prompts of different lengths: what has no counterpart keeps the value it has in the run that is patched."""
        assert self.source is not None, "only a counterfactual is aligned"
        base = self.tail.whole(ids, self.reads)
        other = self.source[rows, : aligned.clean if self.into_corrupted else aligned.corrupted]
        found = run(self.model, other, reads=self.reads).values
        clean, corrupted = aligned.positions, [aligned.counterpart(position) for position in aligned.positions]
        to, taken = (corrupted, clean) if self.into_corrupted else (clean, corrupted)
        values = {place: base.values[place].clone() for place in self.reads}
        for place, value in values.items():
            value[:, to] = found[place][:, taken]
        return base, values, aligned.prefix

    def _unit(
        self, number: int, position: int, base: Whole, values: dict[Place, torch.Tensor], first: int
    ) -> np.ndarray:
        """(L, slots, b) the metric with each part of a position of the clean prompt replaced (-1: of all positions)."""
        cases = self.cases.take(self.chunks[number])
        slots, layers, length = self._slots(position), self.model.n_layers, base.streams[0].shape[1]
        if position >= 0 and self.into_corrupted:
            position = self._alignment(number).counterpart(position)
        if first > (position if position >= 0 else length - 1):
            # before the prompts differ both runs are the same, so that replacing changes nothing
            same = self.metric(base.logits, cases).double().cpu().numpy()
            return np.broadcast_to(same, (layers, len(slots), len(same))).copy()
        every = [(layer, slot) for layer in range(layers) for slot in slots]
        made: list[torch.Tensor] = []
        while len(made) < len(every):
            size = len(cases) * (length - max(position, 0))
            batch = slot_groups(every[len(made) :], self.tokens // size)
            logits = if_it_fits(
                partial(self._pass, batch, position, base, values),
                len(batch),
                "patched part",
                "Use shorter prompts or another device.",
            )
            if logits is None:
                self.tokens = len(batch) // 2 * size
                continue
            made += [self.metric(rows, cases).double() for rows in logits.split(len(cases))]
        return torch.stack(made).view(layers, len(slots), len(cases)).cpu().numpy()

    def _pass(
        self, batch: Sequence[tuple[int, Slot]], position: int, base: Whole, values: dict[Place, torch.Tensor]
    ) -> torch.Tensor:
        """(len(batch) * b, V) logits, one copy of the prompts for each (layer, slot). The batch is ordered by layer."""
        start = max(position, 0)
        by_layer: dict[int, list[Slot]] = {}
        for layer, slot in batch:
            by_layer.setdefault(layer, []).append(slot)
        rows: list[torch.Tensor] = []
        for layer in range(min(by_layer), self.model.n_layers):
            joining = by_layer.get(layer, [])
            # the slots of a layer begin with the residual stream, so that copies stay in the order of the batch
            if joining and joining[0][0] == "resid.pre":
                stream = base.streams[layer][:, start:].clone()
                stream[:, 0] = values[Place("resid.pre", layer)][:, position]
                rows.append(stream)
                joining = joining[1:]
            if rows:
                rows = [self.tail.layer(base, layer, torch.cat(rows), start)]
            if joining:
                rows.append(self._joined(layer, joining, position, base, values))
        return self.tail.logits(torch.cat(rows)[:, -1])

    def _joined(
        self, layer: int, slots: Sequence[Slot], position: int, base: Whole, values: dict[Place, torch.Tensor]
    ) -> torch.Tensor:
        """(slots * b, p, d) streams after the layer in which the parts are replaced, from the position on."""
        b, copies = len(base.streams[0]), len(slots)
        # in this layer the other positions cannot see the change yet
        there = slice(position, position + 1) if position >= 0 else slice(None)

        def edit(name: SiteName) -> Callable[[torch.Tensor], torch.Tensor]:
            source = values[Place(name, layer)][:, there]

            def replaced(value: torch.Tensor) -> torch.Tensor:
                value = value.clone()
                for copy, (which, head) in enumerate(slots):
                    rows = value[copy * b : (copy + 1) * b]
                    if which == name and head >= 0:
                        rows[:, :, head] = source[:, :, head]
                    elif which == name:
                        rows[:] = source
                return value

            return replaced

        writes = {Place(name, layer): edit(name) for name in {name for name, _ in slots}}
        stream = base.streams[layer][:, there].repeat(copies, 1, 1)
        made = self.tail.layer(base, layer, stream, max(position, 0), writes)
        if position < 0:
            return made
        after = base.streams[layer + 1][:, position:].repeat(copies, 1, 1)
        after[:, 0] = made[:, 0]
        return after


def _tokens_that_fit(model: DecoderModel) -> int:
    """Rows times positions of one pass: a quarter of the free GPU memory, or what is quick on a CPU."""
    if model.device.type != "cuda":
        return 2048
    config = model.config
    wide = 4 * model.width + 3 * (getattr(config, "intermediate_size", None) or 4 * model.width)
    each = wide * model.dtype.itemsize + 8 * model.vocabulary // 16
    return int(min(2**18, max(2048, torch.cuda.mem_get_info(model.device)[0] // 4 // each)))


def _check(cases: Cases, direction: Direction, replacement: Replacement, metric: Metric) -> None:
    if metric.needs_wrong and cases.wrong is None:
        raise InputRejected("A pair has no wrong answer, and a logit difference needs one.", "Give every pair one.")
    if cases.corrupted is None and (replacement == "counterfactual" or direction == "denoise"):
        raise InputRejected(
            "A pair has no corrupted prompt, and this compares with the run on one.",
            "Give every pair one, or ablate by mean, zero or resampling.",
        )
    if replacement != "counterfactual" and direction == "denoise":
        raise UsageError(
            f"Replacing by {replacement} takes something away from the clean run, so it cannot denoise.",
            "Choose noise, or the replacement counterfactual.",
        )
    if replacement == "resample":
        alone = next((group[0] for group in cases.by_length() if len(group) == 1), None)
        if alone is not None:
            raise InputRejected(
                f"Pair {alone + 1} is the only one of {int(cases.lengths[alone])} tokens, so there is none to resample from.",
                "Give another of as many tokens, or choose mean or zero.",
            )


def _check_difference(metric: Metric, clean: torch.Tensor, corrupted: torch.Tensor) -> None:
    a, b = float(clean.mean()), float(corrupted.mean())
    if abs(a - b) <= NOTHING * max(abs(a), abs(b)):
        raise InputRejected(
            f"The {metric.name} is {a:.4g} on the clean prompts and {b:.4g} on the corrupted ones: nothing to explain.",
            "Choose prompts on which the model behaves differently.",
        )
