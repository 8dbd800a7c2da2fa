"""What a call gives back: the original's output class where transformers is in use, the same shape of thing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimum_core.models.outputs import PLAIN_TENSOR, PLAIN_TUPLE, builder, find_class, nest


class Answer(dict[str, Any]):
    """Named outputs that read like transformers' `ModelOutput`: by name, by attribute, by position.

    >>> answer = Answer(logits=[1.0])
    >>> answer.logits is answer["logits"] is answer[0]
    True
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no output {name!r}; there are {', '.join(self)}") from None

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values in order."""
        return tuple(self.values())


class Answerer:
    """Builds answers from a session's arrays.

    Args:
        output_class: as `optimum_core.models.outputs.class_name` wrote it.
        names: the outputs in the original's order.

    With numpy going in, transformers is not imported for the sake of its class: that would cost seconds in a process
    that does without it. Where it is imported already, or torch goes in, its class comes out.
    """

    def __init__(self, output_class: str, names: tuple[str, ...]) -> None:
        self._path = output_class
        self._names = names
        self._nested = any("." in name for name in names)
        self._build: Callable[[dict[str, Any]], Any] | None = None

    def answer(self, arrays: Mapping[str, Any], *, as_torch: bool, as_tuple: bool = False) -> Any:
        """Arrays by output name, as the original would have given them."""
        if as_torch:
            values = {name: _tensor(arrays[name]) for name in self._names}
        else:
            values = {name: arrays[name] for name in self._names}
        if self._path == PLAIN_TENSOR:
            return values[self._names[0]]
        tree = nest(values) if self._nested else values
        if self._path == PLAIN_TUPLE:
            return tree["output"]
        if as_tuple:
            return tuple(tree.values())
        if as_torch or "transformers" in sys.modules:
            return (self._build or self._find())(tree)
        return Answer(tree)

    def _find(self) -> Callable[[dict[str, Any]], Any]:
        found = find_class(self._path)
        self._build = builder(found) if found else Answer
        return self._build


def _tensor(value: Any) -> Any:
    import torch

    return torch.from_numpy(value) if isinstance(value, np.ndarray) else torch.utils.dlpack.from_dlpack(value)
