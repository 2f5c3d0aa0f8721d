"""Which logits are explained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atlas.errors import InputRejected
from ingest.models.base import Model


def choose_logits(
    logits: torch.Tensor, token_ids: Sequence[int] | None, max_logits: int, logit_mass: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(K,) token ids and (K,) probabilities, most likely first.

    logits: (V,) at the last position, after a final soft cap. With `token_ids` those; else the fewest most likely tokens
    whose probabilities reach `logit_mass` together, at most `max_logits`. Probabilities are not renormalised.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    if token_ids is not None:
        chosen = torch.tensor(list(token_ids), device=logits.device)
        chosen = chosen[torch.argsort(probabilities[chosen], descending=True, stable=True)]
    else:
        top = torch.topk(probabilities, min(max_logits, len(probabilities)))
        enough = int((torch.cumsum(top.values.cpu().double(), dim=0) < logit_mass).sum()) + 1
        chosen = top.indices[:enough]
    return chosen, probabilities[chosen]


def named_tokens(model: Model, names: Sequence[str | int]) -> list[int]:
    """Vocabulary ids of tokens named by their exact text (a leading space counts) or by id; repeats are dropped.

    Raises InputRejected when a text is not exactly one token of the vocabulary.
    """
    ids: dict[int, None] = {}
    for name in names:
        ids[name if isinstance(name, int) else _one_token(model, name)] = None
    if not ids:
        raise InputRejected("No target token was named.", "Name at least one, or leave the targets out.")
    outside = [i for i in ids if not 0 <= i < len(model.unembedding)]
    if outside:
        raise InputRejected(
            f"The target token id {outside[0]} is outside the vocabulary (0 to {len(model.unembedding) - 1}).",
            "Name a token of the model.",
        )
    return list(ids)


def _one_token(model: Model, text: str) -> int:
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
