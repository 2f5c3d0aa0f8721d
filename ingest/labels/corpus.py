"""Texts as flat token columns, and where each feature fires on them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

WINDOW = 64  # how far back `earlier` looks, in tokens
SHAPES = ("numbers", "capitalised words", "punctuation")


@dataclass
class Corpus:
    """Texts one after the other. A word is a token's text without surrounding blanks: what a label can show.

    ids (n,) token ids; codes (n,) rows of `words`; position (n,) from 0 in its text; counted (n,) False at special tokens
    (begin of text, padding), which are neither described nor scored.
    """

    ids: np.ndarray
    codes: np.ndarray
    position: np.ndarray
    counted: np.ndarray
    words: list[str]
    starts: np.ndarray  # (texts + 1,) first flat position of every text, then n

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def texts(self) -> int:
        return len(self.starts) - 1

    def text_ids(self, text: int) -> np.ndarray:
        return self.ids[self.starts[text] : self.starts[text + 1]]

    @cached_property
    def code_of(self) -> dict[str, int]:
        return {word: code for code, word in enumerate(self.words)}

    @cached_property
    def text_of(self) -> np.ndarray:
        """(n,) number of the text of every position."""
        return np.repeat(np.arange(self.texts), np.diff(self.starts))

    @cached_property
    def previous(self) -> np.ndarray:
        """(n,) code of the token before, -1 at the first and after a special token."""
        before = np.full(len(self), -1)
        inside = (self.position[1:] > 0) & self.counted[:-1]
        before[1:][inside] = self.codes[:-1][inside]
        return before

    @cached_property
    def following(self) -> np.ndarray:
        """(n,) code of the token after, -1 at the last of a text."""
        after = np.full(len(self), -1)
        inside = self.position[1:] > 0
        after[:-1][inside] = self.codes[1:][inside]
        return after

    @cached_property
    def earlier(self) -> sparse.csc_array:
        """(n, words) 1 where the word stands before this token in the same text, at most WINDOW tokens back."""
        rows, columns = [np.zeros(0, int)], [np.zeros(0, int)]
        for back in range(1, min(WINDOW, int(self.position.max(initial=0))) + 1):
            here = np.flatnonzero(self.position >= back)
            here = here[self.counted[here - back]]
            rows.append(here)
            columns.append(self.codes[here - back])
        row, column = np.concatenate(rows), np.concatenate(columns)
        shape = (len(self), len(self.words))
        matrix = sparse.csc_array((np.ones(len(row), np.float32), (row, column)), shape=shape)
        matrix.data[:] = 1  # a word that came twice was summed
        return matrix

    def after(self, code: int) -> np.ndarray:
        """(n,) bool: column `code` of `earlier`."""
        mask = np.zeros(len(self), bool)
        mask[self.earlier.indices[self.earlier.indptr[code] : self.earlier.indptr[code + 1]]] = True
        return mask

    @cached_property
    def shape_of(self) -> dict[str, np.ndarray]:
        """(words,) bool per shape: what a word looks like, nothing about what it means."""
        tests: dict[str, Callable[[str], bool]] = {
            "numbers": str.isdigit,
            "capitalised words": lambda word: word[:1].isupper(),
            "punctuation": lambda word: bool(word) and all(unicodedata.category(c)[0] in "PS" for c in word),
        }
        return {shape: np.array([tests[shape](word) for word in self.words], bool) for shape in SHAPES}


@dataclass
class Firing:
    """Where one feature is active on a corpus: flat positions (ascending, special tokens left out) and activations > 0."""

    positions: np.ndarray
    activations: np.ndarray

    def mask(self, n: int) -> np.ndarray:
        mask = np.zeros(n, bool)
        mask[self.positions] = True
        return mask


def build_corpus(
    token_lists: Iterable[list[int]], word_of: Callable[[int], str], special: frozenset[int] = frozenset()
) -> Corpus:
    """A corpus of tokenised texts; `word_of` gives the text of one token id, `special` the ids that are not text."""
    lists = [ids for ids in token_lists if ids]
    lengths = np.array([len(ids) for ids in lists], int)
    ids = np.concatenate([np.asarray(one, np.int64) for one in lists]) if lists else np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    unique, inverse = np.unique(ids, return_inverse=True)
    shown = [word_of(int(i)).strip() or repr(word_of(int(i))) for i in unique]
    words = sorted(set(shown))
    code = {word: i for i, word in enumerate(words)}
    codes = np.array([code[word] for word in shown], int)[inverse] if len(ids) else np.zeros(0, int)
    return Corpus(
        ids=ids,
        codes=codes,
        position=np.arange(len(ids)) - np.repeat(starts[:-1], lengths),
        counted=~np.isin(ids, sorted(special)),
        words=words,
        starts=starts,
    )
