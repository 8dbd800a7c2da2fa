"""Texts and items for `map`, and what reaches a backend of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from optimum_core import AcceleratedModel
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import manager

TEXTS = [" ".join(f"w{4 + (3 * n + k) % 100}" for k in range(1 + (7 * n) % 13)) for n in range(17)]


def items_of(number: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [{"input_ids": generator.integers(4, 110, 2 + (5 * n) % 11)} for n in range(number)]


def one_by_one(fast: AcceleratedModel, items: Sequence[Mapping[str, Any]]) -> list[np.ndarray[Any, Any]]:
    return [fast(**{name: np.asarray(value)[None] for name, value in item.items()}).logits[0] for item in items]


@contextmanager
def observed_calls() -> Iterator[list[Any]]:
    """The inputs of every call that reaches a backend in this block."""
    calls: list[Any] = []

    class Observer:
        @hookimpl(wrapper=True)
        def infer(self, session: Any, inputs: Any) -> Any:
            calls.append(inputs)
            return (yield)

    manager().register(Observer(), "observer")
    try:
        yield calls
    finally:
        manager().unregister("observer")
