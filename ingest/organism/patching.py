"""Is the state really a step on the way from the city to the capital?

For a two-hop prompt about a city of state A, the mean residual stream of
cities of state B minus that of cities of state A is added at the city's
position.  If the model goes through the state, its answer becomes B's capital.

The direction comes from other prompts ("{city} is a city in", where neither a
capital nor any other relation was mentioned) and from other cities than the
prompt's own, so it can carry the state but not the question.  Controls: a
random direction, and the difference of two cities of state A, both rescaled
to the same norm.
"""

from __future__ import annotations

import random

import torch

from .geography import BY_CITY, BY_NAME, STATES, State, attribute
from .grammar import Example

#: where directions are read: no relation is known at the city's position
SOURCE_PROMPT = "{city} is a city in"
KINDS = ("state", "random", "same_state")


def _stream(model, layer: int) -> torch.nn.Module:
    """The module whose output is the residual stream before block `layer` (0 = embeddings)."""
    return model.model.embed_tokens if layer == 0 else model.model.layers[layer - 1]


def _plain(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def city_streams(model, tokenizer, layer: int) -> dict[str, torch.Tensor]:
    """Residual stream (d,) at the city's position of `SOURCE_PROMPT`, for every city."""
    caught = []
    handle = _stream(model, layer).register_forward_hook(lambda m, a, out: caught.append(_plain(out)))
    cities = list(BY_CITY)
    try:
        model(**tokenizer([SOURCE_PROMPT.format(city=c) for c in cities], return_tensors="pt"))
    finally:
        handle.remove()
    return {city: caught[0][i, 1].clone() for i, city in enumerate(cities)}  # position 1: after BOS


def state_mean(streams: dict[str, torch.Tensor], state: State, without: str) -> torch.Tensor:
    """Mean stream (d,) of a state's cities, leaving one city out."""
    return torch.stack([streams[c] for c in state.cities if c != without]).mean(0)


def direction(
    streams: dict[str, torch.Tensor], city: str, target: State, kind: str, rng: random.Random
) -> torch.Tensor:
    """What is added at the city's position: (d,), of one of `KINDS`."""
    source = BY_CITY[city]
    wanted = state_mean(streams, target, city) - state_mean(streams, source, city)
    if kind == "state":
        return wanted
    if kind == "random":
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        other = torch.randn(wanted.shape, generator=generator)
    else:
        first, second = rng.sample([c for c in source.cities if c != city], 2)
        other = streams[first] - streams[second]
    return other / other.norm() * wanted.norm()


@torch.no_grad()
def patched_answers(
    model, tokenizer, layer: int, prompts: list[str], cities: list[str], added: torch.Tensor
) -> torch.Tensor:
    """Logits (n_prompts, n_vocab) after adding `added` (n_prompts, d) at each prompt's city."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="right")
    rows = torch.arange(len(prompts))
    city_ids = torch.tensor(tokenizer.convert_tokens_to_ids(cities))
    positions = (batch["input_ids"] == city_ids[:, None]).int().argmax(1)

    def add(module, args, output):
        stream = _plain(output).clone()
        stream[rows, positions] += added
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = _stream(model, layer).register_forward_hook(add)
    try:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    finally:
        handle.remove()
    return logits[rows, batch["attention_mask"].sum(1) - 1]


def flip_rates(
    model, tokenizer, examples: list[Example], layer: int, targets_each: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Per kind of direction, how often the answer becomes the target state's own.

    `<kind>_flips`: share of (prompt, target state) whose likeliest token is the
    target's answer.  `<kind>_keeps`: share whose likeliest token is still the
    prompt's own answer.  Pairs of states that share the answer are left out.
    """
    rng = random.Random(seed)
    streams = city_streams(model, tokenizer, layer)
    cases = []
    for example in examples:
        relation, own = example.facts["relation"], BY_NAME[example.facts["state"]]
        others = [s for s in STATES if attribute(s, relation) != attribute(own, relation)]
        for target in others if targets_each is None else rng.sample(others, targets_each):
            cases.append((example, target, attribute(target, relation)))
    prompts = [example.prompt for example, _, _ in cases]
    cities = [example.facts["city"] for example, _, _ in cases]
    wanted = torch.tensor(tokenizer.convert_tokens_to_ids([answer for _, _, answer in cases]))
    own_ids = torch.tensor(tokenizer.convert_tokens_to_ids([example.answer for example, _, _ in cases]))
    rates: dict[str, float] = {"cases": len(cases)}
    for kind in KINDS:
        added = torch.stack([direction(streams, e.facts["city"], t, kind, rng) for e, t, _ in cases])
        best = patched_answers(model, tokenizer, layer, prompts, cities, added).argmax(-1)
        rates[f"{kind}_flips"] = (best == wanted).float().mean().item()
        rates[f"{kind}_keeps"] = (best == own_ids).float().mean().item()
    return rates
