"""From prompt pairs to token ids, with every refusal before the model runs; and back from a stored circuit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from atlas.causal_records import PromptPair, _OnPairs
from atlas.circuit import CircuitRecord, Example
from atlas.errors import InputRejected, UsageError
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
    lengths: torch.Tensor  # (B,) int64 real tokens; of both prompts of a pair
    answers: torch.Tensor  # (B,) int64 token ids
    wrong: torch.Tensor | None  # (B,) int64; None unless every pair has a wrong answer
    pairs: tuple[PromptPair, ...]
    clean_logits: torch.Tensor | None = (
        None  # (B, V) of the clean run, where a metric needs them (`network.with_clean_logits`)
    )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def last(self) -> torch.Tensor:
        """(B,) the position the metric is read at."""
        return self.lengths - 1

    def take(self, rows: Sequence[int] | torch.Tensor) -> Cases:
        """Some of the cases, in the order of `rows`, cut to their own longest."""
        rows = torch.as_tensor(rows, device=self.lengths.device)
        longest = int(self.lengths[rows].max()) if len(rows) else 0
        pick = lambda values: None if values is None else values[rows]  # noqa: E731
        return replace(
            self,
            clean=self.clean[rows, :longest],
            corrupted=None if self.corrupted is None else self.corrupted[rows, :longest],
            lengths=self.lengths[rows],
            answers=self.answers[rows],
            wrong=pick(self.wrong),
            pairs=tuple(self.pairs[row] for row in rows.tolist()),
            clean_logits=pick(self.clean_logits),
        )

    def by_length(self) -> list[list[int]]:
        """Row numbers of the cases of each length, shortest first: within a group nothing is padded."""
        lengths = self.lengths.tolist()
        return [[row for row, n in enumerate(lengths) if n == length] for length in sorted(set(lengths))]

    def examples(self, model: Model) -> list[Example]:
        """As a circuit's record holds them."""
        found = []
        for row, pair in enumerate(self.pairs):
            ids = self.clean[row, : self.lengths[row]].tolist()
            twin = None if self.corrupted is None else self.corrupted[row, : self.lengths[row]].tolist()
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
    model: Model, pairs: Sequence[PromptPair], *, metric: str | None = None, corrupted: bool = False
) -> Cases:
    """Token ids of the pairs, as `ingest.trace` makes them of prompts.

    metric: its name, so that a pair without the wrong answer it needs is refused here. corrupted: every pair must have a
    corrupted prompt. Raises InputRejected, naming the pair (counted from 1): prompts of different lengths in tokens, an
    answer of several tokens or outside the vocabulary, a blank prompt, one longer than the context.
    """
    if not pairs:
        raise InputRejected("There is no prompt pair.", "Pass at least one.")
    needs_wrong = metric == "logit-difference"
    rows = [_tokens(model, pair, number, needs_wrong, corrupted) for number, pair in enumerate(pairs, start=1)]
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
    )


def _tokens(
    model: Model, pair: PromptPair, number: int, needs_wrong: bool, needs_corrupted: bool
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
        if len(twin) != len(clean):
            raise InputRejected(
                f"The prompts of pair {number} have different lengths: clean {len(clean)} tokens, corrupted {len(twin)}.",
                "Positions are compared one by one, so reword one of the two.",
                place,
            )
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
