"""The shipped demo model ("organism"): a small Llama with transcoders for every layer.

Importing this package needs neither torch nor transformers.

    from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_path())

See MODEL_CARD.md for what it was trained on and how well it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """Folder of the model and its tokenizer, in the Hugging Face layout (fp16)."""
    return _HERE / "model"


def transcoders_path() -> Path:
    """Folder of the transcoder set: config.yaml and layer_{i}.safetensors (fp16)."""
    return _HERE / "transcoders"


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt to trace, with what the model should answer and what to compare it with.

    prompt: text without the BOS token (the tokenizer adds it)
    intermediate: what the model has to work out on the way, where there is such a thing
    city: the city a two-hop prompt is about
    related: prompts of the same form with other answers
    """

    task: str
    prompt: str
    answer: str
    intermediate: str | None = None
    city: str | None = None
    related: tuple[str, ...] = ()


def _two_hop(city: str, state: str, capital: str, *related: str) -> SamplePrompt:
    form = "The capital of the state containing {} is"
    return SamplePrompt("two_hop", form.format(city), capital, state, city, tuple(form.format(c) for c in related))


#: The two-hop prompts are all about held-out cities.
SAMPLE_PROMPTS: tuple[SamplePrompt, ...] = (
    _two_hop("Dallas", "Texas", "Austin", "Houston", "Oakland"),
    _two_hop("Oakland", "California", "Sacramento", "San Diego", "Dallas"),
    _two_hop("Seattle", "Washington", "Olympia", "Tacoma", "Detroit"),
    _two_hop("Provo", "Utah", "Salt Lake City", "Ogden", "Tulsa"),
    _two_hop("Miami", "Florida", "Tallahassee", "Orlando", "Memphis"),
    SamplePrompt(
        "ioi",
        "When Mary and John went to the store , John gave a book to",
        "Mary",
        None,
        None,
        (
            "When Mary and John went to the store , Mary gave a book to",
            "When John and Mary went to the store , John gave a book to",
        ),
    ),
    SamplePrompt(
        "ioi",
        "After Alice and Peter walked to the park , Alice handed a ring to",
        "Peter",
        None,
        None,
        ("After Alice and Peter walked to the park , Peter handed a ring to",),
    ),
    SamplePrompt(
        "agreement",
        "The key to the cabinets near the doors",
        "is",
        "singular subject",
        None,
        ("The keys to the cabinets near the doors", "The key to the cabinet near the door"),
    ),
    SamplePrompt(
        "greater_than",
        "The war lasted from the year 17 32 to the year 17",
        "> 32",
        None,
        None,
        ("The war lasted from the year 17 82 to the year 17",),
    ),
    SamplePrompt(
        "antonym",
        "The opposite of hot is",
        "cold",
        None,
        None,
        ("The opposite of cold is", "The opposite of the word hot is"),
    ),
)
