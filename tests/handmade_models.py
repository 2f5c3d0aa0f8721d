"""Transformers whose weights are written by hand, so that the edges that matter are known.

Three circuits in a two-layer GPT-2 with three heads per layer:

`induction`   the head 0/0 copies every token one place on; the head 1/0 looks from the last token A for the place whose previous token
              is A, and copies the token there.
`previous`    the head 0/0 copies every token one place on; the head 1/0 reads the place whose previous token is a marker.
`lookup`      the head 0/0 moves the subject, wherever it stands, to the last token, a relation; the MLP of layer 1 has one
              neuron per (subject, relation), which writes the answer.

`saturated` attention puts all but about 1e-10 of its weight on one place; `soft` attention about two thirds. All other weights are small noise,
so that no edge is exactly silent. The norms do next to nothing: every number is in the stream twice, with both signs (so the mean is 0), and a
constant of 1000 makes up the variance. The truth is the edges that carry what differs between the clean and the corrupted prompt; queries
and keys that only read positions are the same in both, and their edges have no effect to be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from atlas.causal_records import PromptPair
from ingest.components.metrics import Metric, metric
from ingest.components.pairs import Cases
from ingest.components.wiring import Wiring
from ingest.models.gpt2 import GPT2Model

NAMES = ("induction", "previous", "lookup")
ATTENTION = ("saturated", "soft")
SHARPNESS = {"saturated": 30.0, "soft": 3.0}  # attention logit of the place that is looked for; 0 elsewhere
LAYERS, HEADS, POSITIONS, CONSTANT = 2, 3, 10, 1000.0
TOKENS = 24
SUBJECTS, RELATIONS = 4, 3  # of the lookup: tokens 0..3, 4..6; answers 7..18; fillers 19..23
NOISE = 0.05


@dataclass
class Handmade:
    name: str
    attention: str
    model: GPT2Model
    cases: Cases
    truth: np.ndarray  # (E,) bool, edges as in Wiring

    @property
    def metric(self) -> Metric:
        return metric("logit-difference")


def handmade(name: str, attention: str, count: int = 32, seed: int = 0) -> Handmade:
    """One of NAMES with one of ATTENTION, and `count` random cases in which clean and corrupted prompt differ in every way."""
    writer = _Writer(seed)
    generator = np.random.default_rng(seed)
    sharp = SHARPNESS[attention]
    build, prompts = {
        "induction": (_induction, _induction_prompt),
        "previous": (_previous, _previous_prompt),
        "lookup": (_lookup, _lookup_prompt),
    }[name]
    edges = build(writer, sharp)
    wiring = Wiring(LAYERS, HEADS)
    truth = np.zeros(wiring.n_edges, bool)
    truth[[wiring.edge(_row(wiring, source), _row(wiring, target), slot) for source, target, slot in edges]] = True
    clean, corrupted, answers, wrong = [], [], [], []
    while len(clean) < count:
        (one, answer), (other, different) = prompts(generator), prompts(generator)
        query_differs = name == "previous" or one[-1] != other[-1]  # there the last token is only a filler
        if answer != different and query_differs:
            for column, value in zip((clean, corrupted, answers, wrong), (one, other, answer, different), strict=True):
                column.append(value)
    model = GPT2Model(
        name=f"handmade-{name}-{attention}",
        revision="unknown",
        weights_hash="unknown",
        from_folder=True,
        network=writer.network.eval().requires_grad_(False),
        tokenizer=None,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    pairs = tuple(
        PromptPair(clean=str(c), corrupted=str(x), answer=str(a))
        for c, x, a in zip(clean, corrupted, answers, strict=True)
    )
    cases = Cases(
        torch.tensor(clean),
        torch.tensor(corrupted),
        torch.full((count,), POSITIONS),
        torch.tensor(answers),
        torch.tensor(wrong),
        pairs,
    )
    return Handmade(name, attention, model, cases, truth)


Edge = tuple[str, str, str]


def _row(wiring: Wiring, node: str) -> int:
    """`token`, `head 1/0`, `mlp 1`, `logit`."""
    kind, _, place = node.partition(" ")
    if kind == "head":
        return wiring.head(*map(int, place.split("/")))
    return wiring.mlp(int(place)) if kind == "mlp" else {"token": 0, "logit": wiring.n_sources}[kind]


class _Writer:
    """Weights of a GPT-2 over a stream of named subspaces. Everything not written is noise that does not read the constant."""

    spaces = ("token", "previous", "out", "position")

    def __init__(self, seed: int) -> None:
        sizes = {"token": TOKENS, "previous": TOKENS, "out": TOKENS, "position": POSITIONS}
        begins = np.cumsum([0, *sizes.values()])
        self.at = {name: slice(int(b), int(b) + sizes[name]) for name, b in zip(sizes, begins, strict=False)}
        self.plain = -(-(int(begins[-1]) + 1) // HEADS) * HEADS  # the last number is the constant
        width = 2 * self.plain
        config = GPT2Config(
            vocab_size=TOKENS,
            n_positions=POSITIONS,
            n_embd=width,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=16,
            bos_token_id=None,
            eos_token_id=None,
            activation_function="relu",
            tie_word_embeddings=False,
            layer_norm_epsilon=1e-12,
            attn_implementation="eager",
        )
        self.head_size = width // HEADS
        self.network = GPT2LMHeadModel(config).double()
        self.generator = torch.Generator().manual_seed(seed)
        body = self.network.transformer
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.zero_()
            for norm in [body.ln_f, *(n for layer in body.h for n in (layer.ln_1, layer.ln_2))]:
                norm.weight.fill_(CONSTANT * (2 / width) ** 0.5)
            embedding = self._zeros(TOKENS)
            embedding[:, self.at["token"]] = torch.eye(TOKENS)
            embedding[:, -1] = CONSTANT
            body.wte.weight.copy_(self._written(embedding))
            positions = self._zeros(POSITIONS)
            positions[:, self.at["position"]] = torch.eye(POSITIONS)
            body.wpe.weight.copy_(self._written(positions))
            logits = self._zeros(TOKENS)
            logits[:, self.at["out"]] = torch.eye(TOKENS)
            self.network.lm_head.weight.copy_(self._read(logits.T).T)
            for layer in body.h:
                layer.attn.c_attn.weight.copy_(self._read(self._noise(self.plain, 3 * width)))
                layer.attn.c_proj.weight.copy_(self._written(self._noise(width, self.plain)))
                layer.mlp.c_fc.weight.copy_(self._read(self._noise(self.plain, 16)))
                layer.mlp.c_fc.bias.fill_(0.05)  # so that the noise neurons are on
                layer.mlp.c_proj.weight.copy_(self._written(self._noise(16, self.plain)))

    def _zeros(self, rows: int) -> torch.Tensor:
        return torch.zeros(rows, self.plain, dtype=torch.float64)

    def _noise(self, *shape: int) -> torch.Tensor:
        return NOISE * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def _written(self, values: torch.Tensor) -> torch.Tensor:
        """(n, plain) -> (n, width): with both signs."""
        return torch.cat([values, -values], dim=1)

    def _read(self, weights: torch.Tensor) -> torch.Tensor:
        """(plain, n) -> (width, n): half of the difference of the two signs; the constant is not read."""
        weights = weights.clone()
        weights[-1] = 0
        return torch.cat([weights, -weights]) / 2

    @torch.no_grad()
    def head(
        self,
        layer: int,
        *,
        query: torch.Tensor | None,
        key: torch.Tensor,
        value: torch.Tensor,
        output: tuple[str, torch.Tensor],
        query_bias: torch.Tensor | None = None,
    ) -> None:
        """Head 0 of a layer. query, key, value: (plain, n) what is read; output: the space and (n, its size) what is written."""
        attention, size = self.network.transformer.h[layer].attn, self.head_size
        for slot, weights in enumerate((query, key, value)):
            columns = slice(slot * 2 * self.plain, slot * 2 * self.plain + size)
            attention.c_attn.weight[:, columns] = 0
            if weights is not None:
                scale = size**0.5 if slot == 0 else 1  # the attention logit is q . k / sqrt(size)
                attention.c_attn.weight[:, columns][:, : weights.shape[1]] = self._read(weights * scale)
        if query_bias is not None:
            attention.c_attn.bias[: len(query_bias)] = query_bias * size**0.5
        space, weights = output
        wide = self._zeros(size)
        wide[: len(weights), self.at[space]] = weights
        attention.c_proj.weight[:size] = self._written(wide)

    def reads(self, space: str, columns: torch.Tensor | None = None) -> torch.Tensor:
        """(plain, n) that reads a subspace through (its size, n) columns, by default as it is."""
        place = self.at[space]
        made = torch.zeros(self.plain, place.stop - place.start if columns is None else columns.shape[1])
        made[place] = torch.eye(place.stop - place.start) if columns is None else columns
        return made.double()

    def previous_token_head(self, sharp: float) -> None:
        """Position p matches the key of position p - 1."""
        back = torch.zeros(POSITIONS, POSITIONS)
        back[torch.arange(1, POSITIONS), torch.arange(POSITIONS - 1)] = sharp
        self.head(
            0,
            query=self.reads("position", back),
            key=self.reads("position"),
            value=self.reads("token"),
            output=("previous", torch.eye(TOKENS)),
        )

    @torch.no_grad()
    def table(self, gain: float) -> None:
        """The MLP of layer 1: one neuron per (subject, relation), on when both are there, writes its answer."""
        mlp = self.network.transformer.h[1].mlp
        read, written = torch.zeros(self.plain, 16, dtype=torch.float64), self._zeros(16)
        for subject in range(SUBJECTS):
            for relation in range(RELATIONS):
                neuron = subject * RELATIONS + relation
                read[self.at["previous"].start + subject, neuron] = 1
                read[self.at["token"].start + SUBJECTS + relation, neuron] = 1
                written[neuron, self.at["out"].start + _answer(subject, relation)] = gain
        mlp.c_fc.weight.copy_(self._read(read))
        mlp.c_fc.bias.fill_(-1.2)
        mlp.c_proj.weight.copy_(self._written(written))


def _induction(writer: _Writer, sharp: float) -> list[Edge]:
    writer.previous_token_head(sharp)
    writer.head(
        1,
        query=writer.reads("token", torch.eye(TOKENS) * sharp),
        key=writer.reads("previous"),
        value=writer.reads("token"),
        output=("out", 5 * torch.eye(TOKENS)),
    )
    return [
        ("token", "head 0/0", "v"),
        ("token", "head 1/0", "q"),
        ("head 0/0", "head 1/0", "k"),
        ("token", "head 1/0", "v"),
        ("head 1/0", "logit", "direct"),
    ]


def _previous(writer: _Writer, sharp: float) -> list[Edge]:
    """The marker is token 0."""
    writer.previous_token_head(sharp)
    marker = torch.zeros(TOKENS, 1)
    marker[0] = 1
    writer.head(
        1,
        query=None,
        query_bias=torch.tensor([sharp]),
        key=writer.reads("previous", marker),
        value=writer.reads("token"),
        output=("out", 5 * torch.eye(TOKENS)),
    )
    return [
        ("token", "head 0/0", "v"),
        ("head 0/0", "head 1/0", "k"),
        ("token", "head 1/0", "v"),
        ("head 1/0", "logit", "direct"),
    ]


def _lookup(writer: _Writer, sharp: float) -> list[Edge]:
    subject = torch.zeros(TOKENS, 1)
    subject[:SUBJECTS] = 1
    writer.head(
        0,
        query=None,
        query_bias=torch.tensor([sharp]),
        key=writer.reads("token", subject),
        value=writer.reads("token"),
        output=("previous", torch.eye(TOKENS)),
    )
    writer.table(5.0)
    return [
        ("token", "head 0/0", "k"),
        ("token", "head 0/0", "v"),
        ("token", "mlp 1", "direct"),
        ("head 0/0", "mlp 1", "direct"),
        ("mlp 1", "logit", "direct"),
    ]


def _answer(subject: int, relation: int) -> int:
    return SUBJECTS + RELATIONS + subject * RELATIONS + relation


def _induction_prompt(generator: np.random.Generator) -> tuple[Sequence[int], int]:
    """... A B ... A"""
    tokens = generator.permutation(TOKENS)[: POSITIONS - 1].tolist()
    place = int(generator.integers(1, POSITIONS - 3))
    return [*tokens, tokens[place]], tokens[place + 1]


def _previous_prompt(generator: np.random.Generator) -> tuple[Sequence[int], int]:
    """... marker A ..."""
    tokens = (1 + generator.permutation(TOKENS - 1)[:POSITIONS]).tolist()
    place = int(generator.integers(1, POSITIONS - 2))
    tokens[place] = 0
    return tokens, tokens[place + 1]


def _lookup_prompt(generator: np.random.Generator) -> tuple[Sequence[int], int]:
    """fillers, among them a subject, then a relation"""
    first = SUBJECTS + RELATIONS + SUBJECTS * RELATIONS
    tokens = generator.integers(first, TOKENS, POSITIONS).tolist()
    subject, relation = int(generator.integers(SUBJECTS)), int(generator.integers(RELATIONS))
    tokens[int(generator.integers(POSITIONS - 1))] = subject
    tokens[-1] = SUBJECTS + relation
    return tokens, _answer(subject, relation)
