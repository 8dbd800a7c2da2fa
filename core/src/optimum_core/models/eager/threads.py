"""Number of torch's threads for calls of the eager model whose time does not count.

torch's threads wait for each other by spinning. Where other programs use the same cores, one of them is often not
running, and the others spin until it is: a call then takes longer than with one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from statistics import median

# torch is imported where used: `accelerate` has to report where it is missing.

#: A product of two such matrices is short, and long enough to be shared among threads.
_SIDE = 256
_ROUNDS = 5
_PRODUCTS = 4
#: Number of threads before the outermost `fitting_threads`.
_USUAL: ContextVar[int | None] = ContextVar("usual_threads", default=None)


@contextmanager
def fitting_threads() -> Iterator[None]:
    """Run torch with one thread within the block if its usual number takes longer on this machine at present."""
    import torch

    usual = torch.get_num_threads()
    if usual == 1 or not _hinder_each_other(usual):
        yield
        return
    before = _USUAL.set(usual)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        _USUAL.reset(before)


@contextmanager
def usual_threads() -> Iterator[None]:
    """Run torch with the usual number of threads within the block, as the user's calls do: for what is timed."""
    usual = _USUAL.get()
    if usual is None:
        yield
        return
    import torch

    now = torch.get_num_threads()
    torch.set_num_threads(usual)
    try:
        yield
    finally:
        torch.set_num_threads(now)


def _hinder_each_other(number: int) -> bool:
    """Whether a product of matrices takes longer on that number of threads than on one."""
    import torch

    several, one = list[float](), list[float]()
    try:
        for _ in range(_ROUNDS):
            for threads, times in ((number, several), (1, one)):
                torch.set_num_threads(threads)
                times.append(_seconds())
    finally:
        torch.set_num_threads(number)
    return median(several) > median(one)


def _seconds() -> float:
    import torch

    matrix = torch.full((_SIDE, _SIDE), 1 / _SIDE, dtype=torch.float32, device="cpu")
    start = time.perf_counter()
    for _ in range(_PRODUCTS):
        matrix = matrix @ matrix
    return time.perf_counter() - start
