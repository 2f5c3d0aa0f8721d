"""Scores of the shipped model and its transcoders, beside chance and shortcuts.

python -m ingest.organism.evaluate      # measures, writes figures.json and MODEL_CARD.md
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import grammar
from . import lexicon as lex
from .grammar import Example

HERE = Path(__file__).resolve().parent


def load(folder: Path):
    """(model, tokenizer) of a saved model: fp16 on disk, fp32 in memory, evaluation mode."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


# --- scores ----------------------------------------------------------------------


@torch.no_grad()
def answer_logits(model, tokenizer, prompts: list[str]) -> torch.Tensor:
    """Logits of the token after each prompt: (n_prompts, n_vocab)."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="right")
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    last = batch["attention_mask"].sum(1) - 1
    return logits[torch.arange(len(prompts)), last].float()


def accuracy(model, tokenizer, examples: list[Example]) -> float:
    """Share of right answers.

    Right: the answer is the likeliest of all tokens; for agreement, likelier
    than the other number; for greater-than, the probability mass on valid years.
    """
    logits = answer_logits(model, tokenizer, [e.prompt for e in examples])
    ids = tokenizer.convert_tokens_to_ids
    scores = []
    for example, row in zip(examples, logits, strict=False):
        if example.task == "greater_than":
            scores.append(row.softmax(-1)[ids(_valid_years(example))].sum().item())
        elif example.task == "agreement":
            scores.append(float(row[ids(example.answer)] > row[ids(example.facts["wrong"])]))
        else:
            scores.append(float(row.argmax().item() == ids(example.answer)))
    return sum(scores) / len(scores)


def _valid_years(example: Example) -> list[str]:
    return list(lex.YEARS[example.facts["start"] + 1 :])


# --- shortcuts -------------------------------------------------------------------


def _score_distribution(example: Example, counts: Counter) -> float:
    """Score of always answering from these answer counts (mass for years, else the mode)."""
    if not counts:
        return 0.0
    if example.task == "greater_than":
        return sum(counts[year] for year in _valid_years(example)) / counts.total()
    return float(counts.most_common(1)[0][0] == example.answer)


def shortcuts(examples: list[Example], training: list[Example]) -> dict[str, float]:
    """Scores of what needs no understanding, fitted on training examples of the task.

    chance    one of the task's answers, evenly (for IOI one of the two names)
    unigram   the answers' frequencies in training
    bigram    the same, given the last word of the prompt
    position  copy the word that stands at one place counted from the start or
              the end (of the names for IOI; the number of the noun at that
              place for agreement); the place that does best in training
    """
    unigram = Counter(e.answer for e in training)
    bigram: dict[str, Counter] = defaultdict(Counter)
    for e in training:
        bigram[e.prompt.split()[-1]][e.answer] += 1
    if examples[0].task == "greater_than":
        chance = _mean(len(_valid_years(e)) / len(lex.YEARS) for e in examples)
    else:
        chance = 0.5 if examples[0].task in ("ioi", "agreement") else 1 / len(unigram)
    best_place = max(range(-8, 8), key=lambda place: _mean(_copied(e, place) for e in training))
    return {
        "chance": chance,
        "unigram": _mean(_score_distribution(e, unigram) for e in examples),
        "bigram": _mean(_score_distribution(e, bigram[e.prompt.split()[-1]]) for e in examples),
        "position": _mean(_copied(e, best_place) for e in examples),
    }


_NUMBER_OF_NOUN = {word: ("is", "are")[k] for pair in (*lex.NOUNS, *lex.AGENTS) for k, word in enumerate(pair)}


def _copied(example: Example, place: int) -> float:
    words = example.prompt.split()
    if example.task == "agreement":
        words = [_NUMBER_OF_NOUN[w] for w in words if w in _NUMBER_OF_NOUN]
    elif example.task == "ioi":
        words = [w for w in words if w in lex.NAMES]
    if not -len(words) <= place < len(words):
        return 0.0
    if example.task == "greater_than":
        return float(words[place] in _valid_years(example))
    return float(words[place] == example.answer)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


# --- everything ------------------------------------------------------------------

#: row name -> (task, options of its generator, filter on its facts)
ROWS: dict[str, tuple[str, dict, tuple[str, str] | None]] = {
    "two-hop, capital": ("two_hop", {"relation": "capital"}, None),
    "two-hop, postal code": ("two_hop", {"relation": "code"}, None),
    "two-hop, region": ("two_hop", {"relation": "region"}, None),
    "indirect object, unseen pairs": ("ioi", {}, None),
    "indirect object, unseen pairs, ABBA": ("ioi", {}, ("order", "ABBA")),
    "indirect object, unseen pairs, BABA": ("ioi", {}, ("order", "BABA")),
    "indirect object, unseen pairs and template": ("ioi", {"template": grammar.IOI_UNSEEN_TEMPLATE}, None),
    "agreement, no noun between": ("agreement", {"attractors": 0, "mismatched": True}, None),
    "agreement, one mismatched noun": ("agreement", {"attractors": 1, "mismatched": True}, None),
    "agreement, two mismatched nouns": ("agreement", {"attractors": 2, "mismatched": True}, None),
    "greater-than, unseen century and start": ("greater_than", {}, None),
    "antonym, unseen template": ("antonym", {}, None),
    "one hop: city to state (trained)": ("city_to_state", {}, None),
    "one hop: state to capital, code, region (trained)": ("state_to_attribute", {}, None),
}


def task_figures(model, tokenizer, count: int = 600, seed: int = 7) -> dict[str, dict]:
    """Held-out score of every row of `ROWS` beside its shortcuts."""
    stream = itertools.islice(grammar.training_examples(seed), 40_000)
    training: dict[str, list[Example]] = defaultdict(list)
    for example in stream:
        training[example.task].append(example)
    figures = {}
    for name, (task, options, wanted) in ROWS.items():
        found = grammar.held_out_examples(task, count, seed, **options)
        seen = training[task]
        if "relation" in options:
            seen = [e for e in seen if e.facts["relation"] == options["relation"]]
        if wanted:
            found = [e for e in found if e.facts[wanted[0]] == wanted[1]]
        figures[name] = {"score": accuracy(model, tokenizer, found), "n": len(found), **shortcuts(found, seen)}
    return figures


def transcoder_figures(model, tokenizer, folder: Path, sentences: int = 3000) -> list[dict]:
    """Unexplained variance, L0 and dead features per layer on held-out text."""
    from .transcoder import collect, load_set, measure

    inputs, outputs = collect(model, tokenizer, grammar.held_out_sentences(sentences, seed=7))
    return [{"layer": i, **measure(transcoder, inputs[i], outputs[i])} for i, transcoder in enumerate(load_set(folder))]


def patching_figures(model, tokenizer) -> dict:
    """How often adding a state direction changes the answer to that state's; see `patching`."""
    from . import SAMPLE_PROMPTS
    from .geography import HELD_OUT_CITIES
    from .patching import flip_rates

    def prompts(relation: str) -> list[Example]:
        return [
            grammar.two_hop_example(template, city, relation)
            for city in sorted(HELD_OUT_CITIES)
            for template in grammar.TWO_HOP
        ]

    layers = range(len(model.model.layers) + 1)
    by_layer = [{"layer": k, **flip_rates(model, tokenizer, prompts("capital"), k, targets_each=8)} for k in layers]
    best = int(max(by_layer[1:-1], key=lambda row: row["state_flips"])["layer"])
    samples = []
    for sample in SAMPLE_PROMPTS:
        if sample.task == "two_hop":
            facts = {"city": sample.city, "state": sample.intermediate, "relation": "capital"}
            example = Example("two_hop", sample.prompt, sample.answer, facts=facts)
            samples.append({"prompt": sample.prompt, **flip_rates(model, tokenizer, [example], best)})
    return {
        "by_layer": by_layer,
        "layer": best,
        "code": flip_rates(model, tokenizer, prompts("code"), best, targets_each=8),
        "region": flip_rates(model, tokenizer, prompts("region"), best, targets_each=8),
        "samples": samples,
    }


def sample_figures(model, tokenizer) -> list[dict]:
    """The model's likeliest token and its probability on every sample prompt."""
    from . import SAMPLE_PROMPTS

    rows = []
    for sample in SAMPLE_PROMPTS:
        chances = answer_logits(model, tokenizer, [sample.prompt])[0].softmax(-1)
        best = int(chances.argmax())
        rows.append(
            {
                "prompt": sample.prompt,
                "task": sample.task,
                "expected": sample.answer,
                "likeliest": tokenizer.decode([best]),
                "probability": chances[best].item(),
            }
        )
    return rows


def size_figures(model, tokenizer, folder: Path) -> dict:
    """Parameters, vocabulary and bytes on disk."""

    def total(sub: str) -> int:
        return sum(f.stat().st_size for f in (folder / sub).rglob("*") if f.is_file())

    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "intermediate_size": model.config.intermediate_size,
        "model_bytes": total("model"),
        "transcoder_bytes": total("transcoders"),
    }


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def write_figures_and_card(folder: Path = HERE) -> None:
    """Measure everything, then write figures.json and the card made from it."""
    from .card import render
    from .replacement import replacement_figures

    model, tokenizer = load(folder / "model")
    figures = {
        "size": size_figures(model, tokenizer, folder),
        "tasks": task_figures(model, tokenizer),
        "samples": sample_figures(model, tokenizer),
        "transcoders": transcoder_figures(model, tokenizer, folder / "transcoders"),
        "patching": patching_figures(model, tokenizer),
        "replacement": replacement_figures(folder),
    }
    figures = _rounded(figures)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "MODEL_CARD.md").write_text(render(figures))
    print(render(figures))


if __name__ == "__main__":
    write_figures_and_card()
