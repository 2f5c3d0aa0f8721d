"""Which device and dtype to compute in, and on how many threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

from atlas.errors import UsageError

S = TypeVar("S")
T = TypeVar("T")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

ALONE = 2**20  # see `few_threads`
SPREAD = "auto"  # over the devices of this machine, as accelerate does


def choose_device(device: str | torch.device | None) -> torch.device:
    """The named device, or cuda if present, else cpu. Raises UsageError when it is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.ones(1, device=chosen).item()  # `meta` makes tensors too, but none that holds a number
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise UsageError(f"The device {str(device)!r} is not here.", f"Devices here: {', '.join(here)}.") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The named dtype; float32 when none is named, so that a circuit does not depend on the machine."""
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"The dtype {name!r} is not known.", f"Choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]


@contextmanager
def few_threads(layers: int, positions: int, width: int) -> Iterator[None]:
    """One thread for so small a model and prompt: its products take some 20 microseconds each, and threads wait for one another
    as long (the shipped model: the same wall time on two, for twice the CPU-seconds)."""
    with at_most_threads(1 if layers * positions * width**2 <= ALONE else torch.get_num_threads()):
        yield


@contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Torch's own, within one operation."""
    # torch keeps this by thread; only a thread that uses torch for the first time meanwhile begins with the number set here
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def beside(items: Iterable[S], work: Callable[[S], T], threads: int) -> Iterator[tuple[S, T]]:
    """Items and what was made of each, in their order; so many at a time, each on one thread.

    Whole pieces of work beside one another keep all cores busy, where threads within each of their many small operations wait
    for one another (docs/decisions/0015-meeting-in-the-middle.md has figures).
    """
    if threads <= 1:
        yield from ((item, work(item)) for item in items)
        return

    def alone(item: S) -> T:
        with torch.inference_mode():  # which is kept by thread
            return work(item)

    waiting = deque[tuple[S, Future[T]]]()
    try:
        with at_most_threads(1):
            for item in items:
                finished = None
                if len(waiting) == threads:
                    wait([waiting[0][1]])
                    finished = waiting.popleft()
                # before the result is used, so that no thread idles
                waiting.append((item, _pool().submit(alone, item)))
                if finished:
                    yield finished[0], finished[1].result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
    finally:  # given up: what runs holds memory, and would compete with what follows
        wait([made for _, made in waiting if not made.cancel()])


@cache
def _pool() -> ThreadPoolExecutor:
    # kept, because what libraries hold for a thread would be made anew, and some of it left behind, with every trace
    return ThreadPoolExecutor(os.cpu_count(), "trace", initializer=torch.set_num_threads, initargs=(1,))
