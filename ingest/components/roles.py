"""What attention heads do, told from where they look and what they copy.

Names of roles: Wang et al. 2023, *Interpretability in the Wild* (indirect objects; previous-token, duplicate-token, S-inhibition
and name-mover heads, copying score in section 3 and appendix), Olsson et al. 2022, *In-context Learning and Induction Heads*
(previous-token and induction heads, measured on random tokens said twice), McDougall et al. 2023, *Copy Suppression*. A role is a description of attention and of
what a head would write, not a proof: whether the head matters is what patching says, so heads are named among those that
matter only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch

from ingest.components.pairs import Cases
from ingest.models.decoder import DecoderModel

LOOKS = 0.3  # mean attention from which a head counts as looking there
COPIES = 0.5  # share of the cases in which the token is among the TOP that the head would raise
TOP = 5
REPEATED_TOKENS, REPEATED_ROWS = 24, 4


@dataclass
class HeadScores:
    """(L, H) each. Attention is a mean over cases; NaN where the cases do not have such a place."""

    previous_token: np.ndarray  # attention to the token before; random tokens said twice
    duplicate_token: np.ndarray  # attention of a repeated token to where it was first; the same
    induction: np.ndarray  # attention of a repeated token to what followed it then; the same
    to_answer: np.ndarray  # attention of the last position to the answer's place in the prompt
    to_wrong: np.ndarray  # to the last place of the wrong answer (the subject's second mention)
    wrong_to_first: np.ndarray  # attention of that place to the wrong answer's first mention
    wrong_to_after: np.ndarray  # and to the token after its first mention
    to_changed: np.ndarray  # attention of the last position to the places where the corrupted prompt differs, summed
    copying: np.ndarray  # share of cases whose attended answer is among the TOP tokens the head would raise
    anti_copying: np.ndarray  # among those it would lower
    suppressing: np.ndarray  # share of cases whose wrong answer, at its last mention, is among those it would lower

    def of(self, layer: int, head: int) -> dict[str, float]:
        return {field.name: float(getattr(self, field.name)[layer, head]) for field in fields(self)}


@dataclass(frozen=True)
class HeadRole:
    """A head that matters. effect: what it was chosen by, e.g. its node score in metric units. roles: the clearest first."""

    layer: int
    head: int
    effect: float
    roles: tuple[str, ...]
    scores: dict[str, float]


def head_scores(model: DecoderModel, cases: Cases, *, seed: int = 0) -> HeadScores:
    """Measured in the ordinary network on the clean prompts, and on random tokens said twice."""
    twice = _on_repeats(model, seed)
    places = [_places(cases, row) for row in range(len(cases))]
    looks: list[np.ndarray] = []
    for rows in cases.by_length():
        for pattern, row in zip(_patterns(model, cases.take(rows).clean), rows, strict=True):
            answer, first, second, last = places[row]
            spots = [(last, answer), (last, second), (second, first), (second, None if first is None else first + 1)]
            there = [_attention(pattern, query, key) for query, key in spots]
            looks.append(np.stack([*there, _to_changed(pattern, cases, row, last)]))
    with np.errstate(all="ignore"):
        stacked = np.stack(looks)
        known = np.isfinite(stacked).any(0)
        means = np.where(known, np.nansum(stacked, 0) / np.maximum(np.isfinite(stacked).sum(0), 1), np.nan)
    copying, anti = _copying(model, cases, cases.answers, [place[0] for place in places])
    suppressing = np.full_like(copying, np.nan)
    if cases.wrong is not None:
        suppressing = _copying(model, cases, cases.wrong, [place[2] for place in places])[1]
    names = [field.name for field in fields(HeadScores)]
    return HeadScores(**dict(zip(names, [*twice, *means, copying, anti, suppressing], strict=True)))


def roles(
    scores: HeadScores, effect: np.ndarray, count: int = 20, into_queries: np.ndarray | None = None
) -> list[HeadRole]:
    """The `count` heads of the largest absolute effect, with their roles; many a head has none.

    effect: (L, H) signed, e.g. EAP-IG node scores. into_queries: (L, H, L, H) what a head's output does for the metric
    through another head's query alone; with it an S-inhibition head must help through the queries of the name movers.
    """
    order = np.argsort(-np.abs(effect), axis=None)[:count]
    heads = [(int(i) // effect.shape[1], int(i) % effect.shape[1]) for i in order]
    movers = [head for head in heads if "name mover" in _roles(scores, *head)]
    found = []
    for layer, head in heads:
        named = _roles(scores, layer, head)
        if "S-inhibition" in named and into_queries is not None and not _feeds(into_queries[layer, head], movers):
            named.remove("S-inhibition")
        found.append(HeadRole(layer, head, float(effect[layer, head]), tuple(named), scores.of(layer, head)))
    return found


def _feeds(into: np.ndarray, movers: list[tuple[int, int]]) -> bool:
    return sum(into[mover] for mover in movers) > 0


def _roles(scores: HeadScores, layer: int, head: int) -> list[str]:
    def at(name: str) -> float:
        return float(np.nan_to_num(getattr(scores, name)[layer, head]))

    answer, wrong = at("to_answer"), at("to_wrong")
    at_wrong, suppresses = wrong >= LOOKS and wrong > answer, at("suppressing") >= COPIES
    found = {
        "name mover": answer if answer >= LOOKS and answer > wrong and at("copying") >= COPIES else 0,
        "negative name mover": answer if answer >= LOOKS and at("anti_copying") >= COPIES else 0,
        "copy suppression": wrong if at_wrong and suppresses else 0,
        "S-inhibition": wrong if at_wrong and not suppresses else 0,
        "duplicate token": max(at("duplicate_token"), at("wrong_to_first")),
        "induction": max(at("induction"), at("wrong_to_after")),
        "previous token": at("previous_token"),
        # only where no name says more: without an answer and a wrong answer in the prompt
        "changed token": at("to_changed") if np.isnan(scores.to_wrong[layer, head]) else 0,
    }
    return sorted((name for name, value in found.items() if value >= LOOKS), key=lambda name: -found[name])


def _places(cases: Cases, row: int) -> tuple[int | None, int | None, int | None, int]:
    """Positions of the answer, of the wrong answer's first and last mention (None when said once only), and the last."""
    ids = cases.clean[row, : cases.lengths[row]].tolist()
    answer, wrong = int(cases.answers[row]), None if cases.wrong is None else int(cases.wrong[row])
    said = [i for i, token in enumerate(ids) if token == wrong]
    first, second = (said[0], said[-1]) if len(said) > 1 else (None, None)
    return ids.index(answer) if answer in ids else None, first, second, len(ids) - 1


def _attention(pattern: np.ndarray, query: int | None, key: int | None) -> np.ndarray:
    """(L, H, P, P) -> (L, H)."""
    if query is None or key is None:
        return np.full(pattern.shape[:2], np.nan)
    return pattern[:, :, query, key]


def _to_changed(pattern: np.ndarray, cases: Cases, row: int, last: int) -> np.ndarray:
    """(L, H, P, P) -> (L, H)."""
    if cases.corrupted is None:
        return np.full(pattern.shape[:2], np.nan)
    changed = (cases.clean[row] != cases.corrupted[row])[: last + 1].cpu().numpy()
    return pattern[:, :, last, : last + 1][:, :, changed].sum(-1)


@torch.no_grad()
def _patterns(model: DecoderModel, ids: torch.Tensor, rows: int = 8) -> Iterator[np.ndarray]:
    """(B, P) -> for every row (L, H, P, P)."""
    for part in ids.split(rows):
        with _caught(model) as seen:
            model.body(input_ids=part.to(model.device), use_cache=False)
        stacked = torch.stack([pattern.float() for pattern in seen], dim=1)  # (rows, L, H, P, P)
        yield from stacked.cpu().numpy()


@contextmanager
def _caught(model: DecoderModel) -> Iterator[list[torch.Tensor]]:
    """Within it, the attention patterns of the latest run, layer by layer."""
    seen: list[torch.Tensor] = []
    handles = [
        block.attention.register_forward_hook(lambda module, args, output: seen.append(output[1]))
        for block in model.blocks()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _on_repeats(model: DecoderModel, seed: int) -> list[np.ndarray]:
    """Previous-token, duplicate-token and induction attention, each (L, H), on random tokens said twice.

    Tokens are drawn from the vocabulary without the special ones; the tokenizer's first special token stands in front.
    """
    generator = torch.Generator().manual_seed(seed)
    special = set(model.tokenizer.all_special_ids)
    ordinary = torch.tensor([i for i in range(len(model.unembedding)) if i not in special])
    count = min(REPEATED_TOKENS, (model.context - 1) // 2, len(ordinary))
    rows = [ordinary[torch.randperm(len(ordinary), generator=generator)[:count]] for _ in range(REPEATED_ROWS)]
    first = next((i for i in (model.tokenizer.bos_token_id, *sorted(special)) if i is not None), int(ordinary[0]))
    begin = torch.full((REPEATED_ROWS, 1), first)
    ids = torch.cat([begin, torch.stack(rows), torch.stack(rows)], dim=1)
    again = np.arange(count + 1, 2 * count + 1)  # positions of the second time
    sums = np.zeros(())
    for pattern in _patterns(model, ids):
        found = [
            pattern[:, :, again, again - 1].mean(-1),
            pattern[:, :, again, again - count].mean(-1),
            # the last token's follower then is the first of the second time, which is no induction
            pattern[:, :, again[:-1], again[:-1] - count + 1].mean(-1),
        ]
        sums = sums + np.stack(found)
    return list(sums / len(ids))


@torch.no_grad()
def _copying(
    model: DecoderModel, cases: Cases, wanted: torch.Tensor, places: list[int | None]
) -> tuple[np.ndarray, np.ndarray]:
    """(L, H) copying and anti-copying score of the tokens `wanted` (B,), which stand at `places`.

    The stream after the first layer at that place goes through a head's value and output matrices, then through the
    final norm to the vocabulary: is the token among the TOP ones (Wang et al. 2023, section 3.1)? Anti-copying: of
    the same with its sign turned.
    """
    blocks = model.blocks()
    heads = blocks[0].query.weight.shape[0] // blocks[0].head_size
    scores = np.full((2, len(blocks), heads), np.nan)
    streams, tokens = [], []
    for rows in cases.by_length():
        caught: list[torch.Tensor] = []
        handle = blocks[1 if len(blocks) > 1 else 0].layer.register_forward_pre_hook(
            lambda module, args, caught=caught: caught.append(args[0])
        )
        try:
            part = cases.take(rows)
            model.body(input_ids=part.clean.to(model.device), use_cache=False)
        finally:
            handle.remove()
        for i, row in enumerate(rows):
            place = places[row]
            if place is not None:
                streams.append(caught[0][i, place])
                tokens.append(int(wanted[row]))
    if not streams:
        return scores[0], scores[1]
    stream, expected = torch.stack(streams), torch.tensor(tokens, device=model.device)
    head_of, bias = model.network.get_output_embeddings(), model.final_norm.bias
    constant = head_of(torch.zeros_like(stream[0]) if bias is None else bias)
    with model.ungrouped():
        for layer, block in enumerate(model.blocks()):
            read = block.attention_norm.module(stream)
            values = read @ block.value.weight.T
            if block.value.bias is not None:
                values = values + block.value.bias
            values = values.unflatten(-1, (heads, -1))
            written = torch.einsum("bhe,dhe->hbd", values, block.output_weight.unflatten(1, (heads, -1)))
            if block.post_attention_norm is not None:
                written = block.post_attention_norm.module(written)
            raised = head_of(model.final_norm.module(written))
            lowered = 2 * constant - raised  # a norm turned around but for its bias
            for logits, out in ((raised, scores[0]), (lowered, scores[1])):
                inside = (logits.topk(TOP, dim=-1).indices == expected[None, :, None]).any(-1)
                out[layer] = inside.float().mean(-1).cpu().numpy()
    return scores[0], scores[1]
