"""From prompt pairs to token ids, with every refusal before the model runs; and back from a stored circuit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from atlas.causal_records import PromptPair, _OnPairs
from atlas.circuit import CircuitRecord, Example
from atlas.errors import InputRejected, UsageError
from ingest.components.alignment import Alignment, align
from ingest.components.pair_files import read_pairs
from ingest.components.templates import make_pairs
from ingest.models.base import Model
from ingest.trace.prompt import prompt_ids

__all__ = ["Cases", "make_cases", "make_pairs", "read_pairs", "recorded_cases", "requested_pairs"]


@dataclass(frozen=True)
class Cases:
    """B cases, on the model's device, padded on the right to P positions. Attention is causal: padding reaches nothing before it.

    The metric is read at the last real position, `lengths - 1`.
    """

    clean: torch.Tensor  # (B, P) int64
    corrupted: torch.Tensor | None  # (B, P) int64; None unless every pair has a corrupted prompt
    lengths: torch.Tensor  # (B,) int64 real tokens; of both prompts of a pair, unless `twin_lengths` says otherwise
    answers: torch.Tensor  # (B,) int64 token ids
    wrong: torch.Tensor | None  # (B,) int64; None unless every pair has a wrong answer
    pairs: tuple[PromptPair, ...]
    clean_logits: torch.Tensor | None = (
        None  # (B, V) of the clean run, where a metric needs them (`network.with_clean_logits`)
    )
    # (B,) int64 tokens of the corrupted prompts where some are not as long as their clean ones (`alignment`): then `corrupted`
    # has its own number of columns, and only activation patching takes such cases
    twin_lengths: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def last(self) -> torch.Tensor:
        """(B,) the position the metric is read at."""
        return self.lengths - 1

    @property
    def corrupted_lengths(self) -> torch.Tensor:
        """(B,) tokens of the corrupted prompts."""
        return self.lengths if self.twin_lengths is None else self.twin_lengths

    def alignment(self, row: int) -> Alignment:
        """Which positions of a case's two prompts correspond."""
        length, twin = int(self.lengths[row]), int(self.corrupted_lengths[row])
        if self.corrupted is None or length == twin:
            return Alignment(length, length, length, 0)
        return align(self.clean[row, :length].tolist(), self.corrupted[row, :twin].tolist())

    def left_out(self) -> dict[str, int]:
        """For `Method.parameters`, where patching had to align prompts of different lengths: in how many pairs, and how many
        positions of their prompts have no counterpart. Otherwise empty."""
        if self.twin_lengths is None:
            return {}
        found = [self.alignment(row) for row in (self.lengths != self.twin_lengths).nonzero().flatten().tolist()]
        clean, corrupted = (sum(one.left_out[which] for one in found) for which in (0, 1))
        return {"aligned_pairs": len(found), "left_out_clean": clean, "left_out_corrupted": corrupted}

    def take(self, rows: Sequence[int] | torch.Tensor) -> Cases:
        """Some of the cases, in the order of `rows`, cut to their own longest."""
        rows = torch.as_tensor(rows, device=self.lengths.device)
        longest, longest_twin = (int(n[rows].max()) if len(rows) else 0 for n in (self.lengths, self.corrupted_lengths))
        pick = lambda values: None if values is None else values[rows]  # noqa: E731
        return replace(
            self,
            clean=self.clean[rows, :longest],
            corrupted=None if self.corrupted is None else self.corrupted[rows, :longest_twin],
            lengths=self.lengths[rows],
            twin_lengths=pick(self.twin_lengths),
            answers=self.answers[rows],
            wrong=pick(self.wrong),
            pairs=tuple(self.pairs[row] for row in rows.tolist()),
            clean_logits=pick(self.clean_logits),
        )

    def by_length(self) -> list[list[int]]:
        """Row numbers of the cases of each length, shortest first: within a group nothing is padded."""
        lengths = self.lengths.tolist()
        return [[row for row, n in enumerate(lengths) if n == length] for length in sorted(set(lengths))]

    def by_alignment(self) -> list[list[int]]:
        """`by_length`, and of each length first those of which both prompts have it, then the others by how they are aligned."""
        found = [self.alignment(row) for row in range(len(self))]
        order = {a: (a.clean, a.clean != a.corrupted, a.corrupted, a.prefix, a.suffix) for a in found}
        return [[row for row, a in enumerate(found) if a == one] for one in sorted(order, key=order.__getitem__)]

    def examples(self, model: Model) -> list[Example]:
        """As a circuit's record holds them."""
        found = []
        for row, pair in enumerate(self.pairs):
            ids = self.clean[row, : self.lengths[row]].tolist()
            twin = None if self.corrupted is None else self.corrupted[row, : self.corrupted_lengths[row]].tolist()
            found.append(
                Example(
                    tokens=[model.token_text(i) for i in ids],
                    token_ids=ids,
                    text=pair.clean,
                    corrupted_tokens=None if twin is None else [model.token_text(i) for i in twin],
                    corrupted_token_ids=twin,
                )
            )
        return found

    def answer_ids(self) -> list[list[int]]:
        """For `Method.parameters["answers"]`: of each case [answer] or [answer, wrong] (`recorded_cases` reads them)."""
        columns = [self.answers] if self.wrong is None else [self.answers, self.wrong]
        return torch.stack(columns, dim=1).tolist()


def make_cases(
    model: Model,
    pairs: Sequence[PromptPair],
    *,
    metric: str | None = None,
    corrupted: bool = False,
    aligned: bool = False,
) -> Cases:
    """Token ids of the pairs, as `ingest.trace` makes them of prompts.

    metric: its name, so that a pair without the wrong answer it needs is refused here. corrupted: every pair must have a
    corrupted prompt. aligned: prompts of a pair may have different lengths where `alignment` is well defined. Raises
    InputRejected, naming the pair (counted from 1): prompts of different lengths in tokens, an answer of several tokens or
    outside the vocabulary, a blank prompt, one longer than the context.
    """
    if not pairs:
        raise InputRejected("There is no prompt pair.", "Pass at least one.")
    needs_wrong = metric == "logit-difference"
    rows = [_tokens(model, pair, number, needs_wrong, corrupted, aligned) for number, pair in enumerate(pairs, start=1)]
    twins = [twin for _, twin, _, _ in rows]
    wrong = [other for _, _, _, other in rows]
    lengths = [len(clean) for clean, *_ in rows]
    device = model.device
    return Cases(
        clean=_padded([clean for clean, *_ in rows], model).to(device),
        corrupted=_padded([t for t in twins if t is not None], model).to(device) if None not in twins else None,
        lengths=torch.tensor(lengths, device=device),
        answers=torch.tensor([answer for _, _, answer, _ in rows], device=device),
        wrong=torch.tensor(wrong, device=device) if None not in wrong else None,
        pairs=tuple(pairs),
        twin_lengths=_twin_lengths(lengths, twins, model),
    )


def requested_pairs(model: Model, request: _OnPairs) -> list[PromptPair]:
    """The pairs that a request gives or has made by a template. Raises UsageError unless it is exactly one of the two."""
    if (request.pairs is None) == (request.template is None):
        raise UsageError("Pass either prompt pairs or a template.", "One of the two, not both.")
    if request.template is not None:
        return make_pairs(request.template, request.count, request.seed, model)
    return request.pairs or []


def recorded_cases(model: Model, record: CircuitRecord) -> Cases:
    """The cases a component circuit was found on. Raises InputRejected for a record that does not hold them."""
    answers = record.method.parameters.get("answers")
    if not answers or len(answers) != len(record.examples) or any(e.token_ids is None for e in record.examples):
        raise InputRejected(
            f"The circuit {record.name!r} does not hold the cases it was found on.",
            "Only circuits by `atlas patch` and `atlas components` do.",
        )
    device = model.device
    twins = [e.corrupted_token_ids for e in record.examples]
    pairs = [
        PromptPair(
            clean=e.text,
            corrupted=None if e.corrupted_token_ids is None else model.tokenizer.decode(e.corrupted_token_ids),
            answer=model.token_text(ids[0]),
            wrong=model.token_text(ids[1]) if len(ids) > 1 else None,
        )
        for e, ids in zip(record.examples, answers, strict=True)
    ]
    return Cases(
        clean=_padded([e.token_ids or [] for e in record.examples], model).to(device),
        corrupted=None if None in twins else _padded([t or [] for t in twins], model).to(device),
        lengths=torch.tensor([len(e.token_ids or []) for e in record.examples], device=device),
        answers=torch.tensor([ids[0] for ids in answers], device=device),
        wrong=torch.tensor([ids[1] for ids in answers], device=device) if all(len(i) > 1 for i in answers) else None,
        pairs=tuple(pairs),
        twin_lengths=_twin_lengths([len(e.token_ids or []) for e in record.examples], twins, model),
    )


def _tokens(
    model: Model, pair: PromptPair, number: int, needs_wrong: bool, needs_corrupted: bool, aligned: bool
) -> tuple[list[int], list[int] | None, int, int | None]:
    """(clean ids, corrupted ids, answer id, wrong id) of one pair."""
    place = f"pair {number}"
    if needs_corrupted and pair.corrupted is None:
        raise InputRejected(
            f"Pair {number} has no corrupted prompt, and this compares with the run on one.",
            "Give it one of as many tokens, or ablate by mean, zero or resampling.",
            place,
        )
    if needs_wrong and pair.wrong is None:
        raise InputRejected(
            f"Pair {number} has no wrong answer, and a logit difference compares the answer with one.",
            "Give it one, or choose the metric probability or kl.",
            place,
        )
    clean = _prompt(model, pair.clean, f"the clean prompt of pair {number}", place)
    twin = None
    if pair.corrupted is not None:
        twin = _prompt(model, pair.corrupted, f"the corrupted prompt of pair {number}", place)
        _check_lengths(model, clean, twin, number, aligned)
    answer = _one_token(model, pair.answer, f"The answer {pair.answer!r} of pair {number}", place)
    wrong = None
    if pair.wrong is not None:
        wrong = _one_token(model, pair.wrong, f"The wrong answer {pair.wrong!r} of pair {number}", place)
        if wrong == answer:
            raise InputRejected(
                f"The answer and the wrong answer of pair {number} are the same token {pair.answer!r}.",
                "Name two different tokens.",
                place,
            )
    return clean, twin, answer, wrong


def _check_lengths(model: Model, clean: list[int], twin: list[int], number: int, aligned: bool) -> None:
    if len(clean) == len(twin):
        return
    said = f"The prompts of pair {number} have different lengths: clean {len(clean)} tokens, corrupted {len(twin)}"
    if not aligned:
        raise InputRejected(
            f"{said}.",
            "Reword one of the two; only activation patching (`atlas patch`) can align such prompts.",
            f"pair {number}",
        )
    found = align(clean, twin)
    special = set(model.tokenizer.all_special_ids)
    begins = next((i for i, token in enumerate(clean) if token not in special), len(clean))
    if not found.well_defined(begins):
        raise InputRejected(
            f"{said}, and what they share ({found.prefix} at the beginning, {found.suffix} at the end) is too little to align them.",
            "Let them differ in one place before the last token and share half of the shorter one, or reword one of the two.",
            f"pair {number}",
        )


def _twin_lengths(lengths: list[int], twins: Sequence[list[int] | None], model: Model) -> torch.Tensor | None:
    """`Cases.twin_lengths`."""
    found = [len(twin) for twin in twins if twin is not None]
    return None if len(found) < len(lengths) or found == lengths else torch.tensor(found, device=model.device)


def _prompt(model: Model, text: str, what: str, place: str) -> list[int]:
    try:
        return prompt_ids(model, text, None)
    except InputRejected as error:
        said = error.message.replace("The prompt", what[:1].upper() + what[1:], 1)
        raise InputRejected(said, error.hint, place) from None


def _one_token(model: Model, text: str, what: str, place: str) -> int:
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        parts = " + ".join(repr(model.token_text(i)) for i in ids) or "nothing"
        raise InputRejected(
            f"{what} is {len(ids)} tokens ({parts}), and a metric needs exactly one.",
            "Many tokenizers have words with a leading space as one token.",
            place,
        )
    if ids[0] == model.tokenizer.unk_token_id and text != model.tokenizer.unk_token:
        raise InputRejected(f"{what} is not in the model's vocabulary.", "Name a token of the model.", place)
    if ids[0] >= model.vocabulary:
        raise InputRejected(f"{what} has an id outside the model's vocabulary.", "Name a token of the model.", place)
    return ids[0]


def _padded(rows: Sequence[Sequence[int]], model: Model) -> torch.Tensor:
    """(B, P). What stands behind a prompt is never looked at; 0 is an id that every model has."""
    longest = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int64)
