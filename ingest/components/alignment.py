"""Which positions of a clean and a corrupted prompt correspond, when they have different numbers of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Alignment:
    """The first `prefix` positions correspond by their number from the left, the last `suffix` by that from the right.

    What lies between, in either prompt, corresponds to nothing. Prompts of one length correspond position by position.
    """

    clean: int  # tokens
    corrupted: int
    prefix: int
    suffix: int

    @property
    def shift(self) -> int:
        """What is added to a position of the clean suffix."""
        return self.corrupted - self.clean

    @property
    def positions(self) -> list[int]:
        """Those of the clean prompt that have a counterpart."""
        return [*range(self.prefix), *range(self.clean - self.suffix, self.clean)]

    @property
    def left_out(self) -> tuple[int, int]:
        """How many positions of the clean and of the corrupted prompt have none."""
        shared = self.prefix + self.suffix
        return self.clean - shared, self.corrupted - shared

    def counterpart(self, position: int) -> int:
        """Position of the clean prompt, one of `positions` -> that of the corrupted prompt."""
        return position if position < self.prefix else position + self.shift

    def well_defined(self, special: int) -> bool:
        """Whether the answer's position corresponds and what is shared, without `special` tokens at the beginning, is at
        least half of the shorter prompt."""
        if self.clean == self.corrupted:
            return True
        shared = max(0, self.prefix - special) + self.suffix
        return self.suffix > 0 and 2 * shared >= min(self.clean, self.corrupted)


def align(clean: Sequence[int], corrupted: Sequence[int]) -> Alignment:
    """By the longest common prefix and suffix.

    Where tokens repeat, the two overlap in the shorter prompt ("to to Mary" in "to to to Mary": which "to" is new?). The positions that
    they share could be either, so they are left out.
    """
    n, m = len(clean), len(corrupted)
    if n == m:
        return Alignment(n, m, n, 0)
    shorter = min(n, m)
    prefix = next((i for i in range(shorter) if clean[i] != corrupted[i]), shorter)
    suffix = next((i for i in range(shorter) if clean[n - 1 - i] != corrupted[m - 1 - i]), shorter)
    return Alignment(n, m, min(prefix, shorter - suffix), min(suffix, shorter - prefix))
