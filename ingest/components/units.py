"""Pieces of a long computation: kept in a folder when they are done, so that a killed one goes on where it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Kept:
    """Arrays by name in a folder; with None for a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The array, or None where there is none that is whole and of this shape."""
        if self._folder is None:
            return None
        try:
            array = np.load(self._folder / f"{name}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if isinstance(array, np.ndarray) and array.shape == shape and array.dtype == np.float64 else None

    def put(self, name: str, array: np.ndarray) -> None:
        """A reader sees all of it or nothing."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=self._folder, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.save(file, np.asarray(array, np.float64), allow_pickle=False)
        os.replace(path, self._folder / f"{name}.npy")


def slot_groups(items: Sequence[Item], size: int) -> Sequence[Item]:
    """The first of them that fit, at least one."""
    return items[: max(1, size)]
