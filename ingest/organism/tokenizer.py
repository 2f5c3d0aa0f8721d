"""The word-level tokenizer of the shipped model.

One id per word.  Names of several words ("Salt Lake City", "St. Louis") are
added tokens, so plain text gives one id for them and decoding gives the text
back.  Every encoded text starts with the BOS token.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from . import geography, grammar

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the model, made from the grammar's word lists."""
    words = list(SPECIAL_TOKENS) + grammar.vocabulary_words()
    names = geography.names()
    compound = [name for name in names if not name.isalnum()]
    words += [name for name in names if name.isalnum()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=False, special=False) for name in compound])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
