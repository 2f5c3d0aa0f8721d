"""From a prompt to token ids, with every refusal before any long work."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.errors import InputRejected, UsageError
from ingest.models.base import Model


def prompt_ids(model: Model, prompt: str | None, token_ids: Sequence[int] | None, chat: bool = False) -> list[int]:
    """The token ids to trace: `token_ids` exactly as given, or the prompt's.

    A prompt is tokenised as the model's tokenizer does. When its first token is then not a special one, the first of the
    tokenizer's bos, pad, eos and other special tokens whose id is not 0 is put in front (the field's convention: position 0
    has no features, so it must not be a word); a tokenizer without any leaves the prompt as it is. With `chat` the prompt
    is the user's turn in the tokenizer's chat template. Raises UsageError or InputRejected.
    """
    if (prompt is None) == (token_ids is None):
        raise UsageError("Pass either a prompt or token ids.", "One of the two, not both.")
    if token_ids is not None:
        if chat:
            raise UsageError("A chat template needs a prompt, not token ids.", "Leave one of the two out.")
        ids = [int(i) for i in token_ids]
    else:
        ids = _encode(model, prompt or "", chat)
    if not ids:
        raise InputRejected("The prompt is empty.", "Pass at least one token.")
    outside = next((place for place, i in enumerate(ids) if not 0 <= i < model.vocabulary), None)
    if outside is not None:
        raise InputRejected(
            f"The token id {ids[outside]} at position {outside} is outside the vocabulary (0 to {model.vocabulary - 1}).",
            "Pass ids of the model's own tokenizer.",
            place=f"token_ids[{outside}]",
        )
    if len(ids) > model.context:
        raise InputRejected(
            f"The prompt has {len(ids)} tokens, the model's context {model.context}.", "Shorten the prompt."
        )
    return ids


def _encode(model: Model, prompt: str, chat: bool) -> list[int]:
    if not prompt.strip():
        raise InputRejected("The prompt is empty.", "Pass at least one word.")
    if "\0" in prompt or any("\ud800" <= char <= "\udfff" for char in prompt):
        raise InputRejected(
            "The prompt holds bytes that are no text, so neither the model nor a database can take it.",
            "Pass it as UTF-8, or pass token ids.",
        )
    tokenizer = model.tokenizer
    if chat:
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(f"The model {model.name} has no chat template.", "Leave --chat out.")
        turns = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = tokenizer.encode(prompt)
    special = tokenizer.all_special_ids
    if ids and ids[0] not in special:
        first = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, *special]
        ids = [i for i in first if i][:1] + ids
    return ids


def continued(model: Model, ids: list[int], by: int, at: int | None) -> tuple[list[int], int | None]:
    """The ids after the model has written `by` more tokens, cut before position `at`; and the token that stood there.

    by 0 and at None: as given, None. Raises UsageError (numbers), InputRejected (context, position).
    """
    if by < 0:
        raise UsageError(f"The model cannot write {by} tokens.", "Pass 0 or more.")
    if len(ids) + by > model.context:
        raise InputRejected(
            f"The prompt has {len(ids)} tokens, with {by} more it is longer than the model's context {model.context}.",
            "Shorten one of the two.",
        )
    length = len(ids)
    for _ in range(by):
        ids = [*ids, model.likeliest_next(ids)]
    if at is None:
        if by == 0:
            return ids, None
        at = length  # the first token it wrote
    position = at if at >= 0 else len(ids) + at
    if not 1 <= position < len(ids):
        raise InputRejected(
            f"There is no token at position {at} to explain: the text has {len(ids)} tokens, and the first explains itself.",
            f"Pass a position from 1 to {len(ids) - 1}.",
        )
    return ids[:position], ids[position]
