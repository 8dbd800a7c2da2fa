"""Answers of the eager model to equal inputs, computed once while it is described.

Several questions begin with the same call: whether an input may be left out, whether one row stands for all, which
outputs there are. Whether a model answers equal inputs alike is asked later, by calls that are not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import ask
from optimum_core.models.eager.outputs import flatten
from optimum_core.types.arrays import NDArray

#: Most numbers in all answers that are kept at a time: 128 MiB as floats of 32 bits.
_MOST_NUMBERS = 2**25

Key = tuple[object, ...]


@dataclass(slots=True)
class _Store:
    """The answers, the one that was used last at the end, with the count of numbers in each."""

    answers: OrderedDict[Key, tuple[Any, int]] = field(default_factory=OrderedDict)
    numbers: int = 0

    def find(self, key: Key) -> Any:
        if key not in self.answers:
            return None
        self.answers.move_to_end(key)
        return self.answers[key][0]

    def keep(self, key: Key, answer: Any) -> None:
        try:
            count = sum(tensor.numel() for tensor in flatten(answer).values())
        except TypeError:  # it is no tensor, and holds none
            count = 0
        self.answers[key] = answer, count
        self.numbers += count
        while self.numbers > _MOST_NUMBERS:
            self.numbers -= self.answers.popitem(last=False)[1][1]


_STORE: ContextVar[_Store | None] = ContextVar("_STORE", default=None)


@contextmanager
def answers_kept() -> Iterator[None]:
    """Keep the answers that `ask_once` gets while the block runs."""
    token = _STORE.set(_Store())
    try:
        yield
    finally:
        _STORE.reset(token)


def ask_once(module: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the module's output when it has seen no other call, as `ask` does; where answers are kept, that of an
    earlier call with equal inputs, which is not to be changed.

    Modes of torch that watch a call see none where the answer was kept.
    """
    store = _STORE.get()
    if store is None or not all(isinstance(value, np.ndarray) for value in inputs.values()):
        return ask(module, inputs)
    key = (id(module), *(_key(name, array) for name, array in inputs.items()))
    found = store.find(key)
    if found is None:
        found = ask(module, inputs)
        store.keep(key, found)
    return found


def _key(name: str, array: NDArray) -> tuple[object, ...]:
    """Return what equal inputs share; some modules ask how an input lies in memory."""
    return name, array.dtype.str, array.shape, array.strides, sha256(np.ascontiguousarray(array).data).digest()
